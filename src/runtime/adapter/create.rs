//! New adapters, which change nothing until they are trained.

use std::sync::Arc;

use super::{largest, largest_scale, Adapter, Settings};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::load::{AdapterKind, ModuleShape};
use crate::mlx::{ops, Array};
use crate::model::adapter::Part;
use crate::model::modules::Module;
use crate::random::mix;
use crate::runtime::model::{check_budget, Model};
use crate::words::quoted;

/// How an adapter is made; 0 and empty are the defaults.
#[derive(Clone, Debug, Default)]
pub struct AdapterOptions {
    pub dora: bool,
    pub rank: u32,
    pub scale: f32,
    pub dropout: f32,
    /// The last so many; 0 = all.
    pub layers: u32,
    pub dtype: Option<Dtype>,
    pub seed: u64,
    pub keys: Vec<String>,
}

const DEFAULT_RANK: u32 = 8;
/// As mlx-lm.
const DEFAULT_SCALE: f32 = 20.0;
const DEFAULT_KEYS: [&str; 2] = ["self_attn.q_proj", "self_attn.v_proj"];
const MOST_RANK: u32 = 4096;

impl Adapter {
    /// A new one: A uniform within 1 over the root of its width as in mlx-lm, B zero, and DoRA's magnitude the base
    /// weight's own, so that it changes nothing until it is trained.
    pub fn create(model: Arc<Model>, options: &AdapterOptions) -> Result<Self> {
        let rank = if options.rank == 0 {
            DEFAULT_RANK
        } else {
            options.rank
        };
        if rank > MOST_RANK {
            return Err(Error::invalid(format!(
                "options.rank is {rank}; at most {MOST_RANK}"
            )));
        }
        let scale = if options.scale == 0.0 {
            DEFAULT_SCALE
        } else {
            options.scale
        };
        let dtype = options.dtype.unwrap_or(Dtype::F32);
        if !scale.is_finite() {
            return Err(Error::invalid(format!("options.scale is {scale}")));
        }
        let most = largest_scale(dtype);
        if scale.abs() > most {
            return Err(Error::invalid(format!(
                "options.scale is {scale:e}; with {} it may be {most:e} at most",
                dtype.name()
            )));
        }
        if !(0.0..1.0).contains(&options.dropout) {
            return Err(Error::invalid(format!(
                "options.dropout is {}; it must be at least 0 and below 1",
                options.dropout
            )));
        }
        let chosen = choose(&model.modules, &options.keys, options.layers)?;
        let is_stacked = |module: &&Module| matches!(module.shape, ModuleShape::Experts { .. });
        if let Some(module) = chosen
            .iter()
            .copied()
            .find(is_stacked)
            .filter(|_| options.dora)
        {
            return Err(Error::unsupported(format!(
                "DoRA of experts (\"{}\"); LoRA is supported",
                module.name
            )));
        }
        let rank = rank as i32;
        let bytes = cost(&chosen, rank, dtype, options.dora);
        check_budget(&model.engine, bytes).map_err(|error| error.within("the adapter"))?;
        let names = chosen.iter().map(|module| module.name.clone()).collect();
        let settings = Settings {
            kind: if options.dora {
                AdapterKind::Dora
            } else {
                AdapterKind::Lora
            },
            format: None,
            rank: Some(rank),
            scale: Some(scale),
            dropout: options.dropout,
        };
        let (dora, seed, id) = (options.dora, options.seed, model.id);
        let mut numbers = 0..;
        let sites: Vec<_> = chosen
            .iter()
            .map(|module| (module.site, module.shape))
            .collect();
        Self::register(model, settings, names, bytes, move |worker| {
            let mut parts = Vec::with_capacity(sites.len());
            for (site, shape) in sites {
                // In front of A's and B's own: nothing, or the experts.
                let (stack, input, output) = match shape {
                    ModuleShape::Linear { input, output, .. } => (vec![], input, output),
                    ModuleShape::Embedding { vocab, dims } => (vec![], vocab, dims),
                    ModuleShape::Experts {
                        experts,
                        input,
                        output,
                        ..
                    } => (vec![experts], input, output),
                    ModuleShape::Norm { .. } => {
                        return Err(Error::internal("low rank for what has no matrix"))
                    }
                };
                let bound = 1.0 / (input as f32).sqrt();
                let stacked = stack.first().map_or(1, |&experts| experts as usize);
                let count = stacked * input as usize * rank as usize;
                let with = |sizes: [i32; 2]| [&stack[..], &sizes].concat();
                crate::room::ask(count, size_of::<f32>(), "the adapter")?;
                let values: Vec<f32> = numbers
                    .by_ref()
                    .take(count)
                    .map(|index| uniform(seed, index, bound))
                    .collect();
                let a = ops::reshape(&Array::from_f32(&values)?, &with([input, rank]))?;
                let magnitude = match dora {
                    true => Some(magnitude(worker.decoder(id)?.row_norms(site)?, dtype)?),
                    false => None,
                };
                parts.push((
                    site,
                    Part::Low {
                        a: ops::astype(&a, dtype)?,
                        b: ops::zeros(&with([rank, output]), dtype)?,
                        scale,
                        magnitude,
                        tied: true,
                    },
                ));
            }
            Ok(parts)
        })
    }
}

