//! Which experts a row goes to and how much each counts, and the sum of what they give.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, store, with_element, Element, Floats, FloatsMut};
use super::math::sigmoid;
use super::rowwise::Softmax;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd};
use super::Kernels;

/// How a row chooses. All of it is computed in f32.
#[derive(Clone, Copy)]
pub struct Routing<V> {
    pub top_k: usize,
    pub score: Score,
    /// `[experts]`, added for the choice and not to what the chosen count
    pub selection_bias: Option<V>,
    pub groups: Option<Groups>,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Weights are multiplied by this, last.
    pub scaling: f32,
}

/// What is made of the router's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts, of which the largest are chosen.
    Softmax,
    /// The largest logits are chosen; softmax over these.
    SoftmaxOfChosen,
    /// Of each logit by itself.
    Sigmoid,
}

/// Experts in groups of neighbours. A group counts as the sum of its two best; the scores of all but the best groups
/// become 0 for the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    pub n_group: usize,
    pub topk_group: usize,
}

impl<V> Routing<V> {
    pub(super) fn try_map<W, E>(
        &self,
        f: &mut impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Routing<W>, E> {
        Ok(Routing {
            top_k: self.top_k,
            score: self.score,
            selection_bias: self.selection_bias.as_ref().map(f).transpose()?,
            groups: self.groups,
            normalise: self.normalise,
            scaling: self.scaling,
        })
    }
}

impl Kernels {
    /// logits `[rows, experts]` → experts and weights `[rows, top_k]`, the best first; of equals the lower index. NaN counts
    /// as the largest: a row that holds it gets weights of NaN.
    ///
    /// Panics where there are fewer experts than are chosen, or the groups are not equally large.
    pub fn route(
        &self,
        logits: &Floats,
        routing: &Routing<Floats>,
        experts: &mut [u32],
        weights: &mut [f32],
    ) {
        let (rows, count, k) = (logits.rows(), logits.width(), routing.top_k);
        let fits = k <= count
            && experts.len() == rows * k
            && weights.len() == rows * k
            && routing
                .selection_bias
                .is_none_or(|bias| bias.rows() == 1 && bias.width() == count)
            && routing.groups.is_none_or(|groups| {
                groups.topk_group <= groups.n_group && count.checked_rem(groups.n_group) == Some(0)
            });
        assert!(fits, "route: {k} of {count} experts for {rows} rows");
        let (experts, weights) = (SharedMut::new(experts), SharedMut::new(weights));
        // Each choice looks at all scores.
        self.rows(rows, count * (k + 4), |row| {
            // SAFETY: every row has its own.
            let (experts, weights) =
                unsafe { (experts.slice(row * k, k), weights.slice(row * k, k)) };
            with_element!(logits.dtype(), E => self.path.run(Choose::<E> {
                logits: logits.row::<E>(row),
                count,
                routing,
                experts,
                weights,
            }));
        });
    }

    /// `y[r] = Σ_j weights[r, j] x[r * top_k + j] (+ sigmoid(gate[r]) shared[r])`, in f32 in the order of j, rounded once:
    /// x `[rows * top_k, width]`, weights `[rows, top_k]`, shared `[rows, width]`, its gate `[rows, 1]` or 1, y `[rows,
    /// width]`.
    ///
    /// Panics where shapes do not fit.
    pub fn weighted_sum(
        &self,
        x: &Floats,
        weights: &Floats,
        shared: Option<(&Floats, Option<&Floats>)>,
        y: &mut FloatsMut,
    ) {
        let (rows, width, k) = (y.rows(), y.width(), weights.width());
        let fits = x.rows() == rows * k
            && x.width() == width
            && weights.rows() == rows
            && shared.is_none_or(|(shared, gate)| {
                (shared.rows(), shared.width()) == (rows, width)
                    && gate.is_none_or(|gate| (gate.rows(), gate.width()) == (rows, 1))
            });
        assert!(
            fits,
            "weighted_sum: [{}, {}] by [{}, {k}] to [{rows}, {width}]",
            x.rows(),
            x.width(),
            weights.rows()
        );
        let y = &*y;
        self.rows(rows, width * (k + 1), |row| {
            let one = |of: &Floats, column| {
                with_element!(of.dtype(), E => {
                    // SAFETY: the column exists.
                    unsafe { of.row::<E>(row).add(column).read_unaligned().to_f32() }
                })
            };
            let factors: Vec<f32> = (0..k).map(|j| one(weights, j)).collect();
            let shared = shared.map(|(shared, gate)| (shared, gate.map(|gate| one(gate, 0))));
            with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(Sum::<X, Y> {
                x,
                first: row * k,
                factors: &factors,
                shared,
                row,
                y: y.row::<Y>(row),
                element: std::marker::PhantomData,
            })));
        });
    }
}

/// One row's choice.
struct Choose<'a, E> {
    logits: *const E,
    count: usize,
    routing: &'a Routing<Floats<'a>>,
    experts: &'a mut [u32],
    weights: &'a mut [f32],
}

