//! Rotary positions as configs spell them: `rope_theta` and `rope_scaling`, or `rope_parameters` (transformers 5).

use super::shared::LIMITS;
use crate::error::{Error, Result};
use crate::load::Object;
use crate::model::rope::{Rope, RopeScaling};
use crate::words::quoted;

const THETA: std::ops::RangeInclusive<f32> = 1.0..=1e12;
pub const FACTOR: std::ops::RangeInclusive<f32> = 1e-3..=1e6;

/// Of all layers.
pub fn rope(config: &Object, head_dim: i32, default_theta: Option<f32>) -> Result<Rope> {
    let parameters = config.opt_object("rope_parameters")?;
    let scaling = config.opt_object("rope_scaling")?.or(parameters);
    let theta = match (theta(config)?, &scaling) {
        (None, Some(parameters)) => self::theta(parameters)?,
        (theta, _) => theta,
    };
    let base = match theta.or(default_theta) {
        Some(base) => base,
        None => config.f32("rope_theta", THETA)?,
    };
    let dims = rotated(config, scaling.as_ref(), head_dim)?;
    Ok(Rope {
        dims,
        base,
        traditional: config.opt_bool("rope_traditional")?.unwrap_or(false),
        scaling: match scaling {
            Some(scaling) => of_base(base, config, &scaling, dims)?,
            None => RopeScaling::None,
        },
    })
}

/// Of the layers that an object of its own speaks of, as `rope_parameters` has one for each kind of layer.
pub fn of_layers(
    config: &Object,
    parameters: &Object,
    head_dim: i32,
    default_theta: f32,
) -> Result<Rope> {
    let dims = rotated(config, Some(parameters), head_dim)?;
    let base = theta(parameters)?.unwrap_or(default_theta);
    if kind(parameters)? == "proportional" {
        let factor = parameters.opt_f32("factor", FACTOR)?;
        return Ok(proportional(
            head_dim,
            (dims / 2, base),
            factor.unwrap_or(1.0),
        ));
    }
    Ok(Rope {
        scaling: of_base(base, config, parameters, dims)?,
        ..plain(dims, base)
    })
}

/// The scaling of wavelengths that are the powers of a base.
fn of_base(base: f32, config: &Object, scaling: &Object, dims: i32) -> Result<RopeScaling> {
    match self::scaling(config, scaling, dims)? {
        // Its bounds are logarithms to that base.
        RopeScaling::Yarn { .. } if base <= 1.0 => Err(Error::bad_model(format!(
            "{} must be above 1 where the rope type is yarn",
            config.place("rope_theta")
        ))),
        scaling => Ok(scaling),
    }
}

/// Some of the pairs turn, by the wavelengths that they have among all.
pub fn proportional(head_dim: i32, (pairs, base): (i32, f32), factor: f32) -> Rope {
    Rope {
        scaling: RopeScaling::Proportional { pairs, factor },
        ..plain(head_dim, base)
    }
}

/// Without scaling.
pub fn plain(dims: i32, base: f32) -> Rope {
    Rope {
        dims,
        base,
        traditional: false,
        scaling: RopeScaling::None,
    }
}

pub fn theta(config: &Object) -> Result<Option<f32>> {
    config.opt_f32("rope_theta", THETA)
}

/// Elements of a head that are turned: all, or `partial_rotary_factor` of them.
pub fn rotated(config: &Object, parameters: Option<&Object>, head_dim: i32) -> Result<i32> {
    const KEY: &str = "partial_rotary_factor";
    let inner = match parameters {
        Some(parameters) => parameters.opt_f32(KEY, 0.0..=1.0)?,
        None => None,
    };
    let Some(factor) = inner.or(config.opt_f32(KEY, 0.0..=1.0)?) else {
        return Ok(head_dim);
    };
    let dims = (f64::from(head_dim) * f64::from(factor)) as i32;
    even(config, KEY, dims, head_dim)
}

/// `rotary_dim`
pub fn rotary_dim(config: &Object, head_dim: i32) -> Result<i32> {
    const KEY: &str = "rotary_dim";
    let dims = config.opt_u32(KEY, 1..=LIMITS.head_dim)?;
    match dims {
        Some(dims) => even(config, KEY, i32::try_from(dims).unwrap_or(0), head_dim),
        None => Ok(head_dim),
    }
}

fn even(config: &Object, key: &str, dims: i32, head_dim: i32) -> Result<i32> {
    match dims > 1 && dims % 2 == 0 && dims <= head_dim {
        true => Ok(dims),
        false => Err(config.wrong(
            key,
            &format!("an even number of a head's {head_dim} elements, or a part of them that is"),
        )),
    }
}

/// `rope_type`, as it is called now.
fn kind<'a>(scaling: &Object<'a>) -> Result<&'a str> {
    Ok(match scaling.opt_str("rope_type")? {
        Some(kind) => kind,
        None => scaling.opt_str("type")?.unwrap_or("default"),
    })
}

