//! config.json and generation_config.json: wrong types, absurd sizes, what is not known.

use serde_json::{json, Value};

use crate::folder::{loads_with_a_warning, refused_at_sight, survives, Folder};
use crate::{damage, Class};

pub const CLASS: Class = Class {
    row: "6",
    name: "config.json, generation_config.json",
    generators: &[
        sizes,
        sizes_that_do_not_fit,
        model_types,
        numbers_that_are_no_sizes,
        rope_scaling,
        quantization,
        windows_of_layers,
        ends_of_text,
        damage::config,
    ],
    programs: &[],
};

fn with(fixture: &str, key: &str, value: &Value) -> Folder {
    let folder = Folder::copy_of(fixture);
    folder.edit("config.json", |config| config[key] = value.clone());
    folder
}

/// No number of a network, and nothing that could be taken for one.
fn absurd() -> Vec<Value> {
    vec![
        json!(0),
        json!(-1),
        json!(-32),
        json!(1_u64 << 31),
        json!((1_u64 << 32) + 32),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(31.5),
        json!("32"),
        json!(""),
        json!([32]),
        json!([]),
        json!({}),
        json!(true),
    ]
}

fn sizes() {
    for fixture in [
        "qwen3-f32",
        "llama-f32",
        "qwen2-f32",
        "gemma3-text-f32",
        "mistral-f32",
    ] {
        for key in [
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "vocab_size",
            "max_position_embeddings",
        ] {
            for value in absurd() {
                let folder = with(fixture, key, &value);
                let what = format!("{fixture}: {key} = {value}");
                refused_at_sight(
                    &what,
                    folder.path(),
                    &["BAD_MODEL", "UNSUPPORTED"],
                    &["config.json", key],
                );
            }
        }
        for value in absurd() {
            let what = format!("{fixture}: head_dim = {value}");
            refused_at_sight(
                &what,
                with(fixture, "head_dim", &value).path(),
                &["BAD_MODEL", "UNSUPPORTED"],
                &["head_dim"],
            );
        }
    }
}

/// Legal numbers that the weights contradict, and legal ones that are much too large.
fn sizes_that_do_not_fit() {
    for (key, values) in [
        ("hidden_size", [16, 33, 64, 131_072]),
        ("num_hidden_layers", [3, 64, 1_000, 1_000_000]),
        ("num_attention_heads", [1, 2, 4, 4_096]),
        ("num_key_value_heads", [2, 3, 4, 4_096]),
        ("head_dim", [8, 15, 17, 8_192]),
        ("intermediate_size", [1, 47, 49, 1_000_000]),
        ("vocab_size", [1, 130, 132, 4_000_000]),
    ] {
        for value in values {
            let folder = with("qwen3-f32", key, &json!(value));
            refused_at_sight(
                &format!("{key} = {value}"),
                folder.path(),
                &["BAD_MODEL", "UNSUPPORTED"],
                &[],
            );
        }
    }
    // Fewer layers than there are weights for.
    survives(
        "num_hidden_layers = 1",
        with("qwen3-f32", "num_hidden_layers", &json!(1)).path(),
    );
}

fn model_types() {
    for value in [
        json!("nope"),
        json!(""),
        json!("../qwen3"),
        json!("x".repeat(100_000)),
    ] {
        let folder = with("qwen3-f32", "model_type", &value);
        refused_at_sight(
            "model_type",
            folder.path(),
            &["UNSUPPORTED"],
            &["model_type", "qwen3"],
        );
    }
    refused_at_sight(
        "nope",
        with("qwen3-f32", "model_type", &json!("nope")).path(),
        &["UNSUPPORTED"],
        &["nope"],
    );
    for value in [json!(7), json!(null), json!(["qwen3"]), json!({})] {
        let folder = with("qwen3-f32", "model_type", &value);
        refused_at_sight(
            &value.to_string(),
            folder.path(),
            &["BAD_MODEL"],
            &["config.json", "model_type"],
        );
    }
    // The weights of another family.
    for (fixture, other) in [
        ("qwen3-f32", "gemma3_text"),
        ("llama-f32", "qwen3"),
        ("llama-f32", "qwen2"),
        ("qwen2-f32", "llama"),
    ] {
        let folder = with(fixture, "model_type", &json!(other));
        refused_at_sight(
            &format!("{fixture} as {other}"),
            folder.path(),
            &["BAD_MODEL", "UNSUPPORTED"],
            &[],
        );
    }
}

fn numbers_that_are_no_sizes() {
    for key in ["rms_norm_eps", "rope_theta"] {
        for value in [
            json!("x"),
            json!([]),
            json!({}),
            json!(true),
            json!(-1),
            json!(-1e-6),
        ] {
            let folder = with("qwen3-f32", key, &value);
            refused_at_sight(
                &format!("{key} = {value}"),
                folder.path(),
                &["BAD_MODEL"],
                &["config.json", key],
            );
        }
    }
    for (fixture, key) in [
        ("qwen3-f32", "tie_word_embeddings"),
        ("llama-f32", "attention_bias"),
        ("llama-f32", "mlp_bias"),
    ] {
        for value in [json!("yes"), json!(2), json!([])] {
            let folder = with(fixture, key, &value);
            refused_at_sight(
                &format!("{key} = {value}"),
                folder.path(),
                &["BAD_MODEL"],
                &["config.json", key],
            );
        }
    }
}

