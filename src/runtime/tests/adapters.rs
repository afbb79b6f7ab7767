//! Adapters beside the base: what they change, and that nothing of them stays.

use std::cmp::Ordering;
use std::path::PathBuf;

use super::*;
use crate::dtype::Dtype;
use crate::error::Code;
use crate::mlx::{fast, ops, Array};
use crate::model::adapter::{Adapter as Arrays, Part};
use crate::model::modules::Site;
use crate::model::{AdapterSet, Decoder, Rows};
use crate::runtime::adapter::{Adapter, AdapterOptions, LoadOptions as AdapterLoad, TensorData};
use crate::runtime::model::decoder_for_tests;
use crate::runtime::staging::SaveOptions;

fn prompt() -> Input {
    Input::Tokens(vec![52, 106, 110, 78, 83, 87, 109, 0, 126])
}

pub(super) fn all_projections() -> Vec<String> {
    let names = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    names.map(str::to_owned).to_vec()
}

/// mlx-lm finds nemotron_h's modules under other names than the rest.
#[test]
fn an_adapter_of_mixers_is_saved_under_the_models_own_names() {
    let _lock = engine_lock();
    let model = load("nemotron_h-f32");
    let options = AdapterOptions {
        keys: vec!["in_proj".into(), "out_proj".into(), "embed_tokens".into()],
        ..AdapterOptions::default()
    };
    let one = Adapter::create(model.clone(), &options).unwrap();
    let folder = std::env::temp_dir().join(format!("mlxrt-mixers-{}", std::process::id()));
    one.save(&folder, None, watch(&mut |_, _| true)).unwrap();
    let bytes = std::fs::read(folder.join("adapters.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in [
        "backbone.embeddings.lora_a",
        "backbone.layers.0.mixer.in_proj.lora_b",
    ] {
        assert!(file.tensor(name).is_ok(), "{name}: {:?}", file.names());
    }
    let config = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    assert!(config.contains("\"backbone.embeddings\""), "{config}");
    let options = AdapterLoad {
        deadline: None,
        progress: &mut |_, _| true,
    };
    let again = Adapter::load(model, folder.to_str().unwrap(), options).unwrap();
    let sorted = |adapter: &Adapter| {
        let mut modules = adapter.modules.clone();
        modules.sort();
        modules
    };
    assert_eq!(sorted(&again), sorted(&one));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// One that says something: B is filled.
pub(super) fn adapter(model: &Arc<Model>, seed: u64, dora: bool) -> Arc<Adapter> {
    let options = AdapterOptions {
        rank: 4,
        scale: 2.0,
        seed,
        dora,
        keys: all_projections(),
        ..AdapterOptions::default()
    };
    let adapter = Adapter::create(model.clone(), &options).unwrap();
    let info: serde_json::Value = serde_json::from_str(&adapter.info().unwrap()).unwrap();
    for (index, tensor) in info["tensors"].as_array().unwrap().iter().enumerate() {
        let name = tensor["name"].as_str().unwrap();
        if name.ends_with("lora_b") {
            let mut data = adapter.get(name).unwrap();
            for (i, value) in data.values.iter_mut().enumerate() {
                *value = ((i as u64 * 31 + index as u64 * 7 + seed * 13) % 17) as f32 / 40.0 - 0.2;
            }
            adapter.set(name, data).unwrap();
        }
    }
    Arc::new(adapter)
}

pub(super) fn watch(progress: &mut dyn FnMut(u64, u64) -> bool) -> SaveOptions<'_> {
    SaveOptions {
        deadline: None,
        progress,
    }
}

pub(super) fn history() -> Input {
    Input::messages(crate::runtime::generate::Conversation {
        messages: r#"[{"role":"user","content":"The answer is 17"}]"#.into(),
        ..Default::default()
    })
}

fn tokens(session: &Session) -> Vec<i32> {
    run(session, &prompt(), &exactly(12)).tokens
}

fn fresh(model: &Arc<Model>, adapters: Vec<(Arc<Adapter>, f32)>) -> Vec<i32> {
    let session = session(model);
    session.apply(adapters).unwrap();
    run(&session, &prompt(), &computed_anew(12)).tokens
}

#[test]
fn a_new_adapter_changes_nothing() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "qwen3-4bit", "gemma3-text-f32"] {
        let model = load(case);
        let base = fresh(&model, vec![]);
        for dora in [false, true] {
            let options = AdapterOptions {
                dora,
                keys: all_projections(),
                ..AdapterOptions::default()
            };
            let new = Arc::new(Adapter::create(model.clone(), &options).unwrap());
            assert_eq!(fresh(&model, vec![(new, 1.0)]), base, "{case} {dora}");
        }
    }
}

