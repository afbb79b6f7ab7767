//! Texts in one call give what each gives alone; layer norms and gelu are what their formulas say.

use super::support::{Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{
    Activation, AttentionOptions, Floats, HeadShape, Heads, HeadsMut, Kernels, Path, Texts, Visible,
};

const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const DIM: usize = 20;

fn heads(array: &Array, heads: usize, first: usize, tokens: usize) -> Heads<'_> {
    let size = array.dtype.size() as usize;
    let bytes = &array.bytes[first * heads * DIM * size..(first + tokens) * heads * DIM * size];
    Heads::new(
        bytes,
        array.dtype,
        HeadShape::tokens_first(heads, tokens, DIM),
    )
    .expect("sizes")
}

#[test]
fn attention_of_texts_is_that_of_each() {
    let mut random = Random(70);
    for round in 0..12 {
        let lengths: Vec<usize> = (0..random.below(7) + 1)
            .map(|_| random.below(90) + 1)
            .collect();
        let n: usize = lengths.iter().sum();
        let dtype = FLOATS[round % 3];
        let queries = Array::random(&mut random, dtype, n, HEADS * DIM);
        let keys = Array::random(&mut random, dtype, n, KV_HEADS * DIM);
        let values = Array::random(&mut random, dtype, n, KV_HEADS * DIM);
        let visible = [
            Visible::All,
            Visible::Causal { window: None },
            Visible::Causal { window: Some(7) },
        ][round % 3];
        let options = AttentionOptions {
            scale: 0.3,
            visible,
            softcap: (round % 2 == 0).then_some(4.0),
            sinks: None,
        };
        for path in Path::available() {
            let kernels = Kernels::with_path(path, 2);
            let mut together = Array::zeros(dtype, n, HEADS * DIM);
            let shape = HeadShape::tokens_first(HEADS, n, DIM);
            let mut out = HeadsMut::new(&mut together.bytes, dtype, shape).expect("sizes");
            let texts = Texts {
                lengths: &lengths,
                visible,
            };
            kernels.attention_of_texts(
                [
                    &heads(&queries, HEADS, 0, n),
                    &heads(&keys, KV_HEADS, 0, n),
                    &heads(&values, KV_HEADS, 0, n),
                ],
                &texts,
                options,
                &mut out,
            );
            let (mut first, mut alone) = (0, Vec::new());
            for &length in &lengths {
                let mut own = Array::zeros(dtype, length, HEADS * DIM);
                let shape = HeadShape::tokens_first(HEADS, length, DIM);
                kernels.attention(
                    &heads(&queries, HEADS, first, length),
                    &heads(&keys, KV_HEADS, first, length),
                    &heads(&values, KV_HEADS, first, length),
                    options,
                    &mut HeadsMut::new(&mut own.bytes, dtype, shape).expect("sizes"),
                );
                alone.extend(own.bytes);
                first += length;
            }
            assert!(together.bytes == alone, "{path:?} {dtype:?} {lengths:?}");
        }
    }
}

#[test]
fn a_window_on_both_sides_sees_what_is_near() {
    let mut random = Random(71);
    let (n, window) = (90, 5);
    let queries = Array::random(&mut random, Dtype::F32, n, HEADS * DIM);
    let keys = Array::random(&mut random, Dtype::F32, n, KV_HEADS * DIM);
    let values = Array::random(&mut random, Dtype::F32, n, KV_HEADS * DIM);
    let options = AttentionOptions {
        scale: 0.3,
        visible: Visible::Near { window },
        softcap: None,
        sinks: None,
    };
    for path in Path::available() {
        let mut made = Array::zeros(Dtype::F32, n, HEADS * DIM);
        let shape = HeadShape::tokens_first(HEADS, n, DIM);
        Kernels::with_path(path, 2).attention(
            &heads(&queries, HEADS, 0, n),
            &heads(&keys, KV_HEADS, 0, n),
            &heads(&values, KV_HEADS, 0, n),
            options,
            &mut HeadsMut::new(&mut made.bytes, Dtype::F32, shape).expect("sizes"),
        );
        for token in [0, 3, 40, 64, 89] {
            for head in 0..HEADS {
                let kv = head / (HEADS / KV_HEADS);
                let near: Vec<usize> = (0..n).filter(|key| key.abs_diff(token) < window).collect();
                let weights: Vec<f64> = near
                    .iter()
                    .map(|&key| {
                        let score = (0..DIM).map(|i| {
                            queries.get(token, head * DIM + i) * keys.get(key, kv * DIM + i)
                        });
                        (0.3 * score.sum::<f64>()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..DIM {
                    let wanted = near
                        .iter()
                        .zip(&weights)
                        .map(|(&key, w)| w / sum * values.get(key, kv * DIM + i));
                    let error = (made.get(token, head * DIM + i) - wanted.sum::<f64>()).abs();
                    assert!(error < 1e-5, "{path:?} {token} {head}: {error}");
                }
            }
        }
    }
}

#[test]
fn layer_norms_are_what_their_formula_says() {
    let mut random = Random(72);
    for width in [1, 7, 36, 300] {
        for dtype in FLOATS {
            let x = Array::new(dtype, 5, width, |_, _| 3.0 + random.float());
            let weight = Array::random(&mut random, dtype, 1, width);
            let bias = Array::random(&mut random, dtype, 1, width);
            for path in Path::available() {
                let kernels = Kernels::with_path(path, 2);
                let mut y = Array::zeros(Dtype::F32, 5, width);
                let bias = (width % 2 == 0).then_some(&bias);
                let view = bias.map(Array::view);
                kernels.layer_norm(
                    &x.view(),
                    &weight.view(),
                    view.as_ref(),
                    1e-5,
                    &mut y.view_mut(),
                );
                for row in 0..5 {
                    let xs: Vec<f64> = (0..width).map(|i| x.get(row, i)).collect();
                    let mean = xs.iter().sum::<f64>() / width as f64;
                    let variance =
                        xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
                    for (i, x) in xs.iter().enumerate() {
                        let normed = (x - mean) / (variance + 1e-5).sqrt();
                        let wanted =
                            normed * weight.get(0, i) + bias.map_or(0.0, |bias| bias.get(0, i));
                        let error = (y.get(row, i) - wanted).abs();
                        assert!(error < 5e-5, "{path:?} {dtype:?} {width}: {error}");
                    }
                }
            }
        }
    }
}

/// erf by its series.
pub(super) fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

#[test]
fn gelu_is_what_its_formula_says() {
    let x: Vec<f32> = (-500..=500).map(|i| i as f32 / 100.0).collect();
    for path in Path::available() {
        let mut y = Array::zeros(Dtype::F32, 1, x.len());
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = Floats::new(&bytes, Dtype::F32, 1, x.len()).expect("sizes");
        Kernels::with_path(path, 1).activated(&view, Activation::Gelu, &mut y.view_mut());
        for (i, &x) in x.iter().enumerate() {
            let wanted = 0.5 * f64::from(x) * (1.0 + erf(f64::from(x) / 2.0_f64.sqrt()));
            let error = (y.get(0, i) - wanted).abs();
            assert!(
                error < 1e-6 * f64::from(x.abs()).max(1.0),
                "{path:?} {x}: {error}"
            );
        }
    }
}