fn rope_scaling() {
    for value in [
        json!(7),
        json!("linear"),
        json!([]),
        json!({"type": 7}),
        json!({"type": "linear"}),
        json!({"type": "linear", "factor": 0}),
        json!({"type": "linear", "factor": -1}),
        json!({"type": "linear", "factor": "x"}),
        json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 1,
               "original_max_position_embeddings": 64}),
        json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
               "original_max_position_embeddings": 0}),
    ] {
        let folder = with("llama-f32", "rope_scaling", &value);
        refused_at_sight(
            &value.to_string(),
            folder.path(),
            &["BAD_MODEL", "UNSUPPORTED"],
            &["rope"],
        );
    }
    let folder = with("llama-f32", "rope_scaling", &json!({"rope_type": "spiral"}));
    refused_at_sight(
        "spiral",
        folder.path(),
        &["UNSUPPORTED"],
        &["rope", "spiral"],
    );
}

/// The weights' shapes say how they are packed, so that only what could mean another packing is a reason to refuse.
fn quantization() {
    for value in [
        json!(7),
        json!("4"),
        json!([]),
        json!({"group_size": 64, "bits": 0}),
        json!({"group_size": 64, "bits": -4}),
        json!({"group_size": 64, "bits": 7}),
        json!({"group_size": 64, "bits": 64}),
        json!({"group_size": 64, "bits": "4"}),
        json!({"group_size": 0, "bits": 4}),
        json!({"group_size": 7, "bits": 4}),
        json!({"group_size": 1_u64 << 32, "bits": 4}),
        json!({"group_size": -64, "bits": 4}),
        json!({"group_size": 64, "bits": 4, "mode": 7}),
        // Not what the weights have.
        json!({}),
        json!({"group_size": 64, "bits": 8}),
        json!({"group_size": 32, "bits": 4}),
        json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}),
        json!({"group_size": 64, "bits": 4, "model.embed_tokens": {"bits": 1 << 30}}),
        json!({"group_size": 64, "bits": 4, "model.embed_tokens": 7}),
    ] {
        let folder = with("qwen3-4bit", "quantization", &value);
        folder.edit("config.json", |config| {
            drop(
                config
                    .as_object_mut()
                    .unwrap()
                    .remove("quantization_config"),
            )
        });
        let words = ["config.json", "quantization"];
        loads_with_a_warning(&value.to_string(), folder.path(), &words);
    }
    let unknown = json!({"group_size": 64, "bits": 4, "mode": "imaginary"});
    let folder = with("qwen3-4bit", "quantization", &unknown);
    let words = ["config.json", "imaginary"];
    refused_at_sight("an unknown mode", folder.path(), &["UNSUPPORTED"], &words);
    // Packed weights without a word about it.
    let folder = Folder::copy_of("qwen3-4bit");
    folder.edit("config.json", |config| {
        let config = config.as_object_mut().unwrap();
        config.remove("quantization");
        config.remove("quantization_config");
    });
    loads_with_a_warning("no quantization", folder.path(), &["quantization"]);
    // Sizes that the packed columns could stand for, in other bits or groups.
    for (key, value) in [
        ("hidden_size", 32),
        ("hidden_size", 128),
        ("intermediate_size", 64),
        ("intermediate_size", 256),
        ("head_dim", 16),
        ("head_dim", 64),
        ("num_attention_heads", 2),
        ("num_attention_heads", 8),
    ] {
        let folder = with("qwen3-4bit", key, &json!(value));
        let what = format!("{key} = {value}");
        refused_at_sight(&what, folder.path(), &["BAD_MODEL", "UNSUPPORTED"], &[]);
    }
}

fn windows_of_layers() {
    for value in [json!(0), json!(-1), json!("8"), json!(1_u64 << 40)] {
        let folder = with("llama-f32-sliding", "sliding_window", &value);
        refused_at_sight(
            &format!("{value}"),
            folder.path(),
            &["BAD_MODEL", "UNSUPPORTED"],
            &["sliding_window"],
        );
    }
    for value in [
        json!(7),
        json!(["full_attention"]),
        json!(["nope", "nope", "nope"]),
        json!({}),
    ] {
        let folder = with("llama-f32-sliding", "layer_types", &value);
        refused_at_sight(
            &format!("{value}"),
            folder.path(),
            &["BAD_MODEL", "UNSUPPORTED"],
            &["layer_types"],
        );
    }
}

/// A model runs without them: what is odd is a warning.
fn ends_of_text() {
    for value in [
        json!(-1),
        json!("130"),
        json!(1_u64 << 32),
        json!([130, -1]),
        json!(["x"]),
        json!({}),
        json!(1.5),
    ] {
        for file in ["config.json", "generation_config.json"] {
            let folder = Folder::copy_of("qwen3-f32");
            if file == "config.json" {
                // It would be asked first.
                folder.remove("generation_config.json");
            }
            folder.edit(file, |config| config["eos_token_id"] = value.clone());
            loads_with_a_warning(
                &format!("{file}: {value}"),
                folder.path(),
                &[file, "eos_token_id"],
            );
        }
    }
    for (key, values) in [
        ("temperature", [json!(-1), json!("x"), json!([])]),
        ("top_p", [json!(-0.5), json!("x"), json!(1.5)]),
        ("top_k", [json!(-7), json!("x"), json!(1.5)]),
        ("min_p", [json!(-0.5), json!("x"), json!(2)]),
        ("repetition_penalty", [json!(-1), json!("x"), json!({})]),
        ("do_sample", [json!("x"), json!(7), json!([])]),
    ] {
        for value in values {
            let folder = Folder::copy_of("qwen3-f32");
            folder.edit("generation_config.json", |config| {
                config[key] = value.clone()
            });
            loads_with_a_warning(
                &format!("{key} = {value}"),
                folder.path(),
                &["generation_config.json", key],
            );
        }
    }
}