/// DoRA's, of a weight's row norms.
///
/// Errors: INVALID_ARGUMENT where the type cannot hold one, and the adapter would not be neutral.
fn magnitude(norms: Array, dtype: Dtype) -> Result<Array> {
    let most = norms.to_f32()?.into_iter().fold(0.0, f32::max);
    if most > largest(dtype) {
        return Err(Error::invalid(format!(
            "options.dtype: a row of the model's weights has the norm {most:e}, more than {} holds",
            dtype.name()
        )));
    }
    ops::astype(&norms, dtype)
}

/// Bytes that a new adapter takes on the device while it is made: its own, the numbers that A is drawn as where those are of
/// another type, and of the largest weight what DoRA's magnitude comes from.
fn cost(modules: &[&Module], rank: i32, dtype: Dtype, dora: bool) -> u64 {
    let sum = |bytes: &dyn Fn(ModuleShape) -> u64| {
        let modules = modules.iter().map(|module| bytes(module.shape));
        modules.fold(0, u64::saturating_add)
    };
    let drawn = match dtype {
        Dtype::F32 => 0,
        _ => sum(&|shape| low_rank_bytes(shape, rank, size_of::<f32>() as u64)),
    };
    let norms = modules
        .iter()
        .map(|module| whole_bytes(module.shape).saturating_mul(3));
    let norms = norms.max().filter(|_| dora).unwrap_or(0);
    let own = sum(&|shape| low_rank_bytes(shape, rank, dtype.size() as u64));
    own.saturating_add(drawn).saturating_add(norms)
}

/// Bytes of A and B of this rank, with elements of so many bytes.
pub(super) fn low_rank_bytes(shape: ModuleShape, rank: i32, size: u64) -> u64 {
    let (stack, input, output) = sizes(shape);
    let columns = input.saturating_add(output).saturating_mul(stack);
    columns
        .saturating_mul(u64::from(rank.unsigned_abs()))
        .saturating_mul(size)
}

/// Bytes of the weight itself, in f32.
pub(super) fn whole_bytes(shape: ModuleShape) -> u64 {
    let (stack, input, output) = sizes(shape);
    stack
        .saturating_mul(input)
        .saturating_mul(output)
        .saturating_mul(4)
}

/// Experts, columns, rows.
fn sizes(shape: ModuleShape) -> (u64, u64, u64) {
    let of = |n: i32| u64::from(n.unsigned_abs());
    match shape {
        ModuleShape::Linear { input, output, .. } => (1, of(input), of(output)),
        ModuleShape::Embedding { vocab, dims } => (1, of(vocab), of(dims)),
        ModuleShape::Experts {
            experts,
            input,
            output,
            ..
        } => (of(experts), of(input), of(output)),
        ModuleShape::Norm { dims } => (1, 1, of(dims)),
    }
}

/// The modules that `keys` name, in the last `layers` blocks (0 = all) and outside of them.
fn choose<'a>(modules: &'a [Module], keys: &[String], layers: u32) -> Result<Vec<&'a Module>> {
    let defaults = DEFAULT_KEYS.map(str::to_owned);
    let keys = if keys.is_empty() { &defaults[..] } else { keys };
    let can = |module: &&Module| !matches!(module.shape, ModuleShape::Norm { .. });
    // (layer, name inside its block)
    let split = |module: &'a Module| -> (Option<u32>, &'a str) {
        let inner = module
            .name
            .strip_prefix("layers.")
            .and_then(|rest| rest.split_once('.'));
        match inner {
            Some((layer, name)) => (layer.parse().ok(), name),
            None => (None, &module.name),
        }
    };
    let count = modules
        .iter()
        .filter_map(|module| split(module).0)
        .max()
        .map_or(0, |last| last + 1);
    if layers > count {
        return Err(Error::invalid(format!(
            "options.layers is {layers}, and the model has {count}"
        )));
    }
    let first = if layers == 0 { 0 } else { count - layers };
    let is = |key: &str, name: &str| name == key || name.rsplit('.').next() == Some(key);
    let mut chosen = Vec::new();
    for key in keys {
        let named: Vec<&Module> = modules
            .iter()
            .filter(can)
            .filter(|module| is(key, split(module).1))
            .collect();
        if named.is_empty() {
            let mut known: Vec<&str> = modules
                .iter()
                .filter(can)
                .map(|module| split(module).1)
                .collect();
            known.sort_unstable();
            known.dedup();
            return Err(Error::invalid(format!(
                "options.keys names {}, which is none of {}",
                quoted(key, 200),
                known.join(", ")
            )));
        }
        let wanted = named
            .into_iter()
            .filter(|module| split(module).0.is_none_or(|layer| layer >= first));
        for module in wanted {
            if !chosen.contains(&module) {
                chosen.push(module);
            }
        }
    }
    Ok(chosen)
}

/// The `index`-th number of a seed in (-bound, bound).
fn uniform(seed: u64, index: u64, bound: f32) -> f32 {
    // 24 bits: every value is an f32.
    let unit = (mix(seed, index) >> 40) as f32 / (1u32 << 24) as f32;
    (2.0 * unit - 1.0) * bound
}
