//! Steps of a GPU's own kernels (`mlx/gpu`) against MLX's operations and against the same weights in f32. `make test-gpu` runs them
//! on a machine with an NVIDIA GPU; MLXRT_STEP_MODELS may name more folders, one behind the other with colons between.

use std::path::{Path, PathBuf};

use super::parity::{farthest, fixtures};
use crate::dtype::Dtype;
use crate::load::ModuleShape;
use crate::mlx::gpu::Best;
use crate::mlx::{self, ops, Array, Device};
use crate::model::adapter::{Adapter, Part};
use crate::model::step::COUNT;
use crate::model::{AdapterSet, Cache, Decoder, Rows, Segment};
use crate::runtime::model::{decoder_for_tests, modules_for_tests};

/// Fixtures that the kernels know all of.
const KNOWN: [&str; 3] = ["llama-4bit-bf16", "qwen3-4bit-bf16", "qwen3-4bit-f16"];

/// Rows of each session in the passes that are compared.
const PASSES: [[i32; 3]; 6] = [
    [1, 0, 0],
    [1, 1, 0],
    [1, 1, 1],
    [1, 4, 1],
    [6, 1, 1],
    [0, 0, 8],
];
/// Tokens of each session before them.
const PROMPTS: [i32; 3] = [5, 97, 700];

fn folder(name: &str) -> PathBuf {
    fixtures().join("models").join(name)
}

/// Some tokens, the same for the same numbers.
fn tokens(vocab: usize, from: i32, count: i32) -> Vec<i32> {
    let some = |i: i32| (i64::from(i) * 7919 + 13) % vocab.min(30_000) as i64;
    (from..from + count).map(|i| some(i) as i32).collect()
}

fn to_f32(x: &Array) -> Vec<f32> {
    ops::astype(x, Dtype::F32).unwrap().to_f32().unwrap()
}

struct Sessions<'a> {
    decoder: &'a Decoder,
    /// Of each session, or none of any.
    sets: &'a [AdapterSet],
    vocab: usize,
    caches: Vec<Vec<Cache>>,
    lengths: Vec<i32>,
    /// Of the last pass.
    best: Vec<Best>,
}

impl<'a> Sessions<'a> {
    fn new(decoder: &'a Decoder, vocab: usize, prompts: &[i32]) -> Self {
        Self::with(decoder, vocab, prompts, None, &[])
    }

    fn with(
        decoder: &'a Decoder,
        vocab: usize,
        prompts: &[i32],
        window: Option<i32>,
        sets: &'a [AdapterSet],
    ) -> Self {
        let none = AdapterSet::default();
        let caches = prompts.iter().enumerate().map(|(at, &length)| {
            let mut caches = decoder.make_caches(window, 0);
            let prompt = tokens(vocab, at as i32 * 1000, length);
            let prompt = Array::from_i32(&prompt).unwrap();
            let set = sets.get(at).unwrap_or(&none);
            let hidden = decoder.forward(&prompt, &mut caches, Rows::Last, set);
            mlx::eval(&[&hidden.unwrap()]).unwrap();
            caches
        });
        Sessions {
            decoder,
            sets,
            vocab,
            caches: caches.collect(),
            lengths: prompts.to_vec(),
            best: Vec::new(),
        }
    }

    /// So many more tokens of each → f32 logits behind each of them.
    fn pass(&mut self, rows: &[i32]) -> Vec<f32> {
        to_f32(&self.queue(rows))
    }

    fn queue(&mut self, rows: &[i32]) -> Array {
        let (none, sets) = (AdapterSet::default(), self.sets);
        let mut all = Vec::new();
        let mut segments = Vec::new();
        for (at, (caches, &rows)) in self.caches.iter_mut().zip(rows).enumerate() {
            if rows == 0 {
                continue;
            }
            let length = &mut self.lengths[at];
            all.extend(tokens(self.vocab, at as i32 * 1000 + *length, rows));
            *length += rows;
            segments.push(Segment {
                rows,
                wanted: rows,
                caches,
                adapters: sets.get(at).unwrap_or(&none),
            });
        }
        let all = Array::from_i32(&all).unwrap();
        let next = self.decoder.next_rows(&all, &mut segments).unwrap();
        let logits = next.logits;
        self.best = (0..).map_while(|row| logits.best(row).cloned()).collect();
        logits.all
    }
}