impl<E: Element> Kernel for Choose<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (count, routing) = (self.count, self.routing);
        let mut scores = vec![0.0_f32; count];
        if routing.score == Score::Softmax {
            let softmax = Softmax {
                x: self.logits,
                y: scores.as_mut_ptr(),
                n: count,
            };
            softmax.run::<S>();
        } else {
            let mut i = 0;
            while i < count {
                let mut v = load::<S, E>(self.logits.add(i), count - i);
                if routing.score == Score::Sigmoid {
                    v = sigmoid::<S>(v);
                }
                store::<S, f32>(scores.as_mut_ptr().add(i), count - i, v);
                i += S::LANES;
            }
        }
        let mut wanted = scores.clone();
        if let Some(bias) = &routing.selection_bias {
            with_element!(bias.dtype(), B => {
                for (i, wanted) in wanted.iter_mut().enumerate() {
                    *wanted += bias.row::<B>(0).add(i).read_unaligned().to_f32();
                }
            });
        }
        if let Some(groups) = routing.groups {
            drop_groups(&mut wanted, groups);
        }
        let mut ranks: Vec<u32> = wanted.iter().map(|&x| rank(x)).collect();
        for (expert, weight) in self.experts.iter_mut().zip(self.weights.iter_mut()) {
            let best = take_best(&mut ranks);
            *expert = best as u32;
            *weight = scores[best];
        }
        if routing.score == Score::SoftmaxOfChosen {
            let chosen = self.weights.to_vec();
            let softmax = Softmax {
                x: chosen.as_ptr(),
                y: self.weights.as_mut_ptr(),
                n: chosen.len(),
            };
            softmax.run::<S>();
        }
        if routing.normalise {
            // As good as nothing beside any sum but 0.
            let sum = self.weights.iter().sum::<f32>() + 1e-20;
            self.weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        for weight in self.weights.iter_mut() {
            *weight *= routing.scaling;
        }
    }
}

/// Never a number's rank.
const TAKEN: u32 = 0;

/// Numbers that are ordered as floats are, with NaN above all; both zeros are one.
fn rank(x: f32) -> u32 {
    if x.is_nan() {
        return u32::MAX;
    }
    let bits = (x + 0.0).to_bits();
    match bits >> 31 {
        0 => bits | 1 << 31,
        _ => !bits,
    }
}

/// The index of the largest, the first of equals; it is not taken again.
fn take_best(ranks: &mut [u32]) -> usize {
    let largest = ranks.iter().copied().max().unwrap_or(TAKEN);
    let best = ranks.iter().position(|&rank| rank == largest).unwrap_or(0);
    if let Some(rank) = ranks.get_mut(best) {
        *rank = TAKEN;
    }
    best
}

fn drop_groups(scores: &mut [f32], groups: Groups) {
    let size = scores.len() / groups.n_group;
    let sum_of_best = |group: &[f32]| {
        let mut ranks: Vec<u32> = group.iter().map(|&x| rank(x)).collect();
        let two = (0..size.min(2)).map(|_| group[take_best(&mut ranks)]);
        two.sum::<f32>()
    };
    let mut ranks: Vec<u32> = scores
        .chunks_exact(size.max(1))
        .map(|group| rank(sum_of_best(group)))
        .collect();
    let mut kept = vec![false; groups.n_group];
    for _ in 0..groups.topk_group {
        kept[take_best(&mut ranks)] = true;
    }
    for (group, kept) in scores.chunks_exact_mut(size.max(1)).zip(kept) {
        if !kept {
            group.fill(0.0);
        }
    }
}

/// One row of `weighted_sum`.
struct Sum<'a, X, Y> {
    x: &'a Floats<'a>,
    /// Of this row's in x.
    first: usize,
    factors: &'a [f32],
    /// With its gate before the sigmoid.
    shared: Option<(&'a Floats<'a>, Option<f32>)>,
    row: usize,
    y: *mut Y,
    element: std::marker::PhantomData<X>,
}

impl<X: Element, Y: Element> Kernel for Sum<'_, X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.x.width();
        let mut i = 0;
        while i < width {
            let n = width - i;
            let mut sum = S::splat(0.0);
            for (j, &factor) in self.factors.iter().enumerate() {
                let x = load::<S, X>(self.x.row::<X>(self.first + j).add(i), n);
                // Rounded before it is added, on every path.
                sum = S::add(sum, S::mul(x, S::splat(factor)));
            }
            if let Some((shared, gate)) = self.shared {
                let mut x = with_element!(shared.dtype(), H => {
                    load::<S, H>(shared.row::<H>(self.row).add(i), n)
                });
                if let Some(gate) = gate {
                    x = S::mul(x, sigmoid::<S>(S::splat(gate)));
                }
                sum = S::add(sum, x);
            }
            store::<S, Y>(self.y.add(i), n, sum);
            i += S::LANES;
        }
    }
}
