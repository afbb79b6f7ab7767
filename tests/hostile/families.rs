//! Row 32: what each family reads of config.json, and each kind of tensor that it has, made wrong in every way that its value
//! allows. The keys and tensors are those of the fixtures (tests/fixtures/families.json), so that a new family is in here when
//! it has one. What comes of it is numbers that are finite, or an error by name.
//!
//! A case is a key or a kind of tensor; its child tries all values.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{json, Map, Value};

use crate::abi::*;
use crate::child::alive;
use crate::common::{fixtures, inspect, load, Prompt};
use crate::folder::{join, split, Folder};
use crate::runner::case;
use crate::verdict::*;
use crate::{sized, Class};

pub const CLASS: Class = Class {
    row: "32",
    name: "each family's keys and tensors",
    generators: &[keys, tensors],
    programs: &[("family-key", try_key), ("family-tensor", try_tensor)],
};

/// The fixtures of f32, plain or packed, and the family of each.
fn folders(packed: bool) -> Vec<(String, String)> {
    let text = fs::read(fixtures().join("families.json")).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    all.iter()
        .filter(|entry| entry["dtype"] == "f32" && entry["quantization"].is_object() == packed)
        .map(|entry| (text(entry, "model_type"), text(entry, "name")))
        .collect()
}

fn read(fixture: &str, name: &str) -> Vec<u8> {
    fs::read(fixtures().join("models").join(fixture).join(name)).unwrap()
}

fn config(fixture: &str) -> Value {
    // Python's word for it, which the library takes for this string.
    let text = String::from_utf8(read(fixture, "config.json")).unwrap();
    serde_json::from_str(&text.replace(" Infinity", " \"Infinity\"")).unwrap()
}

/// Of each family every key, in the first fixture that has it.
fn keys() {
    let mut seen = BTreeSet::new();
    for (family, fixture) in folders(false) {
        let mut pointers = vec![];
        collect(&config(&fixture), String::new(), &mut pointers);
        for pointer in pointers {
            if seen.insert((family.clone(), pointer.clone())) {
                case(
                    &format!("{fixture}: {pointer}"),
                    &["family-key", &fixture, &pointer],
                );
            }
        }
    }
}

fn collect(value: &Value, pointer: String, into: &mut Vec<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let pointer = format!("{pointer}/{key}");
        collect(inner, pointer.clone(), into);
        into.push(pointer);
    }
}

/// Instead of a value; None: nothing.
fn instead(value: &Value) -> Vec<Option<Value>> {
    let mut others = vec![
        None,
        Some(Value::Null),
        Some(json!("x")),
        Some(json!("")),
        Some(json!(true)),
        Some(json!(false)),
        Some(json!([])),
        Some(json!({})),
        Some(json!([{}, [], "x", -1, 1e300])),
        Some(json!({"x": -1})),
    ];
    let mut add = |value: Value| others.push(Some(value));
    for number in [
        0,
        -1,
        1,
        1 << 20,
        (1_i64 << 31) - 1,
        1 << 31,
        1 << 32,
        i64::MAX,
        i64::MIN,
    ] {
        add(json!(number));
    }
    for number in [0.5, -0.5, 1e-300, 1e300, f64::MAX] {
        add(json!(number));
    }
    if let Some(n) = value.as_i64() {
        for number in [n - 1, n + 1, n * 2, n / 2, n * 1_000, n + (1 << 32)] {
            add(json!(number));
        }
    }
    if let Some(x) = value.as_f64() {
        add(json!(-x));
        add(json!(x * 1e30));
    }
    if let Some(text) = value.as_str() {
        let mut letters: Vec<char> = text.chars().collect();
        letters.reverse();
        add(json!(letters.iter().collect::<String>()));
        add(json!([text, text].concat()));
        add(json!(text.chars().skip(1).collect::<String>()));
        add(json!(text.repeat(10_000)));
        // A pattern of layers with each of its letters everywhere.
        for letter in letters.iter().take(8) {
            add(json!(letter.to_string().repeat(letters.len())));
        }
    }
    if let Some(list) = value.as_array() {
        let first = list.first().cloned().unwrap_or(json!(1));
        add(json!(vec![first.clone(); list.len()]));
        add(json!(list.iter().rev().collect::<Vec<_>>()));
        add(json!(list.iter().skip(1).collect::<Vec<_>>()));
        add(json!([&list[..], &list[..]].concat()));
        add(json!(vec![first; 100_000]));
        for wrong in [
            json!("x"),
            json!(null),
            json!(-1),
            json!(1 << 20),
            json!(1e300),
            json!([1]),
        ] {
            let mut list = list.clone();
            if let Some(last) = list.last_mut() {
                *last = wrong;
            }
            add(json!(list));
        }
    }
    others
}