/// What `work` gives, and how many steps it took; `steps`: with our kernels.
fn counted<T>(steps: bool, work: impl FnOnce() -> T) -> (T, usize) {
    COUNT.set(steps.then_some(0));
    let made = work();
    let count = COUNT.replace(Some(0)).unwrap_or(0);
    (made, count)
}

/// Whether these are what MLX's operations find in f32 logits `[rows, vocab]`; none where something is still done to the logits.
fn is_largest(best: &[Best], logits: &[f32], vocab: usize) {
    assert!(best.is_empty() || best.len() * vocab == logits.len());
    for (best, row) in best.iter().zip(logits.chunks(vocab)) {
        best.ready.wait().unwrap();
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = row.iter().position(|&logit| logit == largest).unwrap();
        assert_eq!(best.levels.to_f32().unwrap(), [largest; 2]);
        assert_eq!(best.token.item_u32().unwrap() as usize, first);
    }
}

/// Whether a key of a config.json has a number.
fn is_set(config: &str, key: &str) -> bool {
    let value = config.split(&format!("\"{key}\":")).nth(1);
    value.is_some_and(|value| value.trim_start().starts_with(|c: char| c.is_ascii_digit()))
}

fn compare(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let path = path.to_str().unwrap();
    let (decoder, vocab) = decoder_for_tests(path, false).unwrap();
    let (wide, _) = decoder_for_tests(path, true).unwrap();
    let mut own = Sessions::new(&decoder, vocab, &PROMPTS);
    let mut plain = Sessions::new(&decoder, vocab, &PROMPTS);
    let mut truth = Sessions::new(&wide, vocab, &PROMPTS);
    let config = std::fs::read_to_string(Path::new(path).join("config.json")).unwrap();
    let (windows, experts) = (
        is_set(&config, "sliding_window"),
        config.contains("experts"),
    );
    let (mut own_errors, mut plain_errors) = (Vec::new(), Vec::new());
    for rows in PASSES {
        let (ours, steps) = counted(true, || own.pass(&rows));
        // What the kernels do not know: several rows in a ring.
        let known = !windows || rows.iter().all(|&rows| rows <= 1);
        assert!(steps == 1 || !known, "{name}: {rows:?} was no step");
        is_largest(&own.best, &ours, vocab);
        let (theirs, steps) = counted(false, || plain.pass(&rows));
        assert_eq!(steps, 0);
        let (right, _) = counted(false, || truth.pass(&rows));
        // (A maximum would pass over NaN.)
        assert!(ours.iter().all(|x| x.is_finite()), "{name}: {rows:?}");
        let errors = |of: &[f32]| -> Vec<f32> {
            let rows = of.chunks(vocab).zip(right.chunks(vocab));
            rows.map(|(of, right)| farthest(of, right)).collect()
        };
        let (ours, theirs) = (errors(&ours), errors(&theirs));
        println!("{name} {rows:?}: {ours:.3?} from f32, MLX's operations {theirs:.3?}");
        own_errors.extend(ours);
        plain_errors.extend(theirs);
    }
    // An expert that is chosen otherwise for a rounding is a large error on either side, here or there.
    let error = |mut of: Vec<f32>| {
        of.sort_by(f32::total_cmp);
        let at = if experts { of.len() / 2 } else { of.len() - 1 };
        of[at]
    };
    let (own_error, plain_error) = (error(own_errors), error(plain_errors));
    assert!(
        own_error <= 1.25 * plain_error + 1e-3,
        "{name}: {own_error} from f32, where MLX's operations are {plain_error}"
    );
    if experts {
        return;
    }
    // Windows that have turned, and such as turn meanwhile.
    let windows = |decoder| Sessions::with(decoder, vocab, &PROMPTS, Some(100), &[]);
    let (mut own, mut plain) = (windows(&decoder), windows(&decoder));
    let mut truth = windows(&wide);
    for _ in 0..6 {
        let (ours, steps) = counted(true, || own.pass(&[1; 3]));
        assert_eq!(steps, 1, "{name}: windows were no step");
        let (theirs, _) = counted(false, || plain.pass(&[1; 3]));
        let (right, _) = counted(false, || truth.pass(&[1; 3]));
        let (ours, theirs) = (farthest(&ours, &right), farthest(&theirs, &right));
        assert!(
            ours <= 1.25 * theirs.max(plain_error) + 1e-3,
            "{name}: {ours} from f32 in a window, where MLX's operations are {theirs}"
        );
    }
}

