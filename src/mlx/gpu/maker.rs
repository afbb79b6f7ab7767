//! What a decoder's step is made into: the kernels that it needs, and what each is called with.

use super::driver::{Address, Arguments};
use super::memory::{address_of, lasting_address_of, upload};
use super::step::{Half, Launch, Linear, Model, Place, INPUTS, MAX_ROWS};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};
use crate::kernels::{self, Activation, GateUp, Norm, Part, Projections};
use crate::mlx::fast::Matrix;
use crate::mlx::{self, ops, Array};

/// Outputs of a tile (`numbers.cu`).
const TILE: u32 = 16;
/// Warps of a block that computes products.
const WARPS: u32 = 8;
/// Groups of a weight's inputs at most (`product.cu`).
const MAX_GROUPS: u32 = 512;
/// The widest head that the kernels know.
const MAX_HEAD_DIM: u32 = 256;
/// Heads of a block of `heads`, a warp each.
const HEADS: u32 = 4;
/// Blocks that share the keys of a row.
const MOST_PARTS: u32 = 64;

/// `Weight` of product.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Weight {
    w: Address,
    scales: Address,
    biases: Address,
    bias: Address,
    out: u32,
    first: u32,
}

/// `Of` of product.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Product {
    x: Address,
    sums: Address,
    squares: Address,
    eps: f32,
    rows: u32,
    inputs: u32,
    split: u32,
}

/// `HeadsOf` of heads.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Heads {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    turned: u32,
    traditional: u32,
    scale: f32,
    factor: f32,
    eps: f32,
    frequencies: Address,
    q_norm: Address,
    k_norm: Address,
}

/// `AttentionOf` of attention.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Attention {
    heads: u32,
    kv_heads: u32,
    parts: u32,
    scale: f32,
    softcap: f32,
    sinks: Address,
}

/// What the kernels know of it, or nothing at all.
macro_rules! known {
    ($what:expr) => {
        match $what {
            Some(what) => what,
            None => return Ok(None),
        }
    };
}

/// How the kernels read a weight: bits of a number, numbers that share a scale.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    bits: u32,
    group: u32,
}

/// A weight of a product that the kernels know.
#[derive(Clone, Copy)]
struct Known {
    kind: Kind,
    weight: Weight,
    inputs: u32,
}

/// Writes a step down.
pub(super) struct Maker {
    dtype: Dtype,
    /// The kernels' name of it.
    type_name: &'static str,
    multiprocessors: u32,
    hidden: u32,
    pub vocab: u32,
    pub layers: usize,
    /// Attentions that are written down.
    attentions: usize,
    pub kernels: Vec<String>,
    pub launches: Vec<Launch>,
    pub arrays: Vec<Array>,
    /// What is between two kernels, and nothing behind them: blocks have it in common.
    rooms: Vec<(&'static str, usize, Address)>,
    pub inputs: Address,
    pub inputs_size: usize,
    /// f32 `[MAX_ROWS, hidden]`: what goes from half to half.
    h: Address,
    /// `[MAX_ROWS, hidden]`: that times the next norm's weight.
    normed: Address,
    /// f32 `[MAX_ROWS, hidden / TILE]`: of `normed`
    sums: Address,
    /// f32 `[MAX_ROWS, hidden / TILE]`: of the squares of h
    squares: Address,
}

/// What a half's input is made with, by those before it.
#[derive(Clone, Copy)]
struct Input<'m, 'a> {
    norm: &'m Norm<&'a Array>,
    /// `place_of` of numbers.cu: bits of the weights that it is multiplied with.
    order: u32,
}

impl Maker {
    /// A step of it; none where the kernels do not know all that it does.
    pub fn of(model: &Model, multiprocessors: u32) -> Result<Option<Maker>> {
        let mut maker = known!(Maker::new(model, multiprocessors)?);
        Ok(maker.all(model)?.then_some(maker))
    }