#[test]
fn swapping_leaves_no_trace() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "qwen3-4bit", "llama-f32"] {
        let model = load(case);
        let (one, two) = (adapter(&model, 1, false), adapter(&model, 2, true));
        let sets = [
            vec![],
            vec![(one.clone(), 1.0)],
            vec![(two.clone(), 1.0)],
            vec![(one.clone(), 0.5), (two.clone(), 1.0)],
            vec![(one.clone(), -1.0)],
        ];
        let wanted: Vec<Vec<i32>> = sets.iter().map(|set| fresh(&model, set.clone())).collect();
        for (i, a) in wanted.iter().enumerate() {
            assert!(
                !wanted[..i].contains(a),
                "{case}: set {i} says what another does"
            );
        }
        // One session through all of them, twice: each time as a session that never swapped.
        let session = session(&model);
        let history = history();
        for round in 0..2 {
            for set in &sets {
                session.apply(set.clone()).unwrap();
                let given = run(&session, &history, &exactly(8));
                let alone = super::session(&model);
                alone.apply(set.clone()).unwrap();
                let anew = run(&alone, &history, &computed_anew(8));
                assert_eq!(given.tokens, anew.tokens, "{case} round {round}");
                if round == 0 {
                    assert_eq!(given.report.cached_tokens, 0);
                } else {
                    assert!(
                        given.report.cached_tokens > 0,
                        "its own keys and values are found again"
                    );
                }
            }
        }
    }
}

#[test]
fn a_request_that_runs_keeps_its_adapters() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let one = adapter(&model, 1, false);
    let with = fresh(&model, vec![(one.clone(), 1.0)]);
    let base = fresh(&model, vec![]);
    let session = Arc::new(session(&model));
    session.apply(vec![(one, 1.0)]).unwrap();
    // Both are queued before the change; the adapter's handle goes away at once.
    let first = submit(session.clone(), &prompt(), &exactly(12), None).unwrap();
    let second = submit(session.clone(), &prompt(), &exactly(12), None).unwrap();
    session.apply(vec![]).unwrap();
    first.result(None).unwrap().1.unwrap();
    let held = session.tokens().unwrap();
    // The second may have ended too.
    assert!(held.windows(with.len()).any(|held| held == with));
    second.result(None).unwrap().1.unwrap();
    assert_eq!(fresh(&model, vec![]), base);
}

#[test]
fn a_changed_adapter_is_not_answered_from_old_keys() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let one = adapter(&model, 1, true);
    let session = session(&model);
    session.apply(vec![(one.clone(), 1.0)]).unwrap();
    let history = history();
    run(&session, &history, &exactly(4)).result.unwrap();
    let name = "model.layers.0.self_attn.v_proj.lora_b";
    let mut data = one.get(name).unwrap();
    data.values.iter_mut().for_each(|value| *value *= -3.0);
    one.set(name, data).unwrap();
    let given = run(&session, &history, &exactly(8));
    assert_eq!(given.report.cached_tokens, 0);
    let alone = super::session(&model);
    alone.apply(vec![(one, 1.0)]).unwrap();
    assert_eq!(
        given.tokens,
        run(&alone, &history, &computed_anew(8)).tokens
    );
}

