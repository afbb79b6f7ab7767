//! Embeddings against what sentence-transformers and transformers make of the same texts (tests/fixtures/embeddings.py).

use serde_json::Value;

use super::*;
use crate::error::{Code, Error};
use crate::load::testing::TempFolder;
use crate::mlx::{fast, fault, memory};
use crate::model::Pooling;
use crate::runtime::embed::{embed, EmbedOptions, Embeddings};
use crate::runtime::engine;

/// Beside the norm of a row: sums are made in another order than PyTorch makes them.
const MOST_ERROR: f32 = 5e-6;

struct Fixture {
    name: String,
    dim: usize,
    normalized: bool,
}

fn fixtures() -> (Vec<String>, Vec<Fixture>) {
    let list = std::fs::read(parity::fixtures().join("embeddings.json")).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let texts = list["texts"].as_array().unwrap().iter();
    let texts = texts.map(|text| text.as_str().unwrap().to_owned());
    let cases = list["cases"].as_array().unwrap().iter();
    let cases = cases.map(|case| Fixture {
        name: case["name"].as_str().unwrap().to_owned(),
        dim: case["dim"].as_u64().unwrap() as usize,
        normalized: case["normalized"].as_bool().unwrap(),
    });
    (texts.collect(), cases.collect())
}

fn folder_of(name: &str) -> std::path::PathBuf {
    parity::fixtures().join("embeddings").join(name)
}

fn load_sentence(path: &std::path::Path) -> Result<Arc<Model>> {
    load_folder(path, None).map(Arc::new)
}

fn load_encoder(name: &str) -> Arc<Model> {
    load_sentence(&folder_of(name)).unwrap()
}

fn with(
    pooling: Option<Pooling>,
    normalize: bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> EmbedOptions<'_> {
    EmbedOptions {
        pooling,
        normalize,
        deadline: None,
        progress,
    }
}

fn made(model: &Arc<Model>, texts: &[String], pooling: Option<Pooling>) -> Result<Embeddings> {
    embed(model, texts, with(pooling, false, &mut |_, _| true))
}