    fn new(model: &Model, multiprocessors: u32) -> Result<Option<Maker>> {
        let type_name = match model.dtype {
            Dtype::BF16 => "Bf16",
            Dtype::F16 => "F16",
            _ => return Ok(None),
        };
        let [vocab, hidden] = known!(shape(&model.embed_tokens));
        if hidden % (2 * TILE) != 0 {
            return Ok(None);
        }
        let attends = |half: &&Half| matches!(half.part, Part::Attention(_));
        let layers = model.halves.iter().filter(attends).count();
        let mut maker = Maker {
            dtype: model.dtype,
            type_name,
            multiprocessors,
            hidden,
            vocab,
            layers,
            attentions: 0,
            kernels: Vec::new(),
            launches: Vec::new(),
            arrays: Vec::new(),
            rooms: Vec::new(),
            inputs: 0,
            inputs_size: INPUTS + layers * MAX_ROWS * size_of::<Place>(),
            h: 0,
            normed: 0,
            sums: 0,
            squares: 0,
        };
        maker.inputs = maker.room("inputs", maker.inputs_size, 1)?;
        let rows = |width: u32| MAX_ROWS * width as usize;
        maker.h = maker.room("h", rows(hidden), 4)?;
        maker.normed = maker.room("normed", rows(hidden), 2)?;
        maker.sums = maker.room("sums", rows(hidden / TILE), 4)?;
        maker.squares = maker.room("squares", rows(hidden / TILE), 4)?;
        Ok(Some(maker))
    }

    /// Whether the kernels know all of it.
    fn all(&mut self, model: &Model) -> Result<bool> {
        let inputs = model.halves.iter().map(|half| {
            let (norm, order) = (half.norm.as_ref()?, order_of(&half.part)?);
            Some(Input { norm, order })
        });
        let last = bits_of(&model.lm_head.weight).map(|order| Input {
            norm: &model.norm,
            order,
        });
        let Some(inputs) = inputs.chain([last]).collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        let [first, behind @ ..] = inputs.as_slice() else {
            return Ok(false);
        };
        if !self.embed(model, first)? {
            return Ok(false);
        }
        for ((half, input), next) in model.halves.iter().zip(&inputs).zip(behind) {
            let plain = half.post_norm.is_none() && half.out_norm.is_none();
            let done = plain
                && match &half.part {
                    Part::Attention(attention) => self.attention(attention, (half, input, next))?,
                    Part::Mlp(mlp) => self.mlp(mlp, (half, input, next))?,
                    Part::Moe(_) => false,
                };
            if !done {
                return Ok(false);
            }
        }
        self.head(model)
    }

    /// Room for numbers that are written and read by kernels, at first 0. Who asks for the same gets the same.
    fn room(&mut self, name: &'static str, numbers: usize, size: usize) -> Result<Address> {
        let none = || Error::internal("a step's room has no size");
        let bytes = numbers.checked_mul(size).ok_or_else(none)?;
        let known = |room: &&(&str, usize, Address)| (room.0, room.1) == (name, bytes);
        if let Some((.., at)) = self.rooms.iter().find(known) {
            return Ok(*at);
        }
        let room = ops::zeros(&[i32::try_from(bytes).map_err(|_| none())?], Dtype::U8)?;
        mlx::eval(&[&room])?;
        let at = address_of(&room)?;
        self.arrays.push(room);
        self.rooms.push((name, bytes, at));
        Ok(at)
    }

    /// Where an array is, which is held as long as the step.
    fn held(&mut self, array: &Array) -> Result<Address> {
        let at = lasting_address_of(array)?;
        self.arrays.push(array.clone());
        Ok(at)
    }

    fn launch(
        &mut self,
        kernel: String,
        threads: u32,
        with: impl Fn(u32) -> ([u32; 3], Arguments) + 'static,
    ) {
        let known = self.kernels.iter().position(|known| *known == kernel);
        let kernel = known.unwrap_or_else(|| {
            self.kernels.push(kernel);
            self.kernels.len() - 1
        });
        let with = Box::new(with);
        self.launches.push(Launch {
            kernel,
            threads,
            with,
        });
    }

    /// A norm's weight `[width]`, if it is one that the kernels know.
    fn norm(&mut self, norm: &Norm<&Array>, width: u32) -> Result<Option<Address>> {
        let known = !norm.layer
            && norm.bias.is_none()
            && norm.weight.dtype() == self.dtype
            && norm.weight.shape() == [width as i32];
        match known {
            true => self.held(norm.weight).map(Some),
            false => Ok(None),
        }
    }

    fn weight(&mut self, linear: &Linear) -> Result<Option<Known>> {
        if !linear.low.is_empty() {
            return Ok(None);
        }
        let mut known = known!(self.matrix(&linear.weight)?);
        if let Some(bias) = linear.bias {
            if bias.dtype() != self.dtype {
                return Ok(None);
            }
            known.weight.bias = self.held(bias)?;
        }
        Ok(Some(known))
    }

