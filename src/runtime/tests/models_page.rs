//! docs/models.md, written by the parity run: what was compared with whom, and what is refused, in the words of the refusal.
//! The test fails when the committed page says otherwise; with MLXRT_WRITE_MODELS=1 it writes it (`make docs`).

mod refused;
mod repacked;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{json, Map, Value};

use super::*;
use crate::dtype::Mode;
use crate::error::Error;
use crate::load::testing::TempFolder;
use crate::load::{parse_object, Object, PackingMode};
use crate::model::families::{self, FAMILIES};
use crate::model::DecoderConfig;
use crate::runtime::prompt::{self, Conversation};
use crate::text::ChatFormat;

const PAGE: &str = "docs/models.md";

#[test]
fn the_page_says_what_was_checked() {
    let _lock = engine_lock();
    // A row stands for logits and tokens that were compared just now.
    crate::mlx::install_error_handler();
    crate::mlx::enter(crate::mlx::tested()).unwrap();
    parity::for_each_run(parity::Run::check_plain);
    crate::mlx::leave();

    let page = page();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("MLXRT_WRITE_MODELS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let other = page
        .lines()
        .zip(committed.lines())
        .position(|(a, b)| a != b);
    let other = other.unwrap_or(page.lines().count().min(committed.lines().count()));
    assert!(
        page == committed,
        "{PAGE} is not what the tests find: run make docs. The first other line is {}:\n{}\nand was\n{}",
        other + 1,
        page.lines().nth(other).unwrap_or_default(),
        committed.lines().nth(other).unwrap_or_default()
    );
}

/// A fixture, as far as the page tells of it.
struct Checked {
    name: String,
    model_type: String,
    dtype: String,
    quantization: Value,
    config: DecoderConfig,
    runs: Vec<String>,
    second: bool,
}

fn checked() -> Vec<Checked> {
    let cases = parity::cases();
    let read = |case: &Value| {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let name = text("name");
        let path = parity::fixtures()
            .join("models")
            .join(&name)
            .join("config.json");
        let map = parse_object("config.json", &fs::read(path).unwrap()).unwrap();
        let object = Object::new("config.json", &map);
        let run = |run: &Value| {
            let cache = &run["cache"];
            let prompt = &run["prompt"];
            match cache["kind"].as_str().unwrap() {
                "default" => prompt.to_string(),
                _ => format!(
                    "{prompt} (window {}, keep {})",
                    cache["max_size"], cache["keep"]
                ),
            }
        };
        Checked {
            model_type: text("model_type"),
            dtype: text("dtype"),
            quantization: case["quantization"].clone(),
            config: (families::find(&object).unwrap().read)(&object).unwrap(),
            runs: case["runs"].as_array().unwrap().iter().map(run).collect(),
            second: case["transformers"] == true,
            name,
        }
    };
    cases.iter().map(read).collect()
}

impl Checked {
    fn ropes(&self) -> BTreeSet<&'static str> {
        let ropes = self.config.attentions().filter_map(|of| of.rope.as_ref());
        let of_latents = self.config.latents().filter_map(|of| of.rope.as_ref());
        ropes
            .chain(of_latents)
            .map(|rope| rope_of(format!("{:?}", rope.scaling)))
            .collect()
    }

    fn windows(&self) -> String {
        let slide = self.config.attentions().filter(|of| of.window.is_some());
        match (slide.count(), self.config.blocks.len()) {
            (0, _) => String::new(),
            (some, all) => format!("{some} of {all} layers"),
        }
    }

    fn quantization(&self) -> String {
        let Some(block) = self.quantization.as_object() else {
            return String::new();
        };
        let mixed = block.keys().any(|key| key.contains('.'));
        let text = scheme(&self.quantization);
        if mixed {
            format!("{text}, other layers otherwise")
        } else {
            text
        }
    }
}

