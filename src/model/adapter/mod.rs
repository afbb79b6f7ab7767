//! Adapters beside the base weights, unfused: y = base(x) + scale * ((x A) B), with DoRA's magnitude or whole weights
//! in place of the base's where an adapter has them. As in mlx-lm (`mlx_lm/tuner/lora.py`, `dora.py`).

mod fuse;
mod low_rank;
mod patch;

pub use fuse::Fused;
use low_rank::LowRank;
pub(super) use patch::Patch;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::modules::Site;
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::mlx::gpu::Lows;
use crate::mlx::{fast, ops, Array};

/// One adapter's arrays.
pub struct Adapter {
    pub parts: Vec<(Site, Part)>,
    /// Low-rank parts as sets have them, by index and the bits of the strength: made once for each that is asked for.
    made: HashMap<(usize, u32), LowRank>,
}

/// What an adapter has for one module.
pub enum Part {
    Low {
        /// `[in, rank]`; of an embedding `[vocab, rank]`; of experts `[experts, in, rank]`
        a: Array,
        /// `[rank, out]`; of an embedding `[rank, hidden]`; of experts `[experts, rank, out]`
        b: Array,
        scale: f32,
        /// DoRA: `[out]`; of an embedding `[vocab]`, or `[hidden]` as PEFT has it
        magnitude: Option<Array>,
        /// Of an embedding: also where that is the output layer.
        tied: bool,
    },
    /// In place of the base's.
    Full {
        /// `[out, in]`, `[vocab, hidden]` or `[size]`
        weight: Option<Array>,
        /// `[out]`
        bias: Option<Array>,
        /// As above.
        tied: bool,
        /// Only a copy of the base's weight, which low-rank parts stand beside.
        copy: bool,
    },
}

/// The adapters of one session, ready to be computed with. Empty: the base alone.
#[derive(Default)]
pub struct AdapterSet {
    /// By site.
    patches: Vec<Option<Patch>>,
    /// What it adds to the products of a GPU's step, when that was first asked for; None: more than the step knows.
    pub(super) lows: OnceCell<Option<Rc<Lows>>>,
}

/// While an adapter is trained, part of what goes into A is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dropout {
    /// From 0 up to but without 1.
    pub rate: f32,
    /// The same one drops the same.
    pub seed: u64,
}

/// One low-rank part whose arrays are recorded while an adapter is trained.
pub(super) struct Traced<'a> {
    pub site: Site,
    pub a: &'a Array,
    pub b: &'a Array,
    pub magnitude: Option<&'a Array>,
    pub scale: f32,
    pub tied: bool,
    pub dropout: Option<Dropout>,
}

impl Adapter {
    pub fn new(parts: Vec<(Site, Part)>) -> Self {
        Adapter {
            parts,
            made: HashMap::new(),
        }
    }

    /// A low-rank part at `strength` times its own scale.
    fn low_rank(
        &mut self,
        index: usize,
        strength: f32,
        weight: impl FnOnce(Site) -> Result<Array>,
    ) -> Result<Option<LowRank>> {
        let key = (index, strength.to_bits());
        if let Some(made) = self.made.get(&key) {
            return Ok(Some(made.clone()));
        }
        let Some((site, part)) = self.parts.get(index) else {
            return Ok(None);
        };
        let Part::Low {
            a,
            b,
            scale,
            magnitude,
            tied,
        } = part
        else {
            return Ok(None);
        };
        let scale = scale * strength;
        let gain = match magnitude {
            None => None,
            Some(magnitude) => Some(gain(*site, a, b, scale, magnitude, &weight(*site)?)?),
        };
        let mut made = LowRank {
            a: a.clone(),
            b: b.clone(),
            scale,
            gain,
            tied: *tied,
            dropout: None,
        };
        // The CPU's kernels take A and B as they are.
        if !fast::active() {
            made.lay_out(*site)?;
        }
        let arrays = [Some(&made.a), Some(&made.b), made.gain.as_ref()];
        crate::mlx::eval(&arrays.into_iter().flatten().collect::<Vec<_>>())?;
        self.made.insert(key, made.clone());
        Ok(Some(made))
    }

    /// The weights have changed.
    pub fn forget_made(&mut self) {
        self.made.clear();
    }
}

