#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::json::parse_object;
use super::*;
use crate::error::Code;

fn parse(config: &str) -> Result<Quantization> {
    let map = parse_object("config.json", config.as_bytes())?;
    Quantization::parse(&Object::new("config.json", &map))
}

fn affine(bits: i32, group_size: i32) -> Scheme {
    Scheme {
        mode: Mode::Affine,
        bits,
        group_size,
    }
}

#[test]
fn plain_weights() {
    for config in [
        "{}",
        r#"{"quantization": null}"#,
        r#"{"quantization": {}}"#,
        r#"{"text_config": {}}"#,
    ] {
        assert_eq!(parse(config).unwrap(), Quantization::default(), "{config}");
    }
    assert_eq!(Quantization::default().scheme("model.layers.0", true), None);
}

#[test]
fn a_block_with_per_module_settings() {
    let parsed = parse(
        r#"{"quantization": {"group_size": 64, "bits": 4, "mode": "affine",
            "model.embed_tokens": {"group_size": 32, "bits": 8},
            "model.layers.0.mlp.gate": {"bits": 8, "mode": "mxfp8"},
            "model.layers.3.mlp.down_proj": false, "lm_head": true, "note": "by hand", "extra": null},
            "quantization_config": {"quant_method": "fp8"}}"#,
    )
    .unwrap();
    assert_eq!(parsed.default, Some(affine(4, 64)));
    assert_eq!(parsed.per_module.len(), 4);
    assert_eq!(
        parsed.scheme("model.embed_tokens", true),
        Some(affine(8, 32))
    );
    let gate = Scheme {
        mode: Mode::Mxfp8,
        bits: 8,
        group_size: 32,
    };
    assert_eq!(parsed.scheme("model.layers.0.mlp.gate", true), Some(gate));
    assert_eq!(parsed.scheme("model.layers.3.mlp.down_proj", true), None);
    assert_eq!(parsed.scheme("lm_head", false), Some(affine(4, 64)));
    assert_eq!(
        parsed.scheme("model.layers.1.mlp.down_proj", true),
        Some(affine(4, 64))
    );
    assert_eq!(parsed.scheme("model.layers.1.mlp.down_proj", false), None);
}

#[test]
fn a_module_without_mode_is_affine_under_any_default() {
    let parsed = parse(
        r#"{"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4", "a.router": {"bits": 8, "group_size": 64}}}"#,
    );
    let parsed = parsed.unwrap();
    assert_eq!(
        parsed.default,
        Some(Scheme {
            mode: Mode::Mxfp4,
            bits: 4,
            group_size: 32
        })
    );
    assert_eq!(parsed.scheme("a.router", true), Some(affine(8, 64)));
}

