//! The same block with other weights: how arrays become inputs of an operation, and these memory.

use super::{
    Attention, Block, ExpertLinear, Experts, GateUp, Half, Linear, Mlp, Moe, Norm, Part,
    Projections, Shared,
};

impl<M, V> Block<M, V> {
    /// Every weight through `matrix` or `vector`, always in the same order; the first error ends it.
    pub fn try_map<N, W, E>(
        &self,
        matrix: &mut impl FnMut(&M) -> Result<N, E>,
        vector: &mut impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Block<N, W>, E> {
        let mut map = Map { matrix, vector };
        let mut halves = Vec::with_capacity(self.halves.len());
        for half in &self.halves {
            halves.push(map.half(half)?);
        }
        Ok(Block { halves })
    }
}

struct Map<'f, F, G> {
    matrix: &'f mut F,
    vector: &'f mut G,
}

impl<F, G> Map<'_, F, G> {
    fn half<M, V, N, W, E>(&mut self, half: &Half<M, V>) -> Result<Half<N, W>, E>
    where
        F: FnMut(&M) -> Result<N, E>,
        G: FnMut(&V) -> Result<W, E>,
    {
        Ok(Half {
            norm: self.norm(&half.norm)?,
            part: match &half.part {
                Part::Attention(attention) => Part::Attention(self.attention(attention)?),
                Part::Mlp(mlp) => Part::Mlp(self.mlp(mlp)?),
                Part::Moe(moe) => Part::Moe(self.moe(moe)?),
            },
            post_norm: self.norm(&half.post_norm)?,
            multiplier: half.multiplier,
            out_norm: self.norm(&half.out_norm)?,
        })
    }

    fn attention<M, V, N, W, E>(&mut self, of: &Attention<M, V>) -> Result<Attention<N, W>, E>
    where
        F: FnMut(&M) -> Result<N, E>,
        G: FnMut(&V) -> Result<W, E>,
    {
        Ok(Attention {
            sizes: of.sizes.clone(),
            projections: match &of.projections {
                Projections::Apart {
                    q_proj,
                    k_proj,
                    v_proj,
                } => Projections::Apart {
                    q_proj: self.linear(q_proj)?,
                    k_proj: self.linear(k_proj)?,
                    v_proj: self.linear(v_proj)?,
                },
                Projections::Fused(qkv_proj) => Projections::Fused(self.linear(qkv_proj)?),
            },
            q_norm: self.norm(&of.q_norm)?,
            k_norm: self.norm(&of.k_norm)?,
            sinks: of.sinks.as_ref().map(&mut *self.vector).transpose()?,
            o_proj: self.linear(&of.o_proj)?,
        })
    }

    fn mlp<M, V, N, W, E>(&mut self, of: &Mlp<M, V>) -> Result<Mlp<N, W>, E>
    where
        F: FnMut(&M) -> Result<N, E>,
        G: FnMut(&V) -> Result<W, E>,
    {
        Ok(Mlp {
            gate_up: of.gate_up.try_map(|linear| self.linear(linear))?,
            down_proj: self.linear(&of.down_proj)?,
            activation: of.activation,
        })
    }

    fn moe<M, V, N, W, E>(&mut self, of: &Moe<M, V>) -> Result<Moe<N, W>, E>
    where
        F: FnMut(&M) -> Result<N, E>,
        G: FnMut(&V) -> Result<W, E>,
    {
        Ok(Moe {
            router: self.linear(&of.router)?,
            routing: of.routing.try_map(self.vector)?,
            experts: Experts {
                gate_up: of.experts.gate_up.try_map(|linear| self.expert(linear))?,
                down_proj: self.expert(&of.experts.down_proj)?,
                activation: of.experts.activation,
            },
            shared: match &of.shared {
                None => None,
                Some(shared) => Some(Shared {
                    mlp: self.mlp(&shared.mlp)?,
                    gate: match &shared.gate {
                        None => None,
                        Some(gate) => Some(self.linear(gate)?),
                    },
                }),
            },
        })
    }

    fn linear<M, V, N, W, E>(&mut self, of: &Linear<M, V>) -> Result<Linear<N, W>, E>
    where
        F: FnMut(&M) -> Result<N, E>,
        G: FnMut(&V) -> Result<W, E>,
    {
        Ok(Linear {
            weight: (self.matrix)(&of.weight)?,
            bias: of.bias.as_ref().map(&mut *self.vector).transpose()?,
            low: of
                .low
                .iter()
                .map(|low| low.try_map(self.vector))
                .collect::<Result<_, E>>()?,
        })
    }

    fn expert<M, V, N, W, E>(&mut self, of: &ExpertLinear<M, V>) -> Result<ExpertLinear<N, W>, E>
    where
        F: FnMut(&M) -> Result<N, E>,
        G: FnMut(&V) -> Result<W, E>,
    {
        Ok(ExpertLinear {
            weight: (self.matrix)(&of.weight)?,
            bias: of.bias.as_ref().map(&mut *self.vector).transpose()?,
        })
    }

    fn norm<V, W, E>(&mut self, of: &Option<Norm<V>>) -> Result<Option<Norm<W>>, E>
    where
        G: FnMut(&V) -> Result<W, E>,
    {
        match of {
            None => Ok(None),
            Some(norm) => Ok(Some(Norm {
                weight: (self.vector)(&norm.weight)?,
                bias: norm.bias.as_ref().map(&mut *self.vector).transpose()?,
                eps: norm.eps,
                layer: norm.layer,
            })),
        }
    }
}

impl<L> GateUp<L> {
    fn try_map<K, E>(&self, mut f: impl FnMut(&L) -> Result<K, E>) -> Result<GateUp<K>, E> {
        Ok(match self {
            GateUp::Apart { gate_proj, up_proj } => GateUp::Apart {
                gate_proj: f(gate_proj)?,
                up_proj: f(up_proj)?,
            },
            GateUp::Fused(gate_up_proj) => GateUp::Fused(f(gate_up_proj)?),
            GateUp::UpAlone(up_proj) => GateUp::UpAlone(f(up_proj)?),
        })
    }
}
