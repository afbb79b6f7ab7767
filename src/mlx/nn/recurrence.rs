//! Linear attention.
//!
//! A state S `[value dim, key dim]` for each value head meets one token after the other: `S = S exp(log_decay); S += d kᵀ; y = S
//! q`, with `d = beta (v - S k)`, or v where there is no beta. The plain path does so for one token. Of more it computes chunks at
//! once: with E the decay from one token to a later one, the d of a chunk are the solution of a triangular system, `d_i + beta_i
//! Σ_{j<i} E_ij (k_i·k_j) d_j = beta_i (v_i - exp(G_i) S k_i)`, with G the sum of the logarithms since the chunk's start.
//!
//! Nothing overflows: E is made of sums over the tokens between two, which are never above 0, and not of a difference of G.

use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{fast, ops, Array};

pub use crate::kernels::Normalise;

/// Tokens that are computed together, a power of two.
const CHUNK: i32 = 64;

/// What states meet. Each key head serves as many value heads, one after the other.
pub struct Recurrence<'a> {
    /// `[batch, n, key heads, key dim]`
    pub q: &'a Array,
    /// The same.
    pub k: &'a Array,
    /// `[batch, n, value heads, value dim]`
    pub v: &'a Array,
    /// f32 `[batch, n, value heads]`, or `[batch, n, value heads, key dim]`: one for each channel. At most 0.
    pub log_decay: &'a Array,
    /// f32 `[batch, n, value heads]`: how much of the value replaces what the state has for the key. None: values are added.
    pub beta: Option<&'a Array>,
    /// What queries and keys become before.
    pub normalise: Option<Normalise>,
    /// f32 `[batch, value heads, value dim, key dim]`; None: zeros.
    pub state: Option<&'a Array>,
}

/// → y `[batch, n, value heads, value dim]` in the type of v, and the states after the last token, f32 `[batch, value heads, value
/// dim, key dim]`
pub fn recurrence(of: Recurrence) -> Result<(Array, Array)> {
    let wide = |x: &Array| ops::astype(x, Dtype::F32);
    let log_decay = wide(of.log_decay)?;
    let (beta, state) = (
        of.beta.map(wide).transpose()?,
        of.state.map(wide).transpose()?,
    );
    let of = Recurrence {
        log_decay: &log_decay,
        beta: beta.as_ref(),
        state: state.as_ref(),
        ..of
    };
    match fast::active() && of.v.dim(0) == 1 && of.v.dim(1) > 0 {
        true => fast::recurrence(&of),
        false => plain(&of),
    }
}

/// How far states go: `softplus(x + bias)` in f32, of any types.
pub fn steps(x: &Array, bias: &Array) -> Result<Array> {
    let wide = |x: &Array| ops::astype(x, Dtype::F32);
    super::softplus(&ops::add(&wide(x)?, &wide(bias)?)?)
}

/// What states fade by in steps f32: `-exp(a_log) * steps`, f32
pub fn log_decay(steps: &Array, a_log: &Array) -> Result<Array> {
    let rate = ops::exp(&ops::astype(a_log, Dtype::F32)?)?;
    ops::negative(&ops::multiply(&rate, steps)?)
}

/// With MLX's operations, in f32.
fn plain(of: &Recurrence) -> Result<(Array, Array)> {
    let [batch, n, heads, value_dim] = [0, 1, 2, 3].map(|axis| of.v.dim(axis));
    let (key_heads, dim) = (of.k.dim(2), of.k.dim(3));
    let group = heads / key_heads.max(1);
    let shape = [batch, key_heads, group, value_dim, dim];
    let mut state = match of.state {
        Some(state) => ops::reshape(state, &shape)?,
        None => ops::zeros(&shape, Dtype::F32)?,
    };
    let tokens = Tokens::new(of)?;
    let whole = n / CHUNK * CHUNK;
    let mut parts = Vec::new();
    if whole > 0 {
        let y;
        (y, state) = tokens.some(0, whole)?.chunks(CHUNK, state)?;
        parts.push(y);
    }
    let rest = n - whole;
    if rest > 0 {
        let last = tokens.some(whole, n)?;
        let y;
        (y, state) = match rest {
            1 => last.step(&state)?,
            _ => {
                // What is added decays nothing and adds nothing.
                let size = (rest as u32).next_power_of_two() as i32;
                let (y, state) = last.padded(size - rest)?.chunks(size, state)?;
                (tokens_of(&y, 0, rest)?, state)
            }
        };
        parts.push(y);
    }
    let y = match &parts[..] {
        [] => return Ok((of.v.clone(), states(&state)?)),
        [y] => y.clone(),
        _ => ops::concatenate(&parts.iter().collect::<Vec<_>>(), TOKENS)?,
    };
    // [batch, key heads, group, n, value dim] → [batch, n, heads, value dim]
    let y = ops::transpose(&y, &[0, 3, 1, 2, 4])?;
    let y = ops::reshape(&y, &[batch, n, heads, value_dim])?;
    Ok((ops::astype(&y, of.v.dtype())?, states(&state)?))
}