#[test]
fn exactly_the_legal_combinations() {
    let legal = |mode: &str, bits: i64, group: i64| match mode {
        "affine" => [2, 3, 4, 5, 6, 8].contains(&bits) && [32, 64, 128].contains(&group),
        "mxfp4" => (bits, group) == (4, 32),
        "mxfp8" => (bits, group) == (8, 32),
        "nvfp4" => (bits, group) == (4, 16),
        _ => false,
    };
    for mode in ["affine", "mxfp4", "mxfp8", "nvfp4"] {
        for bits in [
            -4,
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            16,
            32,
            1 << 31,
            1 << 32,
            (1 << 32) + 4,
            i64::MAX,
        ] {
            for group in [-64, 0, 1, 8, 16, 32, 48, 64, 128, 256, (1 << 32) + 64] {
                let config = format!(
                    r#"{{"quantization": {{"mode": "{mode}", "bits": {bits}, "group_size": {group}}}}}"#
                );
                let parsed = parse(&config);
                assert_eq!(parsed.is_ok(), legal(mode, bits, group), "{config}");
                match parsed {
                    Ok(parsed) => {
                        let scheme = parsed.default.unwrap();
                        let read = (
                            scheme.mode.name(),
                            i64::from(scheme.bits),
                            i64::from(scheme.group_size),
                        );
                        assert_eq!(read, (mode, bits, group));
                    }
                    Err(error) => {
                        assert_eq!(error.code, Code::BadModel);
                        assert!(
                            error.message.starts_with("config.json: \"quantization."),
                            "{error}"
                        );
                    }
                }
            }
        }
        let only_mode = parse(&format!(r#"{{"quantization": {{"mode": "{mode}"}}}}"#))
            .unwrap()
            .default
            .unwrap();
        assert!(legal(
            mode,
            only_mode.bits.into(),
            only_mode.group_size.into()
        ));
    }
}

#[test]
fn wrong_values_name_their_key() {
    for (config, expected) in [
        (
            r#"{"quantization": 4}"#,
            "\"quantization\" must be an object, is 4",
        ),
        (
            r#"{"quantization": {"bits": 0, "group_size": 64}}"#,
            "\"quantization.bits\" must be 2 or 3 or 4 or 5 or 6 or 8 in mode affine, is 0",
        ),
        (
            r#"{"quantization": {"bits": "4"}}"#,
            "\"quantization.bits\" must be 2 or 3 or 4 or 5 or 6 or 8 in mode affine, is \"4\"",
        ),
        (
            r#"{"quantization": {"mode": "nvfp4", "bits": 4, "group_size": 32}}"#,
            "\"quantization.group_size\" must be 16 in mode nvfp4, is 32",
        ),
        (
            r#"{"quantization": {"model.x": {"group_size": 1}}}"#,
            "\"quantization.model.x.group_size\" must be 32 or 64 or 128 in mode affine, is 1",
        ),
        (
            r#"{"quantization": {"model.x": 8}}"#,
            "\"quantization.model.x\" must be true, false or an object, is 8",
        ),
        (
            r#"{"quantization": {"lm_head": []}}"#,
            "\"quantization.lm_head\" must be true, false or an object, is an array of 0",
        ),
        (
            r#"{"quantization": {"lm_head": true}}"#,
            "\"quantization.lm_head\" is true, but config.json: \"quantization\" gives no bits",
        ),
        (
            r#"{"quantization": {"mode": 1}}"#,
            "\"quantization.mode\" must be a string, is 1",
        ),
    ] {
        let error = parse(config).unwrap_err();
        assert_eq!(
            (error.code, error.message),
            (Code::BadModel, format!("config.json: {expected}")),
            "{config}"
        );
    }
}

#[test]
fn formats_of_other_programs() {
    for method in [
        "fp8",
        "awq",
        "gptq",
        "compressed-tensors",
        "bitnet",
        "bitsandbytes",
        "mxfp4",
        "modelopt",
        "",
    ] {
        let error = parse(&format!(
            r#"{{"quantization_config": {{"quant_method": "{method}", "bits": 4}}}}"#
        ))
        .unwrap_err();
        let expected = format!("config.json: \"quantization_config.quant_method\" is \"{method}\", a quantisation that is not supported");
        assert_eq!((error.code, error.message), (Code::Unsupported, expected));
    }
    for (config, part) in [
        (
            r#"{"text_config": {"quantization_config": {"quant_method": "x"}}}"#,
            "\"text_config.quantization_config.quant_method\" is \"x\"",
        ),
        (
            r#"{"quantization_config": {"quant_algo": "FP8"}}"#,
            "\"quantization_config.quant_algo\" is \"FP8\"",
        ),
        (
            r#"{"quantization_config": {"ignore": ["lm_head"]}}"#,
            "\"quantization_config\" names neither bits",
        ),
        (
            r#"{"quantization": {"mode": "mxfp6"}}"#,
            "\"quantization.mode\" is \"mxfp6\", known are affine, mxfp4",
        ),
        (
            r#"{"quantize_activations": true}"#,
            "\"quantize_activations\" is true",
        ),
    ] {
        let error = parse(config).unwrap_err();
        assert_eq!(error.code, Code::Unsupported);
        assert!(
            error.message.starts_with(&format!("config.json: {part}")),
            "{error}"
        );
    }
    let error = parse(r#"{"quantization_config": {"quant_method": 5}}"#).unwrap_err();
    assert_eq!(error.code, Code::BadModel);
    // The copy that mlx-lm writes for the hub's sake stands alone too.
    let copy = parse(r#"{"quantization_config": {"bits": 8, "group_size": 128}}"#).unwrap();
    assert_eq!(copy.default, Some(affine(8, 128)));
}

#[test]
fn published_configs_parse_or_are_named_unsupported() {
    let shared = std::env::var("MLXRT_SHARED").unwrap_or_else(|_| "../shared".into());
    let folder = std::path::Path::new(&shared).join("data/configs");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no published configs at {}", folder.display());
        return;
    };
    let (mut read, mut unsupported) = (0, 0);
    for path in entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let bytes = std::fs::read(&path).unwrap();
        let map = parse_object("config.json", &bytes)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let config = Object::new("config.json", &map);
        match Quantization::parse(&config) {
            Ok(parsed) => {
                let foreign = config.opt_object("quantization_config").unwrap();
                assert!(
                    foreign.is_none() || parsed.default.is_some(),
                    "{}",
                    path.display()
                );
                read = i32::wrapping_add(read, 1);
            }
            Err(error) => {
                assert_eq!(error.code, Code::Unsupported, "{}: {error}", path.display());
                assert!(error.message.contains("quantization_config"), "{error}");
                unsupported = i32::wrapping_add(unsupported, 1);
            }
        }
    }
    assert!(
        read > 20 && unsupported > 5,
        "{read} read, {unsupported} unsupported"
    );
}
