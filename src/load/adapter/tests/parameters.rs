//! Experts as PEFT adapts them.

use super::*;

/// The model's experts by their names, in gpt-oss's order where they are named as there.
pub(super) fn experts_of(modules: &[(String, ModuleShape)]) -> Vec<ExpertModule> {
    let of = |(path, shape): &(String, ModuleShape)| {
        let ModuleShape::Experts {
            experts,
            input,
            output,
            ..
        } = *shape
        else {
            return None;
        };
        let (parent, leaf) = path.rsplit_once('.').unwrap();
        let in_turn = parent.ends_with("experts");
        let share = |up| match in_turn {
            true => Share::InTurn(up),
            false => Share::Half(up),
        };
        let w = path.contains("block_sparse_moe");
        let (parameter, share, each) = match leaf {
            "gate_proj" => ("gate_up_proj", share(0), ["gate_proj", "w1"]),
            "up_proj" => ("gate_up_proj", share(1), ["up_proj", "w3"]),
            "down_proj" => ("down_proj", Share::All, ["down_proj", "w2"]),
            _ => return None,
        };
        Some(ExpertModule {
            path: path.clone(),
            experts,
            input,
            output,
            place: ExpertPlace {
                parameter,
                share,
                each: (!in_turn).then_some(each[usize::from(w)]),
            },
        })
    };
    modules.iter().filter_map(of).collect()
}

/// Two layers of three experts from 8 to 6 and back, with gate and up.
fn mixture(parent: &str, inner: i32) -> Vec<(String, ModuleShape)> {
    let shape = |input, output| ModuleShape::Experts {
        experts: 3,
        input,
        output,
        bias: false,
    };
    let of_layer = |layer: i32| {
        let path = move |leaf: &str| format!("layers.{layer}.{parent}.{leaf}");
        [
            (path("gate_proj"), shape(8, inner)),
            (path("up_proj"), shape(8, inner)),
            (path("down_proj"), shape(inner, 8)),
        ]
    };
    (0..2).flat_map(of_layer).collect()
}

const BOTH: &str = r#"{"peft_type":"LORA","r":2,"lora_alpha":6,"target_modules":[],"peft_version":"0.21.2",
    "target_parameters":["mlp.experts.gate_up_proj","mlp.experts.down_proj"],
    "rank_pattern":{"experts.down_proj":4},"alpha_pattern":{".*\\.gate_up_proj":3}}"#;
/// Gate and up `[3, 12, 8]` with rank 2, down `[3, 8, 6]` with rank 4.
const TENSORS: Listed = &[
    (
        "base_model.model.model.layers.1.mlp.experts.base_layer.lora_A.weight",
        "F32",
        &[6, 8],
    ),
    (
        "base_model.model.model.layers.1.mlp.experts.base_layer.lora_B.weight",
        "F32",
        &[12, 6],
    ),
    (
        "base_model.model.model.layers.1.mlp.experts.lora_A.weight",
        "F32",
        &[12, 6],
    ),
    (
        "base_model.model.model.layers.1.mlp.experts.lora_B.weight",
        "F32",
        &[8, 12],
    ),
];

fn placed(config: &str, listed: Listed, modules: &[(String, ModuleShape)]) -> Result<AdapterFile> {
    let mut adapter = open(config, listed)?;
    adapter.place_experts(&experts_of(modules))?;
    adapter.check(modules)?;
    Ok(adapter)
}

fn unplaced(config: &str, listed: Listed, modules: &[(String, ModuleShape)], code: Code) -> String {
    let error = placed(config, listed, modules).unwrap_err();
    assert_eq!(error.code, code, "{error}");
    error.message
}