/// `family-key FIXTURE POINTER`
fn try_key(args: &[&str]) -> Outcome {
    let [fixture, pointer] = args else {
        panic!("family-key FIXTURE POINTER")
    };
    let folder = Folder::copy_of(fixture);
    let whole = config(fixture);
    works(&folder).map_err(|why| Wrong(format!("as it is: {why}")))?;
    let mut loaded = 0;
    for value in instead(whole.pointer(pointer).unwrap()) {
        let mut config = whole.clone();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        let object = config.pointer_mut(above).unwrap().as_object_mut().unwrap();
        match &value {
            None => drop(object.remove(key)),
            Some(value) => drop(object.insert(key.to_owned(), value.clone())),
        }
        folder.write("config.json", config.to_string());
        let shown = value.map_or("nothing".to_owned(), |value| format!("{value:.60}"));
        loaded += usize::from(tried(&folder).map_err(|why| Wrong(format!("{shown:.80}: {why}")))?);
    }
    alive()?;
    Ok(Fine(format!("{loaded} load")))
}

/// Finite numbers (true), or an error by name (false).
fn tried(folder: &Folder) -> Result<bool, String> {
    let seen = inspect(folder.path());
    let verdict = match works(folder) {
        Ok(()) => return Ok(true),
        Err(why) => why,
    };
    match verdict {
        Bad::Said(failure) => {
            let codes = [CODES, &["DEVICE", "CONTEXT_FULL"]].concat();
            named(&failure, &codes, &[]).map_err(|verdict| format!("{verdict:?}"))?;
            // What loading refuses, looking refuses with the same words.
            match seen {
                Err(at_sight) if at_sight.message != failure.message => {
                    Err(format!("{failure:?}, but at sight {at_sight:?}"))
                }
                _ => Ok(false),
            }
        }
        Bad::Numbers(numbers) => Err(format!("numbers that are not finite: {numbers}")),
    }
}

enum Bad {
    Said(crate::common::Failure),
    Numbers(String),
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bad::Said(failure) => write!(f, "{failure:?}"),
            Bad::Numbers(numbers) => f.write_str(numbers),
        }
    }
}

fn works(folder: &Folder) -> Result<(), Bad> {
    let mut options = sized!(mlxrt_generate_options);
    options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_LOGPROBS;
    (options.max_tokens, options.top_logprobs) = (3, 4);
    let model = load(folder.path()).map_err(Bad::Said)?;
    let prompt: Vec<i32> = (5..25).collect();
    let answer = model
        .session(0)
        .generate_with(Prompt::Tokens(&prompt), &options);
    let answer = answer.map_err(Bad::Said)?;
    let mut numbers = answer.likeliest.iter().flatten();
    match numbers.all(|(_, number)| number.is_finite()) && answer.likeliest.len() == 3 {
        true => Ok(()),
        false => Err(Bad::Numbers(format!("{:?}", answer.likeliest))),
    }
}

