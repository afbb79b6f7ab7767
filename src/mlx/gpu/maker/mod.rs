//! What a decoder's step is made into: the kernels that it needs, and what each is called with.

/// What the kernels know of it, or nothing at all.
macro_rules! known {
    ($what:expr) => {
        match $what {
            Some(what) => what,
            None => return Ok(None),
        }
    };
}

mod attention;
mod mlp;
mod products;
mod weights;

use super::driver::{Address, Arguments};
use super::memory::{address_of, lasting_address_of};
use super::step::{Called, Half, Launch, Linear, Model, Pass, Place, INPUTS, MAX_ROWS};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::{GateUp, Norm, Part};
use crate::mlx::fast::Matrix;
use crate::mlx::{self, ops, Array};

use attention::projections;
use products::blocks;
use weights::{bits_of, Kind, Weight};

pub(super) use weights::shape;

/// Outputs of a tile (`numbers.cu`).
const TILE: u32 = 16;
/// Warps of a block that computes products.
const WARPS: u32 = 8;
/// Groups of a weight's inputs at most (`product.cu`).
const MAX_GROUPS: u32 = 512;

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
    /// The weights of products that adapters may add to.
    pub numbered: Vec<Address>,
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

    #[cfg(test)]
    pub fn without(mut self, kernel: Option<&str>) -> Maker {
        let names = self.kernels.iter().map(|name| name.split('<').next());
        let left: Vec<bool> = names.map(|name| name != kernel).collect();
        self.launches.retain(|launch| left[launch.kernel]);
        self
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
            numbered: Vec::new(),
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
            let done = half.out_norm.is_none()
                && match &half.part {
                    Part::Attention(attention) => self.attention(attention, (half, input, next))?,
                    Part::Mlp(mlp) => self.mlp(mlp, (half, input, next))?,
                    Part::Moe(moe) => self.moe(moe, (half, input, next))?,
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

    fn launch(&mut self, kernel: String, threads: u32, with: impl Fn(Pass) -> Called + 'static) {
        self.launch_if(kernel, threads, move |pass| Some(with(pass)));
    }

    fn launch_if(
        &mut self,
        kernel: String,
        threads: u32,
        with: impl Fn(Pass) -> Option<Called> + 'static,
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

    fn embed(&mut self, model: &Model, first: &Input) -> Result<bool> {
        let (Some(known), Some(to)) = (
            self.matrix(&model.embed_tokens)?,
            self.residual_of(1.0, first)?,
        ) else {
            return Ok(false);
        };
        let (inputs, scale) = (self.inputs, model.embed_scale);
        let (vocab, hidden) = (self.vocab, self.hidden);
        let Kind { bits, group } = known.kind;
        let kernel = format!("embed<{}, {bits}>", self.type_name);
        self.launch(kernel, 256, move |pass| {
            let Weight {
                w, scales, biases, ..
            } = known.weight;
            let arguments = Arguments::new().add(inputs).add(w).add(scales).add(biases);
            let arguments = arguments.add(group).add(vocab).add(hidden).add(scale);
            ([pass.rows, 1, 1], arguments.add(to))
        });
        self.normalise(first, to);
        Ok(true)
    }

    fn head(&mut self, model: &Model) -> Result<bool> {
        let Some(known) = self.weight(&model.lm_head)? else {
            return Ok(false);
        };
        let tiles = known.weight.out.div_ceil(TILE);
        let (kernel, split) = self.product("head", known, tiles, 1, "");
        let Some(order) = bits_of(&model.lm_head.weight) else {
            return Ok(false);
        };
        let product = self.product_of(known.inputs, &model.norm);
        let product = self.adapted(product, &[known.weight], order)?;
        let inputs = self.inputs;
        let largest = self.room("largest", MAX_ROWS * tiles as usize, 8)?;
        self.launch(kernel, 32 * WARPS, move |pass| {
            let arguments = Arguments::new().add(product.of(pass, split));
            let arguments = arguments.add(known.weight).add(inputs).add(largest);
            (blocks(tiles, split), arguments)
        });
        self.launch("pick".to_owned(), 256, move |pass| {
            let arguments = Arguments::new().add(inputs).add(largest).add(tiles);
            ([pass.rows, 1, 1], arguments)
        });
        Ok(known.weight.out == self.vocab)
    }
}

fn gates<L>(gate_up: &GateUp<L>) -> Vec<&L> {
    match gate_up {
        GateUp::Apart { gate_proj, up_proj } => vec![gate_proj, up_proj],
        GateUp::Fused(one) | GateUp::UpAlone(one) => vec![one],
    }
}

/// The products of a half that adapters may add to, but for experts'.
pub(super) fn linears<'m, 'a>(half: &'m Half<'a>) -> Vec<&'m Linear<'a>> {
    let mlp = match &half.part {
        Part::Attention(attention) => {
            let mut all = projections(attention);
            all.push(&attention.o_proj);
            return all;
        }
        Part::Mlp(mlp) => Some(mlp),
        Part::Moe(moe) => moe.shared.as_ref().map(|shared| &shared.mlp),
    };
    let mut all = mlp.map(|mlp| gates(&mlp.gate_up)).unwrap_or_default();
    all.extend(mlp.map(|mlp| &mlp.down_proj));
    all
}

/// In which order a half wants its input. None: not all of its weights want the same.
fn order_of(part: &Part<Matrix, &Array>) -> Option<u32> {
    fn of<L>(gate_up: &GateUp<L>, matrix: fn(&L) -> &Matrix) -> Vec<Option<u32>> {
        let linears = gates(gate_up).into_iter();
        linears.map(|linear| bits_of(matrix(linear))).collect()
    }
    let orders = match part {
        Part::Attention(attention) => {
            let linears = projections(attention).into_iter();
            linears.map(|linear| bits_of(&linear.weight)).collect()
        }
        Part::Mlp(mlp) => of(&mlp.gate_up, |linear| &linear.weight),
        // The router takes any.
        Part::Moe(moe) => {
            let mut orders = of(&moe.experts.gate_up, |linear| &linear.weight);
            if let Some(shared) = &moe.shared {
                orders.extend(of(&shared.mlp.gate_up, |linear| &linear.weight));
            }
            orders
        }
    };
    let orders: Vec<u32> = orders.into_iter().collect::<Option<_>>()?;
    let first = orders.first().copied();
    first.filter(|first| orders.iter().all(|order| order == first))
}
