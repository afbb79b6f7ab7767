#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::super::json::parse_object;
use super::*;
use crate::error::Code;

/// Of a config in which nothing is odd.
fn parse(config: &str) -> Result<Quantization> {
    let (parsed, warnings) = warned(config)?;
    assert!(warnings.is_empty(), "{warnings:?}");
    Ok(parsed)
}

fn warned(config: &str) -> Result<(Quantization, Vec<String>)> {
    let map = parse_object("config.json", config.as_bytes())?;
    let mut warnings = Warnings::default();
    let parsed = Quantization::parse(&Object::new("config.json", &map), &mut warnings)?;
    Ok((parsed, warnings.sentences().to_vec()))
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
    assert_eq!(Quantization::default().said("model.layers.0", true), None);
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
    // Whatever prefix the decoder has in the config or in the files.
    for prefix in [
        "model.",
        "language_model.model.",
        "language_model.",
        "model.language_model.",
        "",
    ] {
        let path = format!("{prefix}embed_tokens");
        assert_eq!(parsed.said(&path, true), Some(affine(8, 32)), "{path}");
        let named = format!(r#"{{"quantization": {{"bits": 4, "{path}": {{"bits": 2}}}}}}"#);
        let named = parse(&named).unwrap();
        assert_eq!(
            named.said("model.embed_tokens", true),
            Some(affine(2, 64)),
            "{path}"
        );
        assert_eq!(named.said("lm_head", true), Some(affine(4, 64)));
    }
    let gate = Scheme {
        mode: Mode::Mxfp8,
        bits: 8,
        group_size: 32,
    };
    assert_eq!(parsed.said("model.layers.0.mlp.gate", true), Some(gate));
    assert_eq!(parsed.said("model.layers.3.mlp.down_proj", true), None);
    assert_eq!(parsed.said("lm_head", false), Some(affine(4, 64)));
    assert_eq!(
        parsed.said("model.layers.1.mlp.down_proj", true),
        Some(affine(4, 64))
    );
    assert_eq!(parsed.said("model.layers.1.mlp.down_proj", false), None);
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
    assert_eq!(parsed.said("a.router", true), Some(affine(8, 64)));
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
                let (parsed, warnings) = warned(&config).unwrap();
                assert_eq!(
                    parsed.default.is_some(),
                    legal(mode, bits, group),
                    "{config}"
                );
                match parsed.default {
                    Some(scheme) => {
                        let read = (
                            scheme.mode.name(),
                            i64::from(scheme.bits),
                            i64::from(scheme.group_size),
                        );
                        assert_eq!(read, (mode, bits, group));
                        assert!(warnings.is_empty());
                    }
                    None => assert!(
                        warnings[0].starts_with("config.json: \"quantization."),
                        "{warnings:?}"
                    ),
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
fn odd_values_are_warnings_that_name_their_key() {
    let must_be = "2 or 3 or 4 or 5 or 6 or 8 in mode affine";
    for (config, expected) in [
        (
            r#"{"quantization": 4}"#,
            "\"quantization\" must be an object, is 4; it is ignored".to_string(),
        ),
        (
            r#"{"quantization": {"bits": 0, "group_size": 64}}"#,
            format!("\"quantization.bits\" must be {must_be}, is 0; it is ignored"),
        ),
        (
            r#"{"quantization": {"bits": "4"}}"#,
            format!("\"quantization.bits\" must be {must_be}, is \"4\"; it is ignored"),
        ),
        (
            r#"{"quantization": {"mode": "nvfp4", "bits": 4, "group_size": 32}}"#,
            "\"quantization.group_size\" must be 16 in mode nvfp4, is 32; it is ignored".into(),
        ),
        (
            r#"{"quantization": {"model.x": {"group_size": 1}}}"#,
            "\"quantization.model.x.group_size\" must be 32 or 64 or 128 in mode affine, is 1; it is ignored".into(),
        ),
        (
            r#"{"quantization": {"model.x": 8}}"#,
            "\"quantization.model.x\" is 8, which says nothing; it is ignored".into(),
        ),
        (
            r#"{"quantization": {"lm_head": []}}"#,
            "\"quantization.lm_head\" is an array of 0, which says nothing; it is ignored".into(),
        ),
        (
            r#"{"quantization": {"lm_head": true}}"#,
            "\"quantization.lm_head\" is true, which says nothing; it is ignored".into(),
        ),
        (
            r#"{"text_config": 4}"#,
            "\"text_config\" must be an object, is 4; it is ignored".into(),
        ),
        (
            r#"{"quantization_config": {"quant_method": 5}}"#,
            "\"quantization_config.quant_method\" must be a string, is 5; it is ignored".into(),
        ),
    ] {
        let (parsed, warnings) = warned(config).unwrap();
        assert_eq!(warnings, [format!("config.json: {expected}")], "{config}");
        assert_eq!(parsed, Quantization::default(), "{config}");
    }
}

#[test]
fn what_could_mean_other_weights_than_their_shapes_say_is_refused() {
    for (config, part) in [
        (
            r#"{"quantization": {"mode": "mxfp6"}}"#,
            "\"quantization.mode\" is \"mxfp6\", known are affine, mxfp4",
        ),
        (
            r#"{"quantization": {"a.b": {"mode": "mxfp6"}}}"#,
            "\"quantization.a.b.mode\" is \"mxfp6\", known are affine, mxfp4",
        ),
        (
            r#"{"quantize_activations": true}"#,
            "\"quantize_activations\" is true",
        ),
        (
            r#"{"quantization_config": {"quant_method": "bitnet"}}"#,
            "\"quantization_config.quant_method\" is \"bitnet\", a quantisation that is not",
        ),
    ] {
        let error = parse(config).unwrap_err();
        assert_eq!(error.code, Code::Unsupported);
        assert!(
            error.message.starts_with(&format!("config.json: {part}")),
            "{error}"
        );
    }
}

#[test]
fn another_programs_method_explains_weights_that_are_not_understood() {
    for (config, place) in [
        (
            r#"{"quantization_config": {"quant_method": "hqq", "bits": 4}}"#,
            "quantization_config.quant_method\" is \"hqq\"",
        ),
        (
            r#"{"quantization_config": {"quant_algo": "W4A8_AWQ"}}"#,
            "quantization_config.quant_algo\" is \"W4A8_AWQ\"",
        ),
        (
            r#"{"text_config": {"quantization_config": {"quant_method": "x", "group_size": 64}}}"#,
            "text_config.quantization_config.quant_method\" is \"x\"",
        ),
    ] {
        let parsed = parse(config).unwrap();
        // Its bits and groups are its own.
        assert_eq!(parsed.default, None);
        let error = parsed.explain(Error::bad_model("the weights hold no tensor \"w\""));
        let expected = format!(
            "config.json: \"{place}, a quantisation that is not supported: the weights hold no tensor \"w\""
        );
        assert_eq!((error.code, error.message), (Code::Unsupported, expected));
        let error = parsed.explain(Error::new(Code::Io, "no disk"));
        assert_eq!((error.code, &*error.message), (Code::Io, "no disk"));
    }
    let plain = Quantization::default().explain(Error::bad_model("x"));
    assert_eq!((plain.code, &*plain.message), (Code::BadModel, "x"));
    // Of methods that are read, only what is not packed as they do it.
    let gptq =
        r#"{"quantization_config": {"quant_method": "gptq", "desc_act": true, "bits": "x"}}"#;
    let gptq = parse(gptq).unwrap();
    assert_eq!(gptq.explain(Error::bad_model("x")).message, "x");
    let error = gptq.not_read(Error::bad_model("x"));
    assert!(error.message.ends_with("not supported: x"), "{error}");
    let said = gptq.foreign.unwrap();
    assert_eq!(
        (said.zeros_less, said.act_order, said.block),
        (1, true, Foreign::BLOCK)
    );
    for (said, block) in [
        ("[64, 32]", [64, 32]),
        ("[0, 32]", Foreign::BLOCK),
        ("[4294967297, 1]", Foreign::BLOCK),
    ] {
        let config = format!(
            r#"{{"quantization_config": {{"quant_method": "fp8", "weight_block_size": {said}}}}}"#
        );
        assert_eq!(parse(&config).unwrap().foreign.unwrap().block, block);
    }
    let awq = |version: &str| {
        parse(&format!(
            r#"{{"quantization_config": {{"quant_method": "awq", "version": "{version}"}}}}"#
        ))
    };
    awq("GEMM").unwrap();
    assert!(awq("marlin")
        .unwrap_err()
        .message
        .contains("is \"marlin\": of AWQ's formats"));
    // The copy that mlx-lm writes for the hub's sake stands alone too.
    let copy = parse(r#"{"quantization_config": {"bits": 8, "group_size": 128}}"#).unwrap();
    assert_eq!(copy.default, Some(affine(8, 128)));
}

/// Every scheme of MLX in every width of row that it fits has shapes and a type that no other scheme has.
#[test]
fn shapes_tell_the_scheme() {
    let mut seen = 0;
    for mode in Mode::ALL {
        let (all_bits, group_sizes) = mode.legal();
        for (&bits, &group_size) in all_bits
            .iter()
            .flat_map(|b| group_sizes.iter().map(move |g| (b, g)))
        {
            for input in [128, 384, 640, 4096, 1 << 20] {
                let scheme = Scheme {
                    mode,
                    bits,
                    group_size,
                };
                let scales: &[Dtype] = match mode {
                    Mode::Affine => &[Dtype::F32, Dtype::F16, Dtype::BF16],
                    _ => &[Dtype::U8],
                };
                for &dtype in scales {
                    let (columns, groups) = (input / 32 * bits, input / group_size);
                    assert_eq!(Scheme::of_shapes(input, columns, groups, dtype), Ok(scheme));
                    seen = i32::wrapping_add(seen, 1);
                }
            }
        }
    }
    assert_eq!(seen, 18 * 3 * 5 + 3 * 5);
}

#[test]
fn shapes_of_no_scheme_are_refused() {
    for (input, columns, groups, scales) in [
        // 7, 16 and 1 bit, half a bit, half a group, groups of 16, none.
        (64, 14, 1, Dtype::F32),
        (64, 32, 1, Dtype::F32),
        (64, 2, 1, Dtype::F32),
        (64, 1, 1, Dtype::F32),
        (64, 8, 3, Dtype::F32),
        (64, 8, 4, Dtype::F32),
        (64, 8, 0, Dtype::F32),
        (0, 8, 1, Dtype::F32),
        // 8 bits in groups of 16, 4 in groups of 64, 6 in groups of 32.
        (64, 16, 4, Dtype::U8),
        (64, 8, 1, Dtype::U8),
        (64, 12, 2, Dtype::U8),
        (i32::MAX, i32::MAX, i32::MAX, Dtype::F32),
        (i32::MIN, i32::MIN, i32::MIN, Dtype::F32),
        (i32::MIN, -1, -1, Dtype::U8),
    ] {
        let why = Scheme::of_shapes(input, columns, groups, scales).unwrap_err();
        assert!(why.ends_with("no quantisation that MLX has"), "{why}");
    }
}

#[test]
fn a_block_for_weights_as_they_are() {
    let modules = [("a.x", 4), ("a.y", 8), ("a.z", 4)]
        .map(|(path, bits)| (path.to_string(), affine(bits, 64)));
    let block = Quantization::block(&modules).unwrap();
    let expected = serde_json::json!({
        "group_size": 64, "bits": 4, "mode": "affine",
        "a.y": { "group_size": 64, "bits": 8, "mode": "affine" },
    });
    assert_eq!(Value::Object(block), expected);
    assert_eq!(Quantization::block(&[]), None);
}

#[test]
fn published_configs_parse() {
    let Some(folder) = crate::testing::data("configs") else {
        return;
    };
    let entries = std::fs::read_dir(&folder).unwrap();
    let (mut read, mut foreign) = (0, 0);
    for path in entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let bytes = std::fs::read(&path).unwrap();
        let map = parse_object("config.json", &bytes)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let config = Object::new("config.json", &map);
        let mut warnings = Warnings::default();
        let parsed = Quantization::parse(&config, &mut warnings)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(warnings.sentences().is_empty(), "{warnings:?}");
        let block = config.opt_object("quantization_config").unwrap();
        let known = block.is_none() || parsed.default.is_some();
        assert!(known || parsed.foreign.is_some(), "{}", path.display());
        read = i32::wrapping_add(read, 1);
        foreign = i32::wrapping_add(foreign, parsed.foreign.is_some().into());
    }
    assert!(read > 20 && foreign > 5, "{read} read, {foreign} foreign");
}