/// `[batch, key heads, group, value dim, key dim]` → `[batch, value heads, value dim, key dim]`
fn states(state: &Array) -> Result<Array> {
    let [batch, key_heads, group, value_dim, dim] = [0, 1, 2, 3, 4].map(|axis| state.dim(axis));
    ops::reshape(state, &[batch, key_heads * group, value_dim, dim])
}

/// Which axis of `Tokens` the tokens are.
const TOKENS: i32 = 3;

/// What tokens bring, in f32. Arrays are `[batch, key heads, group, n, …]`, of keys and queries with a group of 1.
struct Tokens {
    /// `[…, key dim]`
    q: Array,
    k: Array,
    /// `[…, value dim]`
    v: Array,
    /// Logarithms `[…, 1 or key dim]`
    decay: Array,
    /// `[…, 1]`
    beta: Option<Array>,
}

impl Tokens {
    fn new(of: &Recurrence) -> Result<Tokens> {
        let [batch, n, key_heads] = [0, 1, 2].map(|axis| of.k.dim(axis));
        // [batch, n, key heads * group, width] → [batch, key heads, group, n, width]
        let heads = |x: &Array, width: i32| {
            let group = of.v.dim(2) / key_heads.max(1);
            let group = if x.dim(2) == key_heads { 1 } else { group };
            let x = ops::astype(x, Dtype::F32)?;
            let x = ops::reshape(&x, &[batch, n, key_heads, group, width])?;
            ops::transpose(&x, &[0, 2, 3, 1, 4])
        };
        let dim = of.k.dim(3);
        let keys = |x: &Array, scale: fn(&Normalise) -> f32| {
            let x = heads(x, dim)?;
            match &of.normalise {
                None => Ok(x),
                Some(by) => {
                    let scale = Array::scalar(scale(by), Dtype::F32)?;
                    ops::multiply(&ops::rms_norm(&x, None, by.eps)?, &scale)
                }
            }
        };
        let by_channel = of.log_decay.shape().len() == 4;
        Ok(Tokens {
            q: keys(of.q, |by| by.q_scale)?,
            k: keys(of.k, |by| by.k_scale)?,
            v: heads(of.v, of.v.dim(3))?,
            decay: heads(of.log_decay, if by_channel { dim } else { 1 })?,
            beta: of.beta.map(|beta| heads(beta, 1)).transpose()?,
        })
    }

    fn try_map(&self, f: impl Fn(&Array) -> Result<Array>) -> Result<Tokens> {
        Ok(Tokens {
            q: f(&self.q)?,
            k: f(&self.k)?,
            v: f(&self.v)?,
            decay: f(&self.decay)?,
            beta: self.beta.as_ref().map(f).transpose()?,
        })
    }

    fn some(&self, first: i32, end: i32) -> Result<Tokens> {
        self.try_map(|x| tokens_of(x, first, end))
    }

    /// With `more` tokens of nothing but zeros.
    fn padded(&self, more: i32) -> Result<Tokens> {
        if more == 0 {
            return self.try_map(|x| Ok(x.clone()));
        }
        self.try_map(|x| {
            let mut shape = x.shape().to_vec();
            shape[TOKENS as usize] = more;
            ops::concatenate(&[x, &ops::zeros(&shape, Dtype::F32)?], TOKENS)
        })
    }

