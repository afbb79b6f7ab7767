//! The official test suite, where MLXRT_SUITE names a checkout of it: documents that a schema is said to take are taken, and the
//! others are not. (`tests/grammar/check.py` draws documents of the same schemas.)

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

const DRAFTS: [(&str, &str); 5] = [
    ("draft4", "http://json-schema.org/draft-04/schema#"),
    ("draft6", "http://json-schema.org/draft-06/schema#"),
    ("draft7", "http://json-schema.org/draft-07/schema#"),
    (
        "draft2019-09",
        "https://json-schema.org/draft/2019-09/schema",
    ),
    (
        "draft2020-12",
        "https://json-schema.org/draft/2020-12/schema",
    ),
];
/// What is asserted here; the standard leaves it open.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];
/// In these words the suite says that something is no assertion to it, which is one here.
const ANNOTATION: &str = "only an annotation by default";
/// Other orders of a document's names that are tried.
const MOST_ORDERS: usize = 200;

/// The document with its names in other orders: an answer has the schema's.
fn orders(value: &Value) -> Vec<Value> {
    let combined = |parts: Vec<Vec<Value>>| {
        let mut all = vec![Vec::new()];
        for part in parts {
            let longer = all.iter().flat_map(|before: &Vec<Value>| {
                part.iter()
                    .map(|last| [before.as_slice(), std::slice::from_ref(last)].concat())
            });
            all = longer.take(MOST_ORDERS).collect();
        }
        all
    };
    match value {
        Value::Array(list) => {
            let each = combined(list.iter().map(orders).collect());
            each.into_iter().map(Value::Array).collect()
        }
        Value::Object(map) => {
            let mut names: Vec<Vec<&String>> = vec![Vec::new()];
            for name in map.keys() {
                let with = names.iter().flat_map(|before| {
                    (0..=before.len()).rev().map(|at| {
                        let mut longer = before.clone();
                        longer.insert(at, name);
                        longer
                    })
                });
                names = with.take(MOST_ORDERS).collect();
            }
            let each = names.iter().flat_map(|names| {
                let values = combined(names.iter().map(|name| orders(&map[*name])).collect());
                let named = values.into_iter().map(|values| {
                    let pairs = names.iter().map(|name| (*name).clone()).zip(values);
                    Value::Object(pairs.collect())
                });
                named.collect::<Vec<_>>()
            });
            each.take(MOST_ORDERS).collect()
        }
        other => vec![other.clone()],
    }
}

#[derive(Default)]
struct Count {
    groups: usize,
    refused: BTreeMap<String, usize>,
    taken: usize,
    /// Valid, and not taken: another form of a number, a text that a followed format excludes.
    missed: usize,
    kept_out: usize,
    wrong: Vec<String>,
}

fn group(vocabulary: &Arc<Vocabulary>, uri: &str, name: &str, group: &Value, count: &mut Count) {
    let mut schema = group["schema"].clone();
    if let Value::Object(map) = &mut schema {
        map.entry("$schema").or_insert_with(|| uri.into());
    }
    count.groups += 1;
    let grammar = match compile(vocabulary, Kind::JsonSchema, &schema.to_string()) {
        Ok(grammar) => grammar,
        Err(error) => {
            if error.code != Code::BadGrammar || !error.message.starts_with("\"#") {
                count.wrong.push(format!("{name}: {error}"));
            }
            let place = error.message.split("\": ").next().unwrap();
            let keyword = place.rsplit('/').next().unwrap().trim_start_matches('"');
            *count.refused.entry(keyword.to_owned()).or_default() += 1;
            return;
        }
    };
    for test in group["tests"].as_array().unwrap() {
        let mut forms = orders(&test["data"]).into_iter();
        let taken = forms.any(|form| takes(&grammar, &form.to_string()));
        let valid = test["valid"] == true;
        match (valid, taken) {
            (true, true) => count.taken += 1,
            (true, false) => count.missed += 1,
            (false, false) => count.kept_out += 1,
            (false, true) => count.wrong.push(format!(
                "{name}: {} is taken: {}",
                test["description"], test["data"]
            )),
        }
        let said = test["description"].as_str().unwrap();
        if valid && !taken && !said.contains(ANNOTATION) {
            println!(
                "not taken: {name}: {said}: {:.100}",
                test["data"].to_string()
            );
        }
    }
}

#[test]
fn the_official_suite_has_no_document_wrong() {
    let Some(suite) = std::env::var_os("MLXRT_SUITE") else {
        return;
    };
    let vocabulary = all_bytes();
    let mut wrong = Vec::new();
    let read = |file: &Path| std::fs::read(file).unwrap();
    let listed = |folder: &Path| {
        let each = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = each
            .filter(|file| file.extension() == Some("json".as_ref()))
            .collect();
        files.sort();
        files
    };
    for (draft, uri) in DRAFTS {
        let folder = Path::new(&suite).join("tests").join(draft);
        let mut files = listed(&folder);
        files.extend(listed(&folder.join("optional")));
        files.extend(FORMATS.map(|format| folder.join(format!("optional/format/{format}.json"))));
        let mut count = Count::default();
        for file in files {
            let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
            // What a text holds in another notation is not looked into.
            if stem == "content" || !file.exists() {
                continue;
            }
            let groups: Value = serde_json::from_slice(&read(&file)).unwrap();
            for each in groups.as_array().unwrap() {
                let name = format!("{draft}/{stem}: {}", each["description"]);
                group(&vocabulary, uri, &name, each, &mut count);
            }
        }
        assert!(count.groups > 100, "{draft} has {} groups", count.groups);
        let refused: usize = count.refused.values().sum();
        let compiled = count.groups - refused;
        println!(
            "| {draft} | {} | {compiled} | {refused} | {} | {} | {} | {} |",
            count.groups,
            count.taken,
            count.missed,
            count.kept_out,
            count.wrong.len()
        );
        println!("refused: {:?}", count.refused);
        wrong.extend(count.wrong);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
