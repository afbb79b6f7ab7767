//! Against what mlx-lm's samplers make of the same logits (tests/fixtures/samplers.json).

use safetensors::SafeTensors;
use serde_json::Value;

use super::filters;
use super::penalties::Penalties;
use super::*;
use crate::error::Result;
use crate::mlx;

struct Fixture {
    json: Value,
    bytes: Vec<u8>,
}

impl Fixture {
    fn open() -> Self {
        mlx::install_error_handler();
        mlx::enter(mlx::tested()).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");
        let json = std::fs::read(format!("{folder}samplers.json")).unwrap();
        let bytes = std::fs::read(format!("{folder}samplers.safetensors")).unwrap();
        Fixture {
            json: serde_json::from_slice(&json).unwrap(),
            bytes,
        }
    }

    /// Rows of an f32 tensor `[n, vocab]`.
    fn rows(&self, name: &str) -> Vec<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        values
            .chunks_exact(*tensor.shape().last().unwrap())
            .map(<[f32]>::to_vec)
            .collect()
    }

    fn list(&self, name: &str) -> &[Value] {
        self.json[name].as_array().unwrap()
    }
}

/// The kernels of the device that is tested: the CPU's on so many threads, or a GPU's own.
fn start(threads: usize) {
    mlx::enter(mlx::tested()).unwrap();
    if mlx::tested() == mlx::Device::Cpu {
        mlx::fast::start(crate::kernels::Kernels::new(threads));
    }
}

/// What was drawn, once it is there.
fn token(draw: &Draw) -> u32 {
    draw.outcome().unwrap();
    draw.token.item_u32().unwrap()
}

fn plain() -> Sampling {
    Sampling {
        temperature: Some(1.0),
        top_p: None,
        min_p: None,
        top_k: None,
        xtc: None,
        repetition_penalty: None,
        presence_penalty: None,
        frequency_penalty: None,
        penalty_window: Some(20),
        bias: Vec::new(),
        seed: 7,
        logprobs: None,
    }
}

fn number(args: &Value, key: &str) -> Option<f32> {
    args[key].as_f64().map(|x| x as f32)
}

/// Equal to a few units in the last place, the same entries cut.
fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            a == b || (a - b).abs() <= 2e-5 * b.abs().max(1.0),
            "{what}: [{i}] is {a}, mlx-lm has {b}"
        );
    }
}

