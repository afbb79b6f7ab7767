mod gemma;
mod hybrids;
mod latents;
mod lists;

use super::*;
use crate::error::Code;
use crate::load::parse_object;
use crate::model::parts::attention::AttentionConfig;
use crate::model::rope::{Rope, RopeScaling};

fn read(json: &str) -> Result<DecoderConfig> {
    let map = parse_object("config.json", json.as_bytes())?;
    let config = Object::new("config.json", &map);
    (find(&config)?.read)(&config)
}

fn attention(config: &DecoderConfig, layer: usize) -> &AttentionConfig {
    config.attentions().nth(layer).unwrap()
}

fn rope(config: &DecoderConfig, layer: usize) -> &Rope {
    attention(config, layer).rope.as_ref().unwrap()
}

const LLAMA: &str = r#"{"model_type":"llama","hidden_size":64,"num_hidden_layers":2,"intermediate_size":96,
    "num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,"vocab_size":131"#;

fn llama(more: &str) -> Result<DecoderConfig> {
    read(&format!("{LLAMA}{more}}}"))
}

#[test]
fn defaults_are_mlx_lms() {
    let config = llama("").unwrap();
    assert_eq!(
        (
            attention(&config, 0).head_dim,
            attention(&config, 0).kv_heads
        ),
        (16, 2)
    );
    assert_eq!(config.tie_word_embeddings, Some(true));
    assert_eq!(rope(&config, 0).base, 10_000.0);
    assert_eq!(
        attention(&llama(r#","head_dim":null"#).unwrap(), 0).head_dim,
        16
    );
}

#[test]
fn both_spellings_of_rope() {
    let scaling = r#"{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64"#;
    let old = llama(&format!(r#","rope_theta":5e5,"rope_scaling":{scaling}}}"#)).unwrap();
    let new = llama(&format!(
        r#","rope_parameters":{scaling},"rope_theta":5e5}}"#
    ))
    .unwrap();
    assert_eq!(old, new);
    assert!(matches!(rope(&new, 1).scaling, RopeScaling::Llama3 { .. }));
    assert_eq!(rope(&new, 1).base, 5e5);
    let linear = llama(r#","rope_scaling":{"type":"linear","factor":4}"#).unwrap();
    assert_eq!(rope(&linear, 0).scaling, RopeScaling::Linear(4.0));
}

#[test]
fn no_logarithm_of_a_rope_is_divided_by_zero() {
    let with = |theta: &str, scaling: &str| {
        let keys = format!(r#","rope_theta":{theta},"rope_scaling":{scaling}"#);
        llama(&keys).map(drop).map_err(|error| error.message)
    };
    let yarn = r#"{"rope_type":"yarn","factor":4,"original_max_position_embeddings":64}"#;
    assert_eq!(with("1.001", yarn), Ok(()));
    let said = with("1", yarn).unwrap_err();
    assert!(said.contains("\"rope_theta\" must be above 1"), "{said}");
    assert_eq!(with("1", r#"{"rope_type":"linear","factor":4}"#), Ok(()));
    let ones = [1.0; 8];
    let long = |original: u32| {
        format!(
            r#"{{"rope_type":"longrope","factor":4,"original_max_position_embeddings":{original},
                "short_factor":{ones:?},"long_factor":{ones:?}}}"#
        )
    };
    assert_eq!(with("1e4", &long(2)), Ok(()));
    let said = with("1e4", &long(1)).unwrap_err();
    assert!(said.contains("must be 2 or more"), "{said}");
}

#[test]
fn gemma3_alternates_and_scales() {
    let text = r#"{"hidden_size":32,"num_hidden_layers":4,"intermediate_size":48,"head_dim":16,
        "sliding_window":8,"sliding_window_pattern":2,"rope_scaling":{"factor":8.0,"rope_type":"linear"}}"#;
    let config = read(&format!(
        r#"{{"model_type":"gemma3","text_config":{text},"vocab_size":100}}"#
    ))
    .unwrap();
    let windows: Vec<_> = config
        .attentions()
        .map(|attention| attention.window)
        .collect();
    assert_eq!(windows, [Some(8), None, Some(8), None]);
    assert_eq!(
        (rope(&config, 0).base, rope(&config, 1).base),
        (10_000.0, 1_000_000.0)
    );
    assert_eq!(rope(&config, 0).scaling, RopeScaling::None);
    assert_eq!(rope(&config, 1).scaling, RopeScaling::Linear(8.0));
    assert_eq!(
        (
            attention(&config, 0).heads,
            attention(&config, 0).kv_heads,
            config.vocab_size
        ),
        (8, 4, 100)
    );

    let nested = r#"{"model_type":"gemma3_text","rope_parameters":{"full_attention":{"rope_theta":2e6,
        "rope_type":"linear","factor":8.0},"sliding_attention":{"rope_theta":3e4,"rope_type":"default"}}}"#;
    let config = read(nested).unwrap();
    assert_eq!((rope(&config, 0).base, rope(&config, 5).base), (3e4, 2e6));
    assert_eq!(rope(&config, 5).scaling, RopeScaling::Linear(8.0));
}

#[test]
fn wrong_configs_are_named() {
    let cases = [
        (
            r#","num_key_value_heads":3"#,
            Code::BadModel,
            "num_key_value_heads",
        ),
        (
            r#","num_attention_heads":3,"num_key_value_heads":3"#,
            Code::BadModel,
            "num_attention_heads",
        ),
        (r#","head_dim":15"#, Code::BadModel, "head_dim"),
        (r#","hidden_size":0"#, Code::BadModel, "hidden_size"),
        (r#","hidden_size":-64"#, Code::BadModel, "hidden_size"),
        (
            r#","hidden_size":9223372036854775807"#,
            Code::BadModel,
            "hidden_size",
        ),
        (r#","hidden_size":"64""#, Code::BadModel, "hidden_size"),
        (
            r#","num_hidden_layers":100000"#,
            Code::BadModel,
            "num_hidden_layers",
        ),
        (r#","vocab_size":1e30"#, Code::BadModel, "vocab_size"),
        (r#","rms_norm_eps":null"#, Code::BadModel, "rms_norm_eps"),
        (r#","rope_theta":0"#, Code::BadModel, "rope_theta"),
        (
            r#","rope_scaling":{"type":"ntk","factor":4}"#,
            Code::Unsupported,
            "ntk",
        ),
        (
            r#","rope_scaling":{"type":"linear"}"#,
            Code::BadModel,
            "factor",
        ),
        (r#","rope_scaling":[1]"#, Code::BadModel, "rope_scaling"),
        (
            r#","rope_scaling":{"type":"llama3","factor":4,"low_freq_factor":4,"high_freq_factor":4}"#,
            Code::BadModel,
            "high_freq_factor",
        ),
        (
            r#","layer_types":["full_attention"]"#,
            Code::BadModel,
            "layer_types",
        ),
        (
            r#","layer_types":["full_attention","mamba"]"#,
            Code::BadModel,
            "layer_types",
        ),
        (
            r#","layer_types":["full_attention","sliding_attention"]"#,
            Code::BadModel,
            "sliding_window",
        ),
        (r#","hidden_act":"relu""#, Code::Unsupported, "relu"),
        (
            r#","tie_word_embeddings":1"#,
            Code::BadModel,
            "tie_word_embeddings",
        ),
    ];
    for (more, code, word) in cases {
        // A later key overrides an earlier one, so each case replaces a good value.
        let mut map: serde_json::Map<_, _> = serde_json::from_str(&format!("{LLAMA}}}")).unwrap();
        let changes: serde_json::Map<_, _> =
            serde_json::from_str(&format!("{{{}}}", &more[1..])).unwrap();
        map.extend(changes);
        let error = read(&serde_json::to_string(&map).unwrap()).unwrap_err();
        assert_eq!(error.code, code, "{more}: {error}");
        assert!(error.message.contains(word), "{more}: {error}");
    }
}

#[test]
fn an_unknown_family_lists_the_known_ones() {
    let error = read(r#"{"model_type":"mamba9"}"#).unwrap_err();
    assert_eq!(error.code, Code::Unsupported);
    assert!(
        error.message.contains("mamba9") && error.message.contains("gemma3_text"),
        "{error}"
    );
    assert_eq!(read("{}").unwrap_err().code, Code::BadModel);
    assert_eq!(
        read(r#"{"model_type":7}"#).unwrap_err().code,
        Code::BadModel
    );
}

/// Configs of every family as its fixtures have them, each key in turn missing, null, of another type or absurd: an error that
/// names the file and a code, or a description; never a panic.
#[test]
fn every_key_of_every_family_may_be_wrong() {
    use serde_json::{json, Value};

    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let list = std::fs::read(fixtures.join("families.json")).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let (mut read_ones, mut refused) = (0, 0);
    for case in list.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if !name.ends_with("-f32") && !name.contains("longrope") {
            continue;
        }
        let path = fixtures.join("models").join(name).join("config.json");
        let good: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut try_one = |config: &Value, what: &str| match read(&config.to_string()) {
            Ok(_) => read_ones += 1,
            Err(error) => {
                refused += 1;
                let known = matches!(error.code, Code::BadModel | Code::Unsupported);
                assert!(known, "{name}: {what}: {error}");
                assert!(
                    error.message.contains("config.json"),
                    "{name}: {what}: {error}"
                );
            }
        };
        try_one(&good, "as it is");
        let bad = [
            json!(null),
            json!("x"),
            json!(-1),
            json!(0),
            json!(3),
            json!(1e30),
            json!(9_223_372_036_854_775_807i64),
            json!([]),
            json!([0]),
            json!([{}]),
            json!({}),
            json!(true),
        ];
        // Of the whole, and of each object in it.
        let mut places = vec![String::new()];
        for (key, value) in good.as_object().unwrap() {
            if value.is_object() {
                places.push(format!("/{key}"));
            }
        }
        for place in places {
            let keys: Vec<String> = match good.pointer(&place) {
                Some(Value::Object(map)) => map.keys().cloned().collect(),
                _ => continue,
            };
            for key in keys {
                let object = |config: &mut Value, value: Option<&Value>| {
                    let map = config.pointer_mut(&place).unwrap().as_object_mut().unwrap();
                    match value {
                        Some(value) => map.insert(key.clone(), value.clone()),
                        None => map.remove(&key),
                    };
                };
                let mut config = good.clone();
                object(&mut config, None);
                try_one(&config, &format!("{place}/{key} is missing"));
                for value in &bad {
                    let mut config = good.clone();
                    object(&mut config, Some(value));
                    try_one(&config, &format!("{place}/{key} is {value}"));
                }
            }
        }
    }
    assert!(
        read_ones > 1000 && refused > 2000,
        "{read_ones} and {refused}"
    );
}

#[test]
fn experts_and_layer_lists_that_do_not_fit_are_named() {
    let moe = r#"{"model_type":"qwen3_moe","hidden_size":64,"num_hidden_layers":2,"intermediate_size":96,"num_attention_heads":4,
        "num_key_value_heads":2,"head_dim":16,"rms_norm_eps":1e-5,"vocab_size":131,"num_experts":4,"num_experts_per_tok":2,
        "moe_intermediate_size":32"#;
    let glm = r#","first_k_dense_replace":0,"n_routed_experts":8,"n_shared_experts":1"#;
    let cases = [
        (moe, r#","num_experts_per_tok":5"#, "num_experts_per_tok"),
        (moe, r#","num_experts":100000"#, "num_experts"),
        (moe, r#","mlp_only_layers":["x"]"#, "mlp_only_layers"),
        (moe, r#","hidden_act":"gelu""#, "hidden_act"),
        (glm, r#","n_group":3"#, "n_group"),
        (glm, r#","n_group":4,"topk_group":5"#, "topk_group"),
        (
            glm,
            r#","n_group":4,"topk_group":1,"num_experts_per_tok":3"#,
            "topk_group",
        ),
        (glm, r#","scoring_func":"softmax""#, "scoring_func"),
        (
            glm,
            r#","partial_rotary_factor":0.01"#,
            "partial_rotary_factor",
        ),
    ];
    for (base, more, word) in cases {
        let mut map: serde_json::Map<_, _> = serde_json::from_str(&format!("{moe}}}")).unwrap();
        if base == glm {
            let own: serde_json::Map<_, _> =
                serde_json::from_str(&format!("{{{}}}", &glm[1..])).unwrap();
            map.extend(own);
            map.insert("model_type".into(), "glm4_moe".into());
        }
        let changes: serde_json::Map<_, _> =
            serde_json::from_str(&format!("{{{}}}", &more[1..])).unwrap();
        map.extend(changes);
        let error = read(&serde_json::to_string(&map).unwrap()).unwrap_err();
        assert!(error.message.contains(word), "{more}: {error}");
    }
}

/// Published configs: those of families that are known are read, the others refused by name.
#[test]
fn published_configs_are_read_or_refused_by_name() {
    let Some(folder) = crate::testing::data("configs") else {
        return;
    };
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut refused = std::collections::BTreeSet::new();
    let mut known = 0;
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let map = parse_object("config.json", text.as_bytes()).unwrap();
        let config = Object::new("config.json", &map);
        let model_type = config.opt_str("model_type").unwrap().unwrap_or_default();
        let is_known = FAMILIES
            .iter()
            .any(|family| family.model_type == model_type);
        match read(&text) {
            Ok(_) => known += 1,
            Err(error) => {
                // Some published configs are cut down.
                let cut = error.message.contains(" is missing");
                assert!(!is_known || cut, "{}: {error}", path.display());
                refused.insert(model_type.to_owned());
            }
        }
    }
    println!("{known} read, refused: {refused:?}");
    assert!(known >= 20, "{known} read, refused: {refused:?}");
}

/// docs/families.md shows code that is compiled.
#[test]
fn the_worked_example_is_the_family_itself() {
    let page = include_str!("../../../docs/families.md");
    let mut shown = page.split("```rust,ignore\n").skip(1);
    for source in [include_str!("seed_oss.rs"), include_str!("../parts/mla.rs")] {
        let code = shown.next().and_then(|rest| rest.split("```").next());
        let code = code.unwrap();
        let lines = |text: &str| {
            text.lines()
                .map(|line| line.trim().to_owned())
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert!(lines(source).contains(&lines(code)), "{code}");
    }
    assert!(shown.next().is_none(), "code that is in no file");
}