fn error_of(made: Result<Embeddings>) -> Error {
    made.err().expect("an error")
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A tensor of `expected.safetensors`, f32.
fn expected(name: &str, tensor: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder_of(name).join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(tensor).unwrap();
    let (chunks, _) = data.data().as_chunks::<4>();
    chunks
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// The cosine of two rows' angle, and the largest difference beside the larger row's norm.
fn compare(a: &[f32], b: &[f32]) -> (f64, f32) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    let norm = dot(a, a).sqrt().max(dot(b, b).sqrt());
    let most = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    let most = most.fold(0.0, f32::max);
    (
        dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
        most / norm as f32,
    )
}

fn check(got: &Embeddings, want: &[f32], what: &str) -> f32 {
    assert_eq!(got.values.len(), want.len(), "{what}");
    let rows = got.values.chunks(got.dim).zip(want.chunks(got.dim));
    let mut worst = 0.0_f32;
    for (text, (got, want)) in rows.enumerate() {
        let (cosine, error) = compare(got, want);
        assert!(cosine > 1.0 - 1e-5, "{what}, text {text}: cosine {cosine}");
        worst = worst.max(error);
    }
    assert!(worst < MOST_ERROR, "{what}: {worst}");
    worst
}

#[test]
fn embeddings_are_those_of_sentence_transformers() {
    let _lock = engine_lock();
    let (texts, cases) = fixtures();
    for Fixture {
        name,
        dim,
        normalized,
    } in &cases
    {
        let model = load_encoder(name);
        let got = made(&model, &texts, None).unwrap();
        assert_eq!((got.count, got.dim), (texts.len(), *dim), "{name}");
        let worst = check(&got, &expected(name, "model"), name);
        println!("{name}: {worst:.1e}");
        let norms = got.values.chunks(got.dim).map(|row| {
            row.iter()
                .map(|&x| f64::from(x) * f64::from(x))
                .sum::<f64>()
        });
        let ones = norms.into_iter().all(|norm| (norm - 1.0).abs() < 1e-5);
        assert_eq!(ones, *normalized, "{name}");
        for (pooling, tensor) in [
            (Pooling::Mean, "mean"),
            (Pooling::Last, "last"),
            (Pooling::Cls, "cls"),
        ] {
            let got = made(&model, &texts, Some(pooling)).unwrap();
            check(&got, &expected(name, tensor), &format!("{name} {tensor}"));
        }
    }
}

/// The same passes with MLX's own operations.
#[test]
fn the_kernels_compute_what_mlx_computes() {
    let _lock = engine_lock();
    let (texts, cases) = fixtures();
    for Fixture { name, .. } in &cases {
        let model = load_encoder(name);
        let tokens: Vec<Vec<i32>> = texts
            .iter()
            .map(|text| {
                model
                    .tokenizer
                    .encode(text, crate::text::Specials::Recognise, true)
            })
            .collect::<Result<_>>()
            .unwrap();
        let mut sorted: Vec<usize> = (0..tokens.len()).collect();
        sorted.sort_by_key(|&index| std::cmp::Reverse(tokens[index].len()));
        let id = model.id;
        let (all, lengths): (Vec<i32>, Vec<usize>) = (
            sorted
                .iter()
                .flat_map(|&index| tokens[index].clone())
                .collect(),
            sorted.iter().map(|&index| tokens[index].len()).collect(),
        );
        let rows = model
            .engine
            .call(move |worker| {
                let decoder = worker.decoder(id)?;
                let mut pass = decoder.begin_texts(&all, &lengths)?;
                fast::plainly(|| {
                    decoder.go_on(&mut pass, usize::MAX)?;
                    let pooled = decoder.pooled(&pass, Pooling::Mean)?;
                    crate::mlx::ops::contiguous(&pooled)?.to_f32()
                })
            })
            .unwrap();
        let want = expected(name, "mean");
        let dim = rows.len() / texts.len();
        for (row, &text) in rows.chunks(dim).zip(&sorted) {
            let (cosine, error) = compare(row, &want[text * dim..(text + 1) * dim]);
            assert!(cosine > 1.0 - 1e-5 && error < MOST_ERROR, "{name}: {error}");
        }
    }
}

#[test]
fn a_text_does_not_depend_on_the_others() {
    let _lock = engine_lock();
    let (texts, cases) = fixtures();
    for Fixture { name, .. } in &cases {
        let model = load_encoder(name);
        let together = made(&model, &texts, None).unwrap();
        // Many times over, so that there are several passes.
        let many: Vec<String> = texts.iter().cycle().take(120).cloned().collect();
        let many = made(&model, &many, None).unwrap();
        for (index, row) in many.values.chunks(many.dim).enumerate() {
            let text = index % texts.len();
            let own = &together.values[text * many.dim..(text + 1) * many.dim];
            assert!(compare(row, own).1 < MOST_ERROR, "{name} {index}");
        }
        for (text, own) in texts.iter().zip(together.values.chunks(together.dim)) {
            let alone = made(&model, &strings(&[text]), None).unwrap();
            assert!(compare(&alone.values, own).1 < MOST_ERROR, "{name} {text}");
        }
    }
}

/// Long texts of models that look back go through caches, as do those of models with states.
#[test]
fn parts_of_a_text_are_the_whole() {
    let _lock = engine_lock();
    for case in [
        "qwen3-f32",
        "llama-f32-sliding",
        "qwen3_next-f32",
        "nemotron_h-f32",
        "gemma3n-f32",
    ] {
        let model = load(case);
        let long = "the other town in the rain ".repeat(80);
        let texts = strings(&[&long, "in it", "the rest of it was in the town"]);
        for pooling in [Pooling::Mean, Pooling::Last, Pooling::Cls] {
            let got = made(&model, &texts, Some(pooling)).unwrap();
            for (text, row) in texts.iter().zip(got.values.chunks(got.dim)) {
                let ids = model
                    .tokenizer
                    .encode(text, crate::text::Specials::Recognise, true);
                let (ids, id) = (ids.unwrap(), model.id);
                let whole = model
                    .engine
                    .call(move |worker| {
                        let decoder = worker.decoder(id)?;
                        let mut caches = decoder.make_caches(None, 0);
                        let none = crate::model::AdapterSet::default();
                        let n = ids.len() as f32;
                        let ids = crate::mlx::Array::from_i32(&ids)?;
                        let rows = crate::model::Rows::All;
                        let h = decoder.forward(&ids, &mut caches, rows, &none)?;
                        let row = decoder.part_of_text(&h, pooling)?.to_f32()?;
                        Ok(match pooling {
                            Pooling::Mean => row.iter().map(|x| x / n).collect(),
                            _ => row,
                        })
                    })
                    .unwrap();
                let (cosine, error) = compare(row, &whole);
                assert!(
                    cosine > 1.0 - 1e-5 && error < 2e-5,
                    "{case} {pooling:?}: {error}"
                );
            }
        }
    }
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let _lock = engine_lock();
    let model = load_encoder("bert");
    assert_eq!(
        error_of(made(&model, &[], None)).code,
        Code::InvalidArgument
    );
    let long = "town ".repeat(400);
    let error = error_of(made(&model, &strings(&["in", &long]), None));
    assert_eq!(error.code, Code::ContextFull);
    assert!(
        error.message.contains("texts[1]") && error.message.contains("160"),
        "{error}"
    );
    // As many as it has positions, with both special tokens, and one more.
    let fits = ["in "; 158].concat();
    made(&model, &strings(&[&fits]), None).unwrap();
    let error = error_of(made(&model, &strings(&[&format!("{fits}in")]), None));
    assert_eq!(error.code, Code::ContextFull);
    // XLM-RoBERTa's first two positions belong to no token.
    let model = load_encoder("xlm-roberta");
    let fits = ["in"; 156].join("\n");
    let error = error_of(made(&model, &strings(&[&fits]), None));
    assert!(error.message.contains("158"), "{error}");
}

#[test]
fn a_text_without_tokens_is_named() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let error = error_of(made(&model, &strings(&["in", ""]), None));
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("texts[1] has no tokens"), "{error}");
}

