//! `adapter_config.json` in its three spellings.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::json::Object;
use super::super::limits::Limits;
use super::names::Target;
use super::pattern::{Budget, Pattern};
use super::{AdapterFormat, AdapterKind};
use crate::error::{Error, Result};
use crate::words::quoted;

/// What the config says, as far as inference needs it.
pub(super) struct Settings {
    pub format: AdapterFormat,
    pub kind: AdapterKind,
    /// 0 in a full adapter.
    pub rank: i32,
    pub scale: f32,
    pub dropout: f32,
    pub last_layers: Option<u32>,
    /// mlx-lm's `lora_parameters.keys`: modules inside a layer, or whole paths.
    keys: Option<Vec<String>>,
    peft: Option<Peft>,
}

struct Peft {
    rank: i32,
    alpha: f32,
    rslora: bool,
    ranks: Vec<(Pattern, i32)>,
    alphas: Vec<(Pattern, f32)>,
    targets: Targets,
    /// `target_parameters`: ends of the paths of parameters.
    parameters: BTreeSet<String>,
    to_save: Vec<String>,
    version: Option<String>,
}

/// PEFT's `target_modules`. The tensors say themselves what they change, so this is only compared.
enum Targets {
    Any,
    Names(Vec<String>),
    Match(Pattern),
}

/// The parameter of a layer that is one itself.
pub(super) const WEIGHT: &str = "weight";
/// Those of all experts of a block in transformers, in the order in which it makes them, which is that of PEFT's wrappers from the
/// inside.
pub(super) const OF_EXPERTS: [&str; 3] = ["gate_up_proj", "up_proj", "down_proj"];

/// Steps and bytes of all patterns of one key.
const MAX_PATTERNS: usize = 1_000_000;

const FINITE: std::ops::RangeInclusive<f32> = -f32::MAX..=f32::MAX;

impl Settings {
    /// Reads whichever format it is.
    pub fn read(config: &Object, limits: &Limits) -> Result<Settings> {
        let mlx_lm = config.has("fine_tune_type") || config.has("lora_parameters");
        match () {
            _ if config.has("peft_type") && mlx_lm => Err(Error::bad_model(format!(
                "{}: holds both PEFT's \"peft_type\" and mlx-lm's \"fine_tune_type\" or \"lora_parameters\"",
                config.file()
            ))),
            _ if config.has("peft_type") => Self::peft(config, limits),
            _ if mlx_lm => Self::mlx_lm(config, limits),
            _ if config.has("rank") => Self::original(config, limits),
            _ => Err(Error::bad_model(format!(
                "{}: holds none of \"peft_type\", \"fine_tune_type\", \"lora_parameters\" and \"rank\", which tell the \
                 format of an adapter",
                config.file()
            ))),
        }
    }

