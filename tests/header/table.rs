//! `struct mlxrt_api`, the function table, out of the prototypes: the agreed surface says which functions in which
//! order (src/capi/api.rs is held to the same), cbindgen what they look like.

use std::collections::BTreeMap;
use std::fs;

use crate::generate::{header, parts, root, wrap};
use crate::{c, nullability};

const OPENING: &str = "\
/**
 * Every field has the name, the parameters and the meaning of a function below. The order never changes: later
 * versions add fields at the end, and give a const void * its function; until then it is NULL, the place of a
 * function that this version does not have.
 */
struct mlxrt_api {
  /** Bytes of the table that the library filled. */
  uint32_t struct_size;
  /** The library's MLXRT_ABI, which may be higher than the one asked for. */
  uint32_t abi;
";

/// The lines of a field for each function that the header has.
#[derive(Default)]
pub struct Table(BTreeMap<String, Vec<String>>);

impl Table {
    pub fn add(&mut self, function: &str, declaration: &str) {
        if declaration.starts_with("typedef") {
            return;
        }
        let (head, name, params) = parts(declaration);
        let result = nullability::result(head);
        let result = result.strip_suffix(name).expect("the name comes last");
        let start = format!("  {result}(*MLXRT_NONNULL {name})(");
        self.0.insert(function.to_owned(), wrap(start, &params));
    }

    /// The struct, with a place for every agreed function; nothing when no function gives the table.
    pub fn finish(mut self) -> Vec<String> {
        if self.0.remove("mlxrt_get_api").is_none() {
            return Vec::new();
        }
        let mut lines: Vec<String> = OPENING.lines().map(str::to_owned).collect();
        for name in agreed_order() {
            match self.0.remove(&name) {
                Some(field) => lines.extend(field),
                None => lines.push(format!("  const void *MLXRT_NULLABLE {name};")),
            }
        }
        assert!(self.0.is_empty(), "not agreed: {:?}", self.0.keys());
        lines.extend(["};".to_owned(), String::new()]);
        lines
    }
}

/// The functions with a place in the table.
fn agreed_order() -> Vec<String> {
    let text = fs::read_to_string(root().join("tests/abi/agreed.h")).expect("tests/abi/agreed.h");
    let mut names = c::parse(&text).order;
    names.retain(|name| name != "mlxrt_get_api");
    names
}

#[test]
fn the_table_has_a_place_for_every_agreed_function() {
    let ours = c::parse(&header());
    let table = &ours.structs["mlxrt_api"];
    let (sizes, functions) = table.split_at(2);
    assert_eq!(
        (sizes[0].name.as_str(), sizes[1].name.as_str()),
        ("struct_size", "abi")
    );
    let names: Vec<&String> = functions.iter().map(|field| &field.name).collect();
    assert_eq!(names, agreed_order().iter().collect::<Vec<_>>());
    for field in functions {
        let expected = match ours.functions.get(&field.name) {
            Some((result, params)) => c::pointer_to(result, params),
            None => "const void *".to_owned(),
        };
        assert_eq!(field.ty, expected, "{}", field.name);
    }
    let there = functions
        .iter()
        .filter(|field| field.ty != "const void *")
        .count();
    assert_eq!(there, ours.functions.len() - 1);
}
