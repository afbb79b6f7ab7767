//! MLPs of a step's rows, and mixtures of them.

use super::products::{blocks, Product};
use super::weights::{bits_of, halves, Known, MXFP4};
use super::{Input, Maker, TILE, WARPS};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels::{self, Activation, GateUp, Score};
use crate::mlx::fast::Matrix;
use crate::mlx::gpu::driver::{Address, Arguments};
use crate::mlx::gpu::step::{Half, MAX_ROWS};
use crate::mlx::{ops, Array};

/// Experts at most, and of these so many of a row (`experts.cu`).
const MAX_EXPERTS: u32 = 512;
const MAX_CHOSEN: u32 = 32;

type Mlp<'a> = kernels::Mlp<Matrix<'a>, &'a Array>;
type Moe<'a> = kernels::Moe<Matrix<'a>, &'a Array>;

/// `Inner` of product.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Inner {
    y: Address,
    sums: Address,
    by: Address,
    order: u32,
    alpha: f32,
    limit: f32,
}

/// `Choice` of experts.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Choice {
    wanted: Address,
    experts: u32,
    top_k: u32,
    score: u32,
    normalise: u32,
    scaling: f32,
}

/// `Chosen` of experts.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Chosen {
    experts: Address,
    weights: Address,
    shared: Address,
    top_k: u32,
}

/// The kernels' number of an activation, and its alpha and limit.
fn activation(of: Activation) -> Option<(u32, [f32; 2])> {
    match of {
        Activation::Silu => Some((0, [0.0; 2])),
        Activation::GeluTanh => Some((1, [0.0; 2])),
        Activation::Gelu => Some((2, [0.0; 2])),
        Activation::SwigluClamped { alpha, limit } => Some((3, [alpha, limit])),
        Activation::Relu2 | Activation::Xielu { .. } => None,
    }
}

impl Maker {
    pub(super) fn mlp(
        &mut self,
        mlp: &Mlp,
        (half, input, next): (&Half, &Input, &Input),
    ) -> Result<bool> {
        match self.gated(mlp, input, 0)? {
            Some(inner) => self.residual(&mlp.down_proj, inner, (half, next)),
            None => Ok(false),
        }
    }

    /// What goes into an MLP's last product, and its sums, in the order of that. `by`: what each row's is multiplied by, or 0.
    fn gated(&mut self, mlp: &Mlp, input: &Input, by: Address) -> Result<Option<[Address; 2]>> {
        let (gate, up) = known!(match &mlp.gate_up {
            GateUp::Apart { gate_proj, up_proj } => {
                self.weight(gate_proj)?.zip(self.weight(up_proj)?)
            }
            GateUp::Fused(gate_up) => self.weight(gate_up)?.and_then(halves),
            GateUp::UpAlone(_) => None,
        });
        if !are_alike(&gate, &up) {
            return Ok(None);
        }
        let rooms = ["inner", "sums of inner"];
        let down = &mlp.down_proj.weight;
        let (kind, to) = known!(self.inner(mlp.activation, down, (rooms, 1, gate.weight.out))?);
        let to = Inner { by, ..to };
        let tiles = gate.weight.out.div_ceil(TILE);
        let (kernel, split) = self.product("gated", gate, tiles, 2, &kind);
        let product = self.product_of(gate.inputs, input.norm);
        let product = self.adapted(product, &[gate.weight, up.weight], input.order)?;
        self.launch(kernel, 32 * WARPS, move |pass| {
            let arguments = gated_with(product.of(pass, split), &gate, &up);
            (blocks(tiles, 2 * split), arguments.add(to))
        });
        Ok(Some([to.y, to.sums]))
    }

