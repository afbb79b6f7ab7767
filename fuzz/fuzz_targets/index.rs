//! model.safetensors.index.json, in a folder with a fixture's three shards and its config.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mlxrt_fuzz::load::{Catalog, Warnings};
use mlxrt_fuzz::{check_refusal, on_small_stack, peak, scratch};

const HEAP: usize = 16 << 20;
const CASE: &str = "qwen3-f32-shards";
const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 3] = [
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
];

fuzz_target!(|data: &[u8]| on_small_stack(data, check));

fn check(data: &[u8]) {
    let tensors = tensors();
    scratch::write(INDEX, data);
    let folder = scratch::open();
    let (catalog, heap) = peak(|| Catalog::open(&folder, &mut Warnings::default()));
    assert!(heap <= HEAP, "opening held {heap} bytes");
    // The shards are whole, and the index is a hint.
    let catalog = catalog.expect("a folder that loads without its index");
    let names: Vec<&str> = catalog
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, SHARDS);
    for (tensor, file) in &catalog.absent {
        assert!(catalog.get(tensor).is_none());
        assert!(!file.contains('/') && file.ends_with(".safetensors"));
        let error = catalog.missing(tensor);
        check_refusal(&error, &[INDEX]);
    }
    // Whatever else it names is not needed.
    for tensor in tensors {
        assert!(catalog.get(tensor).is_some(), "{tensor} is not found");
    }
}

/// What the shards hold. They are written once; nothing of them changes.
fn tensors() -> &'static [String] {
    static TENSORS: OnceLock<Vec<String>> = OnceLock::new();
    TENSORS.get_or_init(|| {
        for shard in SHARDS {
            scratch::write(shard, &scratch::fixture(CASE, shard));
        }
        let catalog = Catalog::open(&scratch::open(), &mut Warnings::default());
        let catalog = catalog.expect("the fixture");
        assert!(catalog.tensors.len() > 20);
        catalog.tensors.keys().cloned().collect()
    })
}
