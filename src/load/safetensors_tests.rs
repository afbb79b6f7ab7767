#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::super::testing::{safetensors, vectors, TempFolder};
use super::*;

const NAME: &str = "model.safetensors";

fn read_within(bytes: &[u8], limits: &Limits) -> Result<Vec<Entry>> {
    let temp = TempFolder::new();
    temp.write(NAME, bytes);
    read_header(NAME, &temp.open().open_file(NAME)?, limits)
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>> {
    read_within(bytes, &Limits::DEFAULT)
}

/// The error for a file of one tensor `"w"` described so, which has `data` bytes of data.
fn complaint(tensor: &str, data: usize) -> Error {
    read(&safetensors(&format!("{{\"w\":{tensor}}}"), data)).unwrap_err()
}

const GOOD: &str = r#"{"__metadata__":{"format":"mlx"},
    "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
    "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}, "c":{"dtype":"U32","shape":[1],"data_offsets":[16,20]}}   "#;

#[test]
fn reads_a_good_header() {
    let start = (8 + GOOD.len()) as u64;
    let entry = |name: &str, dtype, shape: &[i32], offset, bytes| Entry {
        name: name.into(),
        dtype,
        shape: shape.into(),
        offset: start + offset,
        bytes,
        float8: None,
    };
    let expected = [
        entry("a", Dtype::F32, &[], 0, 4),
        entry("b", Dtype::BF16, &[2, 3], 4, 12),
        entry("c", Dtype::U32, &[1], 16, 4),
    ];
    assert_eq!(read(&safetensors(GOOD, 20)).unwrap(), expected);
    assert_eq!(read(&safetensors("{}", 0)).unwrap(), []);
}

fn spelled(entry: &Entry) -> &'static str {
    entry.float8.map_or(entry.dtype.name(), Float8::name)
}

#[test]
fn every_type_that_mlx_has() {
    for (name, size) in [
        ("BOOL", 1),
        ("U8", 1),
        ("I8", 1),
        ("F8_E4M3", 1),
        ("F8_E8M0", 1),
        ("U16", 2),
        ("I16", 2),
        ("F16", 2),
        ("BF16", 2),
        ("U32", 4),
        ("I32", 4),
        ("F32", 4),
        ("U64", 8),
        ("I64", 8),
    ] {
        let header = format!(
            r#"{{"w":{{"dtype":"{name}","shape":[3],"data_offsets":[0,{}]}}}}"#,
            3 * size
        );
        let entries = read(&safetensors(&header, 3 * size)).unwrap();
        assert_eq!(
            (spelled(&entries[0]), entries[0].bytes),
            (name, 3 * size as u64)
        );
    }
    for name in [
        "F64",
        "C64",
        "F8_E5M2",
        "F8_E4M3FNUZ",
        "F4",
        "F6_E2M3",
        "f32",
        "",
        "STRING",
    ] {
        let error = complaint(
            &format!(r#"{{"dtype":"{name}","shape":[1],"data_offsets":[0,8]}}"#),
            8,
        );
        let expected = format!("{NAME}: tensor \"w\" has the type \"{name}\", which MLX has not");
        assert_eq!((error.code, error.message), (Code::Unsupported, expected));
    }
}

#[test]
fn truncated_at_every_byte_is_a_named_error() {
    let whole = safetensors(GOOD, 20);
    for length in 0..whole.len() {
        let error = read(&whole[..length]).unwrap_err();
        assert_eq!(error.code, Code::BadModel);
        assert!(
            error
                .message
                .starts_with(&format!("{NAME}: is truncated: it is {length} bytes, ")),
            "{error}"
        );
    }
    let error = read(&whole[..whole.len() - 1]).unwrap_err();
    assert!(
        error
            .message
            .ends_with(&format!("its header needs {}", whole.len())),
        "{error}"
    );
    let longer = [whole.as_slice(), b"\0"].concat();
    assert!(read(&longer)
        .unwrap_err()
        .message
        .contains("but its header describes only"));
}

#[test]
fn every_single_byte_of_the_header_may_change() {
    let whole = safetensors(GOOD, 20);
    let temp = TempFolder::new();
    for at in 0..8 + GOOD.len() {
        for byte in [
            0,
            1,
            b'"',
            b'{',
            b'9',
            b'-',
            0x7f,
            0xff,
            whole[at] ^ 1,
            whole[at].wrapping_add(1),
        ] {
            let mut changed = whole.clone();
            changed[at] = byte;
            temp.write(NAME, &changed);
            let file = temp.open().open_file(NAME).unwrap();
            if let Err(error) = read_header(NAME, &file, &Limits::DEFAULT) {
                assert!(
                    matches!(error.code, Code::BadModel | Code::Unsupported),
                    "{error:?}"
                );
                assert!(error.message.starts_with(&format!("{NAME}: ")), "{error}");
            }
        }
    }
}

#[test]
fn absurd_header_lengths() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 63, 100_000_001] {
        let error = read(&[&length.to_le_bytes()[..], b"{}"].concat()).unwrap_err();
        assert!(
            error
                .message
                .contains("more than the 100000000 that are accepted"),
            "{error}"
        );
    }
    let error = read(&[&100_000_000u64.to_le_bytes()[..], b"{}"].concat()).unwrap_err();
    assert_eq!(
        error.message,
        format!("{NAME}: is truncated: it is 10 bytes, its header needs at least 100000008")
    );
    assert!(read(&[0; 8])
        .unwrap_err()
        .message
        .contains("is not valid JSON: EOF"));
}

