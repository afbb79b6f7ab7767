//! Matrices as other programs pack them, known by the names, types and shapes of their tensors; what they become.

mod biases;
mod floats;
mod tensors;

use super::{Finder, HeadMatrix, Named, Places};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};
use crate::load::{Float8, Grid, Listed, Make, Recipe, Slot, Tensor, Warnings, Zeros};
use crate::model::modules::Weight;
pub use biases::undeclared_biases;

/// A matrix that another program packed.
#[derive(Clone, Debug)]
pub struct Repacked {
    pub path: String,
    pub from: &'static str,
    /// What it is now; None: plain, of type `dtype`.
    pub scheme: Option<Scheme>,
    pub dtype: Dtype,
    /// What is rounded to that type, if anything is.
    pub rounded: Option<&'static str>,
}

/// One that is looked at.
struct Matrix<'f, 'a, 'p> {
    finder: &'f mut Finder<'a>,
    places: &'p dyn Places,
    path: &'p str,
    /// Of experts how many.
    stack: &'p [i32],
    rows: i32,
    input: i32,
}

/// None where its tensors are MLX's, or plain.
pub(super) fn matrix(
    finder: &mut Finder,
    path: &str,
    shape: &[i32],
    places: &dyn Places,
) -> Result<Option<Weight<Slot>>> {
    let [stack @ .., rows, input] = shape else {
        return Err(Error::internal("a matrix without dimensions"));
    };
    let mut matrix = Matrix {
        finder,
        places,
        path,
        stack,
        rows: *rows,
        input: *input,
    };
    matrix.find()
}

/// `[heads, output, input]` of one that another program packed for all heads; None where it is MLX's, or plain.
pub fn heads(
    finder: &mut Finder,
    path: &str,
    [heads, output, input]: [i32; 3],
    places: &HeadMatrix,
) -> Result<Option<Weight<Slot>>> {
    if finder.catalog.get(&format!("{path}.weight")).is_some() {
        return Ok(None);
    }
    let columns = if places.turns { output } else { input };
    let rows = heads.saturating_mul(places.each);
    match matrix(finder, &places.both, &[rows, columns], &Named)? {
        None => Ok(None),
        Some(Weight::Dense(whole)) => {
            let name = format!("{path}.weight");
            let of = (heads, places.each);
            let slot = whole.made_of_heads(name, of, places.rows.clone(), places.turns);
            let slot = slot.ok_or_else(|| Error::internal("heads of another matrix"))?;
            Ok(Some(Weight::Dense(slot)))
        }
        Some(Weight::Quantized { .. }) => Err(Error::unsupported(format!(
            "\"{}\" is packed by another program for all heads in one, and only what becomes plain can be told apart",
            places.both
        ))),
    }
}

