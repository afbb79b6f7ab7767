use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Floats, Groups, Kernels, Path, Routing, Score};

const SCORES: [Score; 3] = [Score::Softmax, Score::SoftmaxOfChosen, Score::Sigmoid];

fn route(kernels: &Kernels, logits: &Array, routing: &Routing<Floats>) -> (Vec<u32>, Vec<f32>) {
    let len = logits.rows * routing.top_k;
    let (mut experts, mut weights) = (vec![99; len], vec![9.0; len]);
    kernels.route(&logits.view(), routing, &mut experts, &mut weights);
    (experts, weights)
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
    x.iter().map(|x| (x - largest).exp() / sum).collect()
}

/// The best first, of equals the lower index.
fn best(of: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..of.len()).collect();
    order.sort_by(|&a, &b| of[b].partial_cmp(&of[a]).expect("numbers"));
    order.truncate(k);
    order
}

/// Experts and weights of one row, in f64.
fn wanted(logits: &[f64], routing: &Routing<Floats>, bias: &[f64]) -> (Vec<usize>, Vec<f64>) {
    let scores = match routing.score {
        Score::Softmax => softmax(logits),
        Score::SoftmaxOfChosen => logits.to_vec(),
        Score::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
    };
    let mut choose: Vec<f64> = scores.clone();
    if routing.selection_bias.is_some() {
        choose.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
    if let Some(groups) = routing.groups {
        let size = logits.len() / groups.n_group;
        let sums: Vec<f64> = choose
            .chunks(size)
            .map(|group| best(group, 2).iter().map(|&i| group[i]).sum())
            .collect();
        let kept = best(&sums, groups.topk_group);
        for (group, scores) in choose.chunks_mut(size).enumerate() {
            if !kept.contains(&group) {
                scores.fill(0.0);
            }
        }
    }
    let experts = best(&choose, routing.top_k);
    let mut weights: Vec<f64> = experts.iter().map(|&expert| scores[expert]).collect();
    if routing.score == Score::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    if routing.normalise {
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    let scaling = f64::from(routing.scaling);
    weights.iter_mut().for_each(|weight| *weight *= scaling);
    (experts, weights)
}

#[test]
fn rows_choose_their_best() {
    let mut random = Random(90);
    for path in Path::available() {
        for round in 0..200 {
            let groups = random.pick(&[
                None,
                None,
                Some(Groups {
                    n_group: 4,
                    topk_group: 2,
                }),
                Some(Groups {
                    n_group: 8,
                    topk_group: 3,
                }),
            ]);
            let count = match groups {
                None => random.pick(&[1, 5, 8, 60, 128]),
                Some(_) => random.pick(&[16, 64, 8]),
            };
            let dtype = random.pick(&FLOATS);
            // Quarters: many of them are equal in 16 bits and in f32.
            let quarters = round % 3 == 0;
            let logits = Array::new(dtype, 3, count, |_, _| {
                let x = 4.0 * random.float();
                if quarters {
                    (4.0 * x).round() / 4.0
                } else {
                    x
                }
            });
            let bias = Array::new(Dtype::F32, 1, count, |_, _| {
                (8.0 * random.float()).round() / 64.0
            });
            let routing = Routing {
                top_k: 1 + random.below(count.min(8)),
                score: random.pick(&SCORES),
                selection_bias: random.pick(&[false, true]).then(|| bias.view()),
                groups,
                normalise: random.pick(&[false, true]),
                scaling: random.pick(&[1.0, 2.5]),
            };
            let (experts, weights) = route(&Kernels::with_path(path, 2), &logits, &routing);
            for row in 0..3 {
                let own: Vec<f64> = (0..count).map(|i| logits.get(row, i)).collect();
                let bias: Vec<f64> = (0..count).map(|i| bias.get(0, i)).collect();
                let (of, by) = wanted(&own, &routing, &bias);
                let part = row * routing.top_k..(row + 1) * routing.top_k;
                let (experts, weights) = (&experts[part.clone()], &weights[part]);
                // In f32 two scores may be equal, or sums of scores and bias, which in f64 are not.
                let same = experts.iter().zip(&of).all(|(&a, &b)| a as usize == b);
                let close = experts.iter().zip(&of).all(|(&a, &b)| {
                    let value = |i: usize| {
                        own[i]
                            + if routing.selection_bias.is_some() {
                                bias[i]
                            } else {
                                0.0
                            }
                    };
                    (value(a as usize) - value(b)).abs() < 1e-4
                });
                let may_tie = routing.selection_bias.is_some() || groups.is_some();
                assert!(
                    same || (may_tie && close) || (may_tie && quarters),
                    "{path:?}: {experts:?}, not {of:?}"
                );
                if same {
                    for (&got, by) in weights.iter().zip(by) {
                        assert!((f64::from(got) - by).abs() <= 4e-6 * by.abs().max(1e-3));
                    }
                }
            }
        }
    }
}

#[test]
fn of_equals_the_first_is_chosen() {
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 1);
        for score in SCORES {
            let logits = Array::new(Dtype::BF16, 1, 20, |_, i| [0.0, 1.0, -0.0][i % 3]);
            let routing = Routing {
                top_k: 9,
                score,
                selection_bias: None,
                groups: None,
                normalise: false,
                scaling: 1.0,
            };
            let (experts, _) = route(&kernels, &logits, &routing);
            assert_eq!(
                experts,
                [1, 4, 7, 10, 13, 16, 19, 0, 2],
                "{path:?} {score:?}"
            );
        }
    }
}

