//! Gemma 4: gemma's four norms, by their weights alone, and bare norms of values. Full layers have heads of another size, of
//! which a part turns, and in the large models keys that are values too. The small ones have embeddings for each layer and last
//! layers that see what earlier ones kept; one has experts beside each MLP.

use super::gemma2::cap;
use super::shared::{self, norm, size, LIMITS};
use super::{experts, ropes};
use crate::error::{Error, Result};
use crate::load::Object;
use crate::mlx::nn::{Activation, Score};
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, PartConfig, PerLayerConfig,
};
use crate::model::parts::attention::AttentionConfig;
use crate::model::parts::beside::BesideConfig;
use crate::model::parts::mlp::MlpConfig;
use crate::model::parts::moe::{MoeConfig, RouterConfig, RouterNorm};
use crate::model::plan::ExpertNames;
use crate::model::rope::Rope;

const VOCAB: u32 = 262_144;
const SHARED: &str = "num_kv_shared_layers";
/// Parts of other models that the folders of the text model may have.
const OTHERS: [&str; 5] = [
    "self_attn.rotary_emb",
    "input_max",
    "input_min",
    "output_max",
    "output_min",
];

/// `gemma4_text`.
pub fn read(config: &Object) -> Result<DecoderConfig> {
    read_text(config, shared::vocab_size(config, Some(VOCAB))?)
}

/// The text model of a `gemma4` folder; its towers for images and sounds are not run.
pub fn read_wrapper(config: &Object) -> Result<DecoderConfig> {
    let text = config.object("text_config")?;
    let vocab_size = match config.has("vocab_size") {
        true => shared::vocab_size(config, None)?,
        false => shared::vocab_size(&text, Some(VOCAB))?,
    };
    let mut decoder = read_text(&text, vocab_size)?;
    decoder.names = shared::INSIDE_NAMES;
    decoder.ignored.extend(towers());
    Ok(decoder)
}

/// Words in the names of what is not run.
pub fn towers() -> Vec<String> {
    shared::words(&[
        "vision_tower.",
        "audio_tower.",
        "embed_vision.",
        "embed_audio.",
        "multi_modal_projector.",
        "vision_embedder.",
    ])
}

fn read_text(config: &Object, vocab_size: i32) -> Result<DecoderConfig> {
    shared::check_activation(config, &["gelu_pytorch_tanh", "gelu_tanh"])?;
    if config.opt_str("use_bidirectional_attention")? == Some("all") {
        return Err(Error::unsupported(format!(
            "{}: attention to later tokens is not supported",
            config.place("use_bidirectional_attention")
        )));
    }
    let hidden_size = shared::hidden_size(config, Some(1536))?;
    let eps = shared::norm_eps(config, Some(1e-6))?;
    let count = shared::layer_count(config, Some(35))?;
    let sliding = sliding_layers(config, count, 5)?;
    let keys_of = shared_layers(config, &sliding, 20)?;
    let attentions = attentions(config, (hidden_size, eps), &sliding, &keys_of)?;
    let per_layer = per_layer(config, (256, VOCAB), eps)?;
    let inner = shared::intermediate_size(config, Some(6144))?;
    let wide = config.opt_bool("use_double_wide_mlp")?.unwrap_or(true);
    let mixed = config.opt_bool("enable_moe_block")?.unwrap_or(false);
    let moe = mixed.then(|| moe(config, hidden_size, eps)).transpose()?;
    let blocks = attentions.into_iter().map(|attention| {
        let wide = wide && attention.keys_of.is_some();
        let inner = if wide { 2 * inner } else { inner };
        let mlp = MlpConfig::new(inner, Activation::GeluTanh);
        let feed_forward = match &moe {
            None => PartConfig::Mlp(mlp),
            Some(moe) => beside(mlp, moe.clone(), eps),
        };
        block(eps, attention, feed_forward, per_layer)
    });
    let blocks = blocks.collect();
    let tied = config.opt_bool("tie_word_embeddings")?;
    let mut ignored = shared::words(&OTHERS);
    ignored.extend(unread(&keys_of));
    Ok(DecoderConfig {
        hidden_size,
        vocab_size,
        context: shared::context(config, 131_072)?,
        embed: EmbedConfig {
            scale: Some((hidden_size as f32).sqrt()),
            per_layer,
            ..EmbedConfig::default()
        },
        blocks,
        norm: Some(norm("norm", eps)),
        both_ways: false,
        tie_word_embeddings: Some(tied.unwrap_or(true)),
        logits: LogitsConfig {
            scale: None,
            softcap: cap(config, "final_logit_softcapping", 30.0)?,
        },
        clip_residual: false,
        names: shared::TEXT_NAMES,
        ignored,
        unconverted_norms: &[],
        ahead: None,
    })
}

