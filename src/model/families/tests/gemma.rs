//! Gemma 4 and 3n: what their keys say, and what is wrong with them.

use super::*;
use crate::model::config::{BlockConfig, PartConfig};
use serde_json::{json, Value};

fn gemma4(changes: Value) -> Result<DecoderConfig> {
    let mut config = json!({
        "model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 5, "intermediate_size": 24,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16, "vocab_size": 100,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 90, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    });
    change(&mut config, changes);
    read(&config.to_string())
}

fn gemma3n(changes: Value) -> Result<DecoderConfig> {
    let mut text = json!({
        "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": [24, 24, 48], "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 100, "num_kv_shared_layers": 1, "rms_norm_eps": 1e-6,
        "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 90, "sliding_window": 8, "rope_theta": 5e5,
        "rope_local_base_freq": 1e4, "final_logit_softcapping": 30.0, "altup_num_inputs": 3, "altup_active_idx": 0,
        "altup_coef_clip": 120.0, "altup_correct_scale": true, "laurel_rank": 6,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0],
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    });
    change(&mut text, changes);
    read(&json!({ "model_type": "gemma3n", "text_config": text }).to_string())
}

fn change(config: &mut Value, changes: Value) {
    let (Value::Object(config), Value::Object(changes)) = (config, changes) else {
        panic!("no objects");
    };
    config.extend(changes);
}

/// Of a block's MLP.
fn inner(block: &BlockConfig) -> i32 {
    let mlp = block.halves.iter().find_map(|half| match &half.part {
        PartConfig::Mlp(mlp) => Some(mlp.intermediate_size),
        _ => None,
    });
    mlp.unwrap()
}

#[test]
fn gemma4_shares_keys_by_kind() {
    let config = gemma4(json!({})).unwrap();
    let keys_of: Vec<_> = config.attentions().map(|of| of.keys_of).collect();
    assert_eq!(keys_of, [None, None, None, Some(2), Some(1)]);
    let inners: Vec<_> = config.blocks.iter().map(inner).collect();
    assert_eq!(inners, [24, 24, 24, 48, 48]);
    let dims: Vec<_> = config.attentions().map(|of| of.head_dim).collect();
    assert_eq!(dims, [8, 16, 8, 8, 16]);
    assert_eq!(rope(&config, 0), &ropes::plain(8, 10_000.0));
    let full = ropes::proportional(16, (2, 1_000_000.0), 1.0);
    assert_eq!(rope(&config, 1), &full);
    let left_out = |name: &str| {
        config
            .ignored
            .iter()
            .any(|word| name.contains(word.as_str()))
    };
    assert!(left_out("model.layers.3.self_attn.k_proj.scales"));
    assert!(!left_out("model.layers.2.self_attn.k_proj.weight"));
    assert!(!left_out("model.layers.3.self_attn.q_proj.weight"));
    assert_eq!(config.logits.softcap, Some(30.0));
    let bare = gemma4(json!({
        "final_logit_softcapping": null, "hidden_size_per_layer_input": null, "global_head_dim": null,
        "use_double_wide_mlp": false,
    }));
    let bare = bare.unwrap();
    assert_eq!((bare.logits.softcap, bare.embed.per_layer), (None, None));
    assert_eq!(
        (attention(&bare, 1).head_dim, inner(&bare.blocks[4])),
        (8, 24)
    );
}

#[test]
fn gemma4_has_the_large_models_keys() {
    let large = json!({
        "attention_k_eq_v": true, "num_global_key_value_heads": 1, "num_kv_shared_layers": 0,
        "rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 3e5}},
        "enable_moe_block": true, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8,
    });
    let config = gemma4(large).unwrap();
    let [local, full] = [attention(&config, 0), attention(&config, 1)];
    assert_eq!((local.kv_heads, local.values_are_keys), (2, false));
    assert_eq!((full.kv_heads, full.values_are_keys), (1, true));
    assert_eq!(rope(&config, 1), &ropes::proportional(16, (4, 3e5), 1.0));
    assert_eq!(rope(&config, 0), &ropes::plain(8, 10_000.0));
    assert!(matches!(
        config.blocks[0].halves[1].part,
        PartConfig::Beside(_)
    ));
}

#[test]
fn gemma3n_reads_a_number_for_each_layer() {
    let config = gemma3n(json!({})).unwrap();
    let inners: Vec<_> = config.blocks.iter().map(inner).collect();
    assert_eq!(inners, [24, 24, 48]);
    let sparsities = config
        .blocks
        .iter()
        .map(|block| match &block.halves[1].part {
            PartConfig::Mlp(mlp) => mlp.sparsity,
            _ => panic!("no MLP"),
        });
    assert_eq!(sparsities.collect::<Vec<_>>(), [Some(0.95), None, None]);
    let same = gemma3n(json!({"intermediate_size": 24, "activation_sparsity_pattern": 0.0}));
    assert_eq!(inner(&same.unwrap().blocks[2]), 24);
}

#[test]
fn wrong_gemmas_are_named() {
    let moe = |key: &str, value: Value| {
        let mut config = json!({
            "enable_moe_block": true, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8,
        });
        change(&mut config, json!({ key: value }));
        gemma4(config)
    };
    let cases = [
        ("num_kv_shared_layers", json!(5)),
        ("num_kv_shared_layers", json!(4)),
        ("num_kv_shared_layers", json!(-1)),
        ("num_kv_shared_layers", json!(100_000)),
        ("num_kv_shared_layers", json!(null)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!("full_attention")),
        ("global_head_dim", json!(15)),
        ("global_head_dim", json!(1_000_000)),
        ("hidden_size_per_layer_input", json!("4")),
        ("hidden_size_per_layer_input", json!(1e9)),
        ("vocab_size_per_layer_input", json!(0)),
        ("attention_k_eq_v", json!(1)),
        ("use_double_wide_mlp", json!("yes")),
        ("enable_moe_block", json!(1)),
        ("final_logit_softcapping", json!(0)),
        ("sliding_window", json!(0)),
        ("use_bidirectional_attention", json!("all")),
        ("rope_parameters", json!([])),
        ("full_attention", json!({"full_attention": 3})),
        (
            "partial_rotary_factor",
            json!({"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.1}}),
        ),
        (
            "partial_rotary_factor",
            json!({"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 2}}),
        ),
    ];
    for (key, value) in cases {
        let own = match value.get("full_attention") {
            Some(_) => "rope_parameters",
            None => key,
        };
        let error = gemma4(json!({ own: value.clone() })).unwrap_err();
        assert!(error.message.contains(key), "{key} {value}: {error}");
    }
    let same = json!({"attention_k_eq_v": true, "num_global_key_value_heads": 3});
    let error = gemma4(same).unwrap_err();
    assert!(
        error.message.contains("num_global_key_value_heads"),
        "{error}"
    );
    for (key, value) in [
        ("num_experts", json!(null)),
        ("num_experts", json!(100_000)),
        ("top_k_experts", json!(5)),
        ("top_k_experts", json!(0)),
        ("moe_intermediate_size", json!(null)),
        ("moe_intermediate_size", json!([8])),
    ] {
        let error = moe(key, value.clone()).unwrap_err();
        assert!(error.message.contains(key), "{key} {value}: {error}");
    }
    let cases = [
        ("layer_types", json!(null)),
        ("intermediate_size", json!([24, 24])),
        ("intermediate_size", json!([24, 24, 0])),
        ("intermediate_size", json!([24, 24, "x"])),
        ("intermediate_size", json!({})),
        ("activation_sparsity_pattern", json!(null)),
        ("activation_sparsity_pattern", json!([])),
        ("activation_sparsity_pattern", json!([0.5, 0.5])),
        ("activation_sparsity_pattern", json!([0.5, 0.5, 1.0])),
        ("activation_sparsity_pattern", json!([0.5, 0.5, -0.1])),
        ("activation_sparsity_pattern", json!([0.5, 0.5, null])),
        ("altup_num_inputs", json!(0)),
        ("altup_num_inputs", json!(10_000)),
        ("altup_num_inputs", json!(null)),
        ("altup_active_idx", json!(3)),
        ("altup_active_idx", json!(-1)),
        ("altup_coef_clip", json!(0)),
        ("altup_correct_scale", json!(2)),
        ("laurel_rank", json!(null)),
        ("laurel_rank", json!(0)),
        ("hidden_size_per_layer_input", json!(0)),
        ("num_kv_shared_layers", json!(3)),
        ("num_kv_shared_layers", json!(2)),
        ("sliding_window", json!(null)),
    ];
    for (key, value) in cases {
        let error = gemma3n(json!({ key: value.clone() })).unwrap_err();
        assert!(error.message.contains(key), "{key} {value}: {error}");
    }
    for config in [
        r#"{"model_type":"gemma3n"}"#,
        r#"{"model_type":"gemma4"}"#,
        r#"{"model_type":"gemma4","text_config":[]}"#,
    ] {
        assert!(read(config).unwrap_err().message.contains("text_config"));
    }
}
