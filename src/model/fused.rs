//! Halves of a block as one operation of the CPU's kernels, made of the same parts as the plain path: the whole block where
//! the kernels know all of it, else what they know of it.

use super::block::{Block, Half, Past};
use super::cache::Like;
use super::config::DecoderConfig;
use super::cost::{Known, TypesOf};
use super::decoder::{Forward, Rows};
use super::modules::Site;
use super::parts::attention::{Projections, QkNormOver};
use super::parts::mlp::Inner;
use super::parts::{Attention, Mlp, Moe, Part};
use super::segments::Session;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::{self, ExpertLinear, Linear, Norm};
use crate::mlx::fast::{self, Matrix, Seen, SessionRows};
use crate::mlx::Array;

#[cfg(test)]
thread_local! {
    /// For tests: how many operations were queued so, or None where none is to be.
    pub static COUNT: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(Some(0)) };
}

/// What is there, or nothing at all.
macro_rules! known {
    ($what:expr) => {
        match $what? {
            Some(what) => what,
            None => return Ok(None),
        }
    };
}

/// As `Block::forward` of these halves. None, and nothing done, where the kernels do not know all that they or their adapters
/// do.
pub(super) fn halves(
    halves: &[Half],
    with: &Forward,
    x: &Array,
    past: &mut Past,
    rows: Rows,
) -> Result<Option<Array>> {
    #[cfg(test)]
    if COUNT.get().is_none() {
        return Ok(None);
    }
    let (n, dtype) = (x.dim(1), x.dtype());
    let clips = with.clip_residual && dtype == Dtype::F16;
    if !fast::active() || clips {
        return Ok(None);
    }
    let mut attentions = halves.iter().filter_map(|half| match &half.part {
        Part::Attention(attention) => Some(attention),
        _ => None,
    });
    let attention = attentions.next();
    if attentions.next().is_some() {
        return Ok(None);
    }
    let asking = match (rows, attention) {
        (Rows::Last, Some(_)) => 1,
        _ => n,
    };
    let known = |length| {
        let gather = Gather {
            with,
            dtype,
            length,
        };
        let halves = halves.iter().map(|half| gather.half(half));
        halves.collect::<Result<Option<Vec<_>>>>()
    };
    let queue = |halves, seen, asking| {
        #[cfg(test)]
        COUNT.set(COUNT.get().map(|count| count + 1));
        fast::block(x, &kernels::Block { halves }, seen, asking).map(Some)
    };
    let Some(attention) = attention else {
        return queue(known!(known(0)), Seen::Nothing, asking);
    };
    if let Some(texts) = past.texts {
        let halves = known!(known(texts.longest()));
        let visible = texts.visible(attention.config().window);
        return queue(halves, Seen::Texts(texts.lengths(), visible), n);
    }
    let number = attention.cache();
    // Those of a pass turn their keys alike (`Decoder::is_long`).
    let first = past.sessions.first();
    let first = first.and_then(|session| session.caches.get(number).zip(Some(session.rows)));
    let Some((cache, rows)) = first else {
        return Ok(None);
    };
    let halves = known!(known(cache.length(rows)));
    let places = session_rows(attention, &mut past.sessions, dtype)?;
    match places.as_slice() {
        [SessionRows { place, visible, .. }] if place.ring.is_none() => {
            queue(halves, Seen::Past(place, *visible), asking)
        }
        places => queue(halves, Seen::Sessions(places), n),
    }
}

/// Where an attention's keys and values of each session go. What comes with them has to be written next.
pub(super) fn session_rows(
    attention: &Attention,
    sessions: &mut [Session],
    dtype: Dtype,
) -> Result<Vec<SessionRows>> {
    let (number, config) = (attention.cache(), attention.config());
    let like = Like {
        heads: config.kv_heads,
        head_dim: config.head_dim,
        dtype,
    };
    let places = sessions.iter_mut().map(|session| {
        let missing = || Error::internal("a session without one of its caches");
        let cache = session.caches.get_mut(number).ok_or_else(missing)?;
        let mask = session.masks.get(number).ok_or_else(missing)?;
        Ok(SessionRows {
            rows: session.rows,
            place: cache.tokens()?.place(session.rows, session.singly, like)?,
            visible: mask.visible(),
        })
    });
    places.collect()
}