/// A row does not depend on the others.
fn compare_rows(path: &Path) {
    let name = path.display();
    let (decoder, vocab) = decoder_for_tests(path.to_str().unwrap(), false).unwrap();
    let config = std::fs::read_to_string(path.join("config.json")).unwrap();
    let others = match is_set(&config, "sliding_window") {
        true => [1, 1, 1],
        false => [1, 3, 4],
    };
    let mut alone = Sessions::new(&decoder, vocab, &PROMPTS[..1]);
    let mut among = Sessions::new(&decoder, vocab, &PROMPTS);
    for _ in 0..3 {
        let (alone, _) = counted(true, || alone.pass(&[1]));
        let (among, steps) = counted(true, || among.pass(&others));
        assert_eq!(steps, 1, "{name}");
        assert_eq!(alone, among[..alone.len()], "{name}");
    }
}

/// Low-rank parts beside all linear layers that `wanted` names, with numbers that change an answer.
fn adapter(path: &str, (rank, dtype): (i32, Dtype), wanted: impl Fn(&str) -> bool) -> Adapter {
    let mut parts = Vec::new();
    for module in modules_for_tests(path).unwrap() {
        let ModuleShape::Linear { input, output, .. } = module.shape else {
            continue;
        };
        if !wanted(&module.name) {
            continue;
        }
        let wave = |rows: i32, columns: i32, by: f32| {
            let numbers = (0..rows * columns).map(|i| 0.1 * (by * i as f32 + rank as f32).sin());
            let numbers = Array::from_f32(&numbers.collect::<Vec<_>>()).unwrap();
            let rounded = ops::astype(&numbers, Dtype::BF16).unwrap();
            let numbers = ops::astype(&rounded, dtype).unwrap();
            ops::reshape(&numbers, &[rows, columns]).unwrap()
        };
        let part = Part::Low {
            a: wave(input, rank, 0.7),
            b: wave(rank, output, 1.3),
            scale: 0.5,
            magnitude: None,
            tied: false,
        };
        parts.push((module.site, part));
    }
    assert!(!parts.is_empty());
    Adapter::new(parts)
}

/// Sessions with adapters of their own share steps.
fn compare_adapters(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let path = path.to_str().unwrap();
    let (decoder, vocab) = decoder_for_tests(path, false).unwrap();
    let (wide, _) = decoder_for_tests(path, true).unwrap();
    let sets = |decoder: &Decoder, dtype| -> Vec<AdapterSet> {
        let all = |name: &str| name != "lm_head";
        let some = |name: &str| name.contains("q_proj") || name.contains("down_proj");
        let mut adapters = [
            adapter(path, (16, dtype), all),
            adapter(path, (8, dtype), some),
        ];
        let mut sets: Vec<_> = (0..3).map(|_| AdapterSet::default()).collect();
        for (adapter, set) in adapters.iter_mut().zip(&mut sets) {
            decoder.add_adapter(set, adapter, 1.0).unwrap();
        }
        sets
    };
    let (own_sets, wide_sets) = (sets(&decoder, Dtype::BF16), sets(&wide, Dtype::F32));
    let with = |decoder, sets| Sessions::with(decoder, vocab, &PROMPTS, None, sets);
    let (mut own, mut plain) = (with(&decoder, &own_sets), with(&decoder, &own_sets));
    let mut truth = with(&wide, &wide_sets);
    let mut without = Sessions::new(&decoder, vocab, &PROMPTS);
    for rows in [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [4, 3, 1]] {
        let (ours, steps) = counted(true, || own.pass(&rows));
        assert_eq!(steps, 1, "{name}: adapters were no step");
        let (theirs, _) = counted(false, || plain.pass(&rows));
        let (right, _) = counted(false, || truth.pass(&rows));
        let (base, _) = counted(true, || without.pass(&rows));
        let moved = farthest(&base, &right);
        let (ours, theirs) = (farthest(&ours, &right), farthest(&theirs, &right));
        println!("{name} with adapters {rows:?}: {ours:.5} from f32, MLX's operations {theirs:.5}, none {moved:.3}");
        assert!(
            ours <= 1.5 * theirs + 1e-2 && ours.is_finite(),
            "{name} with adapters: {ours} from f32, where MLX's operations are {theirs}"
        );
        assert!(
            rows[0] == 0 || moved > 1.5 * ours,
            "{name}: adapters change nothing"
        );
    }
}

