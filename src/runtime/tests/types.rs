//! Models and adapters whose modules have several float types: each computes as MLX promotes.

use half::{bf16, f16};
use safetensors::{tensor::TensorView, SafeTensors};

use super::odd_folders::load_from;
use super::parity::{farthest, fixtures};
use super::*;
use crate::dtype::Dtype;
use crate::load::testing::TempFolder;
use crate::mlx::fast;
use crate::runtime::adapter::{Adapter, LoadOptions as AdapterLoad};

/// A tensor's new type by its name; None: as it is.
type Retype<'a> = &'a dyn Fn(&str) -> Option<Dtype>;

/// How much farther from the exact logits the kernels may be than MLX's operations, which round more often: two ways to
/// round are not equally far, and one that rounds where the other does not is several times farther.
const SLACK: f32 = 1.5;

fn root_mean_square(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let sum: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    (sum / a.len() as f32).sqrt()
}

pub(super) fn widen(dtype: safetensors::Dtype, data: &[u8]) -> Vec<f32> {
    let pairs = data.chunks_exact(2).map(|two| [two[0], two[1]]);
    match dtype {
        safetensors::Dtype::BF16 => pairs.map(|two| bf16::from_le_bytes(two).to_f32()).collect(),
        safetensors::Dtype::F16 => pairs.map(|two| f16::from_le_bytes(two).to_f32()).collect(),
        _ => data
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect(),
    }
}

/// The bytes of a safetensors file in which some float tensors have another type.
fn retyped(bytes: &[u8], to: Retype) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let float = matches!(
                tensor.dtype(),
                safetensors::Dtype::BF16 | safetensors::Dtype::F16 | safetensors::Dtype::F32
            );
            let Some(to) = to(&name).filter(|_| float) else {
                return (
                    name,
                    tensor.dtype(),
                    tensor.shape().to_vec(),
                    tensor.data().to_vec(),
                );
            };
            let values = widen(tensor.dtype(), tensor.data());
            let (dtype, data) = match to {
                Dtype::F16 => (
                    safetensors::Dtype::F16,
                    values
                        .iter()
                        .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                        .collect(),
                ),
                Dtype::BF16 => (
                    safetensors::Dtype::BF16,
                    values
                        .iter()
                        .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                        .collect(),
                ),
                _ => (
                    safetensors::Dtype::F32,
                    values
                        .iter()
                        .flat_map(|x| x.to_le_bytes())
                        .collect::<Vec<u8>>(),
                ),
            };
            (name, dtype, tensor.shape().to_vec(), data)
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (
            name.as_str(),
            TensorView::new(*dtype, shape.clone(), data).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// A copy of a fixture's model whose tensors were given other types, one after the other.
fn model_folder(case: &str, types: &[Retype]) -> TempFolder {
    let (from, folder) = (fixtures().join("models").join(case), TempFolder::new());
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        folder.write(name, std::fs::read(from.join(name)).unwrap());
    }
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let bytes = types.iter().fold(bytes, |bytes, to| retyped(&bytes, to));
    folder.write("model.safetensors", bytes);
    folder
}

fn prompt() -> Vec<i32> {
    vec![52, 106, 110, 78, 83, 87, 109, 0, 126]
}

/// All logits of a prompt, as it is computed here and with MLX's own operations, which promote as MLX does.
fn both_ways(model: &Arc<Model>, adapters: &[(u64, f32)]) -> [Vec<f32>; 2] {
    let (id, adapters) = (model.id, adapters.to_vec());
    model
        .engine
        .call(move |worker| {
            let ours = worker.logits_for_tests(id, &adapters, &prompt())?;
            let plain = fast::plainly(|| worker.logits_for_tests(id, &adapters, &prompt()))?;
            Ok([ours, plain])
        })
        .unwrap()
}

/// As near to the exact logits as those of MLX's operations, which round more often.
fn is_as_near([ours, plain]: &[Vec<f32>; 2], exact: &[f32], what: &str) {
    let (ours, plain) = (
        root_mean_square(ours, exact),
        root_mean_square(plain, exact),
    );
    // 1e-4: what f32 itself rounds, where all is f32.
    assert!(
        ours <= SLACK * plain + 1e-4,
        "{what}: {ours} from the exact logits, MLX's operations {plain}"
    );
}

/// A fixture with other types answers, and its logits are as near to those of the same weights in f32 as MLX's.
fn computes(case: &str, to: Retype, what: &str) {
    let folder = model_folder(case, &[to]);
    let model = load_from(&folder);
    let given = run(&session(&model), &Input::Tokens(prompt()), &exactly(3));
    given
        .result
        .unwrap_or_else(|error| panic!("{case} {what}: {error}"));
    assert_eq!(given.tokens.len(), 3, "{case} {what}");
    let exact = load_from(&model_folder(case, &[to, &|_| Some(Dtype::F32)]));
    let [exact, _] = both_ways(&exact, &[]);
    is_as_near(&both_ways(&model, &[]), &exact, &format!("{case} {what}"));
}

