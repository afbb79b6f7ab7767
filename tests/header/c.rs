//! As much of a C parser as the two headers need: constants, structs, callback types and functions.

use std::collections::BTreeMap;

/// A type without parameter names, nullability words and the `struct` keyword: `const char * const *`.
pub type Type = String;

#[derive(Debug, Default)]
pub struct Header {
    /// Object-like macros with a value, as written.
    pub constants: BTreeMap<String, String>,
    pub structs: BTreeMap<String, Vec<Field>>,
    /// Callback types and functions: what they return, and the types of their parameters.
    pub callbacks: BTreeMap<String, Signature>,
    pub functions: BTreeMap<String, Signature>,
    /// The functions' names as they come.
    pub order: Vec<String>,
    pub opaque: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub ty: Type,
}

pub type Signature = (Type, Vec<Type>);

/// What is no part of a type.
const WORDS_LEFT_OUT: [&str; 4] = [
    "struct",
    "MLXRT_NULLABLE",
    "MLXRT_NONNULL",
    "MLXRT_MUST_USE",
];

pub fn parse(text: &str) -> Header {
    let text = without_comments(text);
    let mut header = Header::default();
    let mut code = String::new();
    for line in text.replace("\\\n", " ").lines() {
        match line.trim().strip_prefix('#') {
            Some(directive) => constant(directive, &mut header),
            None => {
                code.push_str(line);
                code.push('\n');
            }
        }
    }
    // What stands between the preprocessor's lines for C++.
    let code = code.replace("extern \"C\" {", "");
    let mut tokens: Vec<String> = Vec::new();
    let mut depth = 0;
    for token in tokenize(&code) {
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => continue, // of extern "C"
            "}" => depth -= 1,
            ";" if depth == 0 => {
                declaration(&std::mem::take(&mut tokens), &mut header);
                continue;
            }
            _ => {}
        }
        if !WORDS_LEFT_OUT.contains(&token.as_str()) {
            tokens.push(token);
        }
    }
    assert!(tokens.is_empty(), "left at the end: {tokens:?}");
    header
}

/// Comments become spaces.
pub fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut out = String::new();
    while let Some(at) = rest.find("/*") {
        out.push_str(&rest[..at]);
        out.push(' ');
        let end = rest[at..].find("*/").expect("an open comment");
        rest = &rest[at + end + 2..];
    }
    out.push_str(rest);
    out
}