#[test]
fn filters_keep_what_mlx_lm_keeps() {
    let fixture = Fixture::open();
    let mut checked = 0;
    for case in fixture.list("samplers") {
        let (args, out) = (&case["args"], case["out"].as_str().unwrap());
        // An option that mlxrt does not have.
        if !args["min_tokens_to_keep"].is_null() {
            continue;
        }
        let mut sampling = plain();
        sampling.top_p = number(args, "top_p").filter(|&p| p < 1.0 && p > 0.0);
        sampling.min_p = number(args, "min_p").filter(|&p| p > 0.0);
        sampling.top_k = args["top_k"].as_u64().map(|k| k as u32).filter(|&k| k > 0);
        sampling.xtc = number(args, "xtc_probability")
            .filter(|&p| p > 0.0)
            .map(|probability| Xtc {
                probability,
                threshold: number(args, "xtc_threshold").unwrap_or(0.1),
                spared: args["xtc_special_tokens"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|id| id.as_i64().unwrap() as i32)
                    .collect(),
            });
        let temperature = case["temp"].as_f64().unwrap() as f32;
        let ties = out.contains("ties") && sampling.top_k.is_some();
        for (logits, theirs) in fixture
            .rows(case["logits"].as_str().unwrap())
            .iter()
            .zip(fixture.rows(out))
        {
            let sampler = Sampler::new(sampling.clone(), &[], 0).unwrap();
            let logits = Array::from_f32(logits).unwrap();
            let total = ops::logsumexp(&logits, -1, true).unwrap();
            let ours = sampler.scaled(&logits, &total, temperature);
            let (mut ours, mut theirs) = (ours.unwrap().to_f32().unwrap(), theirs);
            if ties {
                // Which of several equals argpartition keeps is its own affair.
                ours.sort_by(f32::total_cmp);
                theirs.sort_by(f32::total_cmp);
            }
            assert_close(&ours, &theirs, out);
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} rows");
}

#[test]
fn processors_give_mlx_lms_logits() {
    let fixture = Fixture::open();
    let mut checked = 0;
    for case in fixture.list("processors") {
        let (args, out) = (&case["args"], case["out"].as_str().unwrap());
        let windows: Vec<u64> = [
            "repetition_context_size",
            "presence_context_size",
            "frequency_context_size",
        ]
        .iter()
        .filter_map(|key| args[*key].as_u64())
        .collect();
        let mut sampling = plain();
        sampling.penalty_window = Some(windows.first().map_or(20, |&window| window as usize));
        // One window serves all three penalties here.
        if windows.iter().any(|window| Some(window) != windows.first()) {
            continue;
        }
        sampling.repetition_penalty = number(args, "repetition_penalty").filter(|&p| p != 0.0);
        sampling.presence_penalty = number(args, "presence_penalty").filter(|&p| p != 0.0);
        sampling.frequency_penalty = number(args, "frequency_penalty").filter(|&p| p != 0.0);
        sampling.bias = args["logit_bias"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pair| {
                (
                    pair[0].as_i64().unwrap() as i32,
                    pair[1].as_f64().unwrap() as f32,
                )
            })
            .collect();
        let history: Vec<i32> = case["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_i64().unwrap() as i32)
            .collect();
        for (logits, theirs) in fixture
            .rows(case["logits"].as_str().unwrap())
            .iter()
            .zip(fixture.rows(out))
        {
            let logits = Array::from_f32(logits).unwrap();
            let ours = Sampler::new(sampling.clone(), &history, 0)
                .unwrap()
                .process(&logits)
                .unwrap();
            assert_close(&ours.to_f32().unwrap(), &theirs, out);
            // The same history, its last tokens pushed one by one as decoding does.
            let (given, pushed) = history.split_at(history.len() / 2);
            let mut penalties = Penalties::new(&sampling, given).unwrap();
            for &id in pushed {
                let id = mlx::ops::astype(&Array::from_i32(&[id]).unwrap(), Dtype::U32).unwrap();
                penalties.push(&id).unwrap();
            }
            if sampling.bias.is_empty() {
                assert_close(
                    &penalties.apply(&logits).unwrap().to_f32().unwrap(),
                    &theirs,
                    out,
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} rows");
}

#[test]
fn logprobs_are_the_models_own() {
    let fixture = Fixture::open();
    for case in fixture.list("logprobs") {
        let rows = fixture.rows(case["logits"].as_str().unwrap());
        for (logits, theirs) in rows.iter().zip(fixture.rows(case["out"].as_str().unwrap())) {
            let sampling = Sampling {
                logprobs: Some(5),
                temperature: None,
                bias: vec![(3, 100.0)],
                ..plain()
            };
            let draw = Sampler::new(sampling, &[], 0)
                .unwrap()
                .draw(&Array::from_f32(logits).unwrap(), None)
                .unwrap();
            assert_eq!(token(&draw), 3, "the bias decides the token");
            let logprobs = draw.logprobs.unwrap();
            assert_close(&logprobs.token.to_f32().unwrap(), &theirs[3..4], "token");
            let (_, values) = logprobs.top.unwrap();
            let mut ours = values.to_f32().unwrap();
            ours.sort_by(|a, b| b.total_cmp(a));
            let mut best = theirs.clone();
            best.sort_by(|a, b| b.total_cmp(a));
            assert_close(&ours, &best[..5], "top");
        }
    }
}

fn draws(sampling: &Sampling, logits: &[f32], n: u64) -> Result<Vec<u32>> {
    let logits = Array::from_f32(logits)?;
    (0..n)
        .map(|drawn| {
            let mut sampler = Sampler::new(sampling.clone(), &[], drawn)?;
            Ok(token(&sampler.draw(&logits, None)?))
        })
        .collect()
}

#[test]
fn frequencies_follow_the_distribution_and_the_seed() {
    let _fixture = Fixture::open();
    // p = softmax([0, 1, 2, 3] / 1.5)
    let logits = [0.0, 1.0, 2.0, 3.0f32];
    let sampling = Sampling {
        temperature: Some(1.5),
        ..plain()
    };
    let drawn = draws(&sampling, &logits, 4000).unwrap();
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / 1.5).exp()).collect();
    let total: f64 = weights.iter().sum();
    // Chi-squared with 3 degrees of freedom: 16.3 is passed by chance once in a thousand seeds, and the seed is fixed.
    let chi: f64 = (0..4u32)
        .map(|id| {
            let expected = weights[id as usize] / total * 4000.0;
            let seen = drawn.iter().filter(|&&d| d == id).count() as f64;
            (seen - expected).powi(2) / expected
        })
        .sum();
    assert!(chi < 16.3, "chi-squared {chi}");
    assert_eq!(
        drawn,
        draws(&sampling, &logits, 4000).unwrap(),
        "the same seed draws the same"
    );
    assert_ne!(
        drawn,
        draws(
            &Sampling {
                seed: 8,
                ..sampling
            },
            &logits,
            4000
        )
        .unwrap()
    );
}

#[test]
fn xtc_strikes_as_often_as_it_should() {
    let _fixture = Fixture::open();
    // The likeliest token can be drawn only when XTC does not strike.
    let logits = [5.0, 4.0, -30.0f32];
    let xtc = Some(Xtc {
        probability: 0.25,
        threshold: 0.1,
        spared: Vec::new(),
    });
    let drawn = draws(&Sampling { xtc, ..plain() }, &logits, 2000).unwrap();
    let share = drawn.iter().filter(|&&id| id == 0).count() as f64 / 2000.0;
    // 0.75 * 0.731 = 0.548, give or take 3.3 standard deviations of 0.011.
    assert!((share - 0.548).abs() < 0.037, "{share}");
}

#[test]
fn a_banned_token_never_comes() {
    let _fixture = Fixture::open();
    let sampling = Sampling {
        bias: vec![(1, f32::NEG_INFINITY)],
        ..plain()
    };
    assert!(draws(&sampling, &[0.0, 9.0, 0.0], 200)
        .unwrap()
        .iter()
        .all(|&id| id != 1));
    let k = filters::top_k(&Array::from_f32(&[1.0, 2.0, 3.0]).unwrap(), 9).unwrap();
    assert_eq!(
        k.to_f32().unwrap(),
        [1.0, 2.0, 3.0],
        "more than the vocabulary is all of it"
    );
}

#[test]
fn a_cold_draw_is_the_greedy_one_in_every_type() {
    mlx::install_error_handler();
    mlx::enter(mlx::tested()).unwrap();
    for (values, dtype, temperature) in [[-3.0, 9.0, 20.0, 1.0], [9.3, 9.2, 9.5, 9.0]]
        .into_iter()
        .flat_map(|values| [Dtype::F32, Dtype::F16, Dtype::BF16].map(|dtype| (values, dtype)))
        .flat_map(|(values, dtype)| [1e-3, 1e-5, 1e-30, 1e-45].map(|t| (values, dtype, t)))
    {
        let sampling = Sampling {
            temperature: Some(temperature),
            top_p: Some(1e-45),
            ..plain()
        };
        let logits = ops::astype(&Array::from_f32(&values).unwrap(), dtype).unwrap();
        let draw = Sampler::new(sampling, &[], 0).unwrap().draw(&logits, None);
        assert_eq!(token(&draw.unwrap()), 2, "{dtype:?} at {temperature}");
    }
}

/// Numbers from -8 to 8, of which a few stand out; no two of the first 2,048 are the same in 16 bits.
fn spread(n: usize, seed: u64) -> Vec<f32> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| mix(seed, i as u64));
    let peak = |rank: usize| if rank < 12 { 1.0 + rank as f32 } else { 0.0 };
    let mut values = vec![0.0; n];
    for (rank, &i) in order.iter().enumerate() {
        values[i] = 8.0 - 16.0 * rank as f32 / n as f32 + peak(rank);
    }
    values
}

/// One operation on the kernels gives the tokens that the plain operations give, seed by seed.
#[test]
fn the_kernel_draws_the_same_tokens() {
    mlx::install_error_handler();
    start(2);
    let (mut drawn, mut distinct) = (0, std::collections::HashSet::new());
    for (vocab, draws) in [
        (1, 3),
        (2, 20),
        (7, 40),
        (1000, 40),
        (1001, 40),
        (40_001, 8),
    ] {
        for (index, dtype) in [Dtype::F32, Dtype::BF16, Dtype::F16]
            .into_iter()
            .enumerate()
        {
            for combination in 0..32 {
                let bit = |n: u32| combination >> n & 1 == 1;
                // Which of several equals argpartition keeps is its own affair.
                let ties = dtype != Dtype::F32 && vocab > 7;
                let sampling = Sampling {
                    temperature: Some(if bit(0) { 0.3 } else { 1.5 }),
                    top_p: bit(1).then_some(if bit(4) { 0.5 } else { 0.98 }),
                    min_p: bit(2).then_some(if bit(4) { 0.2 } else { 0.001 }),
                    top_k: (bit(3) && !ties).then_some(if bit(4) { 3 } else { 600 }),
                    seed: 1000 * vocab as u64 + combination,
                    ..plain()
                };
                let logits = Array::from_f32(&spread(vocab, index as u64 + combination)).unwrap();
                let logits = ops::astype(&logits, dtype).unwrap();
                let mut sampler = Sampler::new(sampling.clone(), &[], 0).unwrap();
                let mut plain = Sampler::new(sampling.clone(), &[], 0).unwrap();
                for draw in 0..draws {
                    let token = token(&sampler.draw(&logits, None).unwrap());
                    let plain = mlx::fast::plainly(|| plain.draw(&logits, None)).unwrap();
                    let plain = plain.token.item_u32().unwrap();
                    assert_eq!(
                        token, plain,
                        "draw {draw} of {vocab} {dtype:?}, {sampling:?}"
                    );
                    drawn += 1;
                    distinct.insert((vocab, token));
                }
            }
        }
    }
    assert!(
        drawn > 10_000 && distinct.len() > 300,
        "{drawn}, {}",
        distinct.len()
    );
    mlx::leave();
}

/// On a GPU: of a real vocabulary, where many are equal at a threshold, what the CPU's kernel draws, also with tokens banned. Masses are
/// added up in another order there, so one in many draws may differ.
#[test]
fn a_gpu_draws_what_the_cpu_draws() {
    if mlx::tested() == mlx::Device::Cpu {
        return;
    }
    mlx::install_error_handler();
    start(1);
    let cpu = kernels::Kernels::new(1);
    let (mut drawn, mut other, mut distinct) = (0, 0, std::collections::HashSet::new());
    for (vocab, combination) in [32_000, 151_936, 262_144]
        .into_iter()
        .flat_map(|vocab| (0..96).map(move |combination| (vocab, combination)))
    {
        let bit = |n: u32| combination >> n & 1 == 1;
        let dtype = [Dtype::F32, Dtype::BF16, Dtype::F16][combination / 32];
        let sampling = Sampling {
            temperature: Some(if bit(0) { 0.7 } else { 1.5 }),
            top_p: bit(1).then_some(if bit(4) { 0.5 } else { 0.98 }),
            min_p: bit(2).then_some(if bit(4) { 0.2 } else { 0.001 }),
            top_k: bit(3).then_some(if bit(4) { 40 } else { 20_000 }),
            seed: 1000 * vocab as u64 + combination as u64,
            ..plain()
        };
        let logits = Array::from_f32(&spread(vocab, combination as u64)).unwrap();
        let logits = ops::astype(&logits, dtype).unwrap();
        let allowed = (0..vocab).map(|id| f32::from(u8::from(id % 3 > 0)));
        let allowed = Array::from_f32(&allowed.collect::<Vec<_>>()).unwrap();
        let allowed = bit(0).then(|| ops::astype(&allowed, Dtype::Bool).unwrap());
        let mut sampler = Sampler::new(sampling, &[], 0).unwrap();
        for _ in 0..4 {
            let how = sampler.kernel().unwrap();
            let draw = sampler.draw(&logits, allowed.as_ref()).unwrap();
            let mut known = ops::astype(&logits, Dtype::F32).unwrap().to_f32().unwrap();
            if allowed.is_some() {
                let banned = known.iter_mut().step_by(3);
                banned.for_each(|logit| *logit = f32::NEG_INFINITY);
            }
            let known = ops::astype(&Array::from_f32(&known).unwrap(), dtype).unwrap();
            let bytes = known.to_bytes().unwrap();
            let row = kernels::Floats::new(&bytes, dtype, 1, vocab).unwrap();
            let wanted = cpu.draw(&row, how);
            assert_eq!(draw.outcome().unwrap(), Outcome::Drawn);
            assert_eq!(draw.levels.to_f32().unwrap()[0], wanted.level);
            let token = token(&draw);
            assert!(allowed.is_none() || !token.is_multiple_of(3));
            other += usize::from(token != wanted.token);
            drawn += 1;
            distinct.insert(token);
        }
    }
    println!(
        "{other} of {drawn} drawn otherwise, {} different",
        distinct.len()
    );
    assert!(
        other <= drawn / 200 && distinct.len() > 200,
        "{other}, {}",
        distinct.len()
    );
    mlx::leave();
}

/// Bans, nothing left, NaN: the same as the plain operations where these give a token, and no harm elsewhere.
#[test]
fn the_kernel_and_odd_logits() {
    mlx::install_error_handler();
    start(1);
    let no = f32::NEG_INFINITY;
    let draw = |logits: &[f32], sampling: &Sampling| {
        let logits = Array::from_f32(logits).unwrap();
        let mut sampler = Sampler::new(sampling.clone(), &[], 0).unwrap();
        token(&sampler.draw(&logits, None).unwrap())
    };
    for temperature in [None, Some(1.0), Some(1e-30), Some(1e6)] {
        for top_p in [None, Some(1e-12), Some(0.999_999_9)] {
            for top_k in [None, Some(1), Some(3), Some(u32::MAX)] {
                let sampling = Sampling {
                    temperature,
                    top_p,
                    top_k,
                    ..plain()
                };
                let cases: [&[f32]; 4] = [
                    &[no, no, 1.0, no],
                    &[no, 3e38, -3e38, 0.0],
                    &[f32::MIN; 5],
                    &[0.0; 9],
                ];
                for logits in cases {
                    let token = draw(logits, &sampling);
                    let plain = mlx::fast::plainly(|| draw(logits, &sampling));
                    // Of equals the kernel's top-k keeps the first.
                    let ties = top_k.is_some() && logits[0] == logits[1] && logits[0] != no;
                    assert!(
                        token == plain || ties,
                        "{token} {plain} of {logits:?}, {sampling:?}"
                    );
                }
                for logits in [
                    [no; 4],
                    [f32::NAN; 4],
                    [f32::INFINITY; 4],
                    [1.0, f32::NAN, 2.0, no],
                ] {
                    assert!(draw(&logits, &sampling) < 4);
                }
            }
        }
    }
    mlx::leave();
}

/// On the kernels and by MLX's operations, greedy and sampled, in every type: what cannot be drawn from is told apart.
#[test]
fn nothing_is_drawn_from_what_is_not_finite() {
    mlx::install_error_handler();
    start(1);
    let (no, inf, nan) = (f32::NEG_INFINITY, f32::INFINITY, f32::NAN);
    let everything = |value: f32| (0..4).map(|id| (id, value)).collect::<Vec<_>>();
    let with = |bias: Vec<(i32, f32)>| Sampling { bias, ..plain() };
    let penalty = |repetition: f32| Sampling {
        repetition_penalty: Some(repetition),
        ..plain()
    };
    use Outcome::*;
    let cases: [(&[f32], Sampling, Outcome); 16] = [
        (&[1.0, 2.0, 3.0, 4.0], plain(), Drawn),
        (&[1.0, no, no, no], plain(), Drawn),
        (&[no; 4], plain(), NotFinite),
        (&[nan; 4], plain(), NotFinite),
        (&[1.0, nan, 2.0, 3.0], plain(), NotFinite),
        (&[1.0, inf, 2.0, 3.0], plain(), NotFinite),
        (&[nan, inf, no, 3.0], plain(), NotFinite),
        (&[1.0, 2.0, 3.0, nan], with(vec![(3, no)]), NotFinite),
        (&[1.0, 2.0, 3.0, inf], with(vec![(3, no)]), NotFinite),
        (&[1.0, 2.0, 3.0, nan], penalty(1.5), NotFinite),
        (&[1.0, 2.0, 3.0, 4.0], with(everything(no)), Banned),
        (&[1.0, no, no, no], with(vec![(0, no)]), Banned),
        (&[1.0, 2.0, 3.0, 4.0], with(everything(-100.0)), Drawn),
        (&[1.0, 2.0, 3.0, 4.0], with(everything(1e30)), Drawn),
        (&[3e3, 2.0, 3.0, 4.0], penalty(1e-36), Overflow),
        (&[3e3, 2.0, 3.0, 4.0], penalty(1e-30), Drawn),
    ];
    for (logits, sampling, wanted) in cases {
        for (temperature, xtc) in [(None, false), (Some(1.0), false), (Some(0.5), true)] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
                let sampling = Sampling {
                    temperature,
                    xtc: xtc.then(|| Xtc {
                        probability: 1.0,
                        threshold: 0.1,
                        spared: vec![],
                    }),
                    logprobs: xtc.then_some(2),
                    ..sampling.clone()
                };
                let what = format!("{logits:?} {dtype:?} {sampling:?}");
                let logits = ops::astype(&Array::from_f32(logits).unwrap(), dtype).unwrap();
                let outcome = || {
                    let mut sampler = Sampler::new(sampling.clone(), &[0, 1], 0).unwrap();
                    let draw = sampler.draw(&logits, None).unwrap();
                    let outcome = draw.outcome().unwrap();
                    assert!(draw.token.item_u32().unwrap() < 4);
                    outcome
                };
                assert_eq!(outcome(), wanted, "{what}");
                assert_eq!(mlx::fast::plainly(outcome), wanted, "plainly, {what}");
            }
        }
    }
    mlx::leave();
}

/// In 16 bits too a bias on every token changes nothing: not one of them rounds the model's numbers away.
#[test]
fn a_bias_on_every_token_changes_nothing() {
    let _fixture = Fixture::open();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let logits = ops::astype(&Array::from_f32(&[1.0, 1.25, 1.5, 1.0]).unwrap(), dtype);
        let logits = logits.unwrap();
        for value in [-60_000.0, -1000.0, 1000.0, 70_000.0] {
            let sampling = Sampling {
                temperature: None,
                bias: (0..4).map(|id| (id, value)).collect(),
                ..plain()
            };
            let draw = Sampler::new(sampling, &[], 0).unwrap().draw(&logits, None);
            assert_eq!(token(&draw.unwrap()), 2, "{dtype:?} {value}");
        }
    }
}
