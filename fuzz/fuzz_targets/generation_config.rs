//! generation_config.json, a NUL, and config.json, which gives the end tokens where the first has none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxrt_fuzz::load::{parse_object, GenerationConfig, Limits, Object, Warnings};
use mlxrt_fuzz::{check_refusal, on_small_stack, peak, scratch};

const HEAP: usize = 4 << 20;

fuzz_target!(|data: &[u8]| on_small_stack(data, check));

fn check(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == 0);
    let (file, config) = data.split_at(cut.unwrap_or(data.len()));
    let config = match config {
        [0, config @ ..] => config,
        _ => b"{}",
    };
    scratch::write("generation_config.json", file);
    let folder = scratch::open();
    let (read, heap) = peak(|| {
        let map = parse_object("config.json", config)?;
        let config = Object::new("config.json", &map);
        GenerationConfig::read(&folder, &config, &mut Warnings::default())
    });
    assert!(heap <= HEAP, "reading held {heap} bytes");
    let read = match read {
        Ok(read) => read,
        // Whatever generation_config.json holds, it is no reason to refuse a model.
        Err(error) => return check_refusal(&error, &["config.json: "]),
    };
    let share = |x: Option<f32>| x.is_none_or(|x| x > 0.0 && x <= 1.0);
    assert!(read.temperature.is_none_or(|t| t.is_finite() && t >= 0.0));
    assert!(share(read.top_p) && share(read.min_p), "{read:?}");
    assert!(read.top_k.is_none_or(|k| k > 0));
    assert!(read
        .repetition_penalty
        .is_none_or(|p| p.is_finite() && p > 0.0));
    let ids = &read.eos_token_ids;
    assert!(ids.len() <= 3 * 1024);
    for (index, id) in ids.iter().enumerate() {
        assert!(u32::try_from(*id).is_ok_and(|id| id < Limits::DEFAULT.vocab));
        assert!(!ids[..index].contains(id), "{ids:?}");
    }
}