fn constant(directive: &str, header: &mut Header) {
    let Some(rest) = directive.trim().strip_prefix("define ") else {
        return;
    };
    let rest = rest.trim();
    let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
    let (name, value) = rest.split_at(end);
    let helper = [
        "MLXRT_H",
        "MLXRT_NULLABLE",
        "MLXRT_NONNULL",
        "MLXRT_MUST_USE",
    ]
    .contains(&name);
    if !helper {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            header.constants.insert(name.to_owned(), value).is_none(),
            "{name} twice"
        );
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn tokenize(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in code.chars() {
        match tokens.last_mut() {
            Some(word) if in_word && is_word(c) => word.push(c),
            _ if c.is_whitespace() => {}
            _ => tokens.push(c.to_string()),
        }
        in_word = is_word(c);
    }
    tokens
}

fn declaration(tokens: &[String], header: &mut Header) {
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    match words.as_slice() {
        // typedef struct name { … } name;
        ["typedef", name, "{", body @ .., "}", _] | [name, "{", body @ .., "}"] => {
            header.structs.insert((*name).to_owned(), fields(body));
        }
        ["typedef", name, same] if name == same => header.opaque.push((*name).to_owned()),
        // typedef ret ( * name ) ( … );
        ["typedef", rest @ ..] => {
            let at = rest
                .iter()
                .position(|word| *word == "(")
                .expect("a callback");
            let [_, "*", name, ")", "(", params @ .., ")"] = &rest[at..] else {
                panic!("not understood: {words:?}")
            };
            header
                .callbacks
                .insert((*name).to_owned(), (rest[..at].join(" "), types(params)));
        }
        _ => {
            let at = words
                .iter()
                .position(|word| *word == "(")
                .expect("a function");
            let ["(", params @ .., ")"] = &words[at..] else {
                panic!("not understood: {words:?}")
            };
            let (name, ret) = words[..at].split_last().expect("a name");
            let signature = (ret.join(" "), types(params));
            header.order.push((*name).to_owned());
            let old = header.functions.insert((*name).to_owned(), signature);
            assert!(old.is_none(), "{name} twice");
        }
    }
}

/// The types of named parameters.
fn types(params: &[&str]) -> Vec<Type> {
    if params == ["void"] {
        return Vec::new();
    }
    let one = |param: &[&str]| param[..param.len() - 1].join(" ");
    params.split(|word| *word == ",").map(one).collect()
}

/// The fields of a struct, `uint32_t a, b;` taken apart.
fn fields(body: &[&str]) -> Vec<Field> {
    let mut fields = Vec::new();
    for declaration in body
        .split(|word| *word == ";")
        .filter(|words| !words.is_empty())
    {
        if let Some(at) = declaration.iter().position(|word| *word == "(") {
            let ["(", "*", name, ")", "(", params @ .., ")"] = &declaration[at..] else {
                panic!("not understood: {declaration:?}")
            };
            fields.push(Field {
                name: (*name).to_owned(),
                ty: pointer_to(&declaration[..at].join(" "), &types(params)),
            });
            continue;
        }
        let mut declarators = declaration.split(|word| *word == ",");
        let first = declarators.next().unwrap_or_default();
        let (field, base) = declarator(first, "");
        fields.push(field);
        fields.extend(declarators.map(|words| declarator(words, &base).0));
    }
    fields
}

/// The type of a pointer to a function.
pub fn pointer_to(result: &str, params: &[Type]) -> Type {
    format!("{result} (*)({})", params.join(", "))
}

/// One declarator behind what the first one said, and the type without its stars for those that follow.
fn declarator(words: &[&str], base: &str) -> (Field, String) {
    let array = words
        .iter()
        .position(|word| *word == "[")
        .unwrap_or(words.len());
    let (named, array) = words.split_at(array);
    let (name, ty) = named.split_last().expect("a name");
    let stars = ty.iter().position(|word| *word == "*").unwrap_or(ty.len());
    let plain = ty[..stars].join(" ");
    let ty = [base, &ty.join(" "), &array.concat()]
        .join(" ")
        .trim()
        .to_owned();
    (
        Field {
            name: (*name).to_owned(),
            ty,
        },
        plain,
    )
}

#[test]
fn the_parser_reads_what_the_headers_write() {
    let header = parse(
        "#define MLXRT_X 8u /* eight */\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\
         typedef struct a a;\n\
         typedef int32_t (*f_fn)(void *MLXRT_NULLABLE user_data, const struct b *event);\n\
         typedef struct b { uint32_t x, y; /* c */ const char *const *s; size_t n; int64_t *p, *q; int z[8]; \
         a *MLXRT_NULLABLE (*MLXRT_NONNULL f)(const b *x, size_t n); } b;\n\
         MLXRT_MUST_USE a *MLXRT_NULLABLE g(void);\nvoid h(const b *b, a **out);\n\
         #ifdef __cplusplus\n}\n#endif\n",
    );
    assert_eq!(header.constants["MLXRT_X"], "8u");
    assert_eq!(header.opaque, ["a"]);
    let fields: Vec<String> = header.structs["b"]
        .iter()
        .map(|f| format!("{}: {}", f.name, f.ty))
        .collect();
    assert_eq!(
        fields,
        [
            "x: uint32_t",
            "y: uint32_t",
            "s: const char * const *",
            "n: size_t",
            "p: int64_t *",
            "q: int64_t *",
            "z: int [8]",
            "f: a * (*)(const b *, size_t)"
        ]
    );
    let types = |all: &[&str]| all.iter().map(|ty| (*ty).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        header.callbacks["f_fn"],
        ("int32_t".to_owned(), types(&["void *", "const b *"]))
    );
    assert_eq!(header.functions["g"], ("a *".to_owned(), types(&[])));
    assert_eq!(
        header.functions["h"],
        ("void".to_owned(), types(&["const b *", "a * *"]))
    );
}