/// The name in configs of a `RopeScaling`.
fn rope_of(scaling: String) -> &'static str {
    let scaling = scaling.to_lowercase().replacen("long ", "longrope ", 1);
    let known = ROPES.into_iter().find(|kind| scaling.starts_with(kind));
    known.unwrap_or_else(|| {
        assert_eq!(scaling, "none", "ROPES does not have it");
        "default"
    })
}

fn scheme(block: &Value) -> String {
    let mode = block["mode"].as_str().unwrap();
    format!(
        "{mode}, {} bits, groups of {}",
        block["bits"], block["group_size"]
    )
}

fn joined<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items
        .into_iter()
        .map(|item| item.as_ref().to_owned())
        .collect();
    items.join(", ")
}

fn row(out: &mut String, cells: &[&str]) {
    writeln!(out, "| {} |", cells.join(" | ")).unwrap();
}

fn heading(out: &mut String, cells: &[&str]) {
    row(out, cells);
    row(out, &vec!["---"; cells.len()]);
}

fn page() -> String {
    let (reference, checked) = (parity::json("reference.json"), checked());
    let version = |of: &str, program: &str| reference[of][program].as_str().unwrap().to_owned();
    let (mlx_lm, mlx) = (version("versions", "mlx-lm"), version("versions", "mlx"));
    let (transformers, torch) = (
        version("second", "transformers"),
        version("second", "torch"),
    );
    let date = reference["date"].as_str().unwrap();
    let mut out = format!(
        "# Models: what is checked, and what is refused\n\n\
         This page is written by the test that compares models with their reference (`make docs`), and a test fails when it is not\n\
         what that finds.\n\n\
         The reference is **mlx-lm {mlx_lm}** on **MLX {mlx}**, {date}. For every folder below, its logits are compared at prompts and at\n\
         32 generated tokens: with MLX's own operations they are within 1e-4 in f32, 0.04 in f16 and 0.125 in bf16, and the greedy\n\
         tokens are the same; on the CPU's kernels 16-bit logits are no farther from those of the same weights in f32 than mlx-lm's.\n\
         Where it says so, **transformers {transformers}** (torch {torch}) gives the same f32 logits within 1e-4.\n\
         The folders are small and of random weights ([how they are made](../tests/fixtures/README.md)).\n\n"
    );
    out += "## Families\n\n";
    heading(
        &mut out,
        &[
            "`model_type`",
            "checked in",
            "rope",
            "sliding windows",
            "chat format without a template",
            "transformers too",
        ],
    );
    let encoders = encoders();
    for family in FAMILIES {
        let own: Vec<_> = checked
            .iter()
            .filter(|case| case.model_type == known_as(family.model_type))
            .collect();
        let is_encoder = encoders
            .iter()
            .any(|of| of.1 == known_as(family.model_type));
        if own.is_empty() && is_encoder {
            continue;
        }
        let types: BTreeSet<_> = own.iter().map(|case| case.dtype.as_str()).collect();
        let quantized = own
            .iter()
            .filter(|case| case.quantization.is_object())
            .count();
        let ropes: BTreeSet<_> = own.iter().flat_map(|case| case.ropes()).collect();
        let slides = own.iter().any(|case| !case.windows().is_empty());
        let folders = match own.len() {
            1 => "1 folder".to_owned(),
            count => format!("{count} folders"),
        };
        let of_them = match quantized {
            0 => String::new(),
            some => format!(", {some} quantised"),
        };
        let what = format!("{folders}{of_them}; {}", joined(types));
        let second = own.iter().any(|case| case.second);
        row(
            &mut out,
            &[
                &format!("`{}`", family.model_type),
                &what,
                &joined(ropes),
                yes(slides),
                chat_format(family.chat),
                yes(second),
            ],
        );
        assert!(!own.is_empty(), "{} has no fixture", family.model_type);
    }
    out += "\nOf `gemma3` the text model is run; its vision tower is not.\n\n## Embeddings\n\n";
    embeddings(&mut out, &encoders);
    out += "\n## Quantisation\n\n";
    quantisations(&mut out, &checked);
    out += "\nThe embedding, the output layer and single layers may have settings of their own, or none.\n";
    repacked::section(&mut out);
    out += "\n## Rope\n\n";
    ropes(&mut out, &checked);
    out += "\n## Chat templates\n\nWhere the template of a folder is taken from; the first that is there counts.\n\n";
    templates(&mut out);
    out += "\nTemplates are rendered as transformers does ([the counts](../src/template/../../tests/template/README.md)).\n\n";
    out = out.replace("../src/template/../../tests", "../tests");
    out += "## Every folder\n\n";
    heading(
        &mut out,
        &[
            "folder",
            "`model_type`",
            "type",
            "quantisation",
            "rope",
            "sliding",
            "prompts (tokens)",
            "transformers too",
        ],
    );
    for case in &checked {
        row(
            &mut out,
            &[
                &case.name,
                &format!("`{}`", case.model_type),
                &case.dtype,
                &case.quantization(),
                &joined(case.ropes()),
                &case.windows(),
                &joined(&case.runs),
                yes(case.second),
            ],
        );
    }
    adapters(&mut out);
    refused::section(&mut out, &reference);
    out
}

