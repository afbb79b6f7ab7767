//! src/capi/exports.map, the linker's version script of the shipped library: one node for each release, so that a
//! program that needs a newer function fails when it starts.
//!
//! A function stays in the node that it came with. One that no node has goes into the node of this MLXRT_ABI.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::c;
use crate::generate::{header, root};

pub fn path() -> PathBuf {
    root().join("src/capi/exports.map")
}

/// The nodes' names and functions, the first release's first.
pub fn nodes(map: &str) -> Vec<(String, Vec<String>)> {
    let mut nodes = Vec::new();
    for line in map.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            nodes.push((name.to_owned(), Vec::new()));
        } else if let (Some(name), Some((_, functions))) =
            (line.strip_suffix(';'), nodes.last_mut())
        {
            if name.starts_with("mlxrt_") {
                functions.push(name.to_owned());
            }
        }
    }
    nodes
}

/// The script for the header's functions, with those that `committed` has in the nodes that it has them in.
pub fn exports(committed: &str) -> String {
    let ours = c::parse(&header());
    let abi: usize = ours.constants["MLXRT_ABI"]
        .trim_end_matches('u')
        .parse()
        .expect("a number");
    let mut nodes = nodes(committed);
    assert!(
        nodes.len() <= abi,
        "src/capi/exports.map has releases beyond MLXRT_ABI"
    );
    for (name, functions) in &nodes {
        for function in functions {
            let there = ours.functions.contains_key(function);
            assert!(there, "{name} has {function}, which is gone");
        }
    }
    for number in nodes.len()..abi {
        nodes.push((format!("MLXRT_{}", number + 1), Vec::new()));
    }
    let placed: BTreeSet<String> = nodes.iter().flat_map(|node| node.1.clone()).collect();
    let new = ours.order.iter().filter(|name| !placed.contains(*name));
    let newest = &mut nodes.last_mut().expect("MLXRT_ABI is at least 1").1;
    newest.extend(new.cloned());

    let mut text = String::from(
        "# What the shipped library exports, by release. `make header` adds functions to the newest node; the older ones\n\
         # never change.\n",
    );
    let mut before = String::new();
    for (name, functions) in &nodes {
        assert!(
            !functions.is_empty(),
            "{name}: MLXRT_ABI rises with functions"
        );
        writeln!(text, "{name} {{\n  global:").expect("a string");
        for function in functions {
            writeln!(text, "    {function};").expect("a string");
        }
        if before.is_empty() {
            text.push_str("  local:\n    *;\n};\n");
        } else {
            writeln!(text, "}} {before};").expect("a string");
        }
        before = name.clone();
    }
    text
}

#[test]
fn the_version_script_has_the_headers_functions() {
    let committed = fs::read_to_string(path()).unwrap_or_default();
    let is_current = committed == exports(&committed);
    assert!(
        is_current,
        "src/capi/exports.map is out of date; run `make header`"
    );
    for (index, (name, _)) in nodes(&committed).iter().enumerate() {
        assert_eq!(*name, format!("MLXRT_{}", index + 1));
    }
}

#[test]
fn functions_stay_in_their_release() {
    let ours = c::parse(&header());
    let all = exports("");
    assert_eq!(nodes(&all)[0].1, ours.order);
    // One that came before stays first; nothing is written twice.
    let last = ours.order.last().expect("functions");
    let map = exports(&format!(
        "MLXRT_1 {{\n  global:\n    {last};\n  local:\n    *;\n}};\n"
    ));
    let nodes = nodes(&map);
    assert_eq!(&nodes[0].1[0], last);
    assert_eq!(nodes[0].1.len(), ours.order.len());
}