#[test]
fn shapes_that_mlx_cannot_hold() {
    for (shape, part) in [
        (
            "[4294967298]",
            "has the dimension \"4294967298\"; dimensions are integers from 1 to 2147483647",
        ),
        ("[2147483648]", "has the dimension"),
        ("[18446744073709551616]", "has the dimension"),
        ("[-1,-1]", "has the dimension \"-1\""),
        ("[2.0]", "has the dimension \"2.0\""),
        ("[true]", "has the dimension \"true\""),
        ("[null]", "has the dimension \"null\""),
        ("[[1]]", "has the dimension"),
        ("[0]", "has the dimension \"0\""),
        ("[0,4]", "has the dimension \"0\""),
        ("[1,1,1,1,1,1,1,1,1]", "has 9 dimensions, more than 8"),
        (
            "[65536,65536,65536,65536]",
            "has a shape of more than 2^63 bytes",
        ),
        (
            "[2147483647,2147483647,1]",
            "has a shape of more than 2^63 bytes",
        ),
        (
            "[65536,65536]",
            "takes 4 bytes, but its type F32 and its shape need 17179869184",
        ),
        (
            "[2]",
            "takes 4 bytes, but its type F32 and its shape need 8",
        ),
    ] {
        let error = complaint(
            &format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}"#),
            4,
        );
        assert_eq!(error.code, Code::BadModel);
        assert!(
            error
                .message
                .starts_with(&format!("{NAME}: tensor \"w\" {part}")),
            "{shape}: {error}"
        );
    }
}

#[test]
fn offsets_that_are_none() {
    for offsets in [
        "[4,0]",
        "[0]",
        "[0,4,8]",
        "[]",
        "[0,\"4\"]",
        "[-4,0]",
        "[0,4.0]",
        "[0,18446744073709551616]",
    ] {
        let error = complaint(
            &format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#),
            4,
        );
        let expected =
            format!("{NAME}: tensor \"w\" has data_offsets that are not a start and an end");
        assert_eq!(error.message, expected);
    }
    let far = u64::MAX - 3;
    let error = complaint(
        &format!(
            r#"{{"dtype":"F32","shape":[1],"data_offsets":[{},{far}]}}"#,
            far - 4
        ),
        4,
    );
    assert!(
        error
            .message
            .contains("overlaps another tensor or leaves a hole"),
        "{error}"
    );
}

