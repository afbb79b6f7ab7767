//! Families whose layers keep states: what their keys say, and what is wrong with them.

use super::*;
use crate::model::config::PartConfig;
use crate::model::parts::attention::OutputGate;
use serde_json::{json, Value};

fn changed(mut config: Value, changes: Value) -> String {
    let (Value::Object(own), Value::Object(changes)) = (&mut config, changes) else {
        panic!("no objects");
    };
    own.extend(changes);
    config.to_string()
}

fn lfm2() -> Value {
    json!({
        "model_type": "lfm2", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 100, "norm_eps": 1e-5, "conv_L_cache": 3, "block_ff_dim": 50, "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.1, "block_auto_adjust_ff_dim": true, "full_attn_idxs": [1],
    })
}

fn qwen3_5() -> Value {
    json!({
        "model_type": "qwen3_5_text", "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 24,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 6,
        "linear_conv_kernel_dim": 4, "full_attention_interval": 2,
    })
}

fn qwen3_next() -> Value {
    json!({
        "model_type": "qwen3_next", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8, "mlp_only_layers": [1], "decoder_sparse_step": 1, "partial_rotary_factor": 0.25,
        "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 24, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 4,
    })
}

fn nemotron_h() -> Value {
    json!({
        "model_type": "nemotron_h", "hidden_size": 32, "vocab_size": 100, "intermediate_size": 24,
        "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_num_heads": 6, "mamba_head_dim": 5, "n_groups": 2,
        "ssm_state_size": 7, "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "hybrid_override_pattern": "M-*E",
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 8,
    })
}

fn granite() -> Value {
    json!({
        "model_type": "granitemoehybrid", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100,
        "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "layer_types": ["mamba", "attention"], "mamba_n_heads": 6, "mamba_d_head": 5, "mamba_n_groups": 1,
        "mamba_d_state": 7, "mamba_d_conv": 4, "embedding_multiplier": 2.0, "attention_multiplier": 0.5,
        "logits_scaling": 4.0, "residual_multiplier": 0.25,
    })
}

fn parts(config: &DecoderConfig) -> String {
    let halves = config.blocks.iter().flat_map(|block| &block.halves);
    let letters = halves.map(|half| match &half.part {
        PartConfig::Attention(_) => 'a',
        PartConfig::Conv(_) => 'c',
        PartConfig::Delta(_) => 'd',
        PartConfig::Mamba(_) => 'm',
        PartConfig::Mlp(_) => '-',
        PartConfig::Moe(_) => 'e',
        _ => '?',
    });
    letters.collect()
}

#[test]
fn layers_are_what_the_lists_say() {
    let of = |config: Value| parts(&read(&config.to_string()).unwrap());
    assert_eq!(of(lfm2()), "c-a-c-");
    assert_eq!(of(qwen3_5()), "d-a-d-a-");
    assert_eq!(of(qwen3_next()), "ded-deae");
    assert_eq!(of(nemotron_h()), "m-ae");
    assert_eq!(of(granite()), "m-a-");
    let by = |config: Value, changes: Value| parts(&read(&changed(config, changes)).unwrap());
    let types =
        json!({ "full_attn_idxs": null, "layer_types": ["full_attention", "conv", "conv"] });
    assert_eq!(by(lfm2(), types), "a-c-c-");
    let linear = "linear_attention";
    let types = json!({ "layer_types": ["full_attention", linear, linear, linear] });
    assert_eq!(by(qwen3_5(), types), "a-d-d-d-");
    let words = json!({ "hybrid_override_pattern": null, "layers_block_type": ["mamba", "moe", "attention", "mlp"] });
    assert_eq!(by(nemotron_h(), words), "mea-");
}

