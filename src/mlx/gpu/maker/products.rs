//! Products of a step's rows with weights.

use super::weights::{bits_of, Kind, Known, Weight};
use super::{Input, Maker, TILE, WARPS};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels::Norm;
use crate::mlx::gpu::driver::{Address, Arguments};
use crate::mlx::gpu::lows::MAX_RANK;
use crate::mlx::gpu::step::{Half, Linear, Pass, MAX_ROWS};
use crate::mlx::Array;

/// Inputs of which a block of `low` makes its part (`product.cu`).
const LOW_PART: u32 = 1024;

/// `Of` of product.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Product {
    pub x: Address,
    pub sums: Address,
    pub squares: Address,
    pub eps: f32,
    pub rows: u32,
    pub inputs: u32,
    pub split: u32,
    pub number: u32,
    pub numbers: u32,
    /// The step's inputs, where what is multiplied has adapters in some passes.
    pub adapted: Address,
    pub lows: Address,
    pub parts: u32,
}

impl Product {
    /// That of a pass.
    pub fn of(self, pass: Pass, split: u32) -> Product {
        Product {
            rows: pass.rows,
            split,
            adapted: if pass.adapted { self.adapted } else { 0 },
            ..self
        }
    }
}

/// `Residual` of numbers.cu.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Residual {
    h: Address,
    normed: Address,
    sums: Address,
    squares: Address,
    norm: Address,
    multiplier: f32,
    order: u32,
}

impl Maker {
    /// The kernel of a product with so many tiles, `count` weights side by side; and among how many warps the inputs of a tile are
    /// split. As was measured: with four loads at a time, of floats always, of packed weights where a warp then has no more to do
    /// and one block is all that a multiprocessor gets; else with two, in as many warps as run at once.
    pub(super) fn product(
        &self,
        name: &str,
        of: Known,
        tiles: u32,
        count: u32,
        more: &str,
    ) -> (String, u32) {
        let Kind { bits, group } = of.kind;
        // What four lanes load at once.
        let inputs = match (of.kind.width(), of.inputs % 128) {
            (4, 0) => 128,
            (16, _) => 32,
            _ => 64,
        };
        let (chunks, tiles) = (of.inputs / inputs, tiles * count);
        let most = WARPS / count;
        // 64 bytes of each of a lane's outputs.
        let four_loads = 4 * 512 / (inputs * of.kind.width());
        let fits = tiles * chunks.div_ceil(four_loads) <= WARPS * self.multiprocessors;
        let ahead = match bits == 16 || fits {
            true => whole_share(chunks, four_loads),
            false => whole_share(chunks, four_loads / 2),
        };
        let mut split = most;
        if bits != 16 && fits {
            split = chunks.div_ceil(ahead).next_power_of_two().min(most);
        } else {
            while split > 1 && tiles * split > 2 * WARPS * self.multiprocessors {
                split /= 2;
            }
        }
        while split > chunks {
            split /= 2;
        }
        let of_type = self.type_name;
        let kernel = format!("{name}<{of_type}, {bits}, {group}, {inputs}, {ahead}{more}>");
        (kernel, split)
    }

    /// Of a half's input.
    pub(super) fn product_of(&self, inputs: u32, norm: &Norm<&Array>) -> Product {
        Product {
            x: self.normed,
            sums: self.sums,
            squares: match self.dtype {
                Dtype::F16 => 0,
                _ => self.squares,
            },
            eps: norm.eps,
            inputs,
            ..Product::default()
        }
    }

    /// Of x `[MAX_ROWS, inputs]` with its sums, which no norm is left to be done to.
    pub(super) fn product_of_own(&self, inputs: u32, [x, sums]: [Address; 2]) -> Product {
        Product {
            x,
            sums,
            inputs,
            ..Product::default()
        }
    }

    /// The same product where adapters may add to these weights, neighbours in number. `order`: of x.
    pub(super) fn adapted(
        &mut self,
        product: Product,
        weights: &[Weight],
        order: u32,
    ) -> Result<Product> {
        let numbers = weights.iter().map(|weight| weight.number);
        let (Some(number), Some(last)) = (numbers.clone().min(), numbers.max()) else {
            return Ok(product);
        };
        let numbers = last - number + 1;
        let parts = product.inputs.div_ceil(LOW_PART);
        let room = MAX_ROWS * (numbers * parts * MAX_RANK) as usize;
        let lows = self.room("lows", room, 4)?;
        let product = Product {
            number,
            numbers,
            adapted: self.inputs,
            lows,
            parts,
            ..product
        };
        let kernel = format!("low<{}>", self.type_name);
        self.launch_if(kernel, 256, move |pass| {
            let arguments = Arguments::new()
                .add(product.of(pass, 1))
                .add(order)
                .add(lows);
            let blocks = [parts, numbers, pass.rows];
            pass.adapted.then_some((blocks, arguments))
        });
        Ok(product)
    }

