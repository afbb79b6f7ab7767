//! Logits and greedy tokens against mlx-lm's on the same folders.
//!
//! Both run the same MLX primitives in the same order, so on one machine the logits are equal to the bit, in every type
//! and quantisation. The bounds leave room for another processor, whose BLAS and vector code sum in another order: 1e-4
//! absolute in f32; in 16 bits, where each operation rounds to 11 (f16) or 8 (bf16) bits of mantissa, two units in the
//! last place of a logit of 16 (standard deviation 3.5), which is less than the greedy tokens' lead.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::kernels::{Kernels, Path};
use crate::mlx::{self, Array, Device};
use crate::model::fused::COUNT;
use crate::model::{AdapterSet, Cache, Decoder, Rows};
use crate::runtime::model::decoder_for_tests;

pub fn fixtures() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

pub fn i32s(file: &SafeTensors, name: &str) -> Vec<i32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4)
        .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// A list of numbers in JSON.
pub fn i32s_of(value: &Value) -> Vec<i32> {
    let list = value.as_array().unwrap().iter();
    list.map(|number| number.as_i64().unwrap() as i32).collect()
}

pub fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

pub fn bound(dtype: &str) -> f32 {
    match dtype {
        // Of shapes that nobody chose some enlarge roundings more.
        "f32" if fresh().is_some() => 3e-4,
        "f32" => 1e-4,
        "f16" => 0.04,
        _ => 0.125,
    }
}

pub fn farthest(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .zip(theirs)
        .map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() })
        .fold(
            0.0,
            |most, d| {
                if d.is_nan() {
                    f32::NAN
                } else {
                    most.max(d)
                }
            },
        )
}

pub fn argmax(row: &[f32]) -> i32 {
    (0..row.len())
        .max_by(|&a, &b| row[a].total_cmp(&row[b]))
        .unwrap() as i32
}

struct Case {
    decoder: Decoder,
    caches: Vec<Cache>,
    vocab: usize,
}

impl Case {
    /// `wide`: with the weights' floats as f32.
    fn load(folder: &std::path::Path, wide: bool, window: Option<i32>, keep: i32) -> Case {
        let (decoder, vocab) = decoder_for_tests(folder.to_str().unwrap(), wide).unwrap();
        let caches = decoder.make_caches(window, keep);
        Case {
            decoder,
            caches,
            vocab,
        }
    }

    /// Logits f32, row-major `[n, vocab]`.
    fn feed(&mut self, tokens: &[i32]) -> Vec<f32> {
        let tokens = Array::from_i32(tokens).unwrap();
        let hidden = self
            .decoder
            .forward(&tokens, &mut self.caches, Rows::All, &AdapterSet::default())
            .unwrap();
        let logits = self
            .decoder
            .logits(&hidden, &AdapterSet::default())
            .unwrap();
        to_f32(&logits)
    }
}

fn to_f32(x: &Array) -> Vec<f32> {
    mlx::ops::astype(x, crate::dtype::Dtype::F32)
        .unwrap()
        .to_f32()
        .unwrap()
}

/// One of a fixture's runs, and what mlx-lm gave.
#[derive(Clone)]
pub struct Run {
    /// For messages.
    name: String,
    folder: PathBuf,
    pub dtype: String,
    /// Some tensors have another float type.
    retyped: bool,
    /// Where the expected logits are those of the same weights in f32: how far rounding may take others from them.
    rounding: Option<f32>,
    packed: bool,
    /// Of `families.json`.
    of_families: bool,
    window: Option<i32>,
    keep: i32,
    prompt: Vec<i32>,
    /// The first row of `prompt_logits`.
    from: usize,
    prompt_logits: Vec<f32>,
    tokens: Vec<i32>,
    step_logits: Vec<f32>,
}

/// What a decoder gave for a run; all rows of the prompt, the last row computed alone, then a row for each token.
pub struct Logits {
    vocab: usize,
    prompt: Vec<f32>,
    last: Vec<f32>,
    steps: Vec<f32>,
}