fn yes(is: bool) -> &'static str {
    if is {
        "yes"
    } else {
        ""
    }
}

fn chat_format(format: Option<ChatFormat>) -> &'static str {
    let Some(format) = format else { return "" };
    match format {
        ChatFormat::Qwen => "ChatML",
        ChatFormat::Gemma => "Gemma",
        ChatFormat::Llama => "Llama 3, or Llama 2",
        ChatFormat::Mistral => "Mistral",
        ChatFormat::Llama2 => "Llama 2",
    }
}

/// The name that mlx-lm has for a `model_type`.
fn known_as(model_type: &str) -> &str {
    match model_type {
        "kimi_k2" => "deepseek_v3",
        "minimax_m2" => "minimax",
        "gemma4_unified" => "gemma4",
        "roberta" => "xlm-roberta",
        other => other,
    }
}

/// The folders of tests/fixtures/embeddings: their names, model types, and what the folder makes of hidden states.
fn encoders() -> Vec<(String, String, String)> {
    let list = parity::json("embeddings.json");
    let cases = list["cases"].as_array().unwrap().iter();
    let read = |case: &Value| {
        let name = case["name"].as_str().unwrap();
        let folder = parity::fixtures().join("embeddings").join(name);
        let json = |file: &str| -> Value {
            serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
        };
        let model_type = json("config.json")["model_type"]
            .as_str()
            .unwrap()
            .to_owned();
        let pooling = json("1_Pooling/config.json");
        let pooling = ["cls_token", "mean_tokens", "lasttoken"]
            .into_iter()
            .find(|mode| pooling[format!("pooling_mode_{mode}")] == true);
        let mut modules: Vec<String> = Vec::new();
        for module in json("modules.json").as_array().unwrap().iter().skip(2) {
            let kind = module["type"].as_str().unwrap();
            modules.push(kind.rsplit('.').next().unwrap().to_owned());
        }
        let then = match modules.is_empty() {
            true => String::new(),
            false => format!(", then {}", modules.join(", ")),
        };
        (
            name.to_owned(),
            model_type,
            format!("{}{then}", pooling.unwrap()),
        )
    };
    cases.map(read).collect()
}

fn embeddings(out: &mut String, encoders: &[(String, String, String)]) {
    *out += "`mlxrt_embed` takes every family above, and the encoders of this table, which generate nothing. Embeddings of these folders are\n\
             compared with **sentence-transformers 6.2.0** on transformers 5.24.0, in f32: the cosine is within 1e-5 of 1, and no number is\n\
             farther off than 5e-6 of the row's norm. `roberta` is read as `xlm-roberta` is. [How](embeddings.md).\n\n";
    heading(out, &["folder", "`model_type`", "pooling"]);
    for (name, model_type, pooling) in encoders {
        row(
            out,
            &[
                &format!("embeddings/{name}"),
                &format!("`{model_type}`"),
                pooling,
            ],
        );
    }
}