    /// Products of weights one behind the other → f32 `[MAX_ROWS, width]`; those of one kind in one kernel.
    pub(super) fn project(&mut self, weights: &[Known], x: Product, (width, y): (u32, Address)) {
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
            self.launch(kernel, 32 * WARPS, move |pass| {
                let arguments = Arguments::new().add(x.of(pass, split));
                let arguments = all.iter().fold(arguments, |list, weight| list.add(*weight));
                (blocks(tiles, split), arguments.add(width).add(y))
            });
        }
    }

    /// Where what a half gives goes, and what the next one's norm makes of it; None where the kernels do not know that.
    pub(super) fn residual_of(
        &mut self,
        multiplier: f32,
        next: &Input,
    ) -> Result<Option<Residual>> {
        let norm = known!(self.norm(next.norm, self.hidden)?);
        Ok(Some(Residual {
            h: self.h,
            normed: self.normed,
            sums: self.sums,
            squares: self.squares,
            norm,
            multiplier,
            order: next.order,
        }))
    }

    /// Behind what wrote h: the next half's input in f16, where what comes along with h may not fit.
    pub(super) fn normalise(&mut self, next: &Input, to: Residual) {
        if self.dtype != Dtype::F16 {
            return;
        }
        let (hidden, eps) = (self.hidden, next.norm.eps);
        self.launch("normalise<F16>".to_owned(), 256, move |pass| {
            let arguments = Arguments::new().add(hidden).add(eps).add(to);
            ([pass.rows, 1, 1], arguments)
        });
    }

    /// The last product of a half, with x `[MAX_ROWS, …]`, which comes with its sums: to h.
    pub(super) fn residual(
        &mut self,
        linear: &Linear,
        x: [Address; 2],
        (half, next): (&Half, &Input),
    ) -> Result<bool> {
        let (Some(known), Some(to)) = (
            self.weight(linear)?,
            self.residual_of(half.multiplier, next)?,
        ) else {
            return Ok(false);
        };
        let Some(order) = bits_of(&linear.weight) else {
            return Ok(false);
        };
        let product = self.product_of_own(known.inputs, x);
        let product = self.adapted(product, &[known.weight], order)?;
        if let Some(post) = &half.post_norm {
            let Some(weight) = self.norm(post, self.hidden)? else {
                return Ok(false);
            };
            let (hidden, eps) = (self.hidden, post.eps);
            let y = self.room("y", MAX_ROWS * hidden as usize, 4)?;
            self.project(&[known], product, (hidden, y));
            let kernel = format!("add_normed<{}>", self.type_name);
            self.launch(kernel, 256, move |pass| {
                let arguments = Arguments::new().add(hidden).add(eps).add(weight).add(y);
                ([pass.rows, 1, 1], arguments.add(to))
            });
        } else {
            let tiles = known.weight.out.div_ceil(TILE);
            let (kernel, split) = self.product("residual", known, tiles, 1, "");
            self.launch(kernel, 32 * WARPS, move |pass| {
                let product = product.of(pass, split);
                let arguments = Arguments::new().add(product).add(known.weight).add(to);
                (blocks(tiles, split), arguments)
            });
        }
        self.normalise(next, to);
        Ok(known.weight.out == self.hidden)
    }
}

/// So many of some chunks, or one more, or fewer, that all are in whole parts.
fn whole_share(chunks: u32, wanted: u32) -> u32 {
    let is_whole = |share: &u32| chunks.is_multiple_of(*share);
    let mut shares = [wanted, wanted + 1].into_iter().chain((1..wanted).rev());
    shares.find(is_whole).unwrap_or(1)
}

/// Of tiles that so many warps have.
pub(super) fn blocks(tiles: u32, warps: u32) -> [u32; 3] {
    [tiles.div_ceil(WARPS / warps), 1, 1]
}