    fn matrix(&mut self, matrix: &Matrix) -> Result<Option<Known>> {
        let [out, inputs] = known!(shape(matrix));
        let mut weight = Weight {
            out,
            ..Weight::default()
        };
        let kind = match matrix {
            Matrix::Dense(dense) if dense.dtype() == self.dtype => {
                weight.w = self.held(dense)?;
                let (bits, group) = (16, 1);
                Kind { bits, group }
            }
            Matrix::AsMlx(packed) => {
                let Scheme {
                    mode: Mode::Affine,
                    bits: bits @ (4 | 8),
                    group_size: group @ (64 | 128),
                } = packed.scheme
                else {
                    return Ok(None);
                };
                let Some(biases) = packed.biases else {
                    return Ok(None);
                };
                if [packed.scales, biases]
                    .iter()
                    .any(|of| of.dtype() != self.dtype)
                {
                    return Ok(None);
                }
                weight.w = self.held(packed.weight)?;
                weight.scales = self.held(packed.scales)?;
                weight.biases = self.held(biases)?;
                let (bits, group) = (bits as u32, group as u32);
                Kind { bits, group }
            }
            _ => return Ok(None),
        };
        // Read 16 bytes at a time, and two scales.
        let whole = weight.w.is_multiple_of(16)
            && (weight.scales | weight.biases).is_multiple_of(4)
            && inputs.is_multiple_of(2 * TILE)
            && inputs / kind.group.max(TILE) <= MAX_GROUPS;
        Ok(whole.then_some(Known {
            kind,
            weight,
            inputs,
        }))
    }

    /// The kernel of a product with so many tiles, `count` weights side by side; and among how many warps the inputs of a tile are
    /// split. As was measured: with four chunks at a time, of floats always, of packed weights where a warp then has no more to do
    /// and one block is all that a multiprocessor gets; else with two, in as many warps as run at once.
    fn product(&self, name: &str, of: Known, tiles: u32, count: u32, more: &str) -> (String, u32) {
        let Kind { bits, group } = of.kind;
        // What four lanes load at once.
        let inputs = match (bits, of.inputs % 128) {
            (4, 0) => 128,
            (16, _) => 32,
            _ => 64,
        };
        let (chunks, tiles) = (of.inputs / inputs, tiles * count);
        let most = WARPS / count;
        let fits = tiles * chunks.div_ceil(4) <= WARPS * self.multiprocessors;
        let (mut ahead, mut split) = match (bits, fits) {
            (4 | 8, true) => (4, chunks.div_ceil(4).next_power_of_two().min(most)),
            (bits, _) => {
                let mut split = most;
                while split > 1 && tiles * split > 2 * WARPS * self.multiprocessors {
                    split /= 2;
                }
                (if bits == 16 { 4 } else { 2 }, split)
            }
        };
        while chunks % ahead != 0 {
            ahead /= 2;
        }
        while split > chunks {
            split /= 2;
        }
        let of_type = self.type_name;
        let kernel = format!("{name}<{of_type}, {bits}, {group}, {inputs}, {ahead}{more}>");
        (kernel, split)
    }

    /// Of a half's input.
    fn product_of(&self, known: Known, split: u32, norm: &Norm<&Array>) -> Product {
        Product {
            x: self.normed,
            sums: self.sums,
            squares: match self.dtype {
                Dtype::F16 => 0,
                _ => self.squares,
            },
            eps: norm.eps,
            rows: 0,
            inputs: known.inputs,
            split,
        }
    }

    /// Behind what wrote h, and what the weight of a half's norm makes of it: in f16 that is made anew.
    fn normalise(&mut self, input: &Input, norm: Address) {
        if self.dtype != Dtype::F16 {
            return;
        }
        let (hidden, h, normed, sums) = (self.hidden, self.h, self.normed, self.sums);
        let (eps, order) = (input.norm.eps, input.order);
        self.launch("normalise<F16>".to_owned(), 256, move |rows| {
            let arguments = Arguments::new().add(hidden).add(eps).add(norm).add(h);
            ([rows, 1, 1], arguments.add(normed).add(order).add(sums))
        });
    }