/// What weights may be packed in, and in which folders it was compared.
fn quantisations(out: &mut String, checked: &[Checked]) {
    heading(out, &["mode", "bits", "groups", "checked in"]);
    for mode in Mode::ALL {
        let (bits, groups) = mode.legal();
        let list = |numbers: &[i32]| joined(numbers.iter().map(i32::to_string));
        let own = checked
            .iter()
            .filter(|case| case.quantization["mode"] == mode.name());
        let names: Vec<_> = own.map(|case| case.name.as_str()).collect();
        assert!(!names.is_empty(), "{} has no fixture", mode.name());
        row(
            out,
            &[
                &format!("`{}`", mode.name()),
                &list(bits),
                &list(groups),
                &joined(names),
            ],
        );
    }
}

/// The rope kinds of the field's configs.
const ROPES: [&str; 8] = [
    "default",
    "linear",
    "llama3",
    "mrope",
    "dynamic",
    "yarn",
    "longrope",
    "proportional",
];

fn rope_config(kind: &str) -> Map<String, Value> {
    let mut config = json_of(&parity::fixtures().join("models/llama-f32/config.json"));
    config.remove("rope_parameters");
    config.insert(
        "rope_scaling".into(),
        json!({
            "rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "short_factor": vec![1.0; 4], "long_factor": vec![1.0; 4],
        }),
    );
    config
}

fn rope_is_read(kind: &str) -> bool {
    let config = rope_config(kind);
    let object = Object::new("config.json", &config);
    (families::find(&object).unwrap().read)(&object).is_ok()
}

fn ropes(out: &mut String, checked: &[Checked]) {
    heading(out, &["`rope_type`", "", "checked in"]);
    for kind in ROPES {
        let named: Vec<_> = checked
            .iter()
            .filter(|case| case.ropes().contains(kind))
            .collect();
        let names = match (kind, named.len()) {
            ("mrope", _) => "the same as default for text".to_owned(),
            ("dynamic", _) => "the same as default within the model's context".to_owned(),
            (_, 0) => String::new(),
            ("default", count) => format!("{count} folders"),
            _ => joined(named.iter().map(|case| &case.name)),
        };
        let word = if rope_is_read(kind) {
            "computed"
        } else {
            "refused, see below"
        };
        row(out, &[&format!("`{kind}`"), word, &names]);
    }
    *out += "\nBoth spellings are read: `rope_theta` and `rope_scaling`, and transformers 5's `rope_parameters`.\n";
}

fn adapters(out: &mut String) {
    let list = parity::json("adapters.json");
    let mut kinds: BTreeMap<(String, String), usize> = BTreeMap::new();
    for adapter in list.as_array().unwrap() {
        let text = |key: &str| adapter[key].as_str().unwrap().to_owned();
        *kinds.entry((text("format"), text("kind"))).or_default() += 1;
    }
    *out += "\n## Adapters\n\nCompared with the logits of the program that wrote them: mlx-lm as above, and PEFT 0.21.2.\n\n";
    heading(out, &["format", "kind", "adapters"]);
    for ((format, kind), count) in kinds {
        row(out, &[&format, &kind, &count.to_string()]);
    }
}

const MARK: &str = "template of this folder";

