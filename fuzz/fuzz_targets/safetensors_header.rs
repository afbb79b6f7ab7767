//! A weight file. The first byte says how the rest becomes one: 0 as it is; else the next two say how many bytes of data
//! follow the header that the rest is, so that lengths need no guessing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxrt_fuzz::load::{Catalog, Limits, Warnings};
use mlxrt_fuzz::{check_refusal, on_small_stack, peak, scratch};

const HEAP: usize = 16 << 20;
const FILE: &str = "model.safetensors";

fuzz_target!(|data: &[u8]| on_small_stack(data, check));

fn check(data: &[u8]) {
    match data {
        [] => return,
        [0, file @ ..] => scratch::write(FILE, file),
        [_, low, high, header @ ..] => {
            let length = header.len() as u64;
            let mut file = length.to_le_bytes().to_vec();
            file.extend_from_slice(header);
            scratch::write(FILE, &file);
            let data = u64::from(u16::from_le_bytes([*low, *high]));
            scratch::set_len(FILE, 8 + length + data);
        }
        _ => return,
    }
    let folder = scratch::open();
    let (catalog, heap) = peak(|| Catalog::open(&folder, &mut Warnings::default()));
    assert!(heap <= HEAP, "opening held {heap} bytes");
    let catalog = match catalog {
        Ok(catalog) => catalog,
        Err(error) => return check_refusal(&error, &[FILE]),
    };
    // The tensors lie one behind the other, from the header's end to the file's.
    let mut places: Vec<(u64, u64)> = Vec::new();
    for (name, tensor) in &catalog.tensors {
        assert!(!name.is_empty() && !name.contains('\0') && *name == tensor.name);
        assert!(tensor.shape.len() <= Limits::DEFAULT.rank);
        assert!(tensor.shape.iter().all(|&dim| dim > 0));
        let elements: i64 = tensor.shape.iter().map(|&dim| i64::from(dim)).product();
        assert_eq!((elements * tensor.dtype.size()) as u64, tensor.bytes);
        places.push((tensor.offset, tensor.bytes));
    }
    places.sort_unstable();
    let end = scratch::len(FILE);
    let mut at = end - catalog.total_bytes;
    assert!(at >= 8);
    for (offset, bytes) in places {
        assert_eq!(offset, at);
        at += bytes;
    }
    assert_eq!(at, end);
}