/// A name without its numbers.
fn kind(name: &str) -> String {
    let part = |part: &str| match part.parse::<u32>() {
        Ok(_) => "N".to_owned(),
        Err(_) => part.to_owned(),
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Of each family every kind of tensor, in the first fixture that has it; of packed ones only modules that no other family has
/// by that name.
fn tensors() {
    const FILE: &str = "model.safetensors";
    let mut seen = BTreeSet::new();
    for packed in [false, true] {
        for (family, fixture) in folders(packed) {
            let (header, _) = split(&read(&fixture, FILE));
            for name in header.keys().filter(|name| *name != "__metadata__") {
                let kind = kind(name);
                let parts: Vec<&str> = kind.rsplitn(4, '.').take(3).collect();
                let new = match packed {
                    false => seen.insert((family.clone(), kind)),
                    true => seen.insert((String::new(), parts.join("."))),
                };
                if new {
                    let what = format!("{fixture}: {name}");
                    case(&what, &["family-tensor", &fixture, name]);
                }
            }
        }
    }
}

/// Other shapes for so many elements.
fn reshaped(shape: &[u64]) -> Vec<Vec<u64>> {
    let all: u64 = shape.iter().product();
    let mut others = vec![vec![all], vec![1, all], vec![all, 1], vec![1, 1, all]];
    others.push(shape.iter().rev().copied().collect());
    others.push([&[1][..], shape].concat());
    others.push([shape, &[1]].concat());
    if let [first, rest @ ..] = shape {
        others.push(rest.to_vec());
        for factor in [2, 3] {
            if first % factor == 0 {
                others.push([&[first / factor, factor][..], rest].concat());
                if let [second, rest @ ..] = rest {
                    others.push([&[first / factor, second * factor][..], rest].concat());
                }
            }
        }
    }
    others.retain(|other| other != shape && other.iter().product::<u64>() == all);
    others
}

/// `family-tensor FIXTURE NAME`
fn try_tensor(args: &[&str]) -> Outcome {
    let [fixture, name] = args else {
        panic!("family-tensor FIXTURE NAME")
    };
    let folder = Folder::copy_of(fixture);
    let _ = fs::remove_file(folder.file("model.safetensors.index.json"));
    let (header, data) = split(&folder.read("model.safetensors"));
    let mut loaded = 0;
    let mut with = |what: &str, header: Map<String, Value>, data: &[u8]| -> Result<(), Verdict> {
        folder.write(
            "model.safetensors",
            join(Value::Object(header).to_string(), data),
        );
        loaded += usize::from(tried(&folder).map_err(|why| Wrong(format!("{what}: {why}")))?);
        Ok(())
    };
    let (missing, rest) = without(&header, &data, name);
    with("missing", missing, &rest)?;
    let entry = &header[*name];
    let shape: Vec<u64> = serde_json::from_value(entry["shape"].clone()).unwrap();
    let offset = |at: usize| entry["data_offsets"][at].as_u64().unwrap() as usize;
    let range = offset(0)..offset(1);
    for other in reshaped(&shape) {
        let mut header = header.clone();
        header[*name]["shape"] = json!(other);
        with(&format!("of the shape {other:?}"), header, &data)?;
    }
    for dtype in ["I32", "U32", "F32"] {
        let mut header = header.clone();
        header[*name]["dtype"] = json!(dtype);
        with(&format!("of {dtype}"), header, &data)?;
    }
    // Twice as many numbers of half the size; and a half of them.
    for dtype in ["F16", "BF16", "U16"] {
        let mut header = header.clone();
        let mut twice = shape.clone();
        match twice.last_mut() {
            Some(last) => *last *= 2,
            None => twice.push(2),
        }
        header[*name]["dtype"] = json!(dtype);
        header[*name]["shape"] = json!(twice);
        with(&format!("of {dtype}, twice as many"), header, &data)?;
    }
    for (what, part) in [("half of the rows", 2), ("one row", u64::MAX)] {
        let rows = shape.first().copied().unwrap_or(1);
        let kept = (rows / part).max(1);
        if kept < rows {
            let bytes = range.len() as u64 / rows * kept;
            let (mut header, mut data) = without(&header, &data, name);
            let start = data.len();
            data.extend(std::iter::repeat_n(0, bytes as usize));
            let shape = [&[kept][..], &shape[1..]].concat();
            header.insert(
                (*name).to_owned(),
                json!({"dtype": entry["dtype"], "shape": shape, "data_offsets": [start, data.len()]}),
            );
            with(what, header, &data)?;
        }
    }
    // Any weights are legal, and these are finite.
    for number in [0.0, -1.0, 1e-30] {
        let mut data = data.clone();
        for four in data[range.clone()].as_chunks_mut::<4>().0 {
            *four = f32::to_le_bytes(number);
        }
        let header = header.clone();
        if header[*name]["dtype"] == "F32" {
            with(&format!("of {number}"), header, &data)?;
        }
    }
    alive()?;
    Ok(Fine(format!("{loaded} load")))
}

/// The weights without one of them.
fn without(header: &Map<String, Value>, data: &[u8], name: &str) -> (Map<String, Value>, Vec<u8>) {
    let (mut header, mut data) = (header.clone(), data.to_vec());
    let gone = header.remove(name).unwrap();
    let offset = |value: &Value, at: usize| value["data_offsets"][at].as_u64().unwrap() as usize;
    let (start, end) = (offset(&gone, 0), offset(&gone, 1));
    data.drain(start..end);
    for (_, value) in header.iter_mut().filter(|(key, _)| *key != "__metadata__") {
        for at in 0..2 {
            let before = offset(value, at);
            if before >= end {
                value["data_offsets"][at] = json!(before - (end - start));
            }
        }
    }
    (header, data)
}