/// `magnitude` over the norm of each row of W + scale * (A B)ᵀ, through which no gradient flows, as in mlx-lm.
/// W: `[out, in]`, of an embedding `[vocab, hidden]`.
fn gain(
    site: Site,
    a: &Array,
    b: &Array,
    scale: f32,
    magnitude: &Array,
    weight: &Array,
) -> Result<Array> {
    let product = ops::matmul(a, b)?;
    let delta = if site == Site::EMBED_TOKENS {
        product
    } else {
        ops::transpose(&product, &[1, 0])?
    };
    // Of F16 in f32: squares of weights are soon more than F16 holds, or nothing.
    let wide = |array: &Array| match array.dtype() {
        Dtype::F16 => ops::astype(array, Dtype::F32),
        _ => Ok(array.clone()),
    };
    let (weight, delta) = (wide(weight)?, wide(&delta)?);
    let scale = Array::scalar(scale, delta.dtype())?;
    let adapted = ops::add(&weight, &ops::multiply(&scale, &delta)?)?;
    // An embedding's magnitude may be that of its columns.
    let axis = i32::from(magnitude.dim(0) == weight.dim(0));
    let squares = ops::sum(&ops::multiply(&adapted, &adapted)?, axis, false)?;
    let norms = ops::sqrt(&squares)?;
    // A row of zeros has no direction: whatever it is multiplied with, it stays.
    let (none, one) = (
        ops::zeros(&[], norms.dtype())?,
        Array::scalar(1.0, norms.dtype())?,
    );
    let norms = ops::select(&ops::greater(&norms, &none)?, &norms, &one)?;
    ops::divide(magnitude, &ops::stop_gradient(&norms)?)
}

impl AdapterSet {
    /// Adds a part with the arrays that gradients are wanted for. `weight` as in `add`.
    pub(super) fn add_traced(
        &mut self,
        part: &Traced,
        weight: &dyn Fn(Site) -> Result<Array>,
    ) -> Result<()> {
        let gain = match part.magnitude {
            None => None,
            Some(magnitude) => Some(gain(
                part.site,
                part.a,
                part.b,
                part.scale,
                magnitude,
                &weight(part.site)?,
            )?),
        };
        self.patch_mut(part.site).low.push(LowRank {
            a: part.a.clone(),
            b: part.b.clone(),
            scale: part.scale,
            gain,
            tied: part.tied,
            dropout: part.dropout,
        });
        Ok(())
    }

    /// Adds an adapter at `strength` times its own scale. `weight` gives a module's base weight, dense; `norm` makes of a
    /// stored norm what is computed with.
    ///
    /// # Errors
    /// INCOMPATIBLE when two adapters of a set replace the same weight, or one that replaces weights is scaled.
    pub fn add(
        &mut self,
        adapter: &mut Adapter,
        strength: f32,
        weight: &dyn Fn(Site) -> Result<Array>,
        norm: &dyn Fn(Site, &Array) -> Result<Array>,
    ) -> Result<()> {
        for index in 0..adapter.parts.len() {
            let low = adapter.low_rank(index, strength, weight)?;
            let Some((site, part)) = adapter.parts.get(index) else {
                continue;
            };
            let patch = self.patch_mut(*site);
            match part {
                Part::Low { .. } => patch.low.extend(low),
                Part::Full { copy: false, .. } if strength != 1.0 => {
                    return Err(Error::new(
                        Code::Incompatible,
                        format!(
                        "an adapter that replaces weights works at scale 1 only, not at {strength}"
                    ),
                    ))
                }
                Part::Full { .. } if patch.full.is_some() || patch.bias.is_some() => {
                    return Err(Error::new(
                        Code::Incompatible,
                        "two of the adapters replace the same weight",
                    ))
                }
                Part::Full {
                    weight, bias, tied, ..
                } => {
                    let stored = weight.as_ref().map(|weight| match weight.shape().len() {
                        // Only norms have one dimension.
                        1 => norm(*site, weight),
                        _ => Ok(weight.clone()),
                    });
                    patch.full = stored.transpose()?.map(|weight| (weight, *tied));
                    patch.bias.clone_from(bias);
                }
            }
        }
        Ok(())
    }

    /// What it changes.
    pub fn sites(&self) -> impl Iterator<Item = usize> + '_ {
        let patches = self.patches.iter().enumerate();
        patches.filter_map(|(index, patch)| patch.is_some().then_some(index))
    }

    fn patch_mut(&mut self, site: Site) -> &mut Patch {
        self.lows = OnceCell::new();
        if self.patches.len() <= site.index {
            self.patches.resize_with(site.index + 1, || None);
        }
        self.patches[site.index].get_or_insert_default()
    }

    pub(super) fn patch(&self, site: Site) -> Option<&Patch> {
        self.patches.get(site.index)?.as_ref()
    }

    /// The norm to compute with at `site`.
    pub(super) fn norm<'a>(&'a self, site: Site, own: &'a Array) -> &'a Array {
        self.patch(site).and_then(Patch::full).unwrap_or(own)
    }
}