    fn embed(&mut self, model: &Model, first: &Input) -> Result<bool> {
        let (Some(known), Some(norm)) = (
            self.matrix(&model.embed_tokens)?,
            self.norm(first.norm, self.hidden)?,
        ) else {
            return Ok(false);
        };
        let (inputs, h, normed, order) = (self.inputs, self.h, self.normed, first.order);
        let (sums, squares) = (self.sums, self.squares);
        let (vocab, hidden, scale) = (self.vocab, self.hidden, model.embed_scale);
        let Kind { bits, group } = known.kind;
        let kernel = format!("embed<{}, {bits}>", self.type_name);
        self.launch(kernel, 256, move |rows| {
            let Weight {
                w, scales, biases, ..
            } = known.weight;
            let arguments = Arguments::new().add(inputs).add(w).add(scales).add(biases);
            let arguments = arguments.add(group).add(vocab).add(hidden).add(scale);
            let arguments = arguments.add(norm).add(h).add(normed).add(order);
            ([rows, 1, 1], arguments.add(sums).add(squares))
        });
        self.normalise(first, norm);
        Ok(true)
    }

    fn attention(
        &mut self,
        attention: &kernels::Attention<Matrix, &Array>,
        (half, input, next): (&Half, &Input, &Input),
    ) -> Result<bool> {
        let sizes = &attention.sizes;
        let number = |n: usize| u32::try_from(n).unwrap_or(0);
        let [heads, kv_heads] = [number(sizes.heads), number(sizes.kv_heads)];
        let dim = number(sizes.head_dim);
        let fits = (TILE..=MAX_HEAD_DIM).contains(&dim) && dim.is_multiple_of(TILE);
        if !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || sizes.temperature.is_some()
        {
            return Ok(false);
        }
        let mut weights = Vec::with_capacity(3);
        for linear in projections(attention) {
            let Some(known) = self.weight(linear)? else {
                return Ok(false);
            };
            weights.push(known);
        }
        let width = (heads + 2 * kv_heads) * dim;
        let rows = |width: u32| MAX_ROWS * width as usize;
        let qkv = self.room("qkv", rows(width), 4)?;
        self.project(&weights, input.norm, (width, qkv));

        let mut own_norm = |norm: &Option<Norm<&Array>>| match norm {
            None => Ok::<_, Error>(Some((0, 0.0))),
            Some(norm) => Ok(self.norm(norm, dim)?.map(|weight| (weight, norm.eps))),
        };
        let (Some((q_norm, eps)), Some((k_norm, k_eps))) =
            (own_norm(&attention.q_norm)?, own_norm(&attention.k_norm)?)
        else {
            return Ok(false);
        };
        if q_norm != 0 && k_norm != 0 && eps != k_eps {
            return Ok(false);
        }
        let eps = if q_norm != 0 { eps } else { k_eps };
        let rope = sizes.rope.as_deref();
        let frequencies = match rope {
            Some(rope) => {
                let bytes = rope.frequencies().iter().flat_map(|f| f.to_ne_bytes());
                let table = upload(&bytes.collect::<Vec<_>>())?;
                self.held(&table)?
            }
            None => 0,
        };
        let of = Heads {
            heads,
            kv_heads,
            dim,
            turned: rope.map_or(0, |rope| number(rope.dims())),
            traditional: rope.is_some_and(kernels::Rope::is_traditional).into(),
            scale: rope.map_or(1.0, kernels::Rope::scale),
            factor: rope.map_or(1.0, kernels::Rope::factor),
            eps,
            frequencies,
            q_norm,
            k_norm,
        };
        let q = self.room("q", rows(heads * dim), 4)?;
        let before = self.attentions * MAX_ROWS * size_of::<Place>();
        let places = self.inputs + (INPUTS + before) as Address;
        self.attentions += 1;
        let kernel = format!("heads<{}>", self.type_name);
        self.launch(kernel, 32 * HEADS, move |rows| {
            let arguments = Arguments::new().add(of).add(places).add(qkv).add(q);
            ([(heads + 2 * kv_heads).div_ceil(HEADS), rows, 1], arguments)
        });

        // Heads that share keys go together, up to eight.
        let shared = heads / kv_heads;
        let group = shared.next_power_of_two().min(8);
        let groups = kv_heads * shared.div_ceil(group);
        let sinks = match attention.sinks {
            Some(sinks) if sinks.dtype() != self.dtype => return Ok(false),
            Some(sinks) => self.held(sinks)?,
            None => 0,
        };
        let of = Attention {
            heads,
            kv_heads,
            parts: (self.multiprocessors / groups).clamp(1, MOST_PARTS),
            scale: sizes.scale,
            softcap: sizes.softcap.unwrap_or(0.0),
            sinks,
        };
        let attended = self.room("attended", rows(heads * dim), 2)?;
        let sums = self.room("sums of attended", rows(heads * dim / TILE), 4)?;
        let Some(order) = bits_of(&attention.o_proj.weight) else {
            return Ok(false);
        };
        let found = self.room("found", rows(heads * of.parts * (dim + 2)), 4)?;
        let counts = self.room("counts", rows(groups), 4)?;
        let kernel = format!("attention<{}, {dim}, {group}>", self.type_name);
        let threads = if dim > 128 { 128 } else { 256 };
        self.launch(kernel, threads, move |rows| {
            let arguments = Arguments::new().add(of).add(places).add(q).add(attended);
            let arguments = arguments.add(order).add(sums).add(found).add(counts);
            ([of.parts, groups, rows], arguments)
        });
        self.residual(&attention.o_proj, (attended, sums), (half.multiplier, next))
    }