impl Run {
    fn read(case: &Value, run: &Value) -> Run {
        let name = case["name"].as_str().unwrap();
        let folder = folder_of(case);
        let file = run["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (window, keep) = match run["cache"]["kind"].as_str().unwrap() {
            "default" => (None, 0),
            _ => (
                Some(run["cache"]["max_size"].as_i64().unwrap() as i32),
                run["cache"]["keep"].as_i64().unwrap() as i32,
            ),
        };
        Run {
            name: format!("{name}/{file}"),
            folder,
            dtype: case["dtype"].as_str().unwrap().to_owned(),
            retyped: case["retype"].is_object(),
            packed: case["quantization"].is_object(),
            of_families: case["of_families"] == true,
            rounding: run["rounding"].as_f64().map(|most| most as f32),
            window,
            keep,
            prompt: i32s(&expected, "prompt"),
            from: i32s(&expected, "prompt_logits_from")[0] as usize,
            prompt_logits: f32s(&expected, "prompt_logits"),
            tokens: i32s(&expected, "tokens"),
            step_logits: f32s(&expected, "step_logits"),
        }
    }

    pub fn feed(&self, wide: bool) -> Logits {
        let mut case = Case::load(&self.folder, wide, self.window, self.keep);
        let prompt = case.feed(&self.prompt);
        // As generation does it: the last block computes the last row only.
        let mut fresh = case.decoder.make_caches(self.window, self.keep);
        let tokens = Array::from_i32(&self.prompt).unwrap();
        let last = case
            .decoder
            .next_logits(&tokens, &mut fresh, &AdapterSet::default());
        Logits {
            vocab: case.vocab,
            prompt,
            last: to_f32(&last.unwrap()),
            steps: self.tokens.iter().flat_map(|&t| case.feed(&[t])).collect(),
        }
    }

    /// For messages.
    fn on(&self, path: Path) -> Run {
        Run {
            name: format!("{} on {}", self.name, path.name()),
            ..self.clone()
        }
    }

    /// In f32. What is packed is multiplied with 23 bits of each activation, in whole numbers.
    fn bound_on_kernels(&self) -> f32 {
        match self.packed && self.of_families {
            true => 5.0 * bound("f32"),
            false => bound("f32"),
        }
    }

    /// By how much our farthest logit may be farther off than theirs. Norms behind the parts enlarge what is rounded before them,
    /// so that the farthest of some hundred is much a matter of chance; and where experts are chosen, a rounding may choose
    /// others, which the arithmetic that `rounding` was simulated with need not.
    fn slack(&self) -> f32 {
        match (self.rounding, self.of_families) {
            // Other experts are chosen for tokens of the prompt, which all later ones see.
            (Some(_), _) if self.name.starts_with("laguna-bf16/expected-long") => 20.0,
            (Some(_), _) => 3.0,
            (None, true) => 1.5,
            (None, false) => 1.0,
        }
    }

    /// mlx-lm rounds to 16 bits where we do not.
    fn rounds_otherwise(&self) -> bool {
        let families = ["muse_glimmer", "qwen3_5"];
        families.iter().any(|family| self.name.starts_with(family))
    }

    /// On MLX's own operations.
    pub fn check_plain(&self) {
        match self.rounding {
            // Where other roundings are made on the way, ours may not be off by more.
            None if self.dtype == "bf16" && self.rounds_otherwise() => {
                self.check_to_exact(&self.feed(false), &self.feed(true));
            }
            None => self.check(&self.feed(false), bound(&self.dtype)),
            // Of 16-bit experts MLX's own operations on the CPU are no measure: another rounding may choose other experts.
            Some(_) => self.check(&self.feed(true), bound("f32")),
        }
    }

    pub fn check(&self, ours: &Logits, bound: f32) {
        let (name, vocab) = (&self.name, ours.vocab);
        let worst = farthest(&ours.prompt[self.from * vocab..], &self.prompt_logits);
        assert!(
            worst <= bound,
            "{name}: prompt logits differ by {worst}, allowed {bound}"
        );
        let worst = farthest(&ours.last, ours.last_of_prompt());
        assert!(
            worst <= bound,
            "{name}: the last row alone differs by {worst}"
        );
        let rows = ours.steps.chunks_exact(vocab);
        for (i, (ours, theirs)) in rows.zip(self.step_logits.chunks_exact(vocab)).enumerate() {
            let worst = farthest(ours, theirs);
            assert!(
                worst <= bound,
                "{name}: logits of step {i} differ by {worst}, allowed {bound}"
            );
        }
        self.check_tokens(ours);
    }