impl Block {
    /// Whether there is nothing but its halves.
    pub(super) fn is_plain(&self) -> bool {
        self.scalar.is_none() && self.streams.is_none()
    }

    /// Whether it is one operation without adapters. `index`: the block's number, `h`: the type of what goes in.
    pub(super) fn is_one_operation<T: Known>(
        &self,
        config: &DecoderConfig,
        of: &TypesOf<T>,
        (index, h): (usize, Dtype),
    ) -> bool {
        let clips = config.clip_residual && h == Dtype::F16;
        let attends = |half: &&Half| matches!(half.part, Part::Attention(_));
        !clips
            && self.is_plain()
            && self.halves.iter().filter(attends).count() <= 1
            && self.halves.iter().all(|half| half.part.is_known())
            && of.block_computes_in(index, h)
    }
}

impl Part {
    /// Whether the kernels have all that it does.
    pub(super) fn is_known(&self) -> bool {
        match self {
            Part::Attention(attention) => {
                let config = attention.config();
                let over = config.qk_norm.map(|norm| norm.over);
                let own = config.keys_of.is_none() && !config.values_are_keys;
                let plain = config.gate.is_none() && config.value_norm.is_none();
                own && plain && over != Some(QkNormOver::BareHeads)
            }
            Part::Conv(_) | Part::Delta(_) | Part::Kimi(_) | Part::Mamba(_) | Part::Mla(_) => false,
            Part::Mlp(mlp) => mlp.config().sparsity.is_none(),
            Part::Moe(moe) => moe.is_plain() && moe.routing().kernel::<&Array>().is_some(),
            Part::Beside(_) | Part::PerLayer(_) => false,
        }
    }
}

/// What the kernels are to compute with: of x of this type, in a sequence of that length.
pub(super) struct Gather<'w, 'a> {
    pub with: &'w Forward<'a>,
    pub dtype: Dtype,
    pub length: i32,
}

pub(super) type Gathered<T> = Result<Option<T>>;