    /// Products of weights one behind the other → f32 `[MAX_ROWS, width]`; those of one kind in one kernel.
    fn project(&mut self, weights: &[Known], norm: &Norm<&Array>, (width, y): (u32, Address)) {
        let mut first = 0;
        for alike in weights.chunk_by(|a, b| (a.kind, a.inputs) == (b.kind, b.inputs)) {
            let mut all = [Weight::default(); 3];
            let mut tiles = 0;
            for (own, known) in all.iter_mut().zip(alike) {
                *own = Weight {
                    first,
                    ..known.weight
                };
                first += own.out;
                tiles += own.out.div_ceil(TILE);
            }
            let Some(&of) = alike.first() else {
                continue;
            };
            let (kernel, split) = self.product("project", of, tiles, 1, "");
            let product = self.product_of(of, split, norm);
            self.launch(kernel, 32 * WARPS, move |rows| {
                let arguments = Arguments::new().add(Product { rows, ..product });
                let arguments = all.iter().fold(arguments, |list, weight| list.add(*weight));
                (blocks(tiles, split), arguments.add(width).add(y))
            });
        }
    }

    /// h += multiplier * the product with x `[MAX_ROWS, …]`, which comes with its sums.
    fn residual(
        &mut self,
        linear: &Linear,
        (x, x_sums): (Address, Address),
        (multiplier, next): (f32, &Input),
    ) -> Result<bool> {
        let (Some(known), Some(norm)) = (self.weight(linear)?, self.norm(next.norm, self.hidden)?)
        else {
            return Ok(false);
        };
        let tiles = known.weight.out.div_ceil(TILE);
        let (kernel, split) = self.product("residual", known, tiles, 1, "");
        let product = Product {
            x,
            sums: x_sums,
            squares: 0,
            eps: 0.0,
            rows: 0,
            inputs: known.inputs,
            split,
        };
        let (h, normed, order) = (self.h, self.normed, next.order);
        let (sums, squares) = (self.sums, self.squares);
        self.launch(kernel, 32 * WARPS, move |rows| {
            let arguments = Arguments::new().add(Product { rows, ..product });
            let arguments = arguments.add(known.weight).add(multiplier).add(norm);
            let arguments = arguments.add(h).add(normed).add(order);
            (blocks(tiles, split), arguments.add(sums).add(squares))
        });
        self.normalise(next, norm);
        Ok(known.weight.out == self.hidden)
    }

    fn mlp(
        &mut self,
        mlp: &kernels::Mlp<Matrix, &Array>,
        (half, input, next): (&Half, &Input, &Input),
    ) -> Result<bool> {
        let activation = match mlp.activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
            Activation::Gelu => 2,
            _ => return Ok(false),
        };
        let both = match &mlp.gate_up {
            GateUp::Apart { gate_proj, up_proj } => {
                self.weight(gate_proj)?.zip(self.weight(up_proj)?)
            }
            GateUp::Fused(gate_up) => self.weight(gate_up)?.and_then(halves),
            GateUp::UpAlone(_) => None,
        };
        let Some((gate, up)) = both.filter(|(gate, up)| {
            (gate.kind, gate.inputs, gate.weight.out) == (up.kind, up.inputs, up.weight.out)
        }) else {
            return Ok(false);
        };
        let rows = |width: u32| MAX_ROWS * width as usize;
        let inner = self.room("inner", rows(gate.weight.out), 2)?;
        let sums = self.room("sums of inner", rows(gate.weight.out / TILE), 4)?;
        let Some(order) = bits_of(&mlp.down_proj.weight) else {
            return Ok(false);
        };
        let tiles = gate.weight.out.div_ceil(TILE);
        let activation = format!(", {activation}");
        let (kernel, split) = self.product("gated", gate, tiles, 2, &activation);
        let product = self.product_of(gate, split, input.norm);
        self.launch(kernel, 32 * WARPS, move |rows| {
            let arguments = Arguments::new().add(Product { rows, ..product });
            let arguments = arguments.add(gate.weight).add(up.weight).add(inner);
            (blocks(tiles, 2 * split), arguments.add(order).add(sums))
        });
        self.residual(&mlp.down_proj, (inner, sums), (half.multiplier, next))
    }