    /// Not farther from exact logits than mlx-lm's are, by their farthest (see `slack`), and a greedy token that is not mlx-lm's is a tie: its exact logit
    /// is as near to the other's as the errors of both are together. Gives how many greedy tokens, and how many of
    /// mlx-lm's, are those of the exact logits.
    fn check_to_exact(&self, ours: &Logits, exact: &Logits) -> (usize, usize) {
        let (name, from) = (&self.name, self.from * ours.vocab);
        let theirs = match self.rounding {
            Some(rounding) => rounding,
            None => farthest(&self.prompt_logits, &exact.prompt[from..])
                .max(farthest(&self.step_logits, &exact.steps)),
        };
        let worst = farthest(&ours.prompt[from..], &exact.prompt[from..])
            .max(farthest(&ours.last, exact.last_of_prompt()))
            .max(farthest(&ours.steps, &exact.steps));
        let allowed = theirs * self.slack();
        assert!(
            worst <= allowed,
            "{name}: the kernels' logits are off by {worst}, mlx-lm's by {theirs}"
        );
        let (own, right) = (ours.tokens(), exact.tokens());
        let same = |a: &[i32], b: &[i32]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        for (i, (&a, &b)) in own.iter().zip(&self.tokens).enumerate() {
            let row = exact.row_of_token(i);
            let gap = (row[a as usize] - row[b as usize]).abs();
            assert!(
                a == b || gap <= worst + theirs,
                "{name}: greedy token {i} is {a} and not {b}, whose exact logit is {gap} away; allowed {worst} + {theirs}"
            );
        }
        (same(&own, &right), same(&self.tokens, &right))
    }

    fn check_tokens(&self, ours: &Logits) {
        for (i, (own, token)) in ours.tokens().iter().zip(&self.tokens).enumerate() {
            assert_eq!(own, token, "{}: greedy token {i}", self.name);
        }
    }
}

impl Logits {
    fn last_of_prompt(&self) -> &[f32] {
        &self.prompt[self.prompt.len() - self.vocab..]
    }

    /// The logits that greedy token `i` is the greatest of: after the prompt, then after each step.
    fn row_of_token(&self, i: usize) -> &[f32] {
        match i.checked_sub(1) {
            None => self.last_of_prompt(),
            Some(step) => &self.steps[step * self.vocab..(step + 1) * self.vocab],
        }
    }

    fn tokens(&self) -> Vec<i32> {
        let count = 1 + self.steps.len() / self.vocab;
        (0..count).map(|i| argmax(self.row_of_token(i))).collect()
    }
}

#[test]
fn every_fixture_gives_mlx_lms_logits_and_tokens() {
    // What others measure of MLX's memory is the process's.
    let _lock = super::engine_lock();
    mlx::install_error_handler();
    mlx::enter(mlx::tested()).unwrap();
    for_each_run(Run::check_plain);
    mlx::leave();
}

/// On every path of this machine. In f32 bounds and tokens are those above. In 16 bits the kernels round less often than
/// MLX's operations do, so the two are farther apart than two orders of sums are; both are off the logits of the same
/// weights computed in f32. The kernels' must not be farther off than mlx-lm's, and their greedy tokens not less often
/// those of the f32 logits. A token that is not mlx-lm's is one of two that rounding cannot tell apart: their f32 logits
/// are no farther from each other than the two errors together. All others are mlx-lm's.
#[test]
fn every_fixture_gives_logits_as_good_on_the_cpus_kernels() {
    // What others measure of MLX's memory is the process's.
    let _lock = super::engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let mut right = (0, 0);
    for_each_run(|run| {
        let exact = (run.dtype != "f32").then(|| run.feed(true));
        for (path, threads) in Path::available().zip([1, 3, 2, 4].into_iter().cycle()) {
            mlx::fast::start(Kernels::with_path(path, threads));
            let ours = run.feed(false);
            let run = run.on(path);
            match &exact {
                None => run.check(&ours, run.bound_on_kernels()),
                Some(exact) => {
                    let (own, theirs) = run.check_to_exact(&ours, exact);
                    right = (right.0 + own, right.1 + theirs);
                }
            }
            mlx::leave();
            mlx::enter(Device::Cpu).unwrap();
        }
    });
    mlx::leave();
    let (ours, theirs) = right;
    assert!(
        ours >= theirs && (theirs > 500 || fresh().is_some()),
        "{ours} tokens are right, and {theirs} of mlx-lm's"
    );
}

