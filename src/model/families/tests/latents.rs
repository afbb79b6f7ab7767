//! Families with attention over latents.

use serde_json::{json, Map, Value};

use super::*;
use crate::mlx::nn::Score;
use crate::model::config::PartConfig;
use crate::model::parts::mla::MlaConfig;
use crate::model::parts::moe::MoeConfig;

/// What nobody says more than.
fn small() -> Map<String, Value> {
    let json = json!({
        "hidden_size": 64, "num_hidden_layers": 5, "intermediate_size": 96, "num_attention_heads": 4, "rms_norm_eps": 1e-5,
        "vocab_size": 131, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    });
    match json {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn with(family: &str, changes: Value) -> Result<DecoderConfig> {
    let mut map = small();
    map.insert("model_type".into(), family.into());
    for (key, value) in changes.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    read(&Value::Object(map).to_string())
}

fn latents(config: &DecoderConfig) -> &MlaConfig {
    assert_eq!(config.latents().count(), config.blocks.len());
    config.latents().next().unwrap()
}

fn experts(config: &DecoderConfig) -> Vec<Option<&MoeConfig>> {
    let parts = config
        .blocks
        .iter()
        .map(|block| match &block.halves[1].part {
            PartConfig::Moe(moe) => Some(moe),
            _ => None,
        });
    parts.collect()
}

#[test]
fn defaults_are_those_of_mlx_lm() {
    let deepseek = with("deepseek_v3", json!({})).unwrap();
    let own = latents(&deepseek);
    assert_eq!((own.heads, own.query_rank, own.rank), (4, Some(1536), 512));
    assert_eq!(
        (own.plain_dim, own.turned_dim, own.value_dim),
        (128, 64, 128)
    );
    assert_eq!(
        (own.eps, own.bias, own.rope.as_ref().unwrap().base),
        (1e-6, false, 10_000.0)
    );
    assert!(own.rope.as_ref().unwrap().traditional && own.rope.as_ref().unwrap().dims == 64);
    assert_eq!(own.scale, (1.0 / 192f64.sqrt()) as f32);
    assert_eq!(deepseek.tie_word_embeddings, Some(false));
    assert!(experts(&deepseek).iter().all(Option::is_some));
    let router = &experts(&deepseek)[0].unwrap().router;
    assert_eq!((router.score, router.scale), (Score::Sigmoid, 1.0));
    assert!(router.normalise && router.groups.is_none());
    assert_eq!(experts(&deepseek)[0].unwrap().shared, None);

    let glm = with("glm4_moe_lite", json!({})).unwrap();
    let own = latents(&glm);
    assert_eq!((own.query_rank, own.rank), (Some(768), 512));
    assert_eq!(
        (own.plain_dim, own.turned_dim, own.value_dim),
        (192, 64, 256)
    );
    assert_eq!((own.eps, own.rope.as_ref().unwrap().base), (1e-5, 1e6));
    let parts = experts(&glm);
    assert!(parts[0].is_none() && parts[1..].iter().all(Option::is_some));
    assert_eq!(parts[1].unwrap().router.scale, 1.8);
    let shared = parts[1].unwrap().shared.as_ref().unwrap();
    assert_eq!(
        (shared.mlp.name, shared.mlp.intermediate_size),
        ("shared_experts", 32)
    );

    let kimi = with("kimi_k2", json!({})).unwrap();
    assert_eq!(kimi, deepseek);
}

#[test]
fn queries_may_be_whole() {
    // Null says so, and nothing at all does not.
    let config = with("deepseek_v3", json!({"q_lora_rank": null})).unwrap();
    assert_eq!(latents(&config).query_rank, None);
    let config = with("deepseek_v3", json!({"q_lora_rank": 24})).unwrap();
    assert_eq!(latents(&config).query_rank, Some(24));
}

#[test]
fn experts_are_where_the_config_says() {
    let sparse = |changes| {
        let config = with("deepseek_v3", changes).unwrap();
        experts(&config)
            .iter()
            .map(Option::is_some)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        sparse(json!({"first_k_dense_replace": 1, "moe_layer_freq": 2})),
        [false, false, true, false, true]
    );
    assert_eq!(sparse(json!({"n_routed_experts": null})), [false; 5]);
    assert_eq!(sparse(json!({"first_k_dense_replace": 99})), [false; 5]);
    // The weight of one alone is its score.
    let config = with("deepseek_v3", json!({"num_experts_per_tok": 1})).unwrap();
    assert!(!experts(&config)[0].unwrap().router.normalise);
    let config = with("deepseek_v3", json!({"num_nextn_predict_layers": 2})).unwrap();
    assert_eq!(
        config.ignored,
        ["model.layers.5.", "model.layers.6.", "model.layers.61."]
    );
    let config = with("deepseek_v3", json!({"num_nextn_predict_layers": 0})).unwrap();
    assert_eq!(config.ignored, ["model.layers.5.", "model.layers.61."]);
}

#[test]
fn scores_grow_with_the_stretch() {
    let yarn = |more: Value| {
        let mut scaling =
            json!({"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096});
        let map = scaling.as_object_mut().unwrap();
        map.extend(more.as_object().unwrap().clone());
        let config = with("deepseek_v3", json!({"rope_scaling": scaling})).unwrap();
        latents(&config).clone()
    };
    let plain = 1.0 / 192f64.sqrt();
    let of = |by: f64| 0.1 * by * 40f64.ln() + 1.0;
    let both = yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0}));
    assert_eq!(both.scale, (of(1.0).powi(2) / 192f64.sqrt()) as f32);
    let factor = |mla: &MlaConfig| match mla.rope.as_ref().unwrap().scaling {
        RopeScaling::Yarn {
            attention_factor, ..
        } => attention_factor,
        _ => panic!("{:?}", mla.rope),
    };
    assert_eq!(factor(&both), 1.0);
    let uneven = yarn(json!({"mscale": 0.5, "mscale_all_dim": 1.0}));
    assert_eq!(uneven.scale, both.scale);
    assert!((f64::from(factor(&uneven)) - of(0.5) / of(1.0)).abs() < 1e-6);
    let one = yarn(json!({"mscale": 1.0}));
    assert_eq!(one.scale, plain as f32);
    assert!((f64::from(factor(&one)) - of(1.0)).abs() < 1e-6);
    assert_eq!(
        yarn(json!({"factor": 1.0, "mscale_all_dim": 1.0})).scale,
        plain as f32
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let yarn = |key: &str, value: Value| {
        let mut scaling = json!({"type": "yarn", "factor": 40, "mscale_all_dim": 1.0});
        scaling[key] = value;
        json!({"rope_scaling": scaling})
    };
    let cases = [
        (json!({"num_attention_heads": null}), "num_attention_heads"),
        (
            json!({"num_attention_heads": 1u64 << 40}),
            "num_attention_heads",
        ),
        (json!({"kv_lora_rank": 0}), "kv_lora_rank"),
        (json!({"kv_lora_rank": 1e12}), "kv_lora_rank"),
        (json!({"kv_lora_rank": "512"}), "kv_lora_rank"),
        (json!({"q_lora_rank": -1}), "q_lora_rank"),
        (json!({"q_lora_rank": 1u64 << 33}), "q_lora_rank"),
        (json!({"q_lora_rank": []}), "q_lora_rank"),
        (json!({"qk_rope_head_dim": 7}), "qk_rope_head_dim"),
        (json!({"qk_rope_head_dim": 0}), "qk_rope_head_dim"),
        (json!({"qk_nope_head_dim": 1u64 << 31}), "qk_nope_head_dim"),
        (json!({"v_head_dim": 1.5}), "v_head_dim"),
        (json!({"attention_bias": 1}), "attention_bias"),
        (json!({"rope_interleave": "yes"}), "rope_interleave"),
        (json!({"moe_layer_freq": 0}), "moe_layer_freq"),
        (
            json!({"first_k_dense_replace": -1}),
            "first_k_dense_replace",
        ),
        (
            json!({"num_nextn_predict_layers": 1000}),
            "num_nextn_predict_layers",
        ),
        (json!({"n_routed_experts": 0}), "n_routed_experts"),
        (json!({"n_routed_experts": "8"}), "n_routed_experts"),
        (json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        (
            json!({"moe_intermediate_size": null}),
            "moe_intermediate_size",
        ),
        (
            json!({"n_shared_experts": 8000, "moe_intermediate_size": 1 << 20}),
            "n_shared_experts",
        ),
        (json!({"n_group": 3}), "n_group"),
        (json!({"n_group": 4, "topk_group": 5}), "topk_group"),
        (json!({"n_group": 8, "topk_group": 1}), "topk_group"),
        (json!({"topk_method": "greedy"}), "topk_method"),
        (json!({"scoring_func": "softmax"}), "scoring_func"),
        (json!({"routed_scaling_factor": 0}), "routed_scaling_factor"),
        (json!({"norm_topk_prob": 1}), "norm_topk_prob"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"rms_norm_eps": -1}), "rms_norm_eps"),
        (json!({"rope_scaling": 4}), "rope_scaling"),
        (yarn("factor", Value::Null), "factor"),
        (yarn("factor", json!(1e30)), "factor"),
        (yarn("mscale_all_dim", json!(-1)), "mscale_all_dim"),
        (yarn("mscale", json!("x")), "mscale"),
    ];
    for family in ["deepseek_v3", "glm4_moe_lite", "kimi_k2"] {
        for (changes, word) in &cases {
            let error = with(family, changes.clone()).unwrap_err();
            let known = matches!(error.code, Code::BadModel | Code::Unsupported);
            assert!(known && error.message.contains(word), "{changes}: {error}");
        }
    }
}