    fn head(&mut self, model: &Model) -> Result<bool> {
        let Some(known) = self.weight(&model.lm_head)? else {
            return Ok(false);
        };
        let tiles = known.weight.out.div_ceil(TILE);
        let (kernel, split) = self.product("head", known, tiles, 1, "");
        let product = self.product_of(known, split, &model.norm);
        let inputs = self.inputs;
        let largest = self.room("largest", MAX_ROWS * tiles as usize, 8)?;
        self.launch(kernel, 32 * WARPS, move |rows| {
            let arguments = Arguments::new().add(Product { rows, ..product });
            let arguments = arguments.add(known.weight).add(inputs).add(largest);
            (blocks(tiles, split), arguments)
        });
        self.launch("pick".to_owned(), 256, move |rows| {
            let arguments = Arguments::new().add(inputs).add(largest).add(tiles);
            ([rows, 1, 1], arguments)
        });
        Ok(known.weight.out == self.vocab)
    }
}

/// Of tiles that so many warps have.
fn blocks(tiles: u32, warps: u32) -> [u32; 3] {
    [tiles.div_ceil(WARPS / warps), 1, 1]
}

/// The bits of a weight's numbers.
fn bits_of(matrix: &Matrix) -> Option<u32> {
    match matrix {
        Matrix::Dense(_) => Some(16),
        Matrix::AsMlx(packed) => u32::try_from(packed.scheme.bits).ok(),
        _ => None,
    }
}

/// In which order a half wants its input. None: not all of its weights want the same.
fn order_of(part: &Part<Matrix, &Array>) -> Option<u32> {
    let linears = match part {
        Part::Attention(attention) => projections(attention),
        Part::Mlp(mlp) => match &mlp.gate_up {
            GateUp::Apart { gate_proj, up_proj } => vec![gate_proj, up_proj],
            GateUp::Fused(one) | GateUp::UpAlone(one) => vec![one],
        },
        Part::Moe(_) => return None,
    };
    let orders = linears.iter().map(|linear| bits_of(&linear.weight));
    let orders: Vec<u32> = orders.collect::<Option<_>>()?;
    let first = orders.first().copied();
    first.filter(|first| orders.iter().all(|order| order == first))
}

fn projections<'m, 'a>(
    attention: &'m kernels::Attention<Matrix<'a>, &'a Array>,
) -> Vec<&'m Linear<'a>> {
    match &attention.projections {
        Projections::Apart {
            q_proj,
            k_proj,
            v_proj,
        } => vec![q_proj, k_proj, v_proj],
        Projections::Fused(qkv_proj) => vec![qkv_proj],
    }
}

/// Outputs and inputs of a matrix as MLX has it.
fn shape(matrix: &Matrix) -> Option<[u32; 2]> {
    let number = |n: i32| u32::try_from(n).ok();
    match matrix {
        Matrix::Dense(dense) => Some([number(dense.dim(0))?, number(dense.dim(1))?]),
        Matrix::AsMlx(packed) => {
            let groups = number(packed.scales.dim(1))?;
            let group = u32::try_from(packed.scheme.group_size).ok()?;
            Some([number(packed.weight.dim(0))?, groups.checked_mul(group)?])
        }
        _ => None,
    }
}

/// The rows of the gate and those of up.
fn halves(both: Known) -> Option<(Known, Known)> {
    let (Kind { bits, group }, inputs) = (both.kind, u64::from(both.inputs));
    let out = both.weight.out / 2;
    let gate = Weight { out, ..both.weight };
    let rows = u64::from(out);
    let behind = |address: Address, bytes: u64| match address {
        0 => 0,
        address => address + bytes,
    };
    let scales = 2 * rows * (inputs / u64::from(group));
    let up = Weight {
        w: gate.w + rows * inputs * u64::from(bits) / 8,
        scales: behind(gate.scales, scales),
        biases: behind(gate.biases, scales),
        bias: behind(gate.bias, 2 * rows),
        ..gate
    };
    let [gate, up] = [gate, up].map(|weight| Known { weight, ..both });
    both.weight.out.is_multiple_of(2).then_some((gate, up))
}
