//! What other programs take and this one refuses: each is tried, and its words are the library's.

use super::*;
use crate::load::{testing, AdapterFile};
use crate::text::Message;

/// What is tried: gives what the library says, and the folder whose place is not for the page.
type Try = fn() -> (Vec<String>, TempFolder);

struct Refused {
    what: &'static str,
    /// Who takes it.
    peers: &'static str,
    why: &'static str,
    says: Try,
}

const REFUSED: &[Refused] = &[
    Refused {
        what: "A rope type that is not here",
        peers: "mlx-lm and transformers compute `proportional`, for families that are not here",
        why: "Without its scaling a model would answer wrongly beyond its first context, and nobody would notice.",
        says: || {
            let folder = copy("llama-f32");
            let said = ROPES.into_iter().filter(|kind| !rope_is_read(kind)).map(|kind| {
                folder.write("config.json", Value::Object(rope_config(kind)).to_string());
                loaded(&folder)
            });
            (said.collect(), folder)
        },
    },
    Refused {
        what: "Another program's quantisation",
        peers: "transformers reads all of these with the package of each; mlx-lm has `bitnet`",
        why: "Each is a packing of its own, and none has been compared yet; those that are read stand above. MLX versions of such models are on the hub, \
              and `mlx_lm.convert` makes them from the original.",
        says: || {
            let folder = copy("llama-f32");
            rename_weight(&folder, "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.qweight");
            let methods = ["bitsandbytes", "bitnet", "hqq", "aqlm", "quanto", "torchao", "compressed-tensors"];
            let said = methods.into_iter().map(|method| {
                edit(&folder, "config.json", &[("quantization_config", json!({"quant_method": method, "bits": 4, "group_size": 128}))]);
                loaded(&folder)
            });
            (said.collect(), folder)
        },
    },
    Refused {
        what: "A mode that MLX does not have",
        peers: "transformers has `nf4`; mlx-lm ignores what it does not know and goes by the shapes",
        why: "Bits and groups follow from the shapes, whatever the config says; what a new mode means does not.",
        says: || {
            let folder = copy("qwen3-4bit");
            let block = json!({"mode": "nf4", "bits": 4, "group_size": 64});
            edit(&folder, "config.json", &[("quantization", block), ("quantization_config", Value::Null)]);
            (vec![loaded(&folder)], folder)
        },
    },
    Refused {
        what: "Quantised activations",
        peers: "mlx-lm computes them for `nvfp4` and `mxfp8`",
        why: "With plain activations the model would be another than the one that was measured.",
        says: || changed_config("qwen3-4bit", &[("quantize_activations", json!(true))]),
    },
    Refused {
        what: "GGUF files",
        peers: "llama.cpp; mlx-lm writes them and does not load them; transformers unpacks them to floats",
        why: "Models here are folders of safetensors with their own tokenizer and template. Most GGUF files have an original, or an MLX version, on the \
              hub.",
        says: || {
            let folder = TempFolder::new();
            folder.write("model.gguf", b"GGUF\x03\0\0\0");
            let said = said(load_path(&folder.path().join("model.gguf").to_string_lossy(), 0).map(drop), &folder);
            (vec![said], folder)
        },
    },
    Refused {
        what: "Pickled weights, and weights in `.npz`",
        peers: "transformers loads `pytorch_model.bin`; early versions of mlx-lm wrote `.npz`",
        why: "A pickle is a program that runs when it is loaded. `mlx_lm.convert` makes safetensors of both.",
        says: || {
            let mut texts = Vec::new();
            let folder = copy("llama-f32");
            fs::remove_file(folder.path().join("model.safetensors")).unwrap();
            for name in ["pytorch_model.bin", "weights.npz"] {
                folder.write(name, b"bytes");
                texts.push(loaded(&folder));
                fs::remove_file(folder.path().join(name)).unwrap();
            }
            (texts, folder)
        },
    },
    Refused {
        what: "Models that bring their own code",
        peers: "transformers and mlx-lm run it with `trust_remote_code`",
        why: "Code of a folder is never run: `auto_map` and `model_file` are ignored. A folder of a family that is here loads, and is computed by the library's own \
              code; another one is refused by its family.",
        says: || {
            changed_config(
                "llama-f32",
                &[
                    ("model_type", json!("my_model")),
                    ("auto_map", json!({"AutoModelForCausalLM": "modeling_my_model.MyModel"})),
                    ("model_file", json!("my_model.py")),
                ],
            )
        },
    },
    Refused {
        what: "A tokenizer that is no `tokenizer.json`",
        peers: "transformers converts `tokenizer.model` (SentencePiece), `vocab.json` with `merges.txt`, `tekken.json` and tiktoken's files while it loads",
        why: "The conversion is Python code of each tokenizer class. `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` writes the file once.",
        says: || {
            let folder = copy("llama-f32");
            fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
            folder.write("tokenizer.model", b"bytes");
            (vec![loaded(&folder)], folder)
        },
    },
    Refused {
        what: "An activation that the family does not have",
        peers: "transformers computes any; mlx-lm ignores the key and computes its family's own",
        why: "Ignoring it computes another model than the one that was trained.",
        says: || changed_config("llama-f32", &[("hidden_act", json!("gelu"))]),
    },
    Refused {
        what: "Soft caps in a Gemma 3",
        peers: "transformers computes them; mlx-lm ignores them",
        why: "No published Gemma 3 has them. Ignoring them would compute another model.",
        says: || changed_config("gemma3-text-f32", &[("final_logit_softcapping", json!(30.0))]),
    },
    Refused {
        what: "Tensors of types that MLX lacks",
        peers: "transformers reads 64-bit floats and 8-bit ones of two bits of fraction",
        why: "MLX has no array of them, or none on a GPU. F8_E4M3 is read where there are scales beside it.",
        says: || {
            let folder = copy("llama-f32");
            let header = r#"{"model.embed_tokens.weight":{"dtype":"F8_E5M2","shape":[2,2],"data_offsets":[0,4]}}"#;
            folder.write("model.safetensors", testing::safetensors(header, 4));
            (vec![loaded(&folder)], folder)
        },
    },
    Refused {
        what: "Files that are links out of the folder",
        peers: "transformers, mlx-lm and llama.cpp follow every link",
        why: "A folder from elsewhere could have any file of the machine read. Links within the folder, and into the store of the Hugging Face cache, are \
              followed.",
        says: || {
            let (folder, outside) = (copy("llama-f32"), copy("llama-f32"));
            let weights = folder.path().join("model.safetensors");
            fs::remove_file(&weights).unwrap();
            std::os::unix::fs::symlink(outside.path().join("model.safetensors"), &weights).unwrap();
            (vec![loaded(&folder)], folder)
        },
    },
    Refused {
        what: "A context longer than the model's",
        peers: "mlx-lm does not look at it; llama.cpp warns",
        why: "Positions that a model was not trained for give words without sense.",
        says: || {
            let folder = copy("llama-f32");
            let said = said(load_path(&folder.path().to_string_lossy(), 1 << 21).map(drop), &folder);
            (vec![said], folder)
        },
    },
    Refused {
        what: "Pictures, sound and video in messages",
        peers: "transformers and mlx-vlm, with models that were made for them",
        why: "The library runs text models.",
        says: || {
            let messages = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
            let folder = TempFolder::new();
            let said = said(Message::parse_list(messages.as_bytes()).map(drop), &folder);
            (vec![said], folder)
        },
    },
    Refused {
        what: "Conversations that are none, and contents that are no text",
        peers: "transformers hands whatever there is to the template, and most print a number or an object as Python does, or nothing",
        why: "What no chat API sends is a mistake of the program that sends it, and a prompt without it would hide that.",
        says: || {
            let folder = TempFolder::new();
            let of = |messages: &str| said(Message::parse_list(messages.as_bytes()).map(drop), &folder);
            let texts = vec![
                of("[]"),
                of(r#"[{"role":"user","content":7}]"#),
                of(r#"[{"role":"user","content":["a","b"]}]"#),
                of(r#"[{"role":"user","content":[{"text":"a"}]}]"#),
                of(r#"[{"role":"assistant","tool_calls":[{"id":"a","function":null}]}]"#),
            ];
            (texts, folder)
        },
    },
    Refused {
        what: "Adapters other than LoRA, DoRA and whole weights, and LoRA's variants that start from another base",
        peers: "PEFT",
        why: "Each changes the model in another way; what is not computed is not skipped.",
        says: || {
            let mut texts = Vec::new();
            let folder = TempFolder::new();
            folder.write("adapter_model.safetensors", testing::vectors(&[("x", 1)]));
            for (key, value) in [
                ("peft_type", json!("IA3")),
                ("peft_type", json!("LOHA")),
                ("peft_type", json!("ADALORA")),
                ("bias", json!("all")),
                ("init_lora_weights", json!("pissa")),
                ("lora_bias", json!(true)),
                ("target_parameters", json!(["mlp.experts.gate_up_proj_bias"])),
            ] {
                let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]});
                config[key] = value;
                folder.write("adapter_config.json", config.to_string());
                texts.push(adapter(&folder));
            }
            fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
            folder.write("adapter_config.json", json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16}).to_string());
            folder.write("adapter_model.bin", b"bytes");
            texts.push(adapter(&folder));
            (texts, folder)
        },
    },
];