fn block(
    eps: f32,
    attention: AttentionConfig,
    feed_forward: PartConfig,
    per_layer: Option<PerLayerConfig>,
) -> BlockConfig {
    let attend = PartConfig::Attention(attention);
    let attend = HalfConfig::after(norm("input_layernorm", eps), attend)
        .then(norm("post_attention_layernorm", eps));
    let behind = norm("post_feedforward_layernorm", eps);
    let feed = match feed_forward {
        // Each of the two has its own norm before it.
        PartConfig::Beside(_) => HalfConfig {
            norm: None,
            part: feed_forward,
            post_norm: Some(behind),
            multiplier: 1.0,
            out_norm: None,
        },
        part => HalfConfig::after(norm("pre_feedforward_layernorm", eps), part).then(behind),
    };
    let mut halves = vec![attend, feed];
    if let Some(PerLayerConfig { width, .. }) = per_layer {
        halves.push(HalfConfig {
            norm: None,
            part: PartConfig::PerLayer { width },
            post_norm: Some(norm("post_per_layer_input_norm", eps)),
            multiplier: 1.0,
            out_norm: None,
        });
    }
    BlockConfig {
        scalar: Some("layer_scalar"),
        ..BlockConfig::of(halves)
    }
}

/// For each layer whether it slides; by default all but every so manieth.
fn sliding_layers(config: &Object, count: usize, every: u32) -> Result<Vec<bool>> {
    let pattern = config.opt_u32("sliding_window_pattern", 1..=LIMITS.layers)?;
    let pattern = pattern.unwrap_or(every) as usize;
    Ok(match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => (1..=count).map(|layer| layer % pattern != 0).collect(),
    })
}

/// Of each layer the one whose keys and values it sees: the last ones see those of the last layer of their kind that has some.
pub fn shared_layers(
    config: &Object,
    sliding: &[bool],
    default: u32,
) -> Result<Vec<Option<usize>>> {
    let shared = config.opt_u32(SHARED, 0..=LIMITS.layers)?;
    let shared = shared.unwrap_or(default) as usize;
    let own = sliding.len().saturating_sub(shared);
    let kept = sliding.get(..own).unwrap_or_default();
    let of = |(layer, &slides): (usize, &bool)| match layer < own {
        true => Ok(None),
        false => match kept.iter().rposition(|&kept| kept == slides) {
            Some(earlier) => Ok(Some(earlier)),
            None => Err(config.wrong(
                SHARED,
                "so small that there is a layer of each kind before those that share",
            )),
        },
    };
    sliding.iter().enumerate().map(of).collect()
}

/// Words in the names of keys and values that folders have and nothing reads.
fn unread(keys_of: &[Option<usize>]) -> Vec<String> {
    let layers = keys_of.iter().enumerate();
    let layers = layers.filter(|(_, keys_of)| keys_of.is_some());
    let words = layers.flat_map(|(layer, _)| {
        ["k_proj", "k_norm", "v_proj"].map(|name| format!("layers.{layer}.self_attn.{name}."))
    });
    words.collect()
}

/// Those of the layers.
fn attentions(
    config: &Object,
    (hidden_size, eps): (i32, f32),
    sliding: &[bool],
    keys_of: &[Option<usize>],
) -> Result<Vec<AttentionConfig>> {
    let defaults = (Some(8), Some(1), Some(256));
    let mut local = shared::attention(config, hidden_size, defaults)?;
    local.scale = 1.0;
    local.qk_norm = Some(shared::head_norms(eps));
    local.value_norm = Some(eps);
    let mut global = full(config, &local)?;
    let traditional = config.opt_bool("rope_traditional")?.unwrap_or(false);
    let rope = |kind, attention: &AttentionConfig| -> Result<Option<Rope>> {
        let rope = rope(config, kind, attention.head_dim)?;
        Ok(Some(Rope {
            traditional,
            ..rope
        }))
    };
    global.rope = rope("full_attention", &global)?;
    local.rope = rope("sliding_attention", &local)?;
    local.window = Some(shared::window(config, Some(512))?);
    let of = |(&slides, &keys_of): (&bool, &Option<usize>)| AttentionConfig {
        keys_of,
        ..if slides {
            local.clone()
        } else {
            global.clone()
        }
    };
    Ok(sliding.iter().zip(keys_of).map(of).collect())
}