/// `dims`: those that are turned.
fn scaling(config: &Object, scaling: &Object, dims: i32) -> Result<RopeScaling> {
    let kind = kind(scaling)?;
    let factor = || scaling.f32("factor", FACTOR);
    match kind {
        // Positions in three dimensions are the plain ones for text. Dynamic scaling changes nothing within the context that the
        // model was made for, and a session has no more.
        "default" | "mrope" | "dynamic" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear(factor()?)),
        "llama3" => {
            let low_freq_factor = scaling.opt_f32("low_freq_factor", FACTOR)?.unwrap_or(1.0);
            let high_freq_factor = scaling.opt_f32("high_freq_factor", FACTOR)?.unwrap_or(4.0);
            if high_freq_factor <= low_freq_factor {
                return Err(scaling.wrong("high_freq_factor", "larger than low_freq_factor"));
            }
            Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor,
                high_freq_factor,
                original_context: original_context(config, scaling, Some(8192))?,
            })
        }
        "yarn" => yarn(config, scaling),
        "longrope" | "su" => long(config, scaling, dims),
        other => {
            let shown = quoted(other, 40);
            Err(Error::unsupported(format!(
                "{}: the rope type {shown} is not supported; supported are default, linear, dynamic, llama3, yarn and \
                 longrope",
                scaling.file()
            )))
        }
    }
}

/// Tokens that the model was made for before it was stretched; where nothing says, `default` or all of its context.
fn original_context(config: &Object, scaling: &Object, default: Option<u32>) -> Result<f32> {
    const KEY: &str = "original_max_position_embeddings";
    let context = |of: &Object, key| of.opt_u32(key, 1..=LIMITS.context);
    let own = match context(scaling, KEY)? {
        Some(own) => Some(own),
        None => context(config, KEY)?,
    };
    let own = match own.or(default) {
        Some(own) => own,
        None => match context(config, "max_position_embeddings")? {
            Some(all) => all,
            None => scaling.u32(KEY, 1..=LIMITS.context)?,
        },
    };
    Ok(own as f32)
}

fn yarn(config: &Object, scaling: &Object) -> Result<RopeScaling> {
    let factor = scaling.f32("factor", FACTOR)?;
    let beta = |key: &str, default: f32| -> Result<f32> {
        Ok(scaling.opt_f32(key, FACTOR)?.unwrap_or(default))
    };
    let scale = |key| scaling.opt_f32(key, 0.0..=1e6);
    // How much larger scores become with longer contexts, as transformers reckons it.
    let enlarged = |by: f32| match factor > 1.0 {
        true => 0.1 * by * factor.ln() + 1.0,
        false => 1.0,
    };
    let attention_factor = match (
        scale("attention_factor")?,
        scale("mscale")?,
        scale("mscale_all_dim")?,
    ) {
        (Some(own), _, _) => own,
        (None, one, Some(all)) if all > 0.0 => enlarged(one.unwrap_or(1.0)) / enlarged(all),
        (None, one, _) => enlarged(one.unwrap_or(1.0)),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context: original_context(config, scaling, None)?,
        beta_fast: beta("beta_fast", 32.0)?,
        beta_slow: beta("beta_slow", 1.0)?,
        truncate: scaling.opt_bool("truncate")?.unwrap_or(true),
        attention_factor,
    })
}

fn long(config: &Object, scaling: &Object, dims: i32) -> Result<RopeScaling> {
    let pairs = usize::try_from(dims / 2).unwrap_or(0);
    let factors = |key: &str| -> Result<Vec<f32>> {
        let wrong = || {
            scaling.wrong(
                key,
                &format!("a list of {pairs} numbers, one for each pair"),
            )
        };
        let list = scaling.opt_array(key)?.ok_or_else(wrong)?;
        let numbers = list.iter().map(|number| {
            let number = number.as_f64().map(|number| number as f32);
            number.filter(|number| FACTOR.contains(number))
        });
        let numbers: Option<Vec<f32>> = numbers.collect();
        numbers
            .filter(|numbers| numbers.len() == pairs)
            .ok_or_else(wrong)
    };
    let original = original_context(config, scaling, Some(4096))?;
    let attention_factor = match scaling.opt_f32("attention_factor", 0.0..=1e6)? {
        Some(own) => own,
        None => {
            let context = config.opt_u32("max_position_embeddings", 1..=LIMITS.context)?;
            let factor = match scaling.opt_f32("factor", FACTOR)? {
                Some(factor) => factor,
                None => context.unwrap_or(131_072) as f32 / original,
            };
            match factor > 1.0 {
                true if original <= 1.0 => {
                    return Err(Error::bad_model(format!(
                        "{} must be 2 or more where the rope type is longrope",
                        config.place("original_max_position_embeddings")
                    )))
                }
                true => (1.0 + factor.ln() / original.ln()).sqrt(),
                false => 1.0,
            }
        }
    };
    Ok(RopeScaling::Long {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original_context: original as i32,
        attention_factor,
    })
}