impl Matrix<'_, '_, '_> {
    fn find(&mut self) -> Result<Option<Weight<Slot>>> {
        if let Some(words) = self.take("qweight")? {
            return self.columns(&words).map(Some);
        }
        if let Some(packed) = self.take("weight_packed")? {
            return match packed.dtype {
                Dtype::U8 => self.floats4(packed),
                _ => self.integers(packed),
            }
            .map(Some);
        }
        for leaf in ["weight_scale_inv", "weight_scale"] {
            let Some((scale, _)) = self.places.place(self.finder, self.path, leaf)? else {
                continue;
            };
            let weight = self.places.place(self.finder, self.path, "weight")?;
            let Some((weight, from)) = weight.filter(|(weight, _)| !weight.dtype.is_float()) else {
                continue;
            };
            self.finder.used.extend(from);
            self.take(leaf)?;
            return match (weight.dtype, weight.float8) {
                (Dtype::I8, _) => self.bytes(weight, &scale),
                (_, Some(Float8::E4m3)) => self.floats8(weight, &scale),
                // As MLX writes them.
                (Dtype::U8, None) if leaf == "weight_scale_inv" => self.floats8(weight, &scale),
                (Dtype::U8, None) => self.floats4(weight),
                _ => Err(self.unknown(&weight)),
            }
            .map(Some);
        }
        Ok(None)
    }

    /// AWQ and GPTQ: words along inputs.
    fn columns(&mut self, words: &Slot) -> Result<Weight<Slot>> {
        let (rows, input) = (i64::from(self.rows), i64::from(self.input));
        let is_words = matches!(words.dtype, Dtype::I32 | Dtype::U32);
        let [a, b] = match *self.own(words)? {
            [a, b] if is_words => [i64::from(a), i64::from(b)],
            _ => return Err(self.unknown(words)),
        };
        let of_gptq = [4i64, 8].into_iter().find(|bits| a * 32 == input * bits);
        let (from, bits, make) = match of_gptq {
            _ if a == input && b * 8 == rows => ("awq", 4, Make::FromAwq),
            Some(bits) if b == rows => ("gptq", bits as i32, Make::Transposed),
            _ => return Err(self.unknown(words)),
        };
        let scales = self.need("scales")?;
        let groups = match *self.own(&scales)? {
            [groups, of] if of == self.rows => groups,
            _ => return Err(self.other_shape(&scales)),
        };
        let (scheme, repeat, group) = self.groups(bits, groups)?;
        let zeros = self.take("qzeros")?;
        let kind = match (&zeros, from) {
            (None, _) => Zeros::Middle { bits: bits as u32 },
            (Some(_), "awq") => Zeros::Awq,
            (Some(_), _) => Zeros::Across {
                bits: bits as u32,
                more: self.zeros_less()?,
            },
        };
        if let Some(zeros) = &zeros {
            self.is(zeros, &[groups, self.rows * bits / 32], Dtype::I32)?;
        }
        let act_order = self.finder.foreign().is_some_and(|of| of.act_order);
        match self.list("g_idx", &[self.input])? {
            Some(tensors) => self.check_groups(tensors, group, groups),
            None if act_order && from == "gptq" => {
                return Err(Error::unsupported(format!(
                    "\"{}\" has no g_idx, and config.json's desc_act is true: inputs in an order of their own (act-order) are not \
                     supported",
                    self.path
                )))
            }
            None => {}
        }
        let columns = self.input / 32 * bits;
        let weight = self.made("weight", columns, &[words], make, Dtype::U32)?;
        self.affine(
            from,
            weight,
            (&scales, zeros.as_ref()),
            (scheme, repeat, true),
            kind,
        )
    }

    /// compressed-tensors: words as MLX has them.
    fn integers(&mut self, words: Slot) -> Result<Weight<Slot>> {
        let is_words = matches!(words.dtype, Dtype::I32 | Dtype::U32);
        let columns = match *self.own(&words)? {
            [rows, columns] if rows == self.rows && is_words => columns,
            _ => return Err(self.unknown(&words)),
        };
        let of = |bits: &i32| i64::from(columns) * 32 == i64::from(self.input) * i64::from(*bits);
        let bits = [4, 8].into_iter().find(of);
        let bits = bits.ok_or_else(|| self.unknown(&words))?;
        let scales = self.need("weight_scale")?;
        let groups = self.groups_of(&scales)?;
        let (scheme, repeat, group) = self.groups(bits, groups)?;
        let zeros = self.take("weight_zero_point")?;
        let mut kind = Zeros::Middle { bits: bits as u32 };
        if let Some(zeros) = &zeros {
            self.is(zeros, &[self.rows * bits / 32, groups], Dtype::I32)?;
            kind = Zeros::Down { bits: bits as u32 };
        }
        if let Some(tensors) = self.list("weight_g_idx", &[self.input])? {
            self.check_groups(tensors, group, groups);
        }
        if let Some(tensors) = self.list("weight_shape", &[2])? {
            let shape = [self.rows, self.input].map(i64::from);
            let checks = tensors.into_iter().map(|of| (of, Listed::Shape(shape)));
            self.finder.listed.extend(checks);
        }
        let weight = Slot {
            name: format!("{}.weight", self.path),
            dtype: Dtype::U32,
            ..words
        };
        self.affine(
            "pack-quantized",
            weight,
            (&scales, zeros.as_ref()),
            (scheme, repeat, false),
            kind,
        )
    }

    /// Bytes with a sign, a scale for each row or group.
    fn bytes(&mut self, bytes: Slot, scales: &Slot) -> Result<Weight<Slot>> {
        self.is(&bytes, &[self.rows, self.input], Dtype::I8)?;
        if self.take("weight_zero_point")?.is_some() {
            return Err(Error::unsupported(format!(
                "\"{}\" has bytes with zeros of their own (weight_zero_point), which is not supported",
                self.path
            )));
        }
        let (scheme, repeat, _) = self.groups(8, self.groups_of(scales)?)?;
        let weight = self.made(
            "weight",
            self.input / 4,
            &[&bytes],
            Make::Unsigned,
            Dtype::U32,
        )?;
        let zeros = Zeros::Middle { bits: 8 };
        self.affine(
            "int-quantized",
            weight,
            (scales, None),
            (scheme, repeat, false),
            zeros,
        )
    }

    fn affine(
        &mut self,
        from: &'static str,
        weight: Slot,
        (scales, zeros): (&Slot, Option<&Slot>),
        (scheme, repeat, transposed): (Scheme, i32, bool),
        kind: Zeros,
    ) -> Result<Weight<Slot>> {
        let grid = Grid {
            number: self.float(scales)?,
            transposed,
            repeat: size(repeat),
        };
        let dtype = match self.finder.float {
            Dtype::F32 => Dtype::F32,
            _ => scales.dtype,
        };
        let columns = self.input / scheme.group_size;
        let sources: Vec<&Slot> = [scales].into_iter().chain(zeros).collect();
        let biases = self.made("biases", columns, &sources, Make::Biases(grid, kind), dtype)?;
        let scales = self.made("scales", columns, &[scales], Make::Scales(grid), dtype)?;
        // A zero has up to 9 bits, and a power of two needs none.
        let exact = dtype == Dtype::F32 || zeros.is_none();
        self.became(from, Some(scheme), dtype, (!exact).then_some("biases"));
        Ok(Weight::Quantized {
            weight,
            scales,
            biases: Some(biases),
            scheme,
        })
    }

    fn became(
        &mut self,
        from: &'static str,
        scheme: Option<Scheme>,
        dtype: Dtype,
        rounded: Option<&'static str>,
    ) {
        let path = self.path.to_owned();
        let schemes = scheme.map(|scheme| (path.clone(), scheme));
        self.finder.schemes.extend(schemes);
        // The halves of one are found one after the other.
        self.finder.repacked.retain(|of| of.path != path);
        self.finder.repacked.push(Repacked {
            path,
            from,
            scheme,
            dtype,
            rounded,
        });
    }

    /// `[…, rows, columns]`
    fn made(
        &self,
        leaf: &str,
        columns: i32,
        sources: &[&Slot],
        make: Make,
        dtype: Dtype,
    ) -> Result<Slot> {
        let recipe = Recipe {
            make,
            sources: sources.len(),
            rows: size(self.rows),
            columns: size(columns),
            dtype,
            picks: Vec::new(),
        };
        let name = format!("{}.{leaf}", self.path);
        let shape = [self.stack, &[self.rows, columns]].concat();
        let count = self.stack.iter().map(|&n| size(n)).product();
        Slot::made(name, shape, count, sources, recipe)
    }

    /// The scheme of so many groups, the groups of it that have one scale, and the inputs that have one.
    fn groups(&self, bits: i32, groups: i32) -> Result<(Scheme, i32, i32)> {
        let whole = groups > 0 && self.input % groups == 0;
        let group = if whole { self.input / groups } else { 0 };
        let fits = |own: &i32| group > 0 && group % own == 0;
        let group_size = [128, 64, 32].into_iter().find(fits).ok_or_else(|| {
            let (path, input) = (self.path, self.input);
            Error::unsupported(format!(
                "\"{path}\" has {groups} groups of its {input} inputs, and groups are multiples of 32 here"
            ))
        })?;
        let scheme = Scheme {
            mode: Mode::Affine,
            bits,
            group_size,
        };
        Ok((scheme, group / group_size, group))
    }

    /// Of scales `[rows, groups]`, or `[rows]`.
    fn groups_of(&self, scales: &Slot) -> Result<i32> {
        match *self.own(scales)? {
            [rows] if rows == self.rows => Ok(1),
            [rows, groups] if rows == self.rows => Ok(groups),
            _ => Err(self.other_shape(scales)),
        }
    }

    fn check_groups(&mut self, tensors: Vec<Tensor>, group: i32, groups: i32) {
        let listed = Listed::Groups {
            size: group.into(),
            groups: groups.into(),
        };
        let checks = tensors.into_iter().map(|of| (of, listed.clone()));
        self.finder.listed.extend(checks);
    }

    fn zeros_less(&self) -> Result<u32> {
        let foreign = self.finder.foreign();
        foreign.map(|of| of.zeros_less).ok_or_else(|| {
            Error::unsupported(format!(
                "\"{}\" is packed as GPTQ does it, and config.json does not say so: nothing tells whether its zeros are stored one \
                 less",
                self.path
            ))
        })
    }
}

/// A sentence for each way of rounding.
pub(super) fn say_what_is_rounded(repacked: &[Repacked], warnings: &mut Warnings) {
    let way = |of: &Repacked| (of.from, of.dtype, of.rounded);
    for (index, first) in repacked.iter().enumerate() {
        let Some(rounded) = first.rounded else {
            continue;
        };
        let mut before = repacked.iter().take(index);
        if before.any(|of| way(of) == way(first)) {
            continue;
        }
        let same = repacked.iter().filter(|of| way(of) == way(first));
        warnings.add(format!(
            "the {rounded} of {} modules of {}, such as \"{}\", are rounded to {}",
            same.count(),
            first.from,
            first.path,
            first.dtype.name()
        ));
    }
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}