/// Attention of the layers that see everything.
fn full(config: &Object, local: &AttentionConfig) -> Result<AttentionConfig> {
    const DIM: &str = "global_head_dim";
    const HEADS: &str = "num_global_key_value_heads";
    let head_dim = match (config.names(DIM), config.opt_u32(DIM, 0..=LIMITS.head_dim)?) {
        (true, None | Some(0)) => local.head_dim,
        (_, given) => i32::try_from(given.unwrap_or(512)).unwrap_or(0),
    };
    if head_dim < 2 || head_dim % 2 != 0 {
        return Err(config.wrong(DIM, "an even number"));
    }
    let same = config.opt_bool("attention_k_eq_v")?.unwrap_or(false);
    let heads = config.opt_u32(HEADS, 1..=LIMITS.heads)?;
    let kv_heads = match heads.filter(|_| same) {
        Some(heads) => i32::try_from(heads).unwrap_or(0),
        None => local.kv_heads,
    };
    if kv_heads < 1 || local.heads % kv_heads != 0 {
        let must = format!("a divisor of num_attention_heads, {}", local.heads);
        return Err(config.wrong(HEADS, &must));
    }
    Ok(AttentionConfig {
        head_dim,
        kv_heads,
        values_are_keys: same,
        ..local.clone()
    })
}

/// What layers of this kind turn by.
fn rope(config: &Object, kind: &str, head_dim: i32) -> Result<Rope> {
    match config.opt_object("rope_parameters")? {
        None if kind == "full_attention" => Ok(ropes::proportional(
            head_dim,
            (head_dim / 8, 1_000_000.0),
            1.0,
        )),
        None => Ok(ropes::plain(head_dim, 10_000.0)),
        Some(kinds) => match kinds.opt_object(kind)? {
            Some(own) => ropes::of_layers(config, &own, head_dim, 10_000.0),
            None => Ok(ropes::plain(head_dim, 10_000.0)),
        },
    }
}

/// `defaults`: their width, and how many tokens have some.
pub fn per_layer(
    config: &Object,
    (width, vocab): (u32, u32),
    eps: f32,
) -> Result<Option<PerLayerConfig>> {
    const WIDTH: &str = "hidden_size_per_layer_input";
    let own = config.opt_u32(WIDTH, 0..=LIMITS.hidden)?;
    let width = match config.names(WIDTH) {
        true => own.unwrap_or(0),
        false => width,
    };
    if width == 0 {
        return Ok(None);
    }
    let vocab = size(
        config,
        "vocab_size_per_layer_input",
        LIMITS.vocab,
        Some(vocab),
    )?;
    Ok(Some(PerLayerConfig {
        vocab,
        width: i32::try_from(width).unwrap_or(0),
        eps,
    }))
}

/// An MLP and experts, each between norms of its own.
fn beside(mlp: MlpConfig, moe: MoeConfig, eps: f32) -> PartConfig {
    PartConfig::Beside(BesideConfig {
        mlp,
        mlp_norms: [
            norm("pre_feedforward_layernorm", eps),
            norm("post_feedforward_layernorm_1", eps),
        ],
        moe,
        moe_norms: [
            norm("pre_feedforward_layernorm_2", eps),
            norm("post_feedforward_layernorm_2", eps),
        ],
    })
}

fn moe(config: &Object, hidden_size: i32, eps: f32) -> Result<MoeConfig> {
    let keys = experts::Keys {
        experts: "num_experts",
        top_k: "top_k_experts",
        intermediate: "moe_intermediate_size",
    };
    let mut moe = experts::of_keys(config, keys)?;
    moe.name = "";
    moe.activation = Activation::GeluTanh;
    moe.names = ExpertNames {
        stacked: "experts.switch_glu",
        each: None,
        ..experts::NAMES
    };
    moe.router = RouterConfig {
        names: &["router.proj"],
        norm: Some(RouterNorm {
            name: "router.scale",
            eps,
            factor: shared::inverse_root(hidden_size.into()),
        }),
        gains: Some("router.per_expert_scale"),
        score: Score::SoftmaxOfChosen,
        ..moe.router
    };
    Ok(moe)
}
