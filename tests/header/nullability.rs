//! Where a pointer of the header may be NULL. The words are put in behind every `*` and every callback type.
//!
//! The defaults: a parameter must not be NULL, a field may. A function returns an error or NULL; other pointers
//! that are returned are not NULL. What an output pointer points to may become NULL (`T **out`), the elements of
//! an array are not NULL (`const char *const *`).

/// Parameters that may be NULL: function (or callback type) and name; one `*` stands for anything.
const NULLABLE_PARAMETERS: &[(&str, &str)] = &[
    ("*", "options"),
    ("*", "user_data"),
    // The length of a text that goes out: a NUL stands behind it.
    ("*", "len"),
    ("mlxrt_*free", "*"),
    ("mlxrt_error_*", "error"),
    ("mlxrt_log_set", "fn"),
    ("mlxrt_model_inspect", "load"),
    ("mlxrt_model_inspect", "session"),
    // Of length 0.
    ("mlxrt_tokenize", "text"),
    ("mlxrt_detokenize", "ids"),
    ("mlxrt_grammar_compile", "source"),
    ("mlxrt_generate", "fn"),
    ("mlxrt_generate", "out"),
    ("mlxrt_train", "fn"),
    ("mlxrt_request_result", "out"),
    // The session's own tokens.
    ("mlxrt_score", "prefix"),
    ("mlxrt_memory_set", "limits"),
    ("*", "adapters"),
    ("*", "scales"),
    // All texts are NUL-terminated.
    ("*", "lens"),
    ("mlxrt_metrics", "model"),
    // Where only the count is wanted.
    ("mlxrt_count_tokens", "ids"),
];

/// Fields that are never NULL: struct and name.
const NONNULL_FIELDS: &[(&str, &str)] = &[("mlxrt_event", "text")];

/// Functions besides those that return an error whose result may be NULL.
const NULLABLE_RESULTS: &[&str] = &["mlxrt_get_api"];

const NULLABLE: &str = "MLXRT_NULLABLE";
const NONNULL: &str = "MLXRT_NONNULL";

fn word(nullable: bool) -> &'static str {
    if nullable {
        NULLABLE
    } else {
        NONNULL
    }
}

/// `const char *text` as a parameter of `function`, with its words.
pub fn parameter(function: &str, declaration: &str) -> String {
    let listed = |name: &str| {
        NULLABLE_PARAMETERS
            .iter()
            .any(|(f, n)| matches(f, function) && matches(n, name))
    };
    declarator(declaration, |name| word(listed(name)))
}

/// `const char *text` as a field of `owner`, with its words.
pub fn field(owner: &str, declaration: &str) -> String {
    let listed = |name: &str| NONNULL_FIELDS.contains(&(owner, name));
    declarator(declaration, |name| word(!listed(name)))
}

/// `mlxrt_error *mlxrt_init`: what a function returns and its name, with its word.
pub fn result(declaration: &str) -> String {
    let error = declaration.starts_with("mlxrt_error *");
    declarator(declaration, |name| {
        word(error || NULLABLE_RESULTS.contains(&name))
    })
}

/// Puts `outermost(name)` behind the last star or callback type, and the default behind stars further in.
fn declarator(declaration: &str, outermost: impl Fn(&str) -> &'static str) -> String {
    let start = declaration
        .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .map_or(0, |at| at + 1);
    let (ty, name) = declaration.split_at(start);
    let stars: Vec<usize> = ty.match_indices('*').map(|(at, _)| at).collect();
    if stars.is_empty() && ty.trim_end().ends_with("_fn") {
        return format!("{ty}{} {name}", outermost(name));
    }
    let mut out = String::new();
    let mut from = 0;
    for (index, &star) in stars.iter().enumerate() {
        let behind = &ty[star + 1..];
        let element = behind.trim_start().starts_with("const");
        let word = if index + 1 == stars.len() {
            outermost(name)
        } else {
            word(!element)
        };
        out.push_str(&ty[from..=star]);
        out.push_str(word);
        out.push(' ');
        from = star + 1;
    }
    out + &ty[from..] + name
}

/// Is it the pattern, in which one `*` stands for anything?
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

#[test]
fn every_pointer_gets_its_word() {
    for (function, before, after) in [
        (
            "mlxrt_init",
            "const mlxrt_init_options *options",
            "const mlxrt_init_options *MLXRT_NULLABLE options",
        ),
        (
            "mlxrt_model_load",
            "mlxrt_model **out",
            "mlxrt_model *MLXRT_NULLABLE *MLXRT_NONNULL out",
        ),
        (
            "mlxrt_embed",
            "const char *const *texts",
            "const char *MLXRT_NONNULL const *MLXRT_NONNULL texts",
        ),
        (
            "mlxrt_generate",
            "mlxrt_event_fn fn",
            "mlxrt_event_fn MLXRT_NULLABLE fn",
        ),
        (
            "mlxrt_model_free",
            "mlxrt_model *model",
            "mlxrt_model *MLXRT_NULLABLE model",
        ),
        (
            "mlxrt_session_create",
            "mlxrt_model *model",
            "mlxrt_model *MLXRT_NONNULL model",
        ),
        ("mlxrt_shutdown", "uint32_t flags", "uint32_t flags"),
    ] {
        assert_eq!(parameter(function, before), after);
    }
    assert_eq!(
        field("mlxrt_event", "const char *text"),
        "const char *MLXRT_NONNULL text"
    );
    assert_eq!(
        field("mlxrt_generate_options", "const char *const *stop"),
        "const char *MLXRT_NONNULL const *MLXRT_NULLABLE stop"
    );
    assert_eq!(
        result("mlxrt_error *mlxrt_init"),
        "mlxrt_error *MLXRT_NULLABLE mlxrt_init"
    );
    assert_eq!(
        result("const char *mlxrt_version"),
        "const char *MLXRT_NONNULL mlxrt_version"
    );
}