#[test]
fn models_without_a_head_generate_nothing() {
    let _lock = engine_lock();
    for (name, word) in [
        ("bert", "encoder"),
        ("gemma3", "encoder"),
        ("qwen3", "no output layer"),
    ] {
        let model = load_encoder(name);
        let error = Session::new(model.clone(), SessionOptions::default());
        let error = error.err().expect("no session");
        assert_eq!(error.code, Code::Unsupported);
        assert!(error.message.contains(word), "{error}");
        let info: Value = serde_json::from_str(model.info()).unwrap();
        assert_eq!(info["generates"], false, "{name}");
        assert_eq!(
            info["embedding"]["pooling"],
            match name {
                "qwen3" => "last",
                _ => "mean",
            }
        );
        let inspected = model::inspect(
            folder_of(name).to_str().unwrap(),
            0,
            false,
            None,
            &SessionOptions::default(),
        );
        let inspected: Value = serde_json::from_str(&inspected.unwrap()).unwrap();
        assert!(inspected["estimated_bytes"].as_u64() > inspected["weight_bytes"].as_u64());
    }
    let info: Value = serde_json::from_str(load("qwen3-f32").info()).unwrap();
    assert_eq!(
        (&info["generates"], &info["embedding"]),
        (&true.into(), &Value::Null)
    );
}

#[test]
fn without_such_files_it_is_the_last_token_or_the_mean() {
    let _lock = engine_lock();
    let texts = strings(&["the town in the rain", "it was"]);
    let model = load("qwen3-f32");
    let (own, last) = (
        made(&model, &texts, None).unwrap(),
        made(&model, &texts, Some(Pooling::Last)).unwrap(),
    );
    assert_eq!(own.values, last.values);
    let folder = copy("bert");
    std::fs::remove_file(folder.path().join("modules.json")).unwrap();
    let model = load_sentence(folder.path()).unwrap();
    let (own, mean) = (
        made(&model, &texts, None).unwrap(),
        made(&model, &texts, Some(Pooling::Mean)).unwrap(),
    );
    assert_eq!(own.values, mean.values);
}

/// Of a fixture, with its modules' folders.
fn copy(name: &str) -> TempFolder {
    let (from, to) = (folder_of(name), TempFolder::new());
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            for inner in std::fs::read_dir(&path).unwrap() {
                let inner = inner.unwrap().path();
                let leaf = inner.file_name().unwrap().to_str().unwrap().to_owned();
                to.write(&format!("{file}/{leaf}"), std::fs::read(&inner).unwrap());
            }
        } else {
            to.write(&file, std::fs::read(&path).unwrap());
        }
    }
    to
}

