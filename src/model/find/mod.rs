//! The tensors that modules are read from, found in the files' headers, with their shapes and types compared.

mod experts;
mod foreign;
mod heads;
mod kinds;

use std::collections::{BTreeSet, HashSet};

use super::modules::Weight;
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};
use crate::load::{
    Catalog, Float8, Foreign, Listed, PackedScheme, Quantization, Slot, Tensor, Warnings,
};
use crate::words::quoted;
pub(super) use experts::Experts;
pub use experts::{ExpertNames, Fused};
pub use foreign::Repacked;
pub(super) use foreign::{heads as foreign_heads, undeclared_biases};
pub(super) use heads::HeadMatrix;
use kinds::{other_type, Kinds};

pub(super) struct Finder<'a> {
    pub catalog: &'a Catalog,
    quantization: &'a Quantization,
    /// The files' tensors that something is read from.
    pub used: Vec<Tensor>,
    /// The packed matrices, by path.
    pub schemes: Vec<(String, Scheme)>,
    /// Matrices that are packed otherwise than the config says: the path, what it says, what they are.
    pub differ: Vec<(String, Option<Scheme>, Option<Scheme>)>,
    /// The type that the model computes in, as far as its embedding tells.
    pub float: Dtype,
    /// Matrices that another program packed.
    pub repacked: Vec<Repacked>,
    /// Tensors that must say what is expected of them.
    pub listed: Vec<(Tensor, Listed)>,
    /// Matrices that are packed in the files, and not once they are loaded.
    pub unpacked: Vec<String>,
}

/// Where a module's tensors lie in the files.
pub(super) trait Places {
    /// One of a matrix's tensors (`weight`, `scales`, `biases`), and the files' tensors that it is read from.
    fn place(&self, finder: &Finder, path: &str, leaf: &str)
        -> Result<Option<(Slot, Vec<Tensor>)>>;
}

/// Under the module's own name.
pub(super) struct Named;

impl Places for Named {
    fn place(
        &self,
        finder: &Finder,
        path: &str,
        leaf: &str,
    ) -> Result<Option<(Slot, Vec<Tensor>)>> {
        let name = format!("{path}.{leaf}");
        let tensor = match leaf {
            "weight" => finder.catalog.get(&name),
            _ => finder.beside(&format!("{path}.weight"), &name),
        };
        Ok(tensor.map(|tensor| (Slot::whole(tensor), vec![tensor.clone()])))
    }
}

/// Under another name.
pub(super) struct Renamed(pub String);

impl Places for Renamed {
    fn place(
        &self,
        finder: &Finder,
        path: &str,
        leaf: &str,
    ) -> Result<Option<(Slot, Vec<Tensor>)>> {
        let found = Named.place(finder, &self.0, leaf)?;
        Ok(found.map(|(slot, from)| {
            let name = format!("{path}.{leaf}");
            (Slot { name, ..slot }, from)
        }))
    }
}

impl<'a> Finder<'a> {
    pub fn new(catalog: &'a Catalog, quantization: &'a Quantization, float: Dtype) -> Self {
        Finder {
            float,
            repacked: Vec::new(),
            listed: Vec::new(),
            catalog,
            quantization,
            used: Vec::new(),
            schemes: Vec::new(),
            differ: Vec::new(),
            unpacked: Vec::new(),
        }
    }

    /// How much was found until now.
    pub fn found(&self) -> [usize; 6] {
        [
            self.used.len(),
            self.schemes.len(),
            self.differ.len(),
            self.repacked.len(),
            self.listed.len(),
            self.unpacked.len(),
        ]
    }

    /// As if nothing more had been looked for.
    pub fn forget_since(&mut self, found: [usize; 6]) {
        let [used, schemes, differ, repacked, listed, unpacked] = found;
        self.used.truncate(used);
        self.schemes.truncate(schemes);
        self.differ.truncate(differ);
        self.repacked.truncate(repacked);
        self.listed.truncate(listed);
        self.unpacked.truncate(unpacked);
    }

