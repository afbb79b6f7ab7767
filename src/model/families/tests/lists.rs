//! Lists with an entry for each layer, or for each pair of numbers that rope turns.

use serde_json::Value;

use super::*;

/// In every family that has one: with an entry less, one more, and none, an error that names the list.
#[test]
fn lists_of_the_wrong_length_are_named_in_every_family() {
    const OF_LAYERS: [&str; 8] = [
        "layer_types",
        "no_rope_layers",
        "layer_rope_theta",
        "mlp_layer_types",
        "num_attention_heads_per_layer",
        "layers_block_type",
        "intermediate_size",
        "activation_sparsity_pattern",
    ];
    const OF_ROPE: [&str; 2] = ["short_factor", "long_factor"];
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let list = std::fs::read(fixtures.join("families.json")).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    let (mut tried, mut passed) = (std::collections::BTreeSet::new(), Vec::new());
    for case in list.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let path = fixtures.join("models").join(name).join("config.json");
        let text = std::fs::read_to_string(path).unwrap();
        let Ok(good) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        let mut places = vec![String::new()];
        for (key, value) in good.as_object().unwrap() {
            if value.is_object() {
                places.push(format!("/{key}"));
            }
        }
        for place in places {
            let object = good.pointer(&place).and_then(Value::as_object).unwrap();
            for (key, value) in object {
                let of_layers =
                    object.contains_key("num_hidden_layers") && OF_LAYERS.contains(&key.as_str());
                let Some(entries) = value.as_array() else {
                    continue;
                };
                if !of_layers && !OF_ROPE.contains(&key.as_str()) {
                    continue;
                }
                let shorter = entries.split_last().unwrap().1.to_vec();
                let longer = [&entries[..], &entries[..1]].concat();
                for wrong in [shorter, longer, Vec::new()] {
                    let mut config = good.clone();
                    let length = wrong.len();
                    config.pointer_mut(&place).unwrap()[key] = wrong.into();
                    let what = format!("{name}: {place}/{key} of {length}");
                    match read(&config.to_string()) {
                        Err(error) if error.message.contains(key.as_str()) => {}
                        Err(error) => passed.push(format!("{what}: {error}")),
                        Ok(_) => passed.push(what),
                    }
                }
                tried.insert((case["model_type"].as_str().unwrap().to_owned(), key.clone()));
            }
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
    println!("{tried:?}");
    assert!(tried.len() >= 15, "{tried:?}");
}