#[test]
fn what_is_saved_is_what_is_loaded() {
    let _lock = engine_lock();
    let folder = std::env::temp_dir().join(format!("mlxrt-adapter-{}", std::process::id()));
    for (case, dora) in [
        ("qwen3-f32", false),
        ("qwen3-4bit", true),
        ("gemma3-text-f32", false),
    ] {
        let model = load(case);
        let one = adapter(&model, 5, dora);
        let wanted = fresh(&model, vec![(one.clone(), 1.0)]);
        one.save(&folder, None, watch(&mut |_, _| true)).unwrap();
        let again = Adapter::load(
            model.clone(),
            folder.to_str().unwrap(),
            AdapterLoad {
                deadline: None,
                progress: &mut |_, _| true,
            },
        )
        .unwrap();
        assert_eq!(
            fresh(&model, vec![(Arc::new(again), 1.0)]),
            wanted,
            "{case}"
        );
        // A save that does not come to its end leaves the good one.
        let before = std::fs::read(folder.join("adapters.safetensors")).unwrap();
        let stopped = one.save(&folder, None, watch(&mut |_, _| false));
        let stopped = stopped.unwrap_err();
        assert_eq!(stopped.code, Code::Cancelled);
        assert_eq!(
            std::fs::read(folder.join("adapters.safetensors")).unwrap(),
            before
        );
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn misuse_is_named() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let other = load("llama-f32");
    let one = adapter(&model, 1, false);
    let session = session(&other);
    let error = session.apply(vec![(one.clone(), 1.0)]).unwrap_err();
    assert_eq!(error.code, Code::Incompatible);
    let own = super::session(&model);
    let twice = vec![(one.clone(), 1.0), (one.clone(), 1.0)];
    assert_eq!(own.apply(twice).unwrap_err().code, Code::InvalidArgument);
    let nan = vec![(one.clone(), f32::NAN)];
    assert_eq!(own.apply(nan).unwrap_err().code, Code::InvalidArgument);
    assert_eq!(one.get("nothing").err().unwrap().code, Code::NotFound);
    let name = "model.layers.0.self_attn.v_proj.lora_b";
    let shape = one.get(name).unwrap().shape;
    let count = shape.iter().product::<i32>() as usize;
    for (shape, value) in [(vec![1, 2], 0.0), (shape, f32::INFINITY)] {
        let values = vec![value; if shape[0] == 1 { 2 } else { count }];
        let error = one.set(name, TensorData { shape, values }).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
    for options in [
        AdapterOptions {
            rank: 100_000,
            ..AdapterOptions::default()
        },
        AdapterOptions {
            scale: f32::NAN,
            ..AdapterOptions::default()
        },
        AdapterOptions {
            dropout: 1.0,
            ..AdapterOptions::default()
        },
        AdapterOptions {
            layers: 1000,
            ..AdapterOptions::default()
        },
        AdapterOptions {
            keys: vec!["x_proj".into()],
            ..AdapterOptions::default()
        },
        AdapterOptions {
            keys: vec!["input_layernorm".into()],
            ..AdapterOptions::default()
        },
    ] {
        let error = Adapter::create(model.clone(), &options).err().unwrap();
        assert_eq!(error.code, Code::InvalidArgument, "{options:?}");
    }
    assert_eq!(tokens(&own), fresh(&model, vec![]));
}

/// As `parity`: LoRA is the same primitives in the same order, so the bounds are those of the type. PEFT sums in another
/// order, and DoRA multiplies here with the packed weight where mlx-lm unpacks it to 16 bits first (two roundings of
/// 2^-9 in each of 14 products that the next layers pass on): 4 and 8 times that.
fn adapter_bound(dtype: &str, kind: &str, program: &str) -> f32 {
    let factor = match (kind, program) {
        ("dora", _) => 8.0,
        (_, "peft") => 4.0,
        _ => 1.0,
    };
    parity::bound(dtype) * factor
}

/// All rows' logits of a prompt with one adapter, f32; `wide`: with the adapter's arrays as f32.
pub(super) fn logits(
    decoder: &Decoder,
    adapter: &Arrays,
    wide: bool,
    prompt: &[i32],
) -> Result<Vec<f32>> {
    let array = |array: &Array| match wide {
        true => ops::astype(array, Dtype::F32),
        false => Ok(array.clone()),
    };
    let maybe = |from: &Option<Array>| from.as_ref().map(array).transpose();
    let copy = |(site, part): &(Site, Part)| {
        let part = match part {
            Part::Low {
                a,
                b,
                scale,
                magnitude,
                tied,
            } => Part::Low {
                a: array(a)?,
                b: array(b)?,
                scale: *scale,
                magnitude: maybe(magnitude)?,
                tied: *tied,
            },
            Part::Full {
                weight,
                bias,
                tied,
                copy,
            } => Part::Full {
                weight: maybe(weight)?,
                bias: maybe(bias)?,
                tied: *tied,
                copy: *copy,
            },
        };
        Ok((*site, part))
    };
    let mut adapter = Arrays::new(adapter.parts.iter().map(copy).collect::<Result<_>>()?);
    let mut set = AdapterSet::default();
    decoder.add_adapter(&mut set, &mut adapter, 1.0)?;
    let mut caches = decoder.make_caches(None, 0);
    let hidden = decoder.forward(&Array::from_i32(prompt)?, &mut caches, Rows::All, &set)?;
    let logits = decoder.logits(&hidden, &set)?;
    ops::astype(&logits, Dtype::F32)?.to_f32()
}

/// With MLX's own operations; and where the engine has kernels, with those and from the same weights in f32.
struct Computed {
    plain: Vec<f32>,
    kernels: Option<(Vec<f32>, Vec<f32>)>,
}

fn compute(model: &Arc<Model>, folder: PathBuf, adapter: u64, prompt: Vec<i32>) -> Computed {
    let model_id = model.id;
    let computed = model.engine.call(move |worker| {
        let (decoder, adapter) = (worker.decoder(model_id)?, worker.adapter(adapter)?);
        let plain = fast::plainly(|| logits(decoder, adapter, false, &prompt))?;
        let mut kernels = None;
        if fast::active() {
            let exact = fast::plainly(|| {
                let (wide, _) = decoder_for_tests(folder.to_str().unwrap(), true)?;
                logits(&wide, adapter, true, &prompt)
            })?;
            kernels = Some((logits(decoder, adapter, false, &prompt)?, exact));
        }
        Ok(Computed { plain, kernels })
    });
    computed.unwrap()
}

/// With MLX's operations within the bounds above. On the kernels in f32 too; in 16 bits as near as the other program to
/// what the same arrays give in f32 (see `parity`).
#[test]
fn every_fixture_gives_the_logits_of_the_program_that_made_it() {
    let _lock = engine_lock();
    let models = parity::cases();
    let dtype_of = |model: &str| {
        let case = models.iter().find(|case| case["name"] == model);
        case.unwrap()["dtype"].as_str().unwrap().to_owned()
    };
    let mut far = Vec::new();
    // Not a number is no match either.
    let mut check = |name: &str, what: &str, worst: f32, bound: f32| {
        let fits = matches!(
            worst.partial_cmp(&bound),
            Some(Ordering::Less | Ordering::Equal)
        );
        if !fits {
            far.push(format!("{name} {what}: {worst}, allowed {bound}"));
        }
    };
    let mut cases = 0;
    for case in parity::json("adapters.json").as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let (name, model_name) = (text("name"), text("model"));
        let model = load(model_name);
        let folder = parity::fixtures().join("adapters").join(name);
        let options = AdapterLoad {
            deadline: None,
            progress: &mut |_, _| true,
        };
        let adapter = Adapter::load(model.clone(), folder.to_str().unwrap(), options)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let bytes = std::fs::read(folder.with_extension("safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let theirs = parity::f32s(&expected, "logits");
        let dtype = dtype_of(model_name);
        let bound = adapter_bound(&dtype, text("kind"), text("program"));
        let base = parity::fixtures().join("models").join(model_name);
        let prompt = parity::i32s(&expected, "prompt");
        let computed = compute(&model, base, adapter.id(), prompt);
        check(
            name,
            "plain",
            parity::farthest(&computed.plain, &theirs),
            bound,
        );
        match computed.kernels {
            Some((ours, _)) if dtype == "f32" => {
                // Streams that correct each other enlarge roundings.
                let bound = bound
                    * if model_name.contains("gemma3n") {
                        3.0
                    } else {
                        1.0
                    };
                check(name, "on kernels", parity::farthest(&ours, &theirs), bound);
            }
            Some((ours, exact)) => {
                let bound = parity::farthest(&theirs, &exact);
                check(name, "on kernels", parity::farthest(&ours, &exact), bound);
            }
            None => (),
        }
        cases += 1;
    }
    assert!(far.is_empty(), "{far:#?}");
    assert!(cases >= 75, "only {cases} cases");
}