impl<'a> Gather<'_, 'a> {
    pub fn half(&self, half: &Half) -> Gathered<kernels::Half<Matrix<'a>, &'a Array>> {
        if !half.part.is_known() {
            return Ok(None);
        }
        Ok(Some(kernels::Half {
            norm: known!(self.option(half.norm)),
            part: match &half.part {
                Part::Attention(attention) => {
                    kernels::Part::Attention(known!(self.attention(attention)))
                }
                Part::Conv(_) | Part::Delta(_) | Part::Kimi(_) | Part::Mamba(_) | Part::Mla(_) => {
                    return Ok(None)
                }
                Part::Mlp(mlp) => kernels::Part::Mlp(known!(self.mlp(mlp))),
                Part::Moe(moe) => kernels::Part::Moe(known!(self.moe(moe))),
                Part::Beside(_) | Part::PerLayer(_) => return Ok(None),
            },
            post_norm: known!(self.option(half.post_norm)),
            multiplier: half.multiplier,
            out_norm: known!(self.option(half.out_norm)),
        }))
    }

    fn attention(&self, of: &Attention) -> Gathered<kernels::Attention<Matrix<'a>, &'a Array>> {
        let config = of.config();
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let rope = of.rope.map(|rope| self.with.rope(rope)).transpose()?;
        Ok(Some(kernels::Attention {
            sizes: kernels::AttentionSizes {
                heads: size(config.heads),
                kv_heads: size(config.kv_heads),
                head_dim: size(config.head_dim),
                scale: config.scale,
                rope: rope.map(|rope| rope.kernel(self.length)),
                softcap: config.softcap,
                temperature: config.temperature,
            },
            projections: match of.projections {
                Projections::Apart {
                    q_proj,
                    k_proj,
                    v_proj,
                } => kernels::Projections::Apart {
                    q_proj: known!(self.linear(q_proj)),
                    k_proj: known!(self.linear(k_proj)),
                    v_proj: known!(self.linear(v_proj)),
                },
                Projections::Fused { qkv_proj } => {
                    kernels::Projections::Fused(known!(self.linear(qkv_proj)))
                }
                Projections::Same { .. } | Projections::Queries { .. } => return Ok(None),
            },
            q_norm: known!(self.option(of.q_norm)),
            k_norm: known!(self.option(of.k_norm)),
            sinks: of.sinks.map(|sinks| self.with.vector(sinks)).transpose()?,
            o_proj: known!(self.linear(of.o_proj)),
        }))
    }

    fn mlp(&self, of: &Mlp) -> Gathered<kernels::Mlp<Matrix<'a>, &'a Array>> {
        let gate_up = match of.inner {
            Inner::Gated { gate_proj, up_proj } => kernels::GateUp::Apart {
                gate_proj: known!(self.linear(gate_proj)),
                up_proj: known!(self.linear(up_proj)),
            },
            Inner::Fused { gate_up_proj } => {
                kernels::GateUp::Fused(known!(self.linear(gate_up_proj)))
            }
            Inner::Plain { up_proj } | Inner::Xielu { up_proj, .. } => {
                kernels::GateUp::UpAlone(known!(self.linear(up_proj)))
            }
        };
        Ok(Some(kernels::Mlp {
            gate_up,
            down_proj: known!(self.linear(of.down_proj)),
            activation: of.activation(self.with)?,
        }))
    }

    fn moe(&self, of: &Moe) -> Gathered<kernels::Moe<Matrix<'a>, &'a Array>> {
        let correction = of
            .correction
            .map(|site| self.with.vector(site))
            .transpose()?;
        let Some(routing) = of.routing().kernel() else {
            return Ok(None);
        };
        let [up_proj, down_proj] = of.experts;
        Ok(Some(kernels::Moe {
            router: known!(self.linear(of.router)),
            routing: kernels::Routing {
                selection_bias: correction,
                ..routing
            },
            experts: kernels::Experts {
                gate_up: match of.gate_proj {
                    Some(gate_proj) => kernels::GateUp::Apart {
                        gate_proj: known!(self.experts(gate_proj)),
                        up_proj: known!(self.experts(up_proj)),
                    },
                    None => kernels::GateUp::UpAlone(known!(self.experts(up_proj))),
                },
                down_proj: known!(self.experts(down_proj)),
                activation: of.config().activation,
            },
            shared: match &of.shared {
                None => None,
                Some((mlp, gate)) => Some(kernels::Shared {
                    mlp: known!(self.mlp(mlp)),
                    gate: match gate {
                        Some(gate) => Some(known!(self.linear(*gate))),
                        None => None,
                    },
                }),
            },
        }))
    }

    pub fn linear(&self, site: Site) -> Gathered<Linear<Matrix<'a>, &'a Array>> {
        Ok(self
            .with
            .linear_layer(site)?
            .parts(self.with.adapters, self.dtype))
    }

    fn experts(&self, site: Site) -> Gathered<ExpertLinear<Matrix<'a>, &'a Array>> {
        Ok(self
            .with
            .experts_layer(site)?
            .parts(self.with.adapters.one(site)?, self.dtype))
    }

    /// Outer None: there is one that the kernels do not know.
    pub fn option(&self, site: Option<Site>) -> Gathered<Option<Norm<&'a Array>>> {
        let Some(site) = site else {
            return Ok(Some(None));
        };
        let norm = self.with.norm_layer(site)?;
        let weight = self.with.norm_weight(site)?;
        let eps = norm.eps();
        let bias = norm.bias();
        let same = |array: &Array| array.dtype() == self.dtype;
        let same = same(weight) && bias.is_none_or(same);
        Ok(same.then_some(Some(Norm {
            weight,
            bias,
            eps,
            layer: norm.is_layer(),
        })))
    }
}