    /// One token. The state `[batch, key heads, group, value dim, key dim]` → y `[…, 1, value dim]` and the next
    fn step(&self, state: &Array) -> Result<(Array, Array)> {
        let state = ops::multiply(state, &ops::exp(&self.decay)?)?;
        // [value dim, 1]
        let mut d = turned(&self.v)?;
        if let Some(beta) = &self.beta {
            let has = ops::matmul(&state, &turned(&self.k)?)?;
            d = ops::multiply(&ops::subtract(&d, &has)?, beta)?;
        }
        let state = ops::add(&state, &ops::multiply(&d, &self.k)?)?;
        let y = ops::matmul(&state, &turned(&self.q)?)?;
        Ok((turned(&y)?, state))
    }

    /// Chunks of so many tokens, which divides how many there are; the rest as in `step`.
    fn chunks(&self, size: i32, mut state: Array) -> Result<(Array, Array)> {
        let count = self.v.dim(TOKENS) / size;
        // Arrays are [batch, key heads, group, chunks, size, …] from here on.
        let Tokens {
            q,
            k,
            v,
            decay,
            beta,
        } = self.try_map(|x| {
            let mut shape = x.shape().to_vec();
            shape.splice(3..4, [count, size]);
            ops::reshape(x, &shape)
        })?;
        let from_start = ops::exp(&ops::cumsum(&decay, -2, false, true)?)?;
        let to_end = ops::exp(&ops::cumsum(&decay, -2, true, false)?)?;
        let over_all = ops::exp(&ops::sum(&decay, -2, true)?)?;
        let (of_k, of_q) = match decay.dim(-1) {
            1 => by_head(&q, &k, &decay, size)?,
            _ => by_channel(&q, &k, &decay, size)?,
        };
        // What the values become, and what of the state is taken away from them.
        let (values, taken) = match beta {
            None => (v, None),
            Some(beta) => {
                let inverse = inverse(&ops::multiply(&of_k, &beta)?, size)?;
                let keys = ops::multiply(&ops::multiply(&k, &from_start)?, &beta)?;
                let values = ops::matmul(&inverse, &ops::multiply(&v, &beta)?)?;
                (values, Some(ops::matmul(&inverse, &keys)?))
            }
        };
        let (q, k) = (ops::multiply(&q, &from_start)?, ops::multiply(&k, &to_end)?);
        let mut parts = Vec::new();
        for chunk in 0..count {
            let at = |x: &Array| chunk_of(x, chunk);
            let turned_state = turned(&state)?;
            let mut d = at(&values)?;
            if let Some(taken) = &taken {
                d = ops::subtract(&d, &ops::matmul(&at(taken)?, &turned_state)?)?;
            }
            let before = ops::matmul(&at(&q)?, &turned_state)?;
            let inside = ops::matmul(&at(&of_q)?, &d)?;
            parts.push(ops::add(&before, &inside)?);
            let kept = ops::multiply(&state, &at(&over_all)?)?;
            state = ops::add(&kept, &ops::matmul(&turned(&d)?, &at(&k)?)?)?;
        }
        let y = ops::concatenate(&parts.iter().collect::<Vec<_>>(), TOKENS)?;
        Ok((y, state))
    }
}

/// Of `Tokens`' arrays those from `first` to `end`.
fn tokens_of(x: &Array, first: i32, end: i32) -> Result<Array> {
    let (mut start, mut stop) = (vec![0; x.shape().len()], x.shape().to_vec());
    (start[TOKENS as usize], stop[TOKENS as usize]) = (first, end);
    ops::slice(x, &start, &stop)
}

/// `[batch, key heads, group, chunks, size, width]` → `[batch, key heads, group, size, width]`
fn chunk_of(x: &Array, chunk: i32) -> Result<Array> {
    let mut shape = x.shape().to_vec();
    shape.remove(TOKENS as usize);
    ops::reshape(&tokens_of(x, chunk, chunk + 1)?, &shape)
}

/// `[…, rows, columns]` → `[…, columns, rows]`
fn turned(x: &Array) -> Result<Array> {
    let mut axes: Vec<i32> = (0..x.shape().len() as i32).collect();
    let last = axes.len() - 1;
    axes.swap(last - 1, last);
    ops::transpose(x, &axes)
}