/// Empty for what is not refused.
fn said(outcome: Result<()>, folder: &TempFolder) -> String {
    outcome.map_or_else(|error| shown(&error, folder), |()| String::new())
}

fn loaded(folder: &TempFolder) -> String {
    said(
        load_path(&folder.path().to_string_lossy(), 0).map(drop),
        folder,
    )
}

fn adapter(folder: &TempFolder) -> String {
    let opened = AdapterFile::open(&folder.path().to_string_lossy()).map(drop);
    said(opened, folder).replace("path/to/model", "path/to/adapter")
}

/// Null removes a key.
fn edit(folder: &TempFolder, name: &str, changes: &[(&str, Value)]) {
    let mut map = json_of(&folder.path().join(name));
    for (key, value) in changes {
        match value {
            Value::Null => map.remove(*key),
            value => map.insert((*key).into(), value.clone()),
        };
    }
    folder.write(name, Value::Object(map).to_string());
}

fn changed_config(case: &str, changes: &[(&str, Value)]) -> (Vec<String>, TempFolder) {
    let folder = copy(case);
    edit(&folder, "config.json", changes);
    (vec![loaded(&folder)], folder)
}

pub fn section(out: &mut String, reference: &Value) {
    *out += "\n## What is refused, and why\n\nWhat other programs take and this version does not. Nothing of it is skipped or guessed: the load, or the call, fails with a\n\
             code and a sentence, which stand here as they are.\n\n### A family that is not here\n\n";
    let known = |name: &&str| FAMILIES.iter().any(|family| family.model_type == *name);
    let others: Vec<_> = reference["model_types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .filter(|name| !known(name))
        .collect();
    let version = reference["versions"]["mlx-lm"].as_str().unwrap();
    let list = joined(others.iter().map(|name| format!("`{name}`")));
    writeln!(
        out,
        "Taken by: mlx-lm {version} has {} more, most of which transformers and llama.cpp have as well. Why: a family is computed when it has been compared \
         with its reference, and not before.\n\n<details><summary>Their names</summary>\n\n{list}\n\n</details>\n",
        others.len()
    )
    .unwrap();
    let (texts, _) = changed_config("llama-f32", &[("model_type", json!("mamba2"))]);
    block(out, &texts);
    for refused in REFUSED {
        writeln!(
            out,
            "\n### {}\n\nTaken by: {}. Why: {}\n",
            refused.what, refused.peers, refused.why
        )
        .unwrap();
        let mut texts = (refused.says)().0;
        texts.retain(|text| !text.is_empty());
        assert!(
            !texts.is_empty(),
            "{:?} is no longer refused: its row in refused.rs goes, and the page tells what is read now",
            refused.what
        );
        block(out, &texts);
    }
}

fn block(out: &mut String, texts: &[String]) {
    writeln!(out, "```\n{}\n```", texts.join("\n")).unwrap();
}

/// As another program names what it packs.
fn rename_weight(folder: &TempFolder, from: &str, to: &str) {
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| match name == from {
            true => (to.to_owned(), tensor),
            false => (name, tensor),
        });
    let bytes = safetensors::serialize(tensors, None).unwrap();
    folder.write("model.safetensors", bytes);
    let _ = std::fs::remove_file(folder.path().join("model.safetensors.index.json"));
}
