//! What a model and a session of it will take, before there is either: by the same formulas as the budget.

use super::session::SessionOptions;
use crate::error::Result;
use crate::mlx::Device;
use crate::model::cost::{Costs, KvSpec, WeightCost};
use crate::model::{DecoderConfig, Planned};

const GPU_PREFILL_STEP: usize = 2048;

/// Tokens of a prompt that are computed in one pass. On the CPU fewer: from some tens on more make little faster, a cancel
/// waits for one pass, and its intermediates are what a prompt's peak of memory is made of. The larger the model, the fewer,
/// so that a pass takes some tenths of a second. Not by the clock: how a prompt is cut shows in the last bits.
pub(super) fn prefill_step(device: Device, config: &DecoderConfig, keep: i32) -> usize {
    match device {
        // With kept tokens beyond the window, what a prompt sees depends on how it was cut: as mlx-lm cuts it.
        _ if keep > 0 => GPU_PREFILL_STEP,
        Device::Cpu => (64_000_000_000 / config.block_parameters().max(1)).clamp(32, 128) as usize,
        Device::Gpu => GPU_PREFILL_STEP,
    }
}

/// The same while others decode, who wait for it. So many at least, since attention of a few queries is cut otherwise, which shows in the
/// last bits (`kernels/attention.rs`).
pub(super) fn shared_step(device: Device, config: &DecoderConfig, keep: i32) -> usize {
    let most = match device {
        Device::Cpu => 32,
        Device::Gpu => 512,
    };
    match prefill_step(device, config, keep) {
        step if keep > 0 => step,
        step => step.min(most),
    }
}

/// In bytes.
pub(super) struct Estimate {
    /// Keys and values of a full session.
    pub kv: u64,
    /// The peak of a process that loads the model and fills the session.
    pub peak: u64,
}

impl Estimate {
    /// Of a session with `context` tokens; `kernels`: the CPU's compute.
    pub fn new(
        config: &DecoderConfig,
        planned: &Planned,
        session: &SessionOptions,
        context: u32,
        (device, kernels): (Device, bool),
    ) -> Result<Estimate> {
        let (window, keep) = session.window()?;
        let Planned {
            blueprint, modules, ..
        } = planned;
        let scheme = session.kv_scheme(&blueprint.token_dims())?;
        let kv = KvSpec { window, scheme };
        let (loaded, costs) = (
            WeightCost::of(modules, kernels),
            Costs::new(config, blueprint, modules, kernels),
        );
        let mut context = i32::try_from(context).unwrap_or(i32::MAX);
        if session.kv_limit > 0 {
            context = costs.most_tokens(context, kv, session.kv_limit);
        }
        let chunk = i32::try_from(prefill_step(device, config, keep)).unwrap_or(i32::MAX);
        if config.both_ways {
            // Nothing is kept: a pass over one text that fills the context.
            let text = costs.texts(context, context);
            return Ok(Estimate {
                kv: 0,
                peak: loaded.held.saturating_add(text.max(loaded.packing)),
            });
        }
        let filled = costs.peak(
            (&blueprint.extents(window, keep), scheme),
            context.max(1),
            chunk,
        );
        // What its head keeps is never packed, and of the whole session.
        let [ahead_kv, ahead_peak] = blueprint.ahead(config).map_or([0; 2], |(own, config)| {
            let costs = Costs::new(&config, own, modules, kernels);
            let peak = costs.peak((&own.extents(None, 0), None), context.max(1), chunk);
            [costs.kv_bytes(context, KvSpec::default()), peak]
        });
        let filled = filled.saturating_add(ahead_peak);
        Ok(Estimate {
            kv: costs.kv_bytes(context, kv).saturating_add(ahead_kv),
            peak: loaded.held.saturating_add(filled.max(loaded.packing)),
        })
    }
}
