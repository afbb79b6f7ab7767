//! Blocks as operations: what each input is found as. What they compute is held in `kernels/tests`.

use super::super::tests::{numbers, with_kernels};
use super::super::{kept::pack_tokens, SessionRows};
use super::*;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::mlx::{self, ops};

const HIDDEN: i32 = 64;
const HEADS: i32 = 4;
const KV_HEADS: i32 = 2;
const DIM: i32 = 32;
const ROOM: i32 = 16;

fn cast(array: Array) -> Array {
    ops::astype(&array, Dtype::BF16).unwrap()
}

/// Numbers of its own for each session, packed in so many bits where that is some; in memory.
fn stored(session: i32, bits: Option<i32>) -> Stored {
    let factor = Array::scalar(1.0 / (session + 1) as f32, Dtype::F32).unwrap();
    let x = numbers(&[1, KV_HEADS, ROOM, DIM]);
    let x = cast(ops::multiply(&x, &factor).unwrap());
    let stored = match bits {
        None => Stored::Floats(x),
        Some(bits) => {
            let scheme = Scheme {
                mode: Mode::Affine,
                bits,
                group_size: 32,
            };
            Stored::Packed(pack_tokens(&x, scheme).unwrap())
        }
    };
    mlx::eval(&stored.arrays().collect::<Vec<_>>()).unwrap();
    stored
}

/// A session of a few tokens, whose cache has memory of its own.
struct Session {
    rows: i32,
    keys: Stored,
    values: Stored,
    at: i32,
}

impl Session {
    fn new(index: i32) -> Session {
        let bits = [None, Some(4), Some(8)][index as usize % 3];
        Session {
            rows: index % 4 % 3 + 1,
            keys: stored(index, bits),
            values: stored(index + 1, bits),
            at: index % 5,
        }
    }

    fn next(&mut self) -> SessionRows {
        self.at += self.rows;
        SessionRows {
            rows: self.rows,
            place: Place {
                keys: self.keys.clone(),
                values: self.values.clone(),
                at: self.at - self.rows,
                seen: self.at,
                offset: 100 + self.at - self.rows,
                ring: None,
            },
            visible: Visible::Causal { window: None },
        }
    }
}

fn plain(weight: &Array) -> kernels::Linear<Matrix<'_>, &Array> {
    kernels::Linear {
        weight: Matrix::Dense(weight),
        bias: None,
        low: Vec::new(),
    }
}

/// More arrays are written than an integer has bits.
#[test]
fn sessions_of_one_pass_get_what_each_gets_alone() {
    with_kernels(|| {
        let qkv = cast(numbers(&[(HEADS + 2 * KV_HEADS) * DIM, HIDDEN]));
        let out = cast(numbers(&[HIDDEN, HEADS * DIM]));
        let rope = kernels::Rope::from_base(DIM as usize, false, 1.0, 1e4);
        let attention = kernels::Attention {
            sizes: kernels::AttentionSizes {
                heads: HEADS as usize,
                kv_heads: KV_HEADS as usize,
                head_dim: DIM as usize,
                scale: 0.2,
                rope: Some(Arc::new(rope)),
                softcap: None,
                temperature: None,
            },
            projections: kernels::Projections::Fused(plain(&qkv)),
            q_norm: None,
            k_norm: None,
            sinks: None,
            o_proj: plain(&out),
        };
        let halves = vec![kernels::Half {
            norm: None,
            part: kernels::Part::Attention(attention),
            post_norm: None,
            multiplier: 1.0,
            out_norm: None,
        }];
        let of = kernels::Block { halves };

        let sessions = || (0..17).map(Session::new).collect::<Vec<_>>();
        let (mut together, mut alone) = (sessions(), sessions());
        let n = together.iter().map(|session| session.rows).sum();
        let x = cast(numbers(&[1, n, HIDDEN]));
        let f32s = |array: &Array| {
            let wide = ops::astype(array, Dtype::F32).unwrap();
            wide.to_f32().unwrap()
        };
        // The second step sees what the first one wrote.
        for step in 0..2 {
            let rows: Vec<_> = together.iter_mut().map(Session::next).collect();
            let made = f32s(&block(&x, &of, Seen::Sessions(&rows), n).unwrap());
            let mut first = 0;
            for session in &mut alone {
                let SessionRows {
                    rows,
                    place,
                    visible,
                } = session.next();
                let own = ops::slice(&x, &[0, first, 0], &[1, first + rows, HIDDEN]).unwrap();
                let wanted = block(&own, &of, Seen::Past(&place, visible), rows).unwrap();
                let got = &made[(first * HIDDEN) as usize..((first + rows) * HIDDEN) as usize];
                assert_eq!(
                    got,
                    f32s(&wanted),
                    "step {step}, the session at row {first}"
                );
                first += rows;
            }
        }
    });
}
