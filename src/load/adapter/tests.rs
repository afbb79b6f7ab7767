#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use serde_json::json;

use self::parameters::experts_of;
use super::super::testing::{tensors, TempFolder};
use super::super::warnings::Warnings;
use super::*;
use crate::dtype::Dtype;
use crate::error::Code;

mod parameters;

type Listed<'a> = &'a [(&'a str, &'a str, &'a [usize])];

/// An adapter folder of that config and those tensors, in the file that the format has.
fn folder(config: &str, listed: Listed) -> TempFolder {
    let temp = TempFolder::new();
    temp.write(CONFIG, config);
    let file = match () {
        _ if config.contains("peft_type") => "adapter_model.safetensors",
        _ if config.contains("lora_parameters") || config.contains("full") => {
            "adapters.safetensors"
        }
        _ => "adapter.safetensors",
    };
    temp.write(file, tensors(listed));
    temp
}

fn open(config: &str, listed: Listed) -> Result<AdapterFile> {
    AdapterFile::open(folder(config, listed).path().to_str().unwrap())
}

fn refused(config: &str, listed: Listed, code: Code) -> String {
    let error = open(config, listed).unwrap_err();
    assert_eq!(error.code, code, "{error}");
    error.message
}

fn bad(config: &str, listed: Listed) -> String {
    refused(config, listed, Code::BadModel)
}

const MLX: &str = r#"{"fine_tune_type":"lora","num_layers":-1,"model":"m","seed":0,
    "lora_parameters":{"rank":4,"scale":20.0,"dropout":0.1}}"#;
const MLX_Q: Listed = &[
    ("model.layers.0.self_attn.q_proj.lora_a", "F32", &[8, 4]),
    ("model.layers.0.self_attn.q_proj.lora_b", "F32", &[4, 6]),
];
const DORA: &str =
    r#"{"fine_tune_type":"dora","num_layers":1,"lora_parameters":{"rank":4,"scale":2}}"#;
const FULL: &str = r#"{"fine_tune_type":"full","num_layers":-1,"lora_parameters":null}"#;
const PEFT: &str = r#"{"peft_type":"LORA","r":4,"lora_alpha":6,"target_modules":["q_proj"]}"#;
const PEFT_Q: Listed = &[
    (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "F32",
        &[4, 8],
    ),
    (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        "F32",
        &[6, 4],
    ),
];

fn with(config: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut value = serde_json::from_str(config).unwrap();
    change(&mut value);
    value.to_string()
}

fn model() -> Vec<(String, ModuleShape)> {
    let mut modules = vec![
        (
            "embed_tokens".to_string(),
            ModuleShape::Embedding { vocab: 16, dims: 8 },
        ),
        ("norm".to_string(), ModuleShape::Norm { dims: 8 }),
        (
            "lm_head".to_string(),
            ModuleShape::Linear {
                input: 8,
                output: 16,
                bias: false,
            },
        ),
    ];
    for layer in 0..3 {
        let path = |leaf: &str| format!("layers.{layer}.{leaf}");
        let linear = |bias| ModuleShape::Linear {
            input: 8,
            output: 6,
            bias,
        };
        modules.extend([
            (path("self_attn.q_proj"), linear(true)),
            (path("self_attn.k_proj"), linear(false)),
            (path("input_layernorm"), ModuleShape::Norm { dims: 8 }),
            (
                path("mlp.switch_mlp.up_proj"),
                ModuleShape::Experts {
                    experts: 3,
                    input: 8,
                    output: 6,
                    bias: false,
                },
            ),
        ]);
    }
    modules
}

fn misfit(config: &str, listed: Listed) -> String {
    let error = open(config, listed).unwrap().check(&model()).unwrap_err();
    assert_eq!(error.code, Code::Incompatible, "{error}");
    error.message
}

fn low(entry: &Entry) -> &Low {
    match &entry.part {
        Part::Low(low) => low,
        Part::Full(_) => panic!("{entry:?}"),
    }
}

fn full(entry: &Entry) -> &Full {
    match &entry.part {
        Part::Full(full) => full,
        Part::Low(_) => panic!("{entry:?}"),
    }
}

#[test]
fn mlx_lm_lora() {
    let adapter = open(
        MLX,
        &[
            (
                "model.layers.2.mlp.switch_mlp.up_proj.lora_a",
                "BF16",
                &[3, 4, 8],
            ),
            (
                "model.layers.2.mlp.switch_mlp.up_proj.lora_b",
                "BF16",
                &[3, 6, 4],
            ),
            (
                "language_model.model.layers.0.self_attn.q_proj.lora_a",
                "F16",
                &[8, 4],
            ),
            (
                "language_model.model.layers.0.self_attn.q_proj.lora_b",
                "F16",
                &[4, 6],
            ),
            ("model.embed_tokens.lora_a", "F32", &[16, 4]),
            ("model.embed_tokens.lora_b", "F32", &[4, 8]),
            ("lm_head.lora_a", "F32", &[8, 4]),
            ("lm_head.lora_b", "F32", &[4, 16]),
        ],
    )
    .unwrap();
    assert_eq!(
        (adapter.format, adapter.kind),
        (AdapterFormat::MlxLm, AdapterKind::Lora)
    );
    assert_eq!(
        (adapter.rank, adapter.scale, adapter.dropout),
        (Some(4), Some(20.0), 0.1)
    );
    let paths: Vec<String> = adapter.entries.iter().map(|e| e.target.path()).collect();
    let expected = [
        "embed_tokens",
        "lm_head",
        "layers.0.self_attn.q_proj",
        "layers.2.mlp.switch_mlp.up_proj",
    ];
    assert_eq!(paths, expected);
    for entry in &adapter.entries {
        let low = low(entry);
        assert!(entry.with_tied_output && low.magnitude.is_none() && !low.magnitude_by_column);
        assert_eq!((low.rank, low.scale), (4, 20.0));
        let stacked = entry.target.module.contains("switch");
        let order = match stacked {
            true => Order::Transposed,
            false => Order::Plain,
        };
        assert_eq!((low.a_order, low.b_order), (order, order));
    }
    adapter.check(&model()).unwrap();
    // Where the data is: the third tensor of the file starts after the first two.
    let a = &low(&adapter.entries[2]).a;
    let first = &low(&adapter.entries[3]).a;
    assert_eq!((a.dtype, a.bytes, a.pieces[0].file), (Dtype::F16, 64, 0));
    let start = |slot: &Slot| slot.pieces[0].offset;
    assert_eq!(start(a) - start(first), (3 * 4 * 8 + 3 * 6 * 4) * 2);
}

#[test]
fn mlx_lm_dora() {
    let q: Listed = &[
        ("model.layers.2.self_attn.q_proj.lora_a", "F32", &[8, 4]),
        ("model.layers.2.self_attn.q_proj.lora_b", "F32", &[4, 6]),
        ("model.layers.2.self_attn.q_proj.m", "F32", &[6]),
        ("model.embed_tokens.lora_a", "F32", &[16, 4]),
        ("model.embed_tokens.lora_b", "F32", &[4, 8]),
        ("model.embed_tokens.m", "F32", &[16]),
    ];
    let adapter = open(DORA, q).unwrap();
    assert_eq!(adapter.kind, AdapterKind::Dora);
    adapter.check(&model()).unwrap();
    let magnitude = low(&adapter.entries[1]).magnitude.as_ref().unwrap();
    assert_eq!(
        (magnitude.shape.as_slice(), magnitude.bytes),
        (&[6][..], 24)
    );

    assert!(bad(DORA, &q[..2])
        .ends_with("\"layers.2.self_attn.q_proj\" has no magnitude, but the config is of DoRA"));
    assert!(bad(DORA, &q[2..3]).ends_with("has a magnitude without A and B"));
    assert!(bad(MLX, &q[..3]).ends_with("has a magnitude, but the config is of plain LoRA"));
    let wrong: Listed = &[
        q[0],
        q[1],
        ("model.layers.2.self_attn.q_proj.m", "F32", &[1, 6]),
    ];
    assert!(misfit(DORA, wrong)
        .contains("has magnitude of the shape [1, 6], and the model's module needs [6]"));
    let stacked: Listed = &[
        ("layers.2.mlp.switch_mlp.up_proj.lora_a", "F32", &[3, 4, 8]),
        ("layers.2.mlp.switch_mlp.up_proj.lora_b", "F32", &[3, 6, 4]),
        ("layers.2.mlp.switch_mlp.up_proj.m", "F32", &[3, 6]),
    ];
    assert!(bad(DORA, stacked).ends_with("is DoRA of stacked experts"));
}

#[test]
fn mlx_lm_full() {
    let adapter = open(
        FULL,
        &[
            ("model.layers.1.self_attn.q_proj.weight", "F16", &[6, 8]),
            ("model.layers.1.self_attn.q_proj.bias", "F16", &[6]),
            ("model.layers.1.input_layernorm.weight", "F16", &[8]),
            ("model.embed_tokens.weight", "F16", &[16, 8]),
            ("model.norm.weight", "F16", &[8]),
        ],
    )
    .unwrap();
    assert_eq!(
        (adapter.kind, adapter.rank, adapter.scale),
        (AdapterKind::Full, None, None)
    );
    adapter.check(&model()).unwrap();
    let q = full(&adapter.entries[3]);
    assert_eq!(q.weight.as_ref().unwrap().shape, [6, 8]);
    assert_eq!(q.bias.as_ref().unwrap().shape, [6]);
    assert!(!q.base_layer && adapter.entries[3].with_tied_output);

    assert!(misfit(
        FULL,
        &[("model.layers.1.self_attn.k_proj.bias", "F32", &[6])]
    )
    .ends_with("\"layers.1.self_attn.k_proj\" has no bias in the model"));
    assert!(misfit(
        FULL,
        &[("model.layers.1.self_attn.q_proj.bias", "F32", &[7])]
    )
    .contains("has bias of the shape [7], and the model's module needs [6]"));
    assert!(misfit(FULL, &[("model.norm.weight", "F32", &[9])]).contains("needs [8]"));
    assert!(bad(
        FULL,
        &[("model.layers.1.self_attn.q_proj.scales", "F32", &[6])]
    )
    .contains(
        "\"model.layers.1.self_attn.q_proj.scales\" is no tensor of a full adapter of mlx-lm"
    ));
    assert!(bad(FULL, MLX_Q).contains("no tensor of a full adapter"));
}

#[test]
fn peft_lora() {
    let adapter = open(PEFT, PEFT_Q).unwrap();
    assert_eq!(
        (adapter.format, adapter.kind),
        (AdapterFormat::Peft, AdapterKind::Lora)
    );
    let q = low(&adapter.entries[0]);
    assert_eq!(
        (q.rank, q.scale, q.a_order, q.b_order),
        (4, 1.5, Order::Transposed, Order::Transposed)
    );
    assert!(!adapter.entries[0].with_tied_output);
    adapter.check(&model()).unwrap();

    let rslora = with(PEFT, |c| c["use_rslora"] = json!(true));
    assert_eq!(low(&open(&rslora, PEFT_Q).unwrap().entries[0]).scale, 3.0);

    // A list of targets names ends of paths, a string matches all of them.
    for targets in [
        json!(["self_attn.q_proj"]),
        json!(["model.layers.0.self_attn.q_proj"]),
        json!(r"model\.layers\.\d+\.self_attn\.[qv]_proj"),
        json!("all-linear"),
        json!(r"(?=.*).*"),
        json!(null),
    ] {
        open(&with(PEFT, |c| c["target_modules"] = targets), PEFT_Q).unwrap();
    }
    for targets in [
        json!(["proj"]),
        json!(["v_proj"]),
        json!([]),
        json!(r".*\.v_proj"),
        json!("q_proj"),
    ] {
        let message = bad(&with(PEFT, |c| c["target_modules"] = targets), PEFT_Q);
        assert!(
            message.ends_with(
                "\"layers.0.self_attn.q_proj\" is not in \"target_modules\" of the config"
            ),
            "{message}"
        );
    }
}

#[test]
fn peft_patterns() {
    let pattern = |ranks: serde_json::Value, alphas: serde_json::Value| {
        with(PEFT, |c| {
            c["rank_pattern"] = ranks;
            c["alpha_pattern"] = alphas;
        })
    };
    let rank_two: Listed = &[(PEFT_Q[0].0, "F32", &[2, 8]), (PEFT_Q[1].0, "F32", &[6, 2])];
    for key in [
        "q_proj",
        "self_attn.q_proj",
        r"layers\.0\..*",
        "^model.layers.0.self_attn.q_proj",
        "k_proj|q_proj",
    ] {
        let adapter = open(&pattern(json!({key: 2}), json!({key: 9})), rank_two).unwrap();
        let q = low(&adapter.entries[0]);
        assert_eq!((q.rank, q.scale), (2, 4.5), "{key}");
        assert_eq!((adapter.rank, adapter.scale), (Some(4), Some(1.5)));
    }
    // Not at the end, only a part of a name, another layer; and the first of two counts.
    for key in [
        "self_attn",
        "proj",
        "layers.1.self_attn.q_proj",
        "^layers.0.self_attn.q_proj",
    ] {
        let adapter = open(&pattern(json!({key: 2}), json!({key: 9})), PEFT_Q).unwrap();
        assert_eq!(low(&adapter.entries[0]).scale, 1.5, "{key}");
    }
    let both = pattern(
        json!({}),
        json!({"v_proj": 1, "q_proj": 8, "self_attn.q_proj": 10}),
    );
    assert_eq!(low(&open(&both, PEFT_Q).unwrap().entries[0]).scale, 2.0);

    let message = bad(&pattern(json!({"q_proj": 2}), json!({})), PEFT_Q);
    assert!(
        message.ends_with("has A of the shape [4, 8] and B of [6, 4], and the config's rank is 2"),
        "{message}"
    );
    assert!(bad(&pattern(json!({"q_proj": 0}), json!({})), PEFT_Q)
        .contains("\"rank_pattern.q_proj\" must be an integer from 1 to 4096, is 0"));
    assert!(bad(&pattern(json!({}), json!({"q_proj": "x"})), PEFT_Q)
        .contains("\"alpha_pattern.q_proj\" must be a finite number"));
    let message = refused(
        &pattern(json!({"(?!q).*": 2}), json!({})),
        PEFT_Q,
        Code::Unsupported,
    );
    assert!(
        message.contains("\"rank_pattern.(?!q).*\": the pattern has a group with"),
        "{message}"
    );
}

#[test]
fn peft_embedding_head_and_saved_modules() {
    let config = r#"{"peft_type":"LORA","r":4,"lora_alpha":4,"use_dora":true,"bias":"none","lora_bias":false,
        "init_lora_weights":true,"loftq_config":{},"target_modules":["embed_tokens","q_proj"],
        "modules_to_save":["model.norm","layernorm","k_proj"]}"#;
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let listed: Vec<(String, &str, &[usize])> = vec![
        (format!("{q}.lora_A.weight"), "F32", &[4, 8]),
        (format!("{q}.lora_B.weight"), "F32", &[6, 4]),
        (format!("{q}.lora_magnitude_vector"), "F32", &[6]),
        (
            "base_model.model.model.embed_tokens.lora_embedding_A".into(),
            "F32",
            &[4, 16],
        ),
        (
            "base_model.model.model.embed_tokens.lora_embedding_B".into(),
            "F32",
            &[8, 4],
        ),
        (
            "base_model.model.model.embed_tokens.lora_magnitude_vector.weight".into(),
            "F32",
            &[8],
        ),
        (
            "base_model.model.model.embed_tokens.base_layer.weight".into(),
            "F32",
            &[16, 8],
        ),
        ("base_model.model.lm_head.weight".into(), "F32", &[16, 8]),
        ("base_model.model.model.norm.weight".into(), "F32", &[8]),
        (
            "base_model.model.model.layers.1.self_attn.k_proj.modules_to_save.weight".into(),
            "F32",
            &[6, 8],
        ),
    ];
    let listed: Vec<_> = listed
        .iter()
        .map(|(n, d, s)| (n.as_str(), *d, *s))
        .collect();
    let adapter = open(config, &listed).unwrap();
    adapter.check(&model()).unwrap();
    let shown: Vec<_> = adapter
        .entries
        .iter()
        .map(|e| {
            (
                e.target.path(),
                matches!(e.part, Part::Low(_)),
                e.with_tied_output,
            )
        })
        .collect();
    let expected = [
        ("embed_tokens", false, true),
        ("embed_tokens", true, false),
        ("lm_head", false, false),
        ("norm", false, false),
        ("layers.0.self_attn.q_proj", true, false),
        ("layers.1.self_attn.k_proj", false, false),
    ];
    assert_eq!(shown, expected.map(|(p, l, t)| (p.to_string(), l, t)));
    assert!(full(&adapter.entries[0]).base_layer && !full(&adapter.entries[2]).base_layer);
    assert!(low(&adapter.entries[1]).magnitude_by_column);
    assert!(!low(&adapter.entries[4]).magnitude_by_column);

    let message = bad(
        config,
        &[(
            "base_model.model.model.layers.0.self_attn.q_norm.weight",
            "F32",
            &[8],
        )],
    );
    assert!(
        message
            .ends_with("\"layers.0.self_attn.q_norm\" is not in \"modules_to_save\" of the config"),
        "{message}"
    );
    let message = bad(
        config,
        &[
            listed[3],
            listed[4],
            listed[5],
            (
                "base_model.model.model.embed_tokens.weight",
                "F32",
                &[16, 8],
            ),
        ],
    );
    assert!(
        message.ends_with("\"embed_tokens\" is both adapted and replaced"),
        "{message}"
    );
    assert!(bad(config, &[listed[6]])
        .ends_with("\"embed_tokens\" has a base layer without lora_A and lora_B"));
    let both: Listed = &[
        listed[5],
        (
            "base_model.model.model.embed_tokens.lora_magnitude_vector",
            "F32",
            &[8],
        ),
    ];
    assert!(bad(config, both).contains("are the same part of one module"));
}