#[test]
fn files_that_are_wrong_or_unknown_are_named_and_the_model_still_loads() {
    let _lock = engine_lock();
    let texts = strings(&["the town"]);
    let changed = |file: &str, from: &str, to: &str| {
        let folder = copy("gemma3");
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        folder.write(file, text.replacen(from, to, 1));
        folder
    };
    for (file, from, to, code, words) in [
        (
            "modules.json",
            "models.Dense",
            "models.CNN",
            Code::Unsupported,
            "models.CNN",
        ),
        (
            "modules.json",
            "[",
            "{\"a\": [",
            Code::BadModel,
            "modules.json",
        ),
        (
            "1_Pooling/config.json",
            "\"pooling_mode_max_tokens\": false",
            "\"pooling_mode_max_tokens\": true",
            Code::Unsupported,
            "max, mean",
        ),
        (
            "1_Pooling/config.json",
            "\"include_prompt\": true",
            "\"include_prompt\": false",
            Code::Unsupported,
            "include_prompt",
        ),
        (
            "2_Dense/config.json",
            "linear.Identity",
            "activation.GELU",
            Code::Unsupported,
            "GELU",
        ),
        (
            "2_Dense/config.json",
            "\"in_features\": 36",
            "\"in_features\": 37",
            Code::BadModel,
            "in_features",
        ),
        (
            "3_Dense/config.json",
            "\"out_features\": 24",
            "\"out_features\": 25",
            Code::BadModel,
            "3_Dense",
        ),
        (
            "config_sentence_transformers.json",
            "\"default_prompt_name\": \"document\"",
            "\"default_prompt_name\": \"none\"",
            Code::BadModel,
            "default_prompt_name",
        ),
    ] {
        let folder = changed(file, from, to);
        let model = load_sentence(folder.path()).unwrap();
        let error = error_of(made(&model, &texts, None));
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(words), "{error}");
        let info: Value = serde_json::from_str(model.info()).unwrap();
        assert!(
            info["warnings"].to_string().contains("embeddings"),
            "{info}"
        );
        made(&model, &texts, Some(Pooling::Mean)).unwrap();
    }
    let folder = copy("gemma3");
    std::fs::remove_file(folder.path().join("2_Dense/model.safetensors")).unwrap();
    let model = load_sentence(folder.path()).unwrap();
    assert!(error_of(made(&model, &texts, None))
        .message
        .contains("2_Dense"));
}

#[test]
fn a_saved_model_makes_the_same_embeddings() {
    let _lock = engine_lock();
    let (texts, cases) = fixtures();
    for Fixture { name, .. } in &cases {
        let (model, folder) = (load_encoder(name), TempFolder::new());
        let watch = crate::runtime::staging::SaveOptions {
            deadline: None,
            progress: &mut |_, _| true,
        };
        let path = folder.path().join("saved");
        crate::runtime::model_save::save(&model, &Vec::new(), &path, watch).unwrap();
        let again = load_sentence(&path).unwrap();
        let (own, saved) = (
            made(&model, &texts, None).unwrap(),
            made(&again, &texts, None).unwrap(),
        );
        assert_eq!(own.values, saved.values, "{name}");
    }
}

#[test]
fn progress_can_stop_it_and_leaves_nothing_behind() {
    let _lock = engine_lock();
    let (texts, _) = fixtures();
    let model = load_encoder("bert");
    made(&model, &texts, None).unwrap();
    memory::clear_cache();
    let before = memory::active();
    let mut told = Vec::new();
    let all = times(&texts, 8);
    embed(
        &model,
        &all,
        with(None, true, &mut |done, total| {
            told.push((done, total));
            true
        }),
    )
    .unwrap();
    assert!(
        told.len() > 1 && told.windows(2).all(|two| two[0].0 <= two[1].0),
        "{told:?}"
    );
    assert_eq!(told.last().map(|(done, total)| done == total), Some(true));
    for stop in 1..=told.len() {
        let mut calls = 0;
        let stopped = embed(
            &model,
            &all,
            with(None, false, &mut |_, _| {
                calls += 1;
                calls < stop
            }),
        );
        assert_eq!(error_of(stopped).code, Code::Cancelled);
    }
    let mut on = |_, _| true;
    let late = EmbedOptions {
        deadline: Some(std::time::Instant::now()),
        ..with(None, false, &mut on)
    };
    assert_eq!(error_of(embed(&model, &all, late)).code, Code::Timeout);
    // What is forgotten is forgotten in the engine's next turn.
    model.engine.call(|_| Ok(())).unwrap();
    memory::clear_cache();
    assert_eq!(memory::active(), before);
}