#[test]
fn sizes_and_defaults_are_mlx_lms() {
    let inner = |changes: Value| {
        let config = read(&changed(lfm2(), changes)).unwrap();
        let halves = config.blocks.into_iter().flat_map(|block| block.halves);
        let mut mlps = halves.filter_map(|half| match half.part {
            PartConfig::Mlp(mlp) => Some(mlp.intermediate_size),
            _ => None,
        });
        mlps.next().unwrap()
    };
    // int(2 * 50 / 3) = 33, int(1.1 * 33) = 36, and the next multiple of 8.
    assert_eq!(inner(json!({})), 40);
    assert_eq!(inner(json!({ "block_ffn_dim_multiplier": null })), 40);
    assert_eq!(inner(json!({ "block_auto_adjust_ff_dim": false })), 50);
    assert_eq!(
        inner(json!({ "block_ff_dim": null, "intermediate_size": 24 })),
        24
    );

    let qwen = read(&qwen3_5().to_string()).unwrap();
    assert_eq!((rope(&qwen, 0).dims, rope(&qwen, 0).base), (4, 100_000.0));
    assert_eq!(attention(&qwen, 0).gate, Some(OutputGate::InQueries));
    let ungated = read(&changed(qwen3_5(), json!({ "attn_output_gate": false }))).unwrap();
    assert_eq!(attention(&ungated, 0).gate, None);

    let granite = read(&granite().to_string()).unwrap();
    assert_eq!(granite.logits.scale, Some(0.25));
    assert_eq!(attention(&granite, 0).scale, 0.5);
    let nope = json!({ "position_embedding_type": "nope" });
    let nope = read(&changed(super::hybrids::granite(), nope)).unwrap();
    assert_eq!(attention(&nope, 0).rope, None);
}

#[test]
fn what_is_wrong_is_named() {
    type Wrong<'a> = &'a [(&'a str, Value)];
    let cases: [(fn() -> Value, Wrong); 5] = [
        (
            lfm2,
            &[
                ("norm_eps", json!(null)),
                ("norm_eps", json!("small")),
                ("conv_L_cache", json!(1)),
                ("conv_L_cache", json!(1_000_000)),
                ("conv_L_cache", json!(null)),
                ("conv_bias", json!("yes")),
                ("full_attn_idxs", json!([3])),
                ("full_attn_idxs", json!([-1])),
                ("full_attn_idxs", json!("all")),
                ("block_ff_dim", json!(0)),
                ("block_ffn_dim_multiplier", json!(0)),
                ("block_multiple_of", json!(0)),
                ("num_hidden_layers", json!(1u64 << 40)),
            ],
        ),
        (
            qwen3_5,
            &[
                ("linear_num_value_heads", json!(3)),
                ("linear_num_value_heads", json!(0)),
                ("linear_num_key_heads", json!(null)),
                ("linear_key_head_dim", json!(1 << 30)),
                ("linear_value_head_dim", json!(-6)),
                ("linear_conv_kernel_dim", json!(1)),
                ("full_attention_interval", json!(0)),
                ("layer_types", json!(["linear_attention"])),
                ("layer_types", json!(["conv", "conv", "conv", "conv"])),
                ("head_dim", json!(12)),
                ("num_experts", json!("many")),
                ("num_experts", json!(4)),
            ],
        ),
        (
            qwen3_next,
            &[
                ("num_experts_per_tok", json!(5)),
                ("shared_expert_intermediate_size", json!(null)),
                ("mlp_only_layers", json!(["a"])),
                ("partial_rotary_factor", json!(2)),
            ],
        ),
        (
            nemotron_h,
            &[
                ("hybrid_override_pattern", json!("MX")),
                ("hybrid_override_pattern", json!("")),
                ("hybrid_override_pattern", json!(null)),
                ("hybrid_override_pattern", json!("M".repeat(5000))),
                ("n_groups", json!(4)),
                ("mamba_num_heads", json!(1 << 20)),
                ("mamba_head_dim", json!(null)),
                ("ssm_state_size", json!(0)),
                ("time_step_limit", json!([2, 1])),
                ("time_step_limit", json!([0])),
                ("mlp_hidden_act", json!("silu")),
                ("moe_shared_expert_intermediate_size", json!(null)),
            ],
        ),
        (
            granite,
            &[
                ("layer_types", json!(null)),
                ("layer_types", json!(["mamba"])),
                ("layer_types", json!(["mamba", "conv"])),
                ("mamba_n_groups", json!(5)),
                ("mamba_d_conv", json!(0)),
                ("num_local_experts", json!(4)),
                ("residual_multiplier", json!("half")),
            ],
        ),
    ];
    for (config, wrong) in cases {
        read(&config().to_string()).unwrap();
        for (key, value) in wrong {
            let error = read(&changed(config(), json!({ *key: value }))).unwrap_err();
            // Experts without what they need are named by that.
            let named = match *key {
                "num_experts" | "num_local_experts" => "expert",
                key => key,
            };
            assert!(error.message.contains(named), "{key} = {value}: {error}");
            assert!(matches!(error.code, Code::BadModel | Code::Unsupported));
        }
    }
}