#[test]
fn overlaps_and_holes() {
    let two = |first: &str, second: &str, data| {
        let tensor =
            |offsets: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        read(&safetensors(
            &format!(r#"{{"a":{},"b":{}}}"#, tensor(first), tensor(second)),
            data,
        ))
    };
    assert!(two("[0,4]", "[4,8]", 8).is_ok());
    assert!(two("[4,8]", "[0,4]", 8).is_ok());
    for (first, second, data) in [
        ("[0,4]", "[2,6]", 6),
        ("[0,4]", "[0,4]", 4),
        ("[0,4]", "[5,9]", 9),
        ("[1,5]", "[5,9]", 9),
    ] {
        let error = two(first, second, data).unwrap_err();
        assert_eq!(error.code, Code::BadModel);
        assert!(
            error
                .message
                .contains("overlaps another tensor or leaves a hole before it"),
            "{error}"
        );
    }
}

#[test]
fn wrong_types_name_the_key() {
    for (tensor, part) in [
        ("1", "\"w\" must be an object, is 1"),
        ("null", "\"w\" is missing"),
        ("{}", "\"w.dtype\" is missing"),
        (r#"{"dtype":4}"#, "\"w.dtype\" must be a string, is 4"),
        (r#"{"dtype":"F32"}"#, "\"w.shape\" is missing"),
        (
            r#"{"dtype":"F32","shape":4}"#,
            "\"w.shape\" must be an array, is 4",
        ),
        (
            r#"{"dtype":"F32","shape":[1]}"#,
            "\"w.data_offsets\" is missing",
        ),
        (
            r#"{"dtype":"F32","dtype":"F32","shape":[1]}"#,
            "the key \"dtype\" is given twice, at line 1 column",
        ),
    ] {
        let error = complaint(tensor, 4);
        assert!(
            error.message.starts_with(&format!("{NAME}: {part}")),
            "{tensor}: {error}"
        );
    }
    let error = read(&safetensors(r#"{"__metadata__":{"n":1}}"#, 0)).unwrap_err();
    assert_eq!(
        error.message,
        format!("{NAME}: \"__metadata__.n\" must be a string, is 1")
    );
    for header in ["[]", "\"x\"", "{\"w\":", "{} {}", "\u{feff}{}"] {
        assert!(read(&safetensors(header, 0))
            .unwrap_err()
            .message
            .starts_with(&format!("{NAME}: ")));
    }
}

#[test]
fn names() {
    let error = read(&vectors(&[("w", 1), ("v", 2), ("w", 3)])).unwrap_err();
    assert!(
        error.message.starts_with(&format!(
            "{NAME}: the key \"w\" is given twice, at line 1 column "
        )),
        "{error}"
    );
    let error = read(&vectors(&[("w", 1), ("\\u0077", 1)])).unwrap_err();
    assert!(
        error.message.contains("the key \"w\" is given twice"),
        "{error}"
    );
    assert_eq!(
        read(&vectors(&[("", 1)])).unwrap_err().message,
        format!("{NAME}: a tensor has an empty name")
    );
    let error = read(&vectors(&[("a\\u0000b", 1)])).unwrap_err();
    assert_eq!(
        error.message,
        format!("{NAME}: tensor \"a\\0b\" has a NUL character in its name")
    );
    let error = read(&vectors(&[(&"n".repeat(1025), 1)])).unwrap_err();
    assert!(
        error.message.ends_with("has a name longer than 1024 bytes") && error.message.len() < 300,
        "{error}"
    );
    read(&vectors(&[(&"n".repeat(1024), 1)])).unwrap();
}

#[test]
fn crowds() {
    let names: Vec<String> = (0..100_001).map(|i| format!("t{i}")).collect();
    let tensors: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    assert_eq!(read(&vectors(&tensors[..100_000])).unwrap().len(), 100_000);
    let error = read(&vectors(&tensors)).unwrap_err();
    assert_eq!(
        error.message,
        format!("{NAME}: holds more than 100000 tensors")
    );

    // Headers that would take much more memory than they have bytes.
    let limits = Limits {
        tensors: 10,
        ..Limits::DEFAULT
    };
    let many_dims = format!(
        r#"{{"w":{{"dtype":"U8","shape":[1{}],"data_offsets":[0,1]}}}}"#,
        ",1".repeat(200_000)
    );
    let many_notes = (0..200_000)
        .map(|i| format!("\"{i}\":\"\""))
        .collect::<Vec<_>>()
        .join(",");
    let many_notes = format!(r#"{{"__metadata__":{{{many_notes}}}}}"#);
    for header in [many_dims, many_notes] {
        let error = read_within(&safetensors(&header, 1), &limits).unwrap_err();
        assert!(
            error
                .message
                .contains("the JSON holds more than 100200 values"),
            "{error}"
        );
    }
    let deep = format!(r#"{{"w":{}"#, "[".repeat(1_000_000));
    assert!(read(&safetensors(&deep, 0))
        .unwrap_err()
        .message
        .contains("nests too deep"));
}
