//! config.json: the family, the decoder's description, the quantisation; then the tensors that they imply are looked for
//! in a fixture's weight file.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mlxrt_fuzz::dtype::{Mode, Scheme};
use mlxrt_fuzz::load::{parse_object, Catalog, Limits, Object, Quantization, Warnings};
use mlxrt_fuzz::model::config::RopeScaling;
use mlxrt_fuzz::model::{families, DecoderConfig, Weights};
use mlxrt_fuzz::{check_refusal, on_small_stack, peak, scratch};

const HEAP: usize = 16 << 20;
const FILE: &str = "config.json";

fuzz_target!(|data: &[u8]| on_small_stack(data, check));

fn check(data: &[u8]) {
    let catalog = catalog();
    let (read, heap) = peak(|| {
        let map = parse_object(FILE, data)?;
        let object = Object::new(FILE, &map);
        let config = (families::find(&object)?.read)(&object)?;
        let quantization = Quantization::parse(&object, &mut Warnings::default())?;
        Ok((config, quantization))
    });
    assert!(heap <= HEAP, "reading held {heap} bytes");
    let (config, quantization) = match read {
        Ok(read) => read,
        Err(error) => return check_refusal(&error, &[FILE]),
    };
    sizes(&config);
    quantization.default.iter().for_each(legal);
    quantization.per_module.values().flatten().for_each(legal);
    for tokens in [0, 1, config.context, u32::MAX] {
        for window in [None, Some(1), Some(u32::MAX)] {
            config.kv_bytes(tokens, window, 4);
        }
    }
    let (plan, heap) = peak(|| {
        Weights::plan(
            &config,
            catalog,
            &quantization,
            &mut Warnings::default(),
        )
    });
    assert!(heap <= HEAP, "planning held {heap} bytes");
    match plan {
        Ok(planned) => assert_eq!(planned.weights.layers.len(), config.layers.len()),
        // What is wrong lies between the two files: a tensor or a module is named.
        Err(error) => check_refusal(&error, &["\""]),
    }
}

/// The tensors of a fixture.
fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let name = "model.safetensors";
        scratch::write(name, &scratch::fixture("qwen3-f32", name));
        Catalog::open(&scratch::open(), &mut Warnings::default()).expect("the fixture")
    })
}

/// What the arithmetic behind relies on.
fn sizes(config: &DecoderConfig) {
    const LIMITS: Limits = Limits::DEFAULT;
    let within = |n: i32, max: u32| (1..=i64::from(max)).contains(&i64::from(n));
    let attention = &config.attention;
    assert!(within(config.hidden_size, LIMITS.hidden));
    assert!(within(config.vocab_size, LIMITS.vocab));
    assert!(within(config.mlp.intermediate_size, LIMITS.intermediate));
    assert!(within(attention.heads, LIMITS.heads));
    assert!(within(attention.kv_heads, LIMITS.heads));
    assert!(within(attention.head_dim, LIMITS.head_dim));
    assert_eq!(attention.heads % attention.kv_heads, 0);
    assert!((1..=LIMITS.context).contains(&config.context));
    assert!((1..=LIMITS.layers as usize).contains(&config.layers.len()));
    assert!(attention.scale.is_finite() && config.norm_eps.is_finite());
    assert!(config.embed_scale.is_none_or(f32::is_finite));
    assert!(!config.names.is_empty());
    for layer in &config.layers {
        assert!(layer
            .window
            .is_none_or(|window| within(window, LIMITS.context)));
        assert!(layer.rope.base.is_finite() && layer.rope.base > 0.0);
        match layer.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => assert!(factor.is_finite() && factor > 0.0),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                for x in [factor, low_freq_factor, high_freq_factor, original_context] {
                    assert!(x.is_finite() && x > 0.0, "{:?}", layer.rope);
                }
            }
        }
    }
}

fn legal(scheme: &Scheme) {
    let (bits, groups): (&[i32], &[i32]) = match scheme.mode {
        Mode::Affine => (&[2, 3, 4, 5, 6, 8], &[32, 64, 128]),
        Mode::Mxfp4 => (&[4], &[32]),
        Mode::Mxfp8 => (&[8], &[32]),
        Mode::Nvfp4 => (&[4], &[16]),
    };
    assert!(
        bits.contains(&scheme.bits) && groups.contains(&scheme.group_size),
        "{scheme:?}"
    );
}