    fn mlx_lm(config: &Object, limits: &Limits) -> Result<Settings> {
        let kind = match config.opt_str("fine_tune_type")? {
            None | Some("lora") => AdapterKind::Lora,
            Some("dora") => AdapterKind::Dora,
            Some("full") => AdapterKind::Full,
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "{} is {}, known are lora, dora and full",
                    config.place("fine_tune_type"),
                    quoted(other, 40)
                )))
            }
        };
        // Earlier versions of mlx-lm called it `lora_layers`.
        let any = i64::MIN..=i64::MAX;
        let layers = match config.opt_i64("num_layers", any.clone())? {
            Some(layers) => layers,
            None => config.opt_i64("lora_layers", any)?.unwrap_or(-1),
        };
        let mut settings = Settings {
            format: AdapterFormat::MlxLm,
            kind,
            rank: 0,
            scale: 1.0,
            dropout: 0.0,
            // mlx-lm takes the slice `layers[-max(n, 0):]`, so 0 is all of them, too.
            last_layers: (layers > 0).then(|| u32::try_from(layers).unwrap_or(u32::MAX)),
            keys: None,
            peft: None,
        };
        if kind == AdapterKind::Full {
            return Ok(settings);
        }
        let low = config.object("lora_parameters")?;
        settings.rank = rank(low.u32("rank", 1..=limits.adapter_rank)?);
        settings.scale = low.f32("scale", FINITE)?;
        settings.dropout = low.opt_f32("dropout", 0.0..=1.0)?.unwrap_or(0.0);
        let keys = low.opt_strs("keys", limits.tensors)?;
        settings.keys = keys.map(|keys| keys.into_iter().map(str::to_string).collect());
        Ok(settings)
    }

    fn original(config: &Object, limits: &Limits) -> Result<Settings> {
        let rank = rank(config.u32("rank", 1..=limits.adapter_rank)?);
        // What the original takes where there is none.
        let alpha = config.opt_f32("alpha", FINITE)?;
        Ok(Settings {
            format: AdapterFormat::Original,
            kind: AdapterKind::Lora,
            rank,
            scale: alpha.map_or(2.0, |alpha| divided(alpha, rank.into())),
            dropout: 0.0,
            last_layers: None,
            keys: None,
            peft: None,
        })
    }

    fn peft(config: &Object, limits: &Limits) -> Result<Settings> {
        let method = config.str("peft_type")?;
        if method != "LORA" {
            return Err(Error::unsupported(format!(
                "{} is {}, only LORA is supported",
                config.place("peft_type"),
                quoted(method, 40)
            )));
        }
        refuse_variants(config)?;
        let rank = rank(config.opt_u32("r", 1..=limits.adapter_rank)?.unwrap_or(8));
        let peft = Peft {
            rank,
            alpha: config.opt_f32("lora_alpha", FINITE)?.unwrap_or(8.0),
            rslora: config.opt_bool("use_rslora")?.unwrap_or(false),
            ranks: patterns(config, "rank_pattern", |values, key| {
                Ok(self::rank(values.u32(key, 1..=limits.adapter_rank)?))
            })?,
            alphas: patterns(config, "alpha_pattern", |values, key| {
                values.f32(key, FINITE)
            })?,
            targets: targets(config, limits)?,
            parameters: parameters(config, limits)?,
            version: config.opt_str("peft_version")?.map(str::to_string),
            to_save: config
                .opt_strs("modules_to_save", limits.tensors)?
                .unwrap_or_default()
                .into_iter()
                .map(str::to_string)
                .collect(),
        };
        Ok(Settings {
            format: AdapterFormat::Peft,
            kind: match config.opt_bool("use_dora")? {
                Some(true) => AdapterKind::Dora,
                _ => AdapterKind::Lora,
            },
            rank,
            scale: peft.scale(peft.alpha, rank),
            dropout: config.opt_f32("lora_dropout", 0.0..=1.0)?.unwrap_or(0.0),
            last_layers: None,
            keys: None,
            peft: Some(peft),
        })
    }

    /// The parameters of a module that PEFT adapted as such, as it wrapped them, the innermost first.
    pub fn parameters_of(&self, path: &str) -> Vec<&'static str> {
        let Some(peft) = &self.peft else {
            return Vec::new();
        };
        let known: &[&'static str] = match path.rsplit('.').next() {
            Some("experts") => &OF_EXPERTS,
            _ => &[WEIGHT],
        };
        let named = |name: &&'static str| {
            let key = format!("{path}.{name}");
            let mut end = Some(key.as_str());
            std::iter::from_fn(|| {
                let this = end?;
                end = this.split_once('.').map(|(_, rest)| rest);
                Some(this)
            })
            .any(|end| peft.parameters.contains(end))
        };
        known.iter().copied().filter(named).collect()
    }

    pub fn peft_version(&self) -> Option<&str> {
        self.peft.as_ref()?.version.as_deref()
    }

    /// Rank and scale of the module at `path`, as the format calls it.
    pub fn of_module(&self, path: &str, budget: &mut Budget) -> Result<(i32, f32)> {
        let Some(peft) = &self.peft else {
            return Ok((self.rank, self.scale));
        };
        let rank = first_match(&peft.ranks, path, budget)?.unwrap_or(peft.rank);
        let alpha = first_match(&peft.alphas, path, budget)?.unwrap_or(peft.alpha);
        Ok((rank, peft.scale(alpha, rank)))
    }

    /// Why the settings exclude a low-rank part of this module; None when they do not.
    pub fn excludes_low(
        &self,
        target: &Target,
        path: &str,
        budget: &mut Budget,
    ) -> Result<Option<&'static str>> {
        if let Some(keys) = &self.keys {
            let named = |key: &String| {
                (target.layer.is_some() && *key == target.module)
                    || Target::parse(key).as_ref() == Some(target)
            };
            let included = keys.iter().any(named);
            return Ok((!included).then_some("is not in \"keys\" of the config"));
        }
        let included = match self.peft.as_ref().map(|peft| &peft.targets) {
            None | Some(Targets::Any) => true,
            Some(Targets::Names(names)) => names.iter().any(|name| ends_with(path, name)),
            Some(Targets::Match(pattern)) => pattern.matches(path, budget)?,
        };
        Ok((!included).then_some("is not in \"target_modules\" of the config"))
    }

    /// Whether PEFT's settings say nothing of a replacement of this module.
    pub fn excludes_full(&self, target: &Target, path: &str) -> bool {
        let Some(peft) = &self.peft else {
            return false;
        };
        // PEFT saves these two unasked when their number of rows was changed.
        let resized = matches!(target.module.as_str(), "embed_tokens" | "lm_head");
        // PEFT compares the end without a dot: "norm" also saves every input_layernorm.
        let named = |name: &String| {
            path.ends_with(name.as_str()) || format!(".{path}.").contains(&format!(".{name}."))
        };
        !resized && !peft.to_save.iter().any(named)
    }
}

