//! Steps of a GPU's own kernels (`mlx/gpu`) against MLX's operations and against the same weights in f32. `make test-gpu` runs them
//! on a machine with an NVIDIA GPU; MLXRT_STEP_MODELS may name more folders, one behind the other with colons between.

use std::path::{Path, PathBuf};

use super::parity::{farthest, fixtures};
use crate::dtype::Dtype;
use crate::mlx::gpu::Best;
use crate::mlx::{self, ops, Array, Device};
use crate::model::step::COUNT;
use crate::model::{AdapterSet, Cache, Decoder, Rows, Segment};
use crate::runtime::model::decoder_for_tests;

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
    vocab: usize,
    caches: Vec<Vec<Cache>>,
    lengths: Vec<i32>,
    /// Of the last pass.
    best: Vec<Best>,
}

impl<'a> Sessions<'a> {
    fn new(decoder: &'a Decoder, vocab: usize, prompts: &[i32]) -> Self {
        Self::with_window(decoder, vocab, prompts, None)
    }

    fn with_window(
        decoder: &'a Decoder,
        vocab: usize,
        prompts: &[i32],
        window: Option<i32>,
    ) -> Self {
        let caches = prompts.iter().enumerate().map(|(at, &length)| {
            let mut caches = decoder.make_caches(window, 0);
            let prompt = tokens(vocab, at as i32 * 1000, length);
            let prompt = Array::from_i32(&prompt).unwrap();
            let adapters = AdapterSet::default();
            let hidden = decoder.forward(&prompt, &mut caches, Rows::Last, &adapters);
            mlx::eval(&[&hidden.unwrap()]).unwrap();
            caches
        });
        Sessions {
            decoder,
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
        let adapters = AdapterSet::default();
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
                adapters: &adapters,
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

/// Whether these are what MLX's operations find in f32 logits `[rows, vocab]`.
fn is_largest(best: &[Best], logits: &[f32], vocab: usize) {
    assert_eq!(best.len() * vocab, logits.len());
    for (best, row) in best.iter().zip(logits.chunks(vocab)) {
        best.ready.wait().unwrap();
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = row.iter().position(|&logit| logit == largest).unwrap();
        assert_eq!(best.levels.to_f32().unwrap(), [largest; 2]);
        assert_eq!(best.token.item_u32().unwrap() as usize, first);
    }
}

fn compare(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let path = path.to_str().unwrap();
    let (decoder, vocab) = decoder_for_tests(path, false).unwrap();
    let (wide, _) = decoder_for_tests(path, true).unwrap();
    let mut own = Sessions::new(&decoder, vocab, &PROMPTS);
    let mut plain = Sessions::new(&decoder, vocab, &PROMPTS);
    let mut truth = Sessions::new(&wide, vocab, &PROMPTS);
    let (mut own_error, mut plain_error) = (0_f32, 0_f32);
    for rows in PASSES {
        let (ours, steps) = counted(true, || own.pass(&rows));
        assert_eq!(steps, 1, "{name}: {rows:?} was no step");
        is_largest(&own.best, &ours, vocab);
        let (theirs, steps) = counted(false, || plain.pass(&rows));
        assert_eq!(steps, 0);
        let (right, _) = counted(false, || truth.pass(&rows));
        let (ours, theirs) = (farthest(&ours, &right), farthest(&theirs, &right));
        println!("{name} {rows:?}: {ours:.5} from f32, MLX's operations {theirs:.5}");
        // (Not `max`, which passes over NaN.)
        assert!(ours.is_finite(), "{name}: {rows:?}");
        own_error = own_error.max(ours);
        plain_error = plain_error.max(theirs);
    }
    assert!(
        own_error <= 1.25 * plain_error + 1e-3,
        "{name}: {own_error} from f32, where MLX's operations are {plain_error}"
    );
    // Windows that have turned, and such as turn meanwhile.
    let windows = |decoder| Sessions::with_window(decoder, vocab, &PROMPTS, Some(100));
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
    // A row does not depend on the others.
    let mut alone = Sessions::new(&decoder, vocab, &PROMPTS[..1]);
    let mut among = Sessions::new(&decoder, vocab, &PROMPTS);
    for _ in 0..3 {
        let (alone, _) = counted(true, || alone.pass(&[1]));
        let (among, _) = counted(true, || among.pass(&[1, 3, 4]));
        assert_eq!(alone, among[..alone.len()], "{name}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU: make test-gpu"]
fn steps_are_no_farther_from_the_truth_than_mlx() {
    let _engine = super::engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Gpu).unwrap();
    let more = std::env::var("MLXRT_STEP_MODELS").unwrap_or_default();
    let more = more.split(':').filter(|path| !path.is_empty());
    let paths = KNOWN.iter().map(|name| folder(name));
    let mut failed = Vec::new();
    for path in paths.chain(more.map(PathBuf::from)) {
        let work = std::panic::AssertUnwindSafe(|| compare(&path));
        if let Err(panic) = std::panic::catch_unwind(work) {
            let text = panic.downcast_ref::<String>().cloned();
            failed.push(text.unwrap_or_else(|| path.display().to_string()));
        }
    }
    mlx::leave();
    assert!(failed.is_empty(), "{failed:#?}");
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
                    const STEPS: u32 = 40;
                    let mut best = f64::INFINITY;
                    let mut all = Sessions::new(&decoder, vocab, &prompts);
                    let ((), steps) = counted(own, || {
                        for _ in 0..4 {
                            all.pass(&rows);
                            let began = std::time::Instant::now();
                            let mut last = None;
                            for _ in 0..STEPS {
                                last = Some(all.queue(&rows));
                                mlx::async_eval(&[last.as_ref().unwrap()]).unwrap();
                            }
                            mlx::eval(&[&last.unwrap()]).unwrap();
                            mlx::synchronize().unwrap();
                            best = best.min(began.elapsed().as_secs_f64() / f64::from(STEPS));
                        }
                    });
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