/// f32 `[size, size]`, 1 at the (row, column) that are meant
fn mask(size: i32, meant: impl Fn(i32, i32) -> bool) -> Result<Array> {
    let at = (0..size).flat_map(|row| (0..size).map(move |column| (row, column)));
    let numbers: Vec<f32> = at
        .map(|(row, column)| f32::from(u8::from(meant(row, column))))
        .collect();
    ops::reshape(&Array::from_f32(&numbers)?, &[size, size])
}

/// Rows in odd blocks of `half`, columns in the even block before.
fn in_quarter(half: i32) -> impl Fn(i32, i32) -> bool {
    move |row, column| row / half == column / half + 1 && row / half % 2 == 1
}

/// 1, 2, 4, … below `size`.
fn halves(size: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(Some(1), |half| Some(half * 2)).take_while(move |&half| half < size)
}

/// Products of a chunk's keys with those before them, and of queries with keys up to their own, each times the decay from the one
/// to the other: two `[…, size, size]`. Decays `[…, size, 1]`.
fn by_head(q: &Array, k: &Array, decay: &Array, size: i32) -> Result<(Array, Array)> {
    let (below, up_to) = (mask(size, |i, j| i > j)?, mask(size, |i, j| i >= j)?);
    // Column j: the sums of the logarithms behind j. As differences of sums from the start they would be rounded as those are.
    let zero = Array::scalar(0.0, Dtype::F32)?;
    let behind = ops::select(&ops::greater(&below, &zero)?, decay, &zero)?;
    let decays = ops::exp(&ops::cumsum(&behind, -2, false, true)?)?;
    let keys = turned(k)?;
    let with = |x: &Array, mask: &Array| {
        let decays = ops::multiply(&decays, mask)?;
        ops::multiply(&ops::matmul(x, &keys)?, &decays)
    };
    Ok((with(k, &below)?, with(q, &up_to)?))
}

/// The same, decays `[…, size, key dim]`. The way from a token to a later one goes through the middle of the smallest block, of
/// a power of two, that has both: one factor up to there and one from there on, each at most 1.
fn by_channel(q: &Array, k: &Array, decay: &Array, size: i32) -> Result<(Array, Array)> {
    let shape = decay.shape();
    let sums = |half: i32, reverse: bool| {
        let mut blocks = shape.to_vec();
        let axis = blocks.len() - 2;
        blocks.splice(axis..axis + 1, [size / half, half]);
        let sums = ops::cumsum(&ops::reshape(decay, &blocks)?, -2, reverse, !reverse)?;
        ops::exp(&ops::reshape(&sums, shape)?)
    };
    let own = ops::sum(&ops::multiply(q, k)?, -1, true)?;
    let mut of_q = ops::multiply(&own, &mask(size, |i, j| i == j)?)?;
    let mut of_k = ops::zeros(&[size, size], Dtype::F32)?;
    for half in halves(size) {
        let from = sums(half, false)?;
        let keys = turned(&ops::multiply(k, &sums(half, true)?)?)?;
        let mask = mask(size, in_quarter(half))?;
        let add = |to: &Array, x: &Array| {
            let products = ops::matmul(&ops::multiply(x, &from)?, &keys)?;
            ops::add(to, &ops::multiply(&products, &mask)?)
        };
        (of_k, of_q) = (add(&of_k, k)?, add(&of_q, q)?);
    }
    Ok((of_k, of_q))
}

/// (I + A)⁻¹ of A `[…, size, size]`, which has nothing on and above the diagonal. The inverse of two blocks P and Q with R below P
/// is P⁻¹, Q⁻¹ and `-Q⁻¹ R P⁻¹`: so blocks become twice as large until there is one. For keys that are nearly the same, powers of
/// A would be large numbers that cancel.
fn inverse(a: &Array, size: i32) -> Result<Array> {
    let mut inverse = mask(size, |i, j| i == j)?;
    for half in halves(size) {
        let below = ops::multiply(a, &mask(size, in_quarter(half))?)?;
        let below = match half {
            // Blocks of one are 1.
            1 => below,
            _ => ops::matmul(&ops::matmul(&inverse, &below)?, &inverse)?,
        };
        inverse = ops::subtract(&inverse, &below)?;
    }
    Ok(inverse)
}

#[cfg(all(test, not(target_os = "macos")))]
#[path = "recurrence_tests.rs"]
mod tests;