const MODULES: [&str; 12] = [
    "embed_tokens",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "q_norm",
    "k_norm",
    "gate_proj",
    "up_proj",
    "down_proj",
    "input_layernorm",
    "model.norm",
];

#[test]
fn every_module_may_have_a_float_type_of_its_own() {
    let _lock = engine_lock();
    // Of the quantised one the scales and biases are what has a type.
    for case in ["qwen3-bf16", "qwen3-4bit-bf16", "qwen3-mxfp4-bf16"] {
        for dtype in [Dtype::F32, Dtype::F16] {
            for module in MODULES {
                let to = |name: &str| name.contains(module).then_some(dtype);
                computes(case, &to, &format!("with {module} in {}", dtype.name()));
            }
        }
    }
}

#[test]
fn any_mix_of_types_computes() {
    let _lock = engine_lock();
    let cases = [
        ("qwen3-bf16", 0..8),
        ("gemma3-text-bf16", 8..12),
        // Scales and biases of one module alike or not, as it comes.
        ("qwen3-4bit-f16", 12..20),
    ];
    for (case, seeds) in cases {
        for seed in seeds {
            let to = |name: &str| {
                let mix = |hash, byte: u8| crate::random::mix(hash, byte.into());
                let hash = name.bytes().fold(seed, mix);
                let types = [None, Some(Dtype::F32), Some(Dtype::F16), Some(Dtype::BF16)];
                types[(hash % 4) as usize]
            };
            computes(case, &to, &format!("mix {seed}"));
        }
    }
}

#[test]
fn one_half_of_a_quantised_module_may_have_another_type() {
    let _lock = engine_lock();
    let parts = [
        "v_proj.scales",
        "v_proj.biases",
        "down_proj.scales",
        "embed_tokens.biases",
    ];
    for part in parts {
        for dtype in [Dtype::F32, Dtype::F16] {
            let to = |name: &str| name.contains(part).then_some(dtype);
            let what = format!("with {part} in {}", dtype.name());
            computes("qwen3-4bit-bf16", &to, &what);
        }
    }
}

#[test]
fn weights_that_an_adapter_replaces_may_have_another_type() {
    let _lock = engine_lock();
    let model = load("qwen3-bf16");
    let wide = load_from(&model_folder("qwen3-bf16", &[&|_| Some(Dtype::F32)]));
    let base = std::fs::read(fixtures().join("models/qwen3-bf16/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&base).unwrap();
    for (module, dtype) in [
        ("self_attn.v_proj", Dtype::F32),
        ("self_attn.v_proj", Dtype::F16),
        ("self_attn.k_norm", Dtype::F32),
        ("mlp.up_proj", Dtype::F32),
    ] {
        // mlx-lm's folder of whole weights, and PEFT's with `modules_to_save`.
        for peft in [false, true] {
            let folder = TempFolder::new();
            let tensors: Vec<_> = (0..2)
                .map(|layer| {
                    let name = format!("model.layers.{layer}.{module}.weight");
                    let tensor = file.tensor(&name).unwrap();
                    // Something else than the base's.
                    let values = widen(tensor.dtype(), tensor.data());
                    let data: Vec<u8> = values
                        .iter()
                        .flat_map(|x| (1.25 * x).to_le_bytes())
                        .collect();
                    let name = if peft {
                        format!("base_model.model.{name}")
                    } else {
                        name
                    };
                    (name, tensor.shape().to_vec(), data)
                })
                .collect();
            let views = tensors.iter().map(|(name, shape, data)| {
                let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
                (name.as_str(), view.unwrap())
            });
            let bytes = retyped(&safetensors::serialize(views, None).unwrap(), &|_| {
                Some(dtype)
            });
            let leaf = module.rsplit('.').next().unwrap();
            if peft {
                folder.write("adapter_model.safetensors", bytes);
                let config = format!(
                    r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["{leaf}"]}}"#
                );
                folder.write("adapter_config.json", config);
            } else {
                folder.write("adapters.safetensors", bytes);
                folder.write(
                    "adapter_config.json",
                    r#"{"fine_tune_type": "full", "num_layers": 2}"#,
                );
            }
            let what = format!("{module} in {}, peft {peft}", dtype.name());
            let load = |model: &Arc<Model>| {
                let options = AdapterLoad {
                    deadline: None,
                    progress: &mut |_, _| true,
                };
                let path = folder.path().to_str().unwrap();
                let adapter = Adapter::load(model.clone(), path, options);
                Arc::new(adapter.unwrap_or_else(|error| panic!("{what}: {error}")))
            };
            let adapter = load(&model);
            let session = session(&model);
            session.apply(vec![(adapter.clone(), 1.0)]).unwrap();
            let given = run(&session, &Input::Tokens(prompt()), &exactly(3));
            given
                .result
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let of_wide = load(&wide);
            let [exact, _] = both_ways(&wide, &[(of_wide.id(), 1.0)]);
            let adapted = both_ways(&model, &[(adapter.id(), 1.0)]);
            is_as_near(&adapted, &exact, &what);
            let [without, _] = both_ways(&model, &[]);
            assert!(
                farthest(&adapted[0], &without) > 1.0,
                "{what}: changes little"
            );
        }
    }
}