/// What people's programs make of PEFT's names when they save a state themselves. PEFT looks for none of these names, and
/// with a warning leaves the adapter as it was made.
#[test]
fn peft_names_with_other_wrappers_and_with_the_adapters_name() {
    let config = r#"{"peft_type":"LORA","r":4,"lora_alpha":6,"use_dora":true,"target_modules":["q_proj","embed_tokens"],
        "modules_to_save":["lm_head","k_proj"],"rank_pattern":{"model.layers.0.self_attn.q_proj":4}}"#;
    let parts: [(&str, &str, &[usize]); 8] = [
        ("model.layers.0.self_attn.q_proj.lora_A", ".weight", &[4, 8]),
        ("model.layers.0.self_attn.q_proj.lora_B", ".weight", &[6, 4]),
        (
            "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            ".weight",
            &[6],
        ),
        ("model.embed_tokens.lora_embedding_A", "", &[4, 16]),
        ("model.embed_tokens.lora_embedding_B", "", &[8, 4]),
        ("model.embed_tokens.lora_magnitude_vector", "", &[8]),
        ("lm_head.modules_to_save", ".weight", &[16, 8]),
        (
            "model.layers.1.self_attn.k_proj.modules_to_save",
            ".weight",
            &[6, 8],
        ),
    ];
    let entries = |wrapper: &str, adapter: &str| {
        let names = parts.map(|(path, leaf, _)| format!("{wrapper}{path}{adapter}{leaf}"));
        let listed: Vec<_> = names
            .iter()
            .zip(parts)
            .map(|(name, (_, _, shape))| (name.as_str(), "F32", shape))
            .collect();
        let adapter = open(config, &listed).unwrap();
        adapter.check(&model()).unwrap();
        let mut shown = Vec::new();
        for entry in adapter.entries {
            let tensors = match entry.part {
                Part::Low(low) => {
                    assert_eq!(low.scale, 1.5);
                    vec![low.a.shape, low.b.shape, low.magnitude.unwrap().shape]
                }
                Part::Full(full) => vec![full.weight.unwrap().shape],
            };
            shown.push((entry.target.path(), tensors));
        }
        shown
    };
    let usual = entries("base_model.model.", "");
    assert_eq!(usual.len(), 4);
    let wrappers = [
        "",
        "base_model.model.",
        "base_model.model.base_model.model.",
    ];
    for wrapper in wrappers {
        for adapter in ["", ".default", ".my-adapter_2"] {
            assert_eq!(entries(wrapper, adapter), usual, "{wrapper} {adapter}");
        }
    }

    // Two adapters of one model are not one.
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let (ours, theirs) = (
        format!("{q}.lora_A.default.weight"),
        format!("{q}.lora_A.other.weight"),
    );
    let (b, shape): (_, &[usize]) = (format!("{q}.lora_B.default.weight"), &[4, 8]);
    let both = [
        (&*ours, "F32", shape),
        (&*theirs, "F32", shape),
        (&*b, "F32", &[6, 4]),
    ];
    assert!(bad(PEFT, &both).contains("are the same part of one module"));
    for name in [
        "lora_A",
        "lora_A.default",
        "lora_A..weight",
        "lora_A.a.b.weight",
        "lora_A.default.bias",
    ] {
        let name = format!("{q}.{name}");
        let message = bad(PEFT, &[(&*name, "F32", shape), (&*b, "F32", &[6, 4])]);
        assert!(
            message.contains("is no tensor of a lora adapter of peft"),
            "{message}"
        );
    }
}