    /// What comes between products, `width` wide and `each` times for a row, and the kernels' word for the activation.
    fn inner(
        &mut self,
        of: Activation,
        down: &Matrix,
        ([name, sums], each, width): ([&'static str; 2], u32, u32),
    ) -> Result<Option<(String, Inner)>> {
        let (kind, [alpha, limit]) = known!(activation(of));
        let order = known!(bits_of(down));
        let all = |width: u32| MAX_ROWS * each as usize * width as usize;
        let to = Inner {
            y: self.room(name, all(width), 2)?,
            sums: self.room(sums, all(width / TILE), 4)?,
            by: 0,
            order,
            alpha,
            limit,
        };
        Ok(Some((format!(", {kind}"), to)))
    }

    pub(super) fn moe(
        &mut self,
        moe: &Moe,
        (half, input, next): (&Half, &Input, &Input),
    ) -> Result<bool> {
        let known = half.post_norm.is_none();
        Ok(known && self.experts_of(moe, (half, input, next))?.is_some())
    }

    fn experts_of(
        &mut self,
        moe: &Moe,
        (half, input, next): (&Half, &Input, &Input),
    ) -> Result<Option<()>> {
        let GateUp::Apart { gate_proj, up_proj } = &moe.experts.gate_up else {
            return Ok(None);
        };
        let gate = known!(self.experts(gate_proj)?);
        let up = known!(self.experts(up_proj)?);
        let down = known!(self.experts(&moe.experts.down_proj)?);
        let chosen = known!(self.route(moe, input)?);
        let top_k = chosen.top_k;
        // All experts of a row are one product of so many more inputs.
        let groups = down.inputs / down.kind.group.max(TILE) * top_k;
        if !are_alike(&gate, &up) || down.weight.out != self.hidden || groups > super::MAX_GROUPS {
            return Ok(None);
        }
        let shared = match &moe.shared {
            None => None,
            Some(shared) => {
                let by = shared.gate.as_ref().map_or(0, |_| chosen.shared);
                Some((&shared.mlp, known!(self.gated(&shared.mlp, input, by)?)))
            }
        };

        let rooms = ["inner of experts", "sums of inner of experts"];
        let last = &moe.experts.down_proj.weight;
        let width = gate.weight.out;
        let (kind, inner) =
            known!(self.inner(moe.experts.activation, last, (rooms, top_k, width))?);
        let tiles = width.div_ceil(TILE);
        let (kernel, split) = self.product("gated_experts", gate, tiles * top_k, 2, &kind);
        let product = self.product_of(gate.inputs, input.norm);
        self.launch(kernel, 32 * WARPS, move |pass| {
            let arguments = gated_with(product.of(pass, split), &gate, &up);
            let [of_tiles, ..] = blocks(tiles, 2 * split);
            (
                [of_tiles, top_k, pass.rows],
                arguments.add(chosen).add(inner),
            )
        });
        if let Some((mlp, own)) = shared {
            if !self.residual(&mlp.down_proj, own, (half, next))? {
                return Ok(None);
            }
        }
        let to = known!(self.residual_of(half.multiplier, next)?);
        let tiles = down.weight.out.div_ceil(TILE);
        let at_once = top_k.next_power_of_two().min(WARPS);
        let (kernel, split) = self.product("combine", down, tiles, at_once, "");
        let product = self.product_of_own(down.inputs, [inner.y, inner.sums]);
        self.launch(kernel, 32 * WARPS, move |pass| {
            let product = product.of(pass, split);
            let arguments = Arguments::new().add(product);
            (
                [tiles, pass.rows, 1],
                arguments.add(down.weight).add(chosen).add(to),
            )
        });
        self.normalise(next, to);
        Ok(Some(()))
    }

    /// Which experts rows go to.
    fn route(&mut self, moe: &Moe, input: &Input) -> Result<Option<Chosen>> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let routing = &moe.routing;
        let router = known!(self.weight(&moe.router)?);
        let gate = match moe.shared.as_ref().and_then(|shared| shared.gate.as_ref()) {
            Some(gate) => Some(known!(self.weight(gate)?)),
            None => None,
        };
        let (experts, top_k) = (router.weight.out, number(routing.top_k));
        let fits = router.kind.bits != MXFP4 && experts <= MAX_EXPERTS;
        let fits = fits && (1..=experts.min(MAX_CHOSEN)).contains(&top_k);
        let alike = gate.is_none_or(|gate| {
            (gate.kind, gate.inputs, gate.weight.out) == (router.kind, router.inputs, 1)
        });
        if !fits || !alike || routing.groups.is_some() {
            return Ok(None);
        }
        let wanted = match routing.selection_bias {
            Some(bias) => self.held(&ops::astype(bias, Dtype::F32)?)?,
            None => 0,
        };
        let how = Choice {
            wanted,
            experts,
            top_k,
            score: match routing.score {
                Score::Softmax => 0,
                Score::SoftmaxOfChosen => 1,
                Score::Sigmoid => 2,
            },
            normalise: routing.normalise.into(),
            scaling: routing.scaling,
        };
        let pairs = MAX_ROWS * top_k as usize;
        let chosen = Chosen {
            experts: self.room("chosen", pairs, 4)?,
            weights: self.room("weights of chosen", pairs, 4)?,
            shared: self.room("weight of shared", MAX_ROWS, 4)?,
            top_k,
        };
        let logits = self.room("logits of experts", MAX_ROWS * (experts as usize + 1), 4)?;
        let counts = self.room("counts of routes", MAX_ROWS, 4)?;
        let product = self.product_of(router.inputs, input.norm);
        let (group, router, bits) = (router.kind.group, router.weight, router.kind.bits);
        let gate = gate.map(|gate| gate.weight).unwrap_or_default();
        let kernel = format!("route<{}, {bits}, {}>", self.type_name, input.order);
        let blocks = (experts + gate.out).div_ceil(WARPS);
        self.launch(kernel, 32 * WARPS, move |pass| {
            let arguments = Arguments::new().add(product.of(pass, 1));
            let arguments = arguments.add(group).add(router).add(gate).add(how);
            (
                [blocks, pass.rows, 1],
                arguments.add(logits).add(counts).add(chosen),
            )
        });
        Ok(Some(chosen))
    }
}

/// How a kernel that has a gate begins to be called.
fn gated_with(product: Product, gate: &Known, up: &Known) -> Arguments {
    let arguments = Arguments::new().add(product);
    arguments.add(gate.weight).add(up.weight)
}

/// Whether two weights are of one kind and one shape.
fn are_alike(a: &Known, b: &Known) -> bool {
    (a.kind, a.inputs, a.weight.out) == (b.kind, b.inputs, b.weight.out)
}