/// The plain path, operation by operation, is what the one operation of a block is held to.
#[test]
fn a_block_in_one_operation_gives_the_bits_of_its_parts() {
    // What others measure of MLX's memory is the process's.
    let _lock = super::engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    mlx::fast::start(Kernels::new(2));
    let (mut fused, mut all) = (0, 0);
    for_each_run(|run| {
        COUNT.set(Some(0));
        let together = run.feed(false);
        // It has experts beside its MLPs, and its values are normed: the kernels know neither.
        if !run.retyped && !run.name.starts_with("gemma4-") {
            fused += usize::from(COUNT.get() > Some(0));
            all += 1;
        }
        COUNT.set(None);
        let apart = run.feed(false);
        for (part, together, apart) in [
            ("prompt", together.prompt, apart.prompt),
            ("last row", together.last, apart.last),
            ("steps", together.steps, apart.steps),
        ] {
            assert!(together == apart, "{}: other bits in the {part}", run.name);
        }
    });
    COUNT.set(Some(0));
    mlx::leave();
    assert!(
        fused == all,
        "only {fused} of {all} models had a block in one operation"
    );
}

/// Fresh ones are where they were made.
fn folder_of(case: &Value) -> PathBuf {
    let root = fresh().unwrap_or_else(fixtures);
    root.join("models").join(case["name"].as_str().unwrap())
}

/// Folders of other shapes, in place of the committed ones (`tests/fixtures/fresh.py`).
fn fresh() -> Option<PathBuf> {
    std::env::var_os("MLXRT_TEST_FRESH").map(PathBuf::from)
}

/// Every model folder that mlx-lm computed.
pub fn cases() -> Vec<Value> {
    if let Some(fresh) = fresh() {
        let list = std::fs::read(fresh.join("cases.json")).unwrap();
        let Value::Array(all) = serde_json::from_slice(&list).unwrap() else {
            panic!("cases.json is no list");
        };
        return all;
    }
    let Value::Array(mut all) = json("cases.json") else {
        panic!("cases.json is no list");
    };
    let Value::Array(families) = json("families.json") else {
        panic!("families.json is no list");
    };
    all.extend(families.into_iter().map(|mut case| {
        case["of_families"] = true.into();
        case
    }));
    all
}

/// Goes on after one that fails, to tell of all.
pub fn for_each_run(mut work: impl FnMut(&Run)) {
    let only = std::env::var("MLXRT_TEST_MODELS").unwrap_or_default();
    let (mut runs, mut failed) = (0, Vec::new());
    for case in cases() {
        if !case["name"].as_str().unwrap().contains(&only) {
            continue;
        }
        for run in case["runs"].as_array().unwrap() {
            let run = Run::read(&case, run);
            if catch_unwind(AssertUnwindSafe(|| work(&run))).is_err() {
                failed.push(run.name);
            }
            runs += 1;
        }
    }
    let all = only.is_empty() && fresh().is_none();
    assert!(runs >= 160 || !all, "only {runs} runs");
    assert!(failed.is_empty(), "{} of {runs}: {failed:?}", failed.len());
}

/// Training computes so: weights are unpacked to the bytes that were loaded, and MLX's own operations do the rest.
#[test]
fn without_the_kernels_packed_weights_give_the_same_bits() {
    // What others measure of MLX's memory is the process's.
    let _lock = super::engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let mut packed = 0;
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let folder = folder_of(&case);
        let fed = || {
            let mut case = Case::load(&folder, false, None, 0);
            mlx::fast::plainly(|| case.feed(&tokens))
        };
        let plain = fed();
        mlx::fast::start(Kernels::new(2));
        assert_eq!(fed(), plain, "{name}");
        mlx::leave();
        mlx::enter(Device::Cpu).unwrap();
        packed += usize::from(name.contains("bit") || name.contains("fp"));
    }
    assert!(packed >= 2 || fresh().is_some(), "only {packed} are packed");
    mlx::leave();
}