#[test]
fn rows_with_nan_and_infinities_choose_experts_that_exist() {
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 2);
        for score in SCORES {
            for groups in [
                None,
                Some(Groups {
                    n_group: 4,
                    topk_group: 1,
                }),
            ] {
                let logits = Array::new(Dtype::F32, 4, 16, |row, i| match (row, i) {
                    (0, _) | (1, 9) => f32::NAN,
                    (2, _) => f32::NEG_INFINITY,
                    (3, 3) => f32::INFINITY,
                    (_, i) => i as f32 / 8.0,
                });
                let routing = Routing {
                    top_k: 6,
                    score,
                    selection_bias: None,
                    groups,
                    normalise: true,
                    scaling: 1.0,
                };
                let (experts, weights) = route(&kernels, &logits, &routing);
                for row in 0..4 {
                    let mut own = experts[row * 6..(row + 1) * 6].to_vec();
                    assert!(own.iter().all(|&expert| expert < 16));
                    own.sort_unstable();
                    own.dedup();
                    assert_eq!(own.len(), 6, "{path:?}: one expert twice");
                }
                assert!(weights[..12].iter().all(|weight| weight.is_nan()));
            }
        }
    }
}

#[test]
#[should_panic(expected = "route: 5 of 4 experts")]
fn more_than_there_are_is_refused() {
    let routing = Routing {
        top_k: 5,
        score: Score::Softmax,
        selection_bias: None,
        groups: None,
        normalise: false,
        scaling: 1.0,
    };
    route(&Kernels::new(1), &Array::zeros(Dtype::F32, 1, 4), &routing);
}

#[test]
fn what_experts_give_is_summed_and_rounded_once() {
    let mut random = Random(91);
    for path in Path::available() {
        for width in [1, 16, 70] {
            let (from, to, own) = (
                random.pick(&FLOATS),
                random.pick(&FLOATS),
                random.pick(&FLOATS),
            );
            let x = Array::random(&mut random, from, 3 * 5, width);
            let weights = Array::random(&mut random, Dtype::F32, 3, 5);
            let shared = Array::random(&mut random, own, 3, width);
            let gate = Array::random(&mut random, Dtype::F32, 3, 1);
            for with in 0..3 {
                let (shared_view, gate_view) = (shared.view(), gate.view());
                let given = match with {
                    0 => None,
                    1 => Some((&shared_view, None)),
                    _ => Some((&shared_view, Some(&gate_view))),
                };
                let mut y = Array::zeros(to, 3, width);
                let kernels = Kernels::with_path(path, 2);
                kernels.weighted_sum(&x.view(), &weights.view(), given, &mut y.view_mut());
                for row in 0..3 {
                    for i in 0..width {
                        let terms = (0..5).map(|j| weights.get(row, j) * x.get(row * 5 + j, i));
                        let (mut sum, mut size) =
                            terms.fold((0.0, 0.0), |(s, z), t| (s + t, z + t.abs()));
                        let sigmoid = 1.0 / (1.0 + (-gate.get(row, 0)).exp());
                        let term = [0.0, 1.0, sigmoid][with] * shared.get(row, i);
                        sum += term;
                        size += term.abs();
                        let bound = size * 2.0_f64.powi(-20);
                        let bound = bound + (sum.abs() + bound) * rounding(to) + smallest(to);
                        assert!((y.get(row, i) - sum).abs() <= bound, "{path:?} {with}");
                    }
                }
            }
        }
    }
}