    pub fn foreign(&self) -> Option<&'a Foreign> {
        self.quantization.foreign.as_ref()
    }

    /// `[…, out, input]`, dense or packed: packed where there are scales beside it.
    pub fn matrix(
        &mut self,
        path: &str,
        shape: &[i32],
        places: &dyn Places,
    ) -> Result<Weight<Slot>> {
        if let Some(weight) = foreign::matrix(self, path, shape, places)? {
            return Ok(weight);
        }
        let (name, scales_name) = (format!("{path}.weight"), format!("{path}.scales"));
        let missing = || self.quantization.not_read(self.catalog.missing(&name));
        let (weight, from) = places.place(self, path, "weight")?.ok_or_else(missing)?;
        let scales = places.place(self, path, "scales")?;
        if scales.is_none() && weight.dtype == Dtype::U32 {
            return Err(self.catalog.missing(&scales_name));
        }
        let said = self.quantization.said(path, scales.is_some());
        let scheme = match &scales {
            None => None,
            Some((scales, _)) => Some(self.scheme(path, shape, &weight, scales)?),
        };
        if said != scheme {
            self.differ.push((path.to_owned(), said, scheme));
        }
        self.used.extend(from);
        let (Some(scheme), Some((scales, from))) = (scheme, scales) else {
            return Ok(Weight::Dense(self.checked(weight, shape, Kinds::Float)?));
        };
        self.used.extend(from);
        self.schemes.push((path.to_owned(), scheme));
        let (&input, rows) = shape
            .split_last()
            .ok_or_else(|| Error::internal("a matrix without dimensions"))?;
        let with = |last: i32| [rows, &[last]].concat();
        let groups = input / scheme.group_size;
        // Legal combinations of bits and group size make this a whole number.
        let columns = groups * (scheme.group_size * scheme.bits / 32);
        let weight = self.checked(weight, &with(columns), Kinds::Words)?;
        let (scales, biases) = if scheme.mode == Mode::Affine {
            let (biases, from) = places
                .place(self, path, "biases")?
                .ok_or_else(|| self.catalog.missing(&format!("{path}.biases")))?;
            self.used.extend(from);
            (
                self.checked(scales, &with(groups), Kinds::Float)?,
                Some(self.checked(biases, &with(groups), Kinds::Float)?),
            )
        } else {
            (self.checked(scales, &with(groups), Kinds::Bytes)?, None)
        };
        Ok(Weight::Quantized {
            weight,
            scales,
            biases,
            scheme,
        })
    }

    /// An optional tensor that belongs to another: one of a stray file does not belong to one of the index's.
    pub fn beside(&self, name: &str, other: &str) -> Option<&'a Tensor> {
        let is_stray = |tensor: &Tensor| self.catalog.is_stray(tensor.file);
        let of_index = self
            .catalog
            .get(name)
            .is_some_and(|tensor| !is_stray(tensor));
        let other = self.catalog.get(other)?;
        (!(of_index && is_stray(other))).then_some(other)
    }

    /// What the shapes say.
    fn scheme(&self, path: &str, shape: &[i32], weight: &Slot, scales: &Slot) -> Result<Scheme> {
        if weight.dtype != Dtype::U32 {
            return Err(other_type(weight, Kinds::Words));
        }
        if !Kinds::Scales.hold(scales.dtype) {
            return Err(other_type(scales, Kinds::Scales));
        }
        let [rows @ .., input] = shape else {
            return Err(Error::internal("a matrix without dimensions"));
        };
        match (weight.shape.split_last(), scales.shape.split_last()) {
            (Some((&columns, own)), Some((&groups, of_scales))) if own == rows && of_scales == rows => {
                let scheme = Scheme::of_shapes(*input, columns, groups, scales.dtype)
                    .map_err(|why| Error::bad_model(format!("\"{path}\" {why}")))?;
                // Bytes may be called what they are.
                let of_mode = match scheme.mode {
                    Mode::Nvfp4 => Float8::E4m3,
                    _ => Float8::E8m0,
                };
                match scales.float8.is_none_or(|kind| kind == of_mode) {
                    true => Ok(scheme),
                    false => Err(Error::bad_model(format!(
                        "\"{path}\" is packed as {}, with scales of type {}",
                        scheme.shown(),
                        scales.kind()
                    ))),
                }
            }
            _ => Err(Error::bad_model(format!(
                "\"{path}\" is packed as {:?} with scales {:?}, and config.json implies {rows:?} rows of {input} elements",
                weight.shape, scales.shape
            ))),
        }
    }

    /// `[experts, out]`
    pub fn expert_bias(&mut self, path: &str, shape: &[i32], places: &Experts) -> Result<Slot> {
        let (slot, from) = places
            .place(self, path, "bias")?
            .ok_or_else(|| self.catalog.missing(&format!("{path}.bias")))?;
        self.used.extend(from);
        self.checked(slot, shape, Kinds::Float)
    }

    /// A float number, `[]` or `[1]`.
    pub fn number(&mut self, name: &str) -> Result<Option<Slot>> {
        let Some(tensor) = self.catalog.get(name) else {
            return Ok(None);
        };
        self.used.push(tensor.clone());
        let shape: &[i32] = if tensor.shape.is_empty() { &[] } else { &[1] };
        self.checked(Slot::whole(tensor), shape, Kinds::Float)
            .map(Some)
    }

    /// In one of these shapes, as `name` and in the first of them.
    pub fn numbers(&mut self, name: String, found: &str, shapes: &[&[i32]]) -> Result<Slot> {
        let first = shapes.first().copied().unwrap_or_default();
        let fits = |tensor: &&Tensor| shapes.iter().any(|shape| tensor.shape == *shape);
        let Some(tensor) = self.catalog.get(found).filter(fits) else {
            return self.float(found, first);
        };
        self.used.push(tensor.clone());
        let slot = Slot {
            name,
            shape: first.to_vec(),
            ..Slot::whole(tensor)
        };
        self.checked(slot, first, Kinds::Float)
    }

    pub fn float(&mut self, name: &str, shape: &[i32]) -> Result<Slot> {
        let tensor = self
            .catalog
            .get(name)
            .ok_or_else(|| self.catalog.missing(name))?;
        self.used.push(tensor.clone());
        self.checked(Slot::whole(tensor), shape, Kinds::Float)
    }

    fn checked(&self, slot: Slot, shape: &[i32], kinds: Kinds) -> Result<Slot> {
        if slot.shape != shape {
            return Err(Error::bad_model(format!(
                "tensor \"{}\" has the shape {:?}, and config.json implies {shape:?}",
                slot.name, slot.shape
            )));
        }
        if !kinds.hold(slot.dtype) {
            return Err(other_type(&slot, kinds));
        }
        Ok(slot)
    }

    /// A tensor that nothing uses means that the config and the weights are of two models, unless it lies in a stray file
    /// that nothing at all is used of.
    /// `ignored`: words in the names of what is not run. `tied`: what the name of an output layer begins with that is the
    /// embedding.
    pub fn nothing_left(
        &self,
        ignored: &[String],
        tied: Option<&str>,
        warnings: &mut Warnings,
    ) -> Result<()> {
        let planned: HashSet<&str> = self.used.iter().map(|of| of.name.as_str()).collect();
        if planned.len() == self.catalog.tensors.len() {
            return Ok(());
        }
        let files: HashSet<usize> = self.used.iter().map(|of| of.file).collect();
        let copy = tied.map(|head| format!("{head}lm_head."));
        let packed = !self.repacked.is_empty();
        let dropped = |name: &str| {
            // What other programs quantise activations and caches by, which are as they are here.
            let others = [
                "input_scale",
                "input_global_scale",
                "output_scale",
                "q_scale",
                "k_scale",
                "v_scale",
                "kv_scale",
            ];
            let leaf = name.rsplit('.').next();
            if packed && leaf.is_some_and(|leaf| others.contains(&leaf)) {
                return true;
            }
            // Tables that old exporters wrote out, and the copy of a tied embedding.
            name.ends_with("rotary_emb.inv_freq")
                || copy.as_ref().is_some_and(|copy| name.starts_with(copy))
                || ignored.iter().any(|word| name.contains(word.as_str()))
        };
        let all_indexed = !files.iter().any(|&file| self.catalog.is_stray(file));
        let mut strays = BTreeSet::new();
        let mut left = self
            .catalog
            .tensors
            .values()
            .filter(|tensor| !planned.contains(tensor.name.as_str()) && !dropped(&tensor.name))
            .filter(|tensor| {
                let stray = all_indexed && self.catalog.is_stray(tensor.file);
                if stray {
                    strays.insert(self.catalog.file_of(tensor));
                }
                !stray
            });
        if let Some(tensor) = left.next() {
            let more = left.count();
            return Err(Error::bad_model(format!(
                "the weights hold {} that config.json does not imply, such as {} in {}",
                if more == 0 {
                    "a tensor".to_owned()
                } else {
                    format!("{} tensors", more + 1)
                },
                quoted(&tensor.name, 160),
                self.catalog.file_of(tensor)
            )));
        }
        drop(left);
        for file in strays {
            warnings.add(format!(
                "{file}: is not in the index, and the model needs nothing of it; it is ignored"
            ));
        }
        Ok(())
    }

    pub fn compare_with_config(&self, warnings: &mut Warnings) {
        foreign::say_what_is_rounded(&self.repacked, warnings);
        let Some((path, said, is)) = self.differ.first() else {
            return;
        };
        let shown = |scheme: &Option<Scheme>| scheme.map_or("plain".to_owned(), Scheme::shown);
        let which = match self.differ.len() {
            1 => format!("of \"{path}\""),
            count => format!("of {count} modules, such as \"{path}\","),
        };
        warnings.add(format!(
            "config.json's quantization {which} is not that of the weights: they are {}, not {}; the weights decide",
            shown(is),
            shown(said)
        ));
    }
}