/// Checks these folders on the GPU, and those that the variable names, one after the other whatever fails.
fn check_each(known: &[&str], variable: &str, check: impl Fn(&Path)) {
    let _engine = super::engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Gpu).unwrap();
    let more = std::env::var(variable).unwrap_or_default();
    let more = more.split(':').filter(|path| !path.is_empty());
    let paths = known.iter().map(|name| folder(name));
    let mut failed = Vec::new();
    for path in paths.chain(more.map(PathBuf::from)) {
        let work = std::panic::AssertUnwindSafe(|| check(&path));
        if let Err(panic) = std::panic::catch_unwind(work) {
            let text = panic.downcast_ref::<String>().cloned();
            failed.push(text.unwrap_or_else(|| path.display().to_string()));
        }
    }
    mlx::leave();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
#[ignore = "needs an NVIDIA GPU: make test-gpu"]
fn adapters_are_parts_of_steps() {
    let known = ["llama-4bit-bf16", "qwen3-4bit-bf16"];
    check_each(&known, "MLXRT_ADAPTED_MODELS", compare_adapters);
}

#[test]
#[ignore = "needs an NVIDIA GPU: make test-gpu"]
fn steps_are_no_farther_from_the_truth_than_mlx() {
    check_each(&KNOWN, "MLXRT_STEP_MODELS", |path| {
        compare(path);
        compare_rows(path);
    });
}

/// How long so many passes take, each.
fn time_of(sessions: &mut Sessions, rows: &[i32]) -> std::time::Duration {
    const STEPS: u32 = 40;
    let mut best = std::time::Duration::MAX;
    for _ in 0..4 {
        sessions.pass(rows);
        let began = std::time::Instant::now();
        let mut last = None;
        for _ in 0..STEPS {
            last = Some(sessions.queue(rows));
            mlx::async_eval(&[last.as_ref().unwrap()]).unwrap();
        }
        mlx::eval(&[&last.unwrap()]).unwrap();
        mlx::synchronize().unwrap();
        best = best.min(began.elapsed() / STEPS);
    }
    best
}

/// What a step's kernels take, each by what a step without it is shorter by: lines of JSON. MLXRT_STEP_MODELS names folders.
#[test]
#[ignore = "a measurement"]
fn what_each_kernel_takes() {
    const KERNELS: [&str; 13] = [
        "embed",
        "project",
        "attention",
        "residual",
        "gated",
        "route",
        "gated_experts",
        "combine",
        "normalise",
        "add_normed",
        "head",
        "pick",
        "none",
    ];
    check_each(&[], "MLXRT_STEP_MODELS", |path| {
        let (mut decoder, vocab) = decoder_for_tests(path.to_str().unwrap(), false).unwrap();
        for sessions in [1, 8] {
            let mut times = Vec::new();
            for left_out in KERNELS {
                decoder.step_without(Some(left_out)).unwrap();
                let mut all = Sessions::new(&decoder, vocab, &vec![512; sessions]);
                let rows = vec![1; sessions];
                let (time, steps) = counted(true, || time_of(&mut all, &rows));
                assert!(steps > 0, "no steps");
                times.push((left_out, time.as_secs_f64() * 1e6));
            }
            let whole = times.last().unwrap().1;
            let each: serde_json::Map<_, _> = times
                .iter()
                .map(|(name, time)| {
                    (
                        name.to_string(),
                        serde_json::json!(((whole - time) * 10.0).round() / 10.0),
                    )
                })
                .collect();
            let name = path.file_name().unwrap().to_string_lossy();
            println!(
                "{}",
                serde_json::json!({"model": name, "sessions": sessions, "us": whole.round(), "less without": each})
            );
        }
    });
}

/// Times of a step, by rows and by what is before: for benches, as lines of JSON. MLXRT_BENCH_MODEL names the folder.
#[test]
#[ignore = "a measurement"]
fn what_steps_take() {
    let folder = std::env::var("MLXRT_BENCH_MODEL").unwrap();
    mlx::install_error_handler();
    mlx::enter(Device::Gpu).unwrap();
    {
        let (decoder, vocab) = decoder_for_tests(&folder, false).unwrap();
        for before in [16, 512, 2048] {
            for sessions in [1, 2, 4, 8] {
                for own in [true, false] {
                    let prompts = vec![before; sessions];
                    let rows = vec![1; sessions];
                    let mut all = Sessions::new(&decoder, vocab, &prompts);
                    let (best, steps) = counted(own, || time_of(&mut all, &rows));
                    let best = best.as_secs_f64();
                    println!(
                        "{}",
                        serde_json::json!({
                            "before": before, "sessions": sessions, "own": steps > 0, "us": (best * 1e6).round(),
                        })
                    );
                }
            }
        }
    }
    mlx::leave();
}