#[test]
fn parameters_of_experts_become_the_models_modules() {
    let modules = mixture("mlp.switch_mlp", 6);
    let adapter = placed(BOTH, TENSORS, &modules).unwrap();
    let told: Vec<_> = adapter
        .entries
        .iter()
        .map(|entry| {
            let low = low(entry);
            assert_eq!(
                (low.a_order, low.b_order),
                (Order::Transposed, Order::ExpertsLast)
            );
            let shapes = (low.a.shape.clone(), low.b.shape.clone());
            (entry.target.path(), low.rank, low.scale, shapes)
        })
        .collect();
    let gate_up = || (vec![3, 2, 8], vec![6, 2, 3]);
    let path = |leaf: &str| format!("layers.1.mlp.switch_mlp.{leaf}");
    assert_eq!(
        told,
        [
            (path("down_proj"), 4, 1.5, (vec![3, 4, 6], vec![8, 4, 3])),
            (path("gate_proj"), 2, 1.5, gate_up()),
            (path("up_proj"), 2, 1.5, gate_up()),
        ]
    );
    // Rows of B, 24 bytes each: the first half, the second, and all.
    let picked = |entry: usize| {
        let low = low(&adapter.entries[entry]);
        let [piece] = low.b.pieces.as_slice() else {
            panic!("{:?}", low.b.pieces);
        };
        let extent: Vec<u8> = (0..piece.extent())
            .map(|at| (at / piece.row) as u8)
            .collect();
        let rows: Vec<u8> = piece.picked(&extent).flatten().copied().collect();
        assert_eq!(rows.len() as u64, low.b.bytes);
        rows.chunks(piece.row as usize)
            .map(|row| row[0])
            .collect::<Vec<_>>()
    };
    assert_eq!(picked(1), [0, 1, 2, 3, 4, 5]);
    assert_eq!(picked(2), [6, 7, 8, 9, 10, 11]);
    assert_eq!(picked(0), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn gate_and_up_in_turn() {
    let modules = mixture("mlp.experts", 6);
    let adapter = placed(BOTH, TENSORS, &modules).unwrap();
    let picked = |entry: usize| {
        let piece = &low(&adapter.entries[entry]).b.pieces[0];
        let extent: Vec<u8> = (0..piece.extent())
            .map(|at| (at / piece.row) as u8)
            .collect();
        let rows: Vec<u8> = piece.picked(&extent).flatten().copied().collect();
        rows.chunks(piece.row as usize)
            .map(|row| row[0])
            .collect::<Vec<_>>()
    };
    assert_eq!(picked(1), [0, 2, 4, 6, 8, 10]);
    assert_eq!(picked(2), [1, 3, 5, 7, 9, 11]);
}

#[test]
fn one_parameter_alone_is_the_outermost() {
    let modules = mixture("mlp.switch_mlp", 6);
    let only = with(BOTH, |config| {
        config["target_parameters"] = json!(["1.mlp.experts.down_proj"])
    });
    let adapter = placed(&only, &TENSORS[2..], &modules).unwrap();
    let paths: Vec<_> = adapter
        .entries
        .iter()
        .map(|entry| entry.target.path())
        .collect();
    assert_eq!(paths, ["layers.1.mlp.switch_mlp.down_proj"]);
    // What is wrapped once more is of a parameter that the config does not name.
    let message = refused(&only, TENSORS, Code::BadModel);
    assert!(
        message.contains("of the 2 wrappers") && message.contains("names 1 parameters"),
        "{message}"
    );
    let none = with(BOTH, |config| config["target_parameters"] = json!([]));
    assert!(refused(&none, TENSORS, Code::BadModel).contains("names 0 parameters"));
}

#[test]
fn a_weight_is_adapted_as_a_parameter() {
    let config = with(PEFT, |config| {
        config["target_modules"] = json!([]);
        config["target_parameters"] = json!(["q_proj.weight"]);
        config["alpha_pattern"] = json!({"q_proj.weight": 2});
    });
    let adapter = open(&config, PEFT_Q).unwrap();
    adapter.check(&model()).unwrap();
    assert_eq!(low(&adapter.entries[0]).scale, 0.5);
    let other = with(&config, |config| {
        config["target_parameters"] = json!(["k_proj.weight"])
    });
    assert!(bad(&other, PEFT_Q).contains("is not in \"target_modules\""));
}

/// PEFT before 0.19.1: A at the outputs of what lies as `[experts, out, in]`.
#[test]
fn a_and_b_are_told_by_their_widths_or_by_the_version() {
    let modules = mixture("mlp.switch_mlp", 6);
    let swapped: Listed = &[
        (
            "base_model.model.model.layers.1.mlp.experts.base_layer.lora_A.weight",
            "F32",
            &[6, 12],
        ),
        (
            "base_model.model.model.layers.1.mlp.experts.base_layer.lora_B.weight",
            "F32",
            &[8, 6],
        ),
        (
            "base_model.model.model.layers.1.mlp.experts.lora_A.weight",
            "F32",
            &[12, 8],
        ),
        (
            "base_model.model.model.layers.1.mlp.experts.lora_B.weight",
            "F32",
            &[6, 12],
        ),
    ];
    let adapter = placed(BOTH, swapped, &modules).unwrap();
    let gate = low(&adapter.entries[1]);
    assert_eq!(
        (gate.a_order, gate.b_order),
        (Order::ExpertsLast, Order::Transposed)
    );
    assert_eq!(
        (&gate.a.shape[..], &gate.b.shape[..]),
        (&[8, 2, 3][..], &[3, 6, 2][..])
    );
    // One of them swapped and the other not.
    let mixed = [swapped[0], swapped[1], TENSORS[2], TENSORS[3]];
    let message = unplaced(BOTH, &mixed, &modules, Code::Incompatible);
    assert!(
        message.contains("layers.1.mlp.experts.gate_up_proj"),
        "{message}"
    );

    // Gate and up with as many rows as inputs.
    let square: Listed = &[
        ("model.layers.0.mlp.experts.lora_A.weight", "F32", &[6, 8]),
        ("model.layers.0.mlp.experts.lora_B.weight", "F32", &[8, 6]),
    ];
    let gate_up = with(BOTH, |config| {
        config["target_parameters"] = json!(["gate_up_proj"])
    });
    let is_swapped = |version: serde_json::Value, parent| -> Result<bool> {
        let config = with(&gate_up, |config| config["peft_version"] = version);
        let adapter = placed(&config, square, &mixture(parent, 4))?;
        Ok(low(&adapter.entries[0]).b_order == Order::Transposed)
    };
    for (version, halves, in_turn) in [
        (json!(null), Some(true), Some(false)),
        (json!("0.18.1"), Some(true), Some(false)),
        (json!("0.19.0"), Some(true), None),
        (json!("0.19.1"), Some(false), Some(false)),
        (json!("1.0"), Some(false), Some(false)),
        (json!("0.20.1.dev0@main"), None, None),
    ] {
        for (parent, wanted) in [("mlp.switch_mlp", halves), ("mlp.experts", in_turn)] {
            let got = is_swapped(version.clone(), parent);
            match wanted {
                Some(wanted) => assert_eq!(got.unwrap(), wanted, "{version} {parent}"),
                None => {
                    let error = got.unwrap_err();
                    assert_eq!(error.code, Code::Unsupported, "{error}");
                    assert!(error.message.contains("does not tell"), "{error}");
                }
            }
        }
    }
}

const SINGLE: &str = r#"{"peft_type":"LORA","r":2,"lora_alpha":6,"target_modules":["w1"]}"#;

#[test]
fn experts_one_by_one_are_stacked() {
    let modules = mixture("block_sparse_moe.switch_mlp", 6);
    let names: Vec<(String, [usize; 2])> = (0..3)
        .flat_map(|expert| {
            let path =
                format!("base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.w1");
            [
                (format!("{path}.lora_A.weight"), [2, 8]),
                (format!("{path}.lora_B.weight"), [6, 2]),
            ]
        })
        .collect();
    let listed = |names: &'static [(String, [usize; 2])]| -> Vec<(&'static str, &'static str, &'static [usize])> {
        names.iter().map(|(name, shape)| (name.as_str(), "F32", &shape[..])).collect()
    };
    let keep = |names: Vec<(String, [usize; 2])>| listed(names.leak());
    let adapter = placed(SINGLE, &keep(names.clone()), &modules).unwrap();
    let [entry] = adapter.entries.as_slice() else {
        panic!("{:?}", adapter.entries);
    };
    assert_eq!(
        entry.target.path(),
        "layers.0.block_sparse_moe.switch_mlp.gate_proj"
    );
    let low = low(entry);
    assert_eq!(
        (&low.a.shape[..], &low.b.shape[..]),
        (&[3, 2, 8][..], &[3, 6, 2][..])
    );
    assert_eq!(
        (low.a_order, low.a.pieces.len(), low.a.bytes),
        (Order::Transposed, 3, 3 * 64)
    );

    let missing = unplaced(
        SINGLE,
        &keep(names[2..].to_vec()),
        &modules,
        Code::Incompatible,
    );
    assert!(missing.contains("not in expert 0"), "{missing}");
    let mut more = names.clone();
    for (name, shape) in &names[4..] {
        more.push((name.replace("experts.2", "experts.3"), *shape));
    }
    let beyond = unplaced(SINGLE, &keep(more), &modules, Code::Incompatible);
    assert!(
        beyond.contains("experts.3.w1") && beyond.contains("beyond the model's 3"),
        "{beyond}"
    );
    let mut other = names.clone();
    (other[2].1, other[3].1) = ([3, 8], [6, 3]);
    let ranks = with(SINGLE, |config| {
        config["rank_pattern"] = json!({"experts.1.w1": 3})
    });
    let ranks = unplaced(&ranks, &keep(other), &modules, Code::Incompatible);
    assert!(
        ranks.contains("experts.1.w1") && ranks.contains("another rank"),
        "{ranks}"
    );
    // A model without experts, and one that has them under other names.
    for modules in [model(), mixture("mlp.switch_mlp", 6)] {
        let message = unplaced(SINGLE, &keep(names.clone()), &modules, Code::Incompatible);
        assert!(
            message.contains("the model has no such module"),
            "{message}"
        );
    }
    let dora = with(SINGLE, |config| config["use_dora"] = json!(true));
    let mut magnitudes = keep(names.clone());
    let paths: Vec<String> = names
        .iter()
        .step_by(2)
        .map(|(name, _)| name.replace("lora_A", "lora_magnitude_vector"))
        .collect();
    let paths: &'static [String] = paths.leak();
    magnitudes.extend(paths.iter().map(|path| (path.as_str(), "F32", &[6][..])));
    let message = unplaced(&dora, &magnitudes, &modules, Code::Unsupported);
    assert!(message.contains("DoRA of an expert"), "{message}");
}

#[test]
fn parameters_that_are_refused() {
    let of = |change: &dyn Fn(&mut serde_json::Value)| {
        refused(
            &with(BOTH, |config| change(config)),
            TENSORS,
            Code::Unsupported,
        )
    };
    let bias = of(&|config| config["target_parameters"] = json!(["experts.gate_up_proj_bias"]));
    assert!(bias.contains("gate_up_proj_bias"), "{bias}");
    let dora = of(&|config| config["use_dora"] = json!(true));
    assert!(dora.contains("DoRA of parameters"), "{dora}");
    let text = with(BOTH, |config| {
        config["target_parameters"] = json!("experts.gate_up_proj")
    });
    assert!(bad(&text, TENSORS).contains("target_parameters"));

    let modules = mixture("mlp.switch_mlp", 6);
    let experts = |a: &'static [usize], b: &'static [usize]| {
        [
            (TENSORS[0].0, "F32", a),
            (TENSORS[1].0, "F32", b),
            TENSORS[2],
            TENSORS[3],
        ]
    };
    // No whole number of experts, and not as many in A as in B.
    for (a, b) in [(&[7, 8], &[12, 7]), (&[6, 8], &[12, 4])] {
        let message = bad(BOTH, &experts(a, b));
        assert!(message.contains("[experts * rank, in]"), "{message}");
    }
    // Of four experts, of other inputs, of other outputs.
    for (a, b) in [
        (&[8, 8], &[12, 8]),
        (&[6, 9], &[12, 6]),
        (&[6, 8], &[10, 6]),
    ] {
        let message = unplaced(BOTH, &experts(a, b), &modules, Code::Incompatible);
        assert!(message.contains("needs [6, 8] and [12, 6]"), "{message}");
    }
    let message = unplaced(BOTH, TENSORS, &model(), Code::Incompatible);
    assert!(
        message.contains("layers.1.mlp.experts.gate_up_proj")
            || message.contains("has no such module"),
        "{message}"
    );
    // The same matrix both ways.
    let both = with(BOTH, |config| {
        config["target_modules"] = json!(["gate_proj"])
    });
    let mut listed = TENSORS.to_vec();
    let paths: Vec<String> = (0..3)
        .map(|expert| format!("model.layers.1.mlp.experts.{expert}.gate_proj"))
        .collect();
    let names: Vec<(String, &'static [usize])> = paths
        .iter()
        .flat_map(|path| {
            [
                (format!("{path}.lora_A.weight"), &[2, 8][..]),
                (format!("{path}.lora_B.weight"), &[6, 2][..]),
            ]
        })
        .collect();
    listed.extend(
        names
            .iter()
            .map(|(name, shape)| (name.as_str(), "F32", *shape)),
    );
    let message = unplaced(&both, &listed, &modules, Code::Incompatible);
    assert!(
        message.contains("switch_mlp.gate_proj") && message.contains("adapted twice"),
        "{message}"
    );
}
