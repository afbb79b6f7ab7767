//! temporary
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};

pub struct Normalise {
    pub eps: f32,
    pub q_scale: f32,
    pub k_scale: f32,
}
pub struct Recurrence<'a> {
    pub q: &'a Array,
    pub k: &'a Array,
    pub v: &'a Array,
    pub log_decay: &'a Array,
    pub beta: Option<&'a Array>,
    pub normalise: Option<Normalise>,
    pub state: Option<&'a Array>,
}
fn repeat(x: &Array, r: i32) -> Result<Array> {
    let [b, h, d] = [x.dim(0), x.dim(1), x.dim(2)];
    let y = ops::broadcast_to(&ops::reshape(x, &[b, h, 1, d])?, &[b, h, r, d])?;
    ops::reshape(&y, &[b, h * r, d])
}
pub fn recurrence(of: Recurrence) -> Result<(Array, Array)> {
    let (b, n, kh, dk) = (of.q.dim(0), of.q.dim(1), of.q.dim(2), of.q.dim(3));
    let (vh, dv) = (of.v.dim(2), of.v.dim(3));
    let f = |x: &Array| ops::astype(x, Dtype::F32);
    let (mut q, mut k, v) = (f(of.q)?, f(of.k)?, f(of.v)?);
    if let Some(nm) = &of.normalise {
        q = ops::multiply(
            &ops::rms_norm(&q, None, nm.eps)?,
            &Array::scalar(nm.q_scale, Dtype::F32)?,
        )?;
        k = ops::multiply(
            &ops::rms_norm(&k, None, nm.eps)?,
            &Array::scalar(nm.k_scale, Dtype::F32)?,
        )?;
    }
    let mut s = match of.state {
        Some(s) => s.clone(),
        None => ops::zeros(&[b, vh, dv, dk], Dtype::F32)?,
    };
    let mut ys = Vec::new();
    for t in 0..n {
        let at = |x: &Array, h: i32, d: i32| -> Result<Array> {
            let x = ops::slice(x, &[0, t, 0, 0], &[b, t + 1, h, d])?;
            ops::reshape(&x, &[b, h, d])
        };
        let (qt, kt, vt) = (
            repeat(&at(&q, kh, dk)?, vh / kh)?,
            repeat(&at(&k, kh, dk)?, vh / kh)?,
            at(&v, vh, dv)?,
        );
        let g = ops::exp(&ops::slice(of.log_decay, &[0, t, 0], &[b, t + 1, vh])?)?;
        let g = ops::reshape(&g, &[b, vh, 1, 1])?;
        s = ops::multiply(&s, &g)?;
        let kt4 = ops::reshape(&kt, &[b, vh, 1, dk])?;
        let qt4 = ops::reshape(&qt, &[b, vh, 1, dk])?;
        let mut d = vt;
        if let Some(beta) = of.beta {
            let m = ops::sum(&ops::multiply(&s, &kt4)?, -1, false)?;
            let be = ops::reshape(&ops::slice(beta, &[0, t, 0], &[b, t + 1, vh])?, &[b, vh, 1])?;
            d = ops::multiply(&ops::subtract(&d, &m)?, &be)?;
        }
        s = ops::add(
            &s,
            &ops::multiply(&ops::reshape(&d, &[b, vh, dv, 1])?, &kt4)?,
        )?;
        let y = ops::sum(&ops::multiply(&s, &qt4)?, -1, false)?;
        ys.push(ops::reshape(&y, &[b, 1, vh, dv])?);
    }
    let y = ops::concatenate(&ys.iter().collect::<Vec<_>>(), 1)?;
    Ok((ops::astype(&y, of.v.dtype())?, s))
}
pub fn short_conv(
    x: &Array,
    past: Option<&Array>,
    taps: &Array,
    bias: Option<&Array>,
    silu: bool,
) -> Result<(Array, Array)> {
    let (b, n, c, k) = (x.dim(0), x.dim(1), x.dim(2), taps.dim(1));
    let zero;
    let past = match past {
        Some(p) => p,
        None => {
            zero = ops::zeros(&[b, k - 1, c], x.dtype())?;
            &zero
        }
    };
    let all = ops::concatenate(&[past, x], 1)?;
    let f = |x: &Array| ops::astype(x, Dtype::F32);
    let wide = f(&all)?;
    let taps = f(&ops::reshape(taps, &[c, k])?)?;
    let mut y: Option<Array> = None;
    for j in 0..k {
        let part = ops::slice(&wide, &[0, j, 0], &[b, j + n, c])?;
        let w = ops::reshape(&ops::slice(&taps, &[0, j], &[c, j + 1])?, &[c])?;
        let p = ops::multiply(&part, &w)?;
        y = Some(match y {
            Some(y) => ops::add(&y, &p)?,
            None => p,
        });
    }
    let mut y = y.unwrap();
    if let Some(bias) = bias {
        y = ops::add(&y, &f(bias)?)?;
    }
    if silu {
        y = ops::multiply(&y, &ops::sigmoid(&y)?)?;
    }
    let new = ops::contiguous(&ops::slice(&all, &[0, n, 0], &[b, n + k - 1, c])?)?;
    Ok((ops::astype(&y, x.dtype())?, new))
}