#[test]
fn the_originals() {
    let config = r#"{"rank":4,"alpha":6,"num_layers":1,"lora_layers":["self_attn.q_proj","self_attn.k_proj"]}"#;
    let listed: Listed = &[
        ("layers.0.self_attn.q_proj.lora_a", "F32", &[4, 8]),
        ("layers.0.self_attn.q_proj.lora_b", "F32", &[6, 4]),
        ("model.layers.0.self_attn.k_proj.lora_a", "F32", &[8, 4]),
        ("model.layers.0.self_attn.k_proj.lora_b", "F32", &[4, 6]),
    ];
    let adapter = open(config, listed).unwrap();
    assert_eq!(
        (adapter.format, adapter.kind),
        (AdapterFormat::Original, AdapterKind::Lora)
    );
    adapter.check(&model()).unwrap();
    let transposed: Vec<bool> = adapter
        .entries
        .iter()
        .map(|e| low(e).a_order == Order::Transposed)
        .collect();
    assert_eq!(transposed, [false, true]);
    assert_eq!(adapter.scale, Some(1.5));
    assert_eq!(open(r#"{"rank":4}"#, listed).unwrap().scale, Some(2.0));
    // As wide as the rank: B tells the orientation.
    let square: Listed = &[
        ("layers.0.self_attn.q_proj.lora_a", "F32", &[4, 4]),
        ("layers.0.self_attn.q_proj.lora_b", "F32", &[4, 6]),
        ("layers.1.self_attn.q_proj.lora_a", "F32", &[4, 4]),
        ("layers.1.self_attn.q_proj.lora_b", "F32", &[4, 4]),
    ];
    let adapter = open(config, square).unwrap();
    let transposed: Vec<bool> = adapter
        .entries
        .iter()
        .map(|e| low(e).b_order == Order::Transposed)
        .collect();
    assert_eq!(transposed, [false, true]);
    assert!(bad(
        config,
        &[
            listed[0],
            ("layers.0.self_attn.q_proj.lora_b", "F32", &[4, 6])
        ]
    )
    .ends_with("has A of the shape [4, 8] and B of [4, 6], and the config's rank is 4"));
}

#[test]
fn configs_that_are_refused() {
    let says = |config: &str, code, expected: &str| {
        let message = refused(config, MLX_Q, code);
        assert!(message.contains(expected), "{message}");
    };
    let bad = |config: &str, expected: &str| says(config, Code::BadModel, expected);
    bad("", "is not valid JSON");
    bad("[]", "must hold a JSON object");
    bad("{}", "holds none of \"peft_type\"");
    bad(
        r#"{"peft_type":"LORA","lora_parameters":{}}"#,
        "holds both PEFT's",
    );
    bad(
        r#"{"fine_tune_type":"lora"}"#,
        "\"lora_parameters\" is missing",
    );
    bad(
        r#"{"fine_tune_type":1}"#,
        "\"fine_tune_type\" must be a string",
    );
    for (rank, shown) in [
        ("0", "0"),
        ("-1", "-1"),
        ("4097", "4097"),
        ("2147483648", "2147483648"),
        ("1.5", "1.5"),
        ("true", "true"),
        ("\"4\"", "\"4\""),
        ("NaN", "\"NaN\""),
    ] {
        let expected =
            format!("\"lora_parameters.rank\" must be an integer from 1 to 4096, is {shown}");
        bad(
            &format!(r#"{{"lora_parameters":{{"rank":{rank},"scale":1}}}}"#),
            &expected,
        );
        let expected = format!("\"rank\" must be an integer from 1 to 4096, is {shown}");
        bad(&format!(r#"{{"rank":{rank},"alpha":1}}"#), &expected);
        let expected = format!("\"r\" must be an integer from 1 to 4096, is {shown}");
        bad(&format!(r#"{{"peft_type":"LORA","r":{rank}}}"#), &expected);
    }
    for scale in ["Infinity", "-Infinity", "NaN", "1e39", "[]", "\"1\""] {
        bad(
            &format!(r#"{{"lora_parameters":{{"rank":4,"scale":{scale}}}}}"#),
            "\"lora_parameters.scale\" must be a finite number",
        );
        bad(
            &format!(r#"{{"rank":4,"alpha":{scale}}}"#),
            "\"alpha\" must be a finite number",
        );
        bad(
            &format!(r#"{{"peft_type":"LORA","lora_alpha":{scale}}}"#),
            "\"lora_alpha\" must be a finite number",
        );
    }
    bad(
        r#"{"lora_parameters":{"rank":4}}"#,
        "\"lora_parameters.scale\" is missing",
    );
    bad(
        r#"{"lora_parameters":{"rank":4,"scale":1,"dropout":2}}"#,
        "\"lora_parameters.dropout\" must be a number from 0 to 1",
    );
    bad(
        r#"{"lora_parameters":{"rank":4,"rank":4,"scale":1}}"#,
        "the key \"rank\" is given twice",
    );
    bad(r#"{"peft_type":1}"#, "\"peft_type\" must be a string");
    bad(
        r#"{"peft_type":"LORA","target_modules":7}"#,
        "\"target_modules\" must be an array",
    );
    bad(
        r#"{"peft_type":"LORA","use_dora":"yes"}"#,
        "\"use_dora\" must be true or false",
    );

    let unsupported = |config: &str, expected: &str| says(config, Code::Unsupported, expected);
    unsupported(
        r#"{"fine_tune_type":"soft"}"#,
        "is \"soft\", known are lora, dora and full",
    );
    unsupported(
        r#"{"peft_type":"LOHA"}"#,
        "\"peft_type\" is \"LOHA\", only LORA is supported",
    );
    for (key, value) in [
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["mlp.experts"])),
        ("trainable_token_indices", json!([3])),
        ("alora_invocation_tokens", json!([1])),
        ("use_qalora", json!(true)),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("loftq")),
        ("ensure_weight_tying", json!(true)),
        ("arrow_config", json!({"k": 1})),
    ] {
        unsupported(&with(PEFT, |c| c[key] = value), &format!("\"{key}\" is "));
    }
}

#[test]
fn the_config_limits_what_may_be_adapted() {
    let keys = |keys: &[&str]| with(MLX, |c| c["lora_parameters"]["keys"] = json!(keys));
    let head: Listed = &[
        MLX_Q[0],
        MLX_Q[1],
        ("lm_head.lora_a", "F32", &[8, 4]),
        ("lm_head.lora_b", "F32", &[4, 16]),
    ];
    open(&keys(&["self_attn.q_proj", "lm_head"]), head)
        .unwrap()
        .check(&model())
        .unwrap();
    open(&keys(&["self_attn.q_proj", "language_model.lm_head"]), head).unwrap();
    assert!(bad(&keys(&["self_attn.q_proj"]), head)
        .ends_with("\"lm_head\" is not in \"keys\" of the config"));
    assert!(bad(&keys(&["q_proj", "lm_head"]), head)
        .ends_with("\"layers.0.self_attn.q_proj\" is not in \"keys\" of the config"));

    let last = |n: i64| with(MLX, |c| c["num_layers"] = json!(n));
    for n in [-1, 0, 3, 16, i64::MAX] {
        open(&last(n), MLX_Q).unwrap().check(&model()).unwrap();
    }
    assert!(misfit(&last(2), MLX_Q).ends_with(
        "\"layers.0.self_attn.q_proj\" is not in the last 2 layers of the model (\"num_layers\")"
    ));
}

#[test]
fn tensors_that_are_refused() {
    assert!(bad(MLX, &MLX_Q[..1]).ends_with("\"layers.0.self_attn.q_proj\" has A without B"));
    assert!(bad(MLX, &MLX_Q[1..]).ends_with("has B without A"));
    assert!(bad(MLX, &[]).ends_with("adapters.safetensors: holds no tensors"));
    assert!(bad(MLX, PEFT_Q).contains("is no tensor of a lora adapter of mlx-lm"));
    assert!(bad(PEFT, MLX_Q).contains("is no tensor of a lora adapter of peft"));
    let twice: Listed = &[
        MLX_Q[0],
        MLX_Q[1],
        ("layers.0.self_attn.q_proj.lora_a", "F32", &[8, 4]),
    ];
    assert!(bad(MLX, twice).ends_with(
        "\"layers.0.self_attn.q_proj.lora_a\" and \"model.layers.0.self_attn.q_proj.lora_a\" are the same part of one module"
    ));
    for dtype in ["I32", "U8", "BOOL", "I64"] {
        let message = bad(MLX, &[(MLX_Q[0].0, dtype, &[8, 4]), MLX_Q[1]]);
        assert!(
            message.contains(&format!(
                "\"{}\" is of type {dtype}, not F32, F16 or BF16",
                MLX_Q[0].0
            )),
            "{message}"
        );
    }
    for (a, b) in [
        (&[4usize, 8][..], &[4usize, 6][..]),
        (&[8, 4], &[6, 4]),
        (&[8, 5], &[5, 6]),
        (&[8, 4], &[4]),
        (&[4], &[4, 6]),
        (&[], &[]),
        (&[3, 4, 8], &[4, 6]),
        (&[3, 8, 4], &[3, 4, 6]),
        (&[2, 2, 4, 8], &[2, 2, 6, 4]),
    ] {
        let message = bad(MLX, &[(MLX_Q[0].0, "F32", a), (MLX_Q[1].0, "F32", b)]);
        assert!(
            message.contains(&format!("has A of the shape {a:?} and B of {b:?}")),
            "{message}"
        );
    }
    for name in [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.00.self_attn.q_proj.lora_a",
        "model.layers.-1.q_proj.lora_a",
        "model.layers.+1.q_proj.lora_a",
        "model.layers.4294967296.q_proj.lora_a",
        "model.layers.q_proj.lora_a",
        "model.layers.0.lora_a",
        "model.layers.0..q.lora_a",
        "lora_a",
        ".lora_a",
        "model.lora_a",
        "vision_tower.layers.0.q_proj.lora_a",
        "model.layers.0.self_attn.q_proj.lora_c",
        "model.embed_tokens.x.lora_a",
    ] {
        let message = bad(MLX, &[MLX_Q[0], MLX_Q[1], (name, "F32", &[8, 4])]);
        assert!(
            message.ends_with(&format!(
                "\"{name}\" is no tensor of a lora adapter of mlx-lm"
            )),
            "{message}"
        );
    }
}

#[test]
fn adapters_of_another_model() {
    assert_eq!(
        misfit(MLX, &[
            ("model.layers.0.self_attn.q_proj.lora_a", "F32", &[9, 4]),
            ("model.layers.0.self_attn.q_proj.lora_b", "F32", &[4, 6]),
            ("model.layers.1.self_attn.q_proj.lora_a", "F32", &[8, 4]),
            ("model.layers.1.self_attn.q_proj.lora_b", "F32", &[4, 7]),
            ("model.layers.3.self_attn.q_proj.lora_a", "F32", &[8, 4]),
            ("model.layers.3.self_attn.q_proj.lora_b", "F32", &[4, 6]),
            ("model.norm.lora_a", "F32", &[8, 4]),
            ("model.norm.lora_b", "F32", &[4, 8]),
        ]),
        "the adapter does not fit the model: \"norm\" is a norm, which has no low-rank part; \
         \"layers.0.self_attn.q_proj\" has A of the shape [9, 4], and the model's module needs [8, 4]; \
         \"layers.1.self_attn.q_proj\" has B of the shape [4, 7], and the model's module needs [4, 6]; \
         \"layers.3.self_attn.q_proj\" the model has no such module"
    );
    let (a, b) = (
        (PEFT_Q[0].0, "F32", &[4usize, 9][..]),
        (PEFT_Q[1].0, "F32", &[6usize, 4][..]),
    );
    assert!(misfit(PEFT, &[a, b])
        .contains("has A of the shape [4, 9], and the model's module needs [4, 8]"));
    // Two dimensions where the model has stacked experts, and other experts.
    let up = "model.layers.0.mlp.switch_mlp.up_proj";
    let (a, b) = (format!("{up}.lora_a"), format!("{up}.lora_b"));
    assert!(misfit(MLX, &[(&a, "F32", &[8, 4]), (&b, "F32", &[4, 6])]).contains("needs [3, 8, 4]"));
    assert!(
        misfit(MLX, &[(&a, "F32", &[2, 4, 8]), (&b, "F32", &[2, 6, 4])])
            .contains("needs [3, 4, 8]")
    );
    // Many: the first eight are named, the rest counted.
    let names: Vec<String> = (3..30)
        .flat_map(|n| {
            ["a", "b"].map(|half| format!("model.layers.{n}.self_attn.q_proj.lora_{half}"))
        })
        .collect();
    let listed: Vec<_> = names
        .iter()
        .map(|n| {
            (
                n.as_str(),
                "F32",
                if n.ends_with('a') {
                    &[8usize, 4][..]
                } else {
                    &[4usize, 6]
                },
            )
        })
        .collect();
    let message = misfit(MLX, &listed);
    assert_eq!(message.matches("no such module").count(), 8);
    assert!(message.ends_with("; and 19 more"), "{message}");
}

#[test]
fn folders_and_files() {
    let temp = folder(MLX, MLX_Q);
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let message = |path: &str, code| {
        let error = AdapterFile::open(path).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        error.message
    };
    // A file, then the same under a checkpoint's name.
    assert_eq!(
        AdapterFile::open(&path("adapters.safetensors"))
            .unwrap()
            .entries
            .len(),
        1
    );
    temp.write("0000100_adapters.safetensors", tensors(MLX_Q));
    assert_eq!(
        AdapterFile::open(&path("0000100_adapters.safetensors"))
            .unwrap()
            .entries
            .len(),
        1
    );
    // The usual name goes before others; without it, only one file is clear.
    AdapterFile::open(&path("")).unwrap();
    std::fs::rename(path("adapters.safetensors"), path("other.safetensors")).unwrap();
    assert!(message(&path(""), Code::BadModel)
        .ends_with("holds no adapters.safetensors, and more than one other .safetensors file"));
    std::fs::remove_file(path("0000100_adapters.safetensors")).unwrap();
    AdapterFile::open(&path("")).unwrap();
    std::fs::remove_file(path("other.safetensors")).unwrap();
    assert!(message(&path(""), Code::BadModel)
        .starts_with("adapters.safetensors: is missing from the folder"));
    temp.write("adapters.npz", "");
    assert!(message(&path(""), Code::Unsupported)
        .contains("holds adapters.npz and no adapters.safetensors"));

    assert!(message(&path("adapters.npz"), Code::InvalidArgument)
        .ends_with("is neither a folder nor a .safetensors file"));
    std::fs::remove_file(path(CONFIG)).unwrap();
    assert!(message(&path(""), Code::BadModel)
        .starts_with("adapter_config.json: is missing from the folder"));
    assert_eq!(
        message("", Code::InvalidArgument),
        "the adapter path is empty"
    );
    assert_eq!(
        message("a\0", Code::InvalidArgument),
        "the adapter path holds a NUL character"
    );
    message("/no/such/folder", Code::NotFound);
}

#[test]
fn damaged_files_are_named_errors() {
    for (config, listed) in [(MLX, MLX_Q), (PEFT, PEFT_Q)] {
        let temp = folder(config, listed);
        let path = temp.path().to_str().unwrap();
        let file = if config == MLX {
            "adapters.safetensors"
        } else {
            "adapter_model.safetensors"
        };
        let whole = tensors(listed);
        for length in 0..whole.len() {
            temp.write(file, &whole[..length]);
            let error = AdapterFile::open(path).unwrap_err();
            assert_eq!(error.code, Code::BadModel, "{length}: {error}");
            assert!(
                error.message.starts_with(&format!("{file}: is truncated")),
                "{length}: {error}"
            );
        }
        // Any change of a byte of the header is an error or leaves a description that can be checked.
        let header = whole.len()
            - listed
                .iter()
                .map(|(.., s)| s.iter().product::<usize>() * 4)
                .sum::<usize>();
        for at in 0..header {
            for byte in [0, b'"', b'{', b'9', 0xff, whole[at] ^ 1] {
                let mut changed = whole.clone();
                changed[at] = byte;
                temp.write(file, &changed);
                if let Ok(adapter) = AdapterFile::open(path) {
                    let _ = adapter.check(&model());
                }
            }
        }
        temp.write(file, &whole);
        for length in 0..config.len() {
            temp.write(CONFIG, &config[..length]);
            let error = AdapterFile::open(path).unwrap_err();
            assert_eq!(error.code, Code::BadModel);
            assert!(error.message.starts_with(CONFIG), "{length}: {error}");
        }
    }
}

#[test]
fn patterns_match_as_python_does() {
    let mut budget = pattern::Budget::new(&Limits::DEFAULT);
    let path = "model.layers.12.self_attn.q_proj";
    for (text, whole, end) in [
        ("q_proj", false, true),
        (r"self_attn\.q_proj", false, true),
        ("self_attn.q.proj", false, true),
        (".*", true, true),
        (r".*\.(q|k)_proj", true, true),
        (r"model\.layers\.\d+\.self_attn\.[qkv]_proj$", true, true),
        (r"model\.layers\.(1[0-5]|[0-9])\..*", true, true),
        (r"model\.layers\.(1[3-5]|[0-9])\..*", false, false),
        (r"layers.1{0,1}2.\w+.q_proj", false, true),
        (r"layers.\d{3}.\w+.q_proj", false, false),
        (
            r"(?:.*?(?:language|text|model).*?(?:self_attn|mlp).*?(?:k_proj|q_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.x)",
            true,
            true,
        ),
        (r"[^.]*\.[^.]*\.[^.]*\.[^.]*\.[^.]*", true, true),
        (r"^model.*", true, true),
        (r"^layers.*", false, false),
        (r"\blayers.*", false, true),
        (r"layers\B.*", false, false),
        (r"()*q_proj", false, true),
        (r"(|a)+q_proj|", false, true),
        (r"attn.q_proj", false, false),
        ("", false, false),
    ] {
        assert_eq!(
            pattern::Pattern::whole(text)
                .unwrap()
                .matches(path, &mut budget)
                .unwrap(),
            whole,
            "{text}"
        );
        assert_eq!(
            pattern::Pattern::at_end(text)
                .unwrap()
                .matches(path, &mut budget)
                .unwrap(),
            end,
            "{text}"
        );
    }
    let deep = format!("{}x{}", "(".repeat(60), ")".repeat(60));
    for text in [
        "*",
        "a**",
        "a)",
        "(a",
        "(a|",
        "[a",
        "[]",
        "[z-a]",
        r"\",
        r"\1",
        r"\z",
        "(?=a)",
        "(?P<x>a)",
        "^*",
        "a{2,1}",
        "a{x}",
        "a{",
        "a{9999}",
        "(a{1000}){1000}",
        "((((){1000}){1000}){1000}){1000}",
        &deep,
    ] {
        assert!(pattern::Pattern::whole(text).is_err(), "{text}");
    }
    // What backtracks for ever elsewhere.
    let bomb = pattern::Pattern::whole("(a*)*(a|aa)*b").unwrap();
    assert!(!bomb.matches(&"a".repeat(1_000), &mut budget).unwrap());
    let slow = pattern::Pattern::whole("(.*a){500}b").unwrap();
    let error = (0..10_000)
        .find_map(|_| slow.matches(&"a".repeat(1_000), &mut budget).err())
        .unwrap();
    assert_eq!(
        error.message,
        "adapter_config.json: its patterns take too long to match"
    );
}

#[test]
fn finite_weights() {
    let f32s = |values: &[f32]| {
        values
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let u16s = |values: &[u16]| {
        values
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut values = vec![f32::MAX, f32::MIN, 0.0, -0.0, f32::MIN_POSITIVE, 1e-45];
    check_finite("w", &f32s(&values), Dtype::F32, 0).unwrap();
    values.resize(5_000, 1.0);
    for at in [0, 1_023, 1_024, 4_999] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = values.clone();
            values[at] = bad;
            let error = check_finite("w", &f32s(&values), Dtype::F32, 10).unwrap_err();
            let expected = format!(
                "tensor \"w\" holds a NaN or an infinite number, element {}",
                at + 10
            );
            assert_eq!((error.code, error.message), (Code::BadModel, expected));
        }
    }
    check_finite("w", &u16s(&[0x7bff, 0xfbff, 1, 0x0400]), Dtype::F16, 0).unwrap();
    check_finite("w", &u16s(&[0x7f7f, 0xff7f, 1, 0x7c00]), Dtype::BF16, 0).unwrap();
    for bad in [0x7c00u16, 0xfc00, 0x7e00, 0x7c01] {
        check_finite("w", &u16s(&[0, bad]), Dtype::F16, 0).unwrap_err();
    }
    for bad in [0x7f80u16, 0xff80, 0x7fc0, 0x7f81] {
        check_finite("w", &u16s(&[0, bad]), Dtype::BF16, 0).unwrap_err();
    }
    assert_eq!(
        check_finite("w", &[0; 4], Dtype::I32, 0).unwrap_err().code,
        Code::Internal
    );
}

/// The modules of an unquantised model folder, by the shapes of its weights.
fn modules_of(folder: &std::path::Path) -> Vec<(String, ModuleShape)> {
    let folder = ModelFolder::open(folder.to_str().unwrap()).unwrap();
    let catalog = Catalog::open(&folder, &mut Warnings::default()).unwrap();
    let mut modules = Vec::new();
    for (name, tensor) in &catalog.tensors {
        let Some(path) = name.strip_suffix(".weight") else {
            continue;
        };
        let Some(target) = Target::parse(path) else {
            continue;
        };
        let shape = match (target.module.as_str(), tensor.shape.as_slice()) {
            ("embed_tokens", &[vocab, dims]) => ModuleShape::Embedding { vocab, dims },
            (_, &[output, input]) => {
                let bias = catalog.get(&format!("{path}.bias")).is_some();
                ModuleShape::Linear {
                    input,
                    output,
                    bias,
                }
            }
            (_, &[experts, output, input]) => ModuleShape::Experts {
                experts,
                input,
                output,
                bias: catalog.get(&format!("{path}.bias")).is_some(),
            },
            (_, &[dims]) => ModuleShape::Norm { dims },
            (module, shape) => panic!("{module} {shape:?}"),
        };
        modules.push((target.path(), shape));
    }
    let head = |(path, _): &(String, ModuleShape)| path == "lm_head";
    if !modules.iter().any(head) {
        let embedding = modules
            .iter()
            .find(|(path, _)| path == "embed_tokens")
            .unwrap()
            .1;
        let ModuleShape::Embedding { vocab, dims } = embedding else {
            panic!("{embedding:?}");
        };
        let shape = ModuleShape::Linear {
            input: dims,
            output: vocab,
            bias: false,
        };
        modules.push(("lm_head".to_string(), shape));
    }
    modules
}

#[test]
fn every_adapter_of_mlx_lm_and_peft_is_read_and_fits_its_model() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let list = std::fs::read(fixtures.join("adapters.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    let mut checked = 0;
    for case in list.as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let folder = fixtures.join("adapters").join(text("name"));
        let mut adapter = AdapterFile::open(folder.to_str().unwrap()).unwrap();
        assert_eq!(adapter.format.name(), text("format"), "{}", text("name"));
        assert_eq!(adapter.kind.name(), text("kind"), "{}", text("name"));
        assert_eq!(adapter.scale.is_none(), text("kind") == "full");
        for tensor in adapter.catalog.tensors.values() {
            let mut bytes = vec![0; tensor.bytes as usize];
            let file = &adapter.catalog.files[tensor.file].file;
            std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, tensor.offset).unwrap();
            check_finite(&tensor.name, &bytes, tensor.dtype, 0).unwrap();
        }
        let model = fixtures.join("models").join(text("model"));
        if text("model").contains("-f32") {
            let modules = modules_of(&model);
            adapter.place_experts(&experts_of(&modules)).unwrap();
            adapter.check(&modules).unwrap();
            checked += 1;
        }
        // And none of another width.
        let other = match text("model") {
            name if name.starts_with("llama-f32") => "qwen2-f32",
            _ => "llama-f32-untied-bias",
        };
        let error = adapter
            .check(&modules_of(&fixtures.join("models").join(other)))
            .unwrap_err();
        assert_eq!(error.code, Code::Incompatible, "{}: {error}", text("name"));
    }
    assert!(checked >= 20, "{checked}");
}