impl Peft {
    fn scale(&self, alpha: f32, rank: i32) -> f32 {
        let rank = f64::from(rank);
        divided(alpha, if self.rslora { rank.sqrt() } else { rank })
    }
}

/// `rank` is 1 or more, so the quotient is finite when `alpha` is.
fn divided(alpha: f32, rank: f64) -> f32 {
    (f64::from(alpha) / rank) as f32
}

/// A rank within the limit fits.
fn rank(given: u32) -> i32 {
    i32::try_from(given).unwrap_or(i32::MAX)
}

/// As PEFT compares a name of the list with a module's path.
fn ends_with(path: &str, name: &str) -> bool {
    match path.strip_suffix(name) {
        Some(before) => before.is_empty() || before.ends_with('.'),
        None => false,
    }
}

/// PEFT takes the first pattern that matches the end of the path.
fn first_match<T: Copy>(
    patterns: &[(Pattern, T)],
    path: &str,
    budget: &mut Budget,
) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(path, budget)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn patterns<T>(
    config: &Object,
    key: &str,
    value: impl Fn(&Object, &str) -> Result<T>,
) -> Result<Vec<(Pattern, T)>> {
    let Some(values) = config.opt_object(key)? else {
        return Ok(Vec::new());
    };
    let mut patterns = Vec::new();
    let mut size = 0usize;
    for text in values.keys() {
        let pattern = Pattern::at_end(text).map_err(|why| {
            Error::unsupported(format!(
                "{}: the pattern {why}",
                config.place(&format!("{key}.{text}"))
            ))
        })?;
        size = size.saturating_add(pattern.size());
        if size > MAX_PATTERNS {
            return Err(config.wrong(key, "smaller: its patterns are too many or too large"));
        }
        patterns.push((pattern, value(&values, text)?));
    }
    Ok(patterns)
}

fn targets(config: &Object, limits: &Limits) -> Result<Targets> {
    match config.get("target_modules") {
        None => Ok(Targets::Any),
        // A word that PEFT itself replaces by the list before it saves.
        Some(Value::String(text)) if text == "all-linear" => Ok(Targets::Any),
        // A pattern beyond what is understood here is not compared.
        Some(Value::String(text)) => Ok(Pattern::whole(text).map_or(Targets::Any, Targets::Match)),
        Some(_) => {
            let names = config.opt_strs("target_modules", limits.tensors)?;
            let names = names.unwrap_or_default();
            Ok(Targets::Names(
                names.into_iter().map(str::to_string).collect(),
            ))
        }
    }
}

fn parameters(config: &Object, limits: &Limits) -> Result<BTreeSet<String>> {
    const KEY: &str = "target_parameters";
    let names = config.opt_strs(KEY, limits.tensors)?.unwrap_or_default();
    let known = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or_default();
        last == WEIGHT || OF_EXPERTS.contains(&last)
    };
    if let Some(other) = names.iter().find(|name| !known(name)) {
        return Err(Error::unsupported(format!(
            "{} is of {}, and adapters of parameters are those of {WEIGHT} and of experts' {}",
            config.place(KEY),
            quoted(other, 80),
            OF_EXPERTS.join(", ")
        )));
    }
    if !names.is_empty() && config.opt_bool("use_dora")? == Some(true) {
        return Err(Error::unsupported(format!(
            "{} with \"use_dora\": DoRA of parameters, which PEFT does not have either",
            config.place(KEY)
        )));
    }
    Ok(names.into_iter().map(str::to_string).collect())
}

/// Settings that change what the tensors mean, or add others.
fn refuse_variants(config: &Object) -> Result<()> {
    let unsupported = |key: &str, is: &str| {
        let place = config.place(key);
        Err(Error::unsupported(format!(
            "{place} is {is}, which is not supported"
        )))
    };
    match config.opt_str("bias")? {
        None | Some("none") => {}
        Some(other) => return unsupported("bias", &quoted(other, 40)),
    }
    // These start from another base weight: what is left of the model's after the adapter was split off.
    if let Some(Value::String(start)) = config.get("init_lora_weights") {
        let split_off = ["pissa", "olora", "loftq", "corda", "lora_ga"];
        if split_off.iter().any(|name| start.starts_with(name)) {
            return unsupported("init_lora_weights", &quoted(start, 40));
        }
    }
    for key in [
        "lora_bias",
        "fan_in_fan_out",
        "ensure_weight_tying",
        "layer_replication",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "use_qalora",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
    ] {
        let unset = match config.get(key) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            Some(_) => false,
        };
        if !unset {
            return unsupported(key, "set");
        }
    }
    Ok(())
}