#[test]
fn a_limit_is_looked_at_before_each_part() {
    let _lock = engine_lock();
    let (texts, _) = fixtures();
    let model = load_encoder("modernbert");
    let limits = engine::MemoryLimits {
        memory: Some(memory::active() + 1000),
        ..Default::default()
    };
    let before = memory::limit();
    engine::set_limits(limits).unwrap();
    let error = error_of(made(&model, &texts, None));
    engine::set_limits(engine::MemoryLimits {
        memory: Some(before),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(error.code, Code::OutOfMemory, "{error}");
    made(&model, &texts, None).unwrap();
}

#[test]
fn a_suspended_library_is_told_and_one_that_is_suspended_meanwhile_waits() {
    let _lock = engine_lock();
    let (texts, _) = fixtures();
    let model = load_encoder("bert");
    engine::suspend(None).unwrap();
    assert_eq!(error_of(made(&model, &texts, None)).code, Code::Suspended);
    engine::resume().unwrap();
    let all = times(&texts, 8);
    let wanted = made(&model, &all, None).unwrap();
    let mut resuming = None;
    let got = embed(
        &model,
        &all,
        with(None, false, &mut |_, _| {
            if resuming.is_none() {
                engine::suspend(None).unwrap();
                resuming = Some(std::thread::spawn(|| {
                    std::thread::sleep(std::time::Duration::from_millis(30));
                    engine::resume().unwrap();
                }));
            }
            true
        }),
    )
    .unwrap();
    resuming.unwrap().join().unwrap();
    assert_eq!(got.values, wanted.values);
}

#[test]
fn requests_go_on_in_between() {
    let _lock = engine_lock();
    let (texts, _) = fixtures();
    let (encoder, decoder) = (load_encoder("bert"), load("qwen3-f32"));
    let alone = run(
        &session(&decoder),
        &Input::Tokens(vec![52, 106, 17]),
        &exactly(24),
    )
    .tokens;
    let all = times(&texts, 20);
    std::thread::scope(|scope| {
        let embedding = scope.spawn(|| made(&encoder, &all, None).unwrap().values);
        for _ in 0..4 {
            let given = run(
                &session(&decoder),
                &Input::Tokens(vec![52, 106, 17]),
                &computed_anew(24),
            );
            assert_eq!(given.tokens, alone);
        }
        let values = embedding.join().unwrap();
        assert_eq!(values, made(&encoder, &all, None).unwrap().values);
    });
}

#[test]
fn a_failure_of_mlx_is_tried_once_more() {
    let _lock = engine_lock();
    let texts = strings(&["the town in the rain", "it was", "no"]);
    let model = load_encoder("bert");
    let wanted = made(&model, &texts, None).unwrap().values;
    let fail = |how: fn(u64), n: u64| {
        let set = move |_: &mut crate::runtime::worker::Worker| {
            how(n);
            Ok(())
        };
        model.engine.call(set).unwrap();
    };
    let mut n = 1;
    loop {
        fail(fault::fail_at, n);
        let got = made(&model, &texts, None).map(|made| made.values);
        let struck = model.engine.call(|_| Ok(!fault::pending())).unwrap();
        fail(fault::fail_at, 0);
        assert_eq!(got.unwrap(), wanted, "call {n}");
        if !struck {
            break;
        }
        n += 1;
    }
    assert!(n > 20, "{n}");
    fail(fault::fail_from, 1);
    let error = error_of(made(&model, &texts, None));
    fail(fault::fail_at, 0);
    assert_eq!(error.code, Code::Device, "{error}");
    assert_eq!(made(&model, &texts, None).unwrap().values, wanted);
}

fn times(texts: &[String], n: usize) -> Vec<String> {
    let count = texts.len() * n;
    texts.iter().cycle().take(count).cloned().collect()
}