/// Which sources of templates are read: each alone in a folder, with a text that shows whether it was used.
fn templates(out: &mut String) {
    let marked = format!("{MARK}{{{{ messages[0].content }}}}");
    let set = |file: &'static str, key: &'static str, value: Value| {
        move |folder: &TempFolder| {
            let path = folder.path().join(file);
            let mut config = if path.exists() {
                json_of(&path)
            } else {
                Map::new()
            };
            config.insert(key.into(), value.clone());
            folder.write(file, Value::Object(config).to_string());
        }
    };
    type Source = (&'static str, Box<dyn Fn(&TempFolder)>);
    let jinja = marked.clone();
    let additional = marked.clone();
    let sources: Vec<Source> = vec![
        (
            "`chat_template.jinja`",
            Box::new(move |folder| folder.write("chat_template.jinja", &jinja)),
        ),
        (
            "`tokenizer_config.json`: `chat_template`, a text",
            Box::new(set("tokenizer_config.json", "chat_template", json!(marked))),
        ),
        (
            "the same, a list with a `default`",
            Box::new(set(
                "tokenizer_config.json",
                "chat_template",
                json!([{"name": "default", "template": marked}]),
            )),
        ),
        (
            "the same, a list without a `default`",
            Box::new(set(
                "tokenizer_config.json",
                "chat_template",
                json!([{"name": "rag", "template": marked}]),
            )),
        ),
        (
            "the same, an object by name",
            Box::new(set(
                "tokenizer_config.json",
                "chat_template",
                json!({"default": marked}),
            )),
        ),
        (
            "`chat_template.json`",
            Box::new(set("chat_template.json", "chat_template", json!(marked))),
        ),
        (
            "`additional_chat_templates/NAME.jinja` (`tool_use` where there are tools)",
            Box::new(move |folder| {
                folder.write("additional_chat_templates/tool_use.jinja", &additional)
            }),
        ),
    ];
    heading(out, &["source", ""]);
    for (name, write) in sources {
        let folder = without_template();
        write(&folder);
        let tools = name
            .contains("tool_use")
            .then(|| r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#.to_owned());
        let word = match rendered(&folder, tools) {
            Ok(text) if text.contains(MARK) => "read".to_owned(),
            Ok(_) => "not read; the chat format of the family is used".to_owned(),
            Err(error) => format!("refused: {}", shown(&error, &folder)),
        };
        row(out, &[name, &word]);
    }
    row(
        out,
        &[
            "none of these",
            "the chat format of the family, or what the tokenizer's tokens show",
        ],
    );
}

fn without_template() -> TempFolder {
    let folder = copy("qwen3-f32");
    let _ = fs::remove_file(folder.path().join("chat_template.jinja"));
    let mut config = json_of(&folder.path().join("tokenizer_config.json"));
    config.remove("chat_template");
    folder.write("tokenizer_config.json", Value::Object(config).to_string());
    folder
}

fn rendered(folder: &TempFolder, tools: Option<String>) -> Result<String> {
    let model = std::sync::Arc::new(load_path(&folder.path().to_string_lossy(), 0)?);
    let conversation = Conversation {
        messages: r#"[{"role":"user","content":"a"}]"#.to_owned(),
        tools,
        ..Conversation::default()
    };
    prompt::render(&model, &Input::messages(conversation))
}

fn load_path(path: &str, context: u32) -> Result<Model> {
    model::load(
        path,
        LoadOptions {
            context,
            follow_links: false,
            draft: None,
            deadline: None,
            progress: &mut |_, _| true,
        },
    )
}

/// A fixture in a folder of its own, without what was computed.
fn copy(case: &str) -> TempFolder {
    let folder = TempFolder::new();
    for file in fs::read_dir(parity::fixtures().join("models").join(case))
        .unwrap()
        .flatten()
    {
        let name = file.file_name().into_string().unwrap();
        if !name.starts_with("expected") {
            folder.write(&name, fs::read(file.path()).unwrap());
        }
    }
    folder
}

fn json_of(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Code and sentence, with the folder's place as a user would have it.
fn shown(error: &Error, folder: &TempFolder) -> String {
    let message = error
        .message
        .replace(&*folder.path().to_string_lossy(), "path/to/model");
    format!("{}: {message}", code_name(error))
}

fn code_name(error: &Error) -> String {
    let mut name = String::new();
    for c in format!("{:?}", error.code).chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_uppercase());
    }
    name
}
