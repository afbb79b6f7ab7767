//! One form of what several keywords of a schema say together. llguidance takes them one by one, in the order in which they stand,
//! and where that comes to something else than the standard's meaning it is written here as what it comes to right with, or
//! refused by name.

use std::collections::BTreeSet;

use serde_json::{json, Map, Number, Value};

use super::schema::{bad, below};
use crate::error::Result;

/// Keywords that another schema is applied by, in the same place.
const APPLIED: [&str; 6] = ["const", "enum", "allOf", "anyOf", "oneOf", "$ref"];
/// What stands for "above 0" where a bound must be a number: nothing below it is written.
const LEAST: f64 = 1e-20;
/// The smallest number whose multiples with another such do not fit in llguidance's 32 bits.
const LARGEST_STEP: u64 = 1 << 16;

/// A step without its point.
const LONGEST_STEP: f64 = 1_000_000.0;
const MOST_REMAINDERS: f64 = 5_000.0;
/// Patterns of an object's names: llguidance compares each with each.
const MOST_PATTERNS: usize = 50;
/// Properties of which one must be there: there are half as many symbols as their square.
const MOST_CHOICES: usize = 50;
/// Properties of an object that may be missing: what may come behind its beginning are all of them.
const MOST_OPTIONAL: usize = 900;

/// What depends on more than one place of a schema.
pub struct Whole {
    /// Bounds and steps of several places may become those of one number.
    combines: bool,
    /// Some object has names of its own beside others that it takes.
    open: bool,
    /// A text with a character that is written only as `\u0001`.
    control: Option<String>,
    steps: Vec<(String, f64)>,
}

impl Whole {
    pub fn of(root: &Value) -> Whole {
        Whole {
            combines: combines(root),
            open: false,
            control: None,
            steps: Vec::new(),
        }
    }

    /// A text that a document may hold.
    pub fn text(&mut self, place: &str, text: &str) {
        let short = ['\u{8}', '\t', '\n', '\u{c}', '\r'];
        let by_number = |c: char| c.is_ascii_control() && !short.contains(&c);
        if self.control.is_none() && text.contains(by_number) {
            self.control = Some(place.to_owned());
        }
    }

    /// The style with what the whole schema needs of it.
    pub fn check(self, mut style: Map<String, Value>) -> Result<Map<String, Value>> {
        if self.combines {
            self.check_steps()?;
        }
        if self.open {
            // A name that is listed could come again as `\u0061`, with a value that its own schema does not know.
            if let Some(place) = self.control {
                return bad(
                    &place,
                    "a control character is not supported beside objects that take names that are not listed",
                );
            }
            let escapes = Value::String("nrbtf\\\"".to_owned());
            style.insert("json_allowed_escapes".to_owned(), escapes);
        }
        Ok(style)
    }

    /// llguidance computes common multiples without looking whether they fit.
    fn check_steps(&self) -> Result<()> {
        let mut scale = 1.0_f64;
        for (_, step) in &self.steps {
            while (step * scale).fract() != 0.0 && scale < 1e9 {
                scale *= 10.0;
            }
        }
        let mut common = 1_u64;
        for (place, step) in &self.steps {
            let step = step * scale;
            let fits = step.fract() == 0.0 && step < LARGEST_STEP as f64;
            let next = fits.then(|| least_common_multiple(common, step as u64));
            match next.flatten() {
                Some(next) if next < LARGEST_STEP => common = next,
                _ => {
                    return bad(
                        place,
                        "steps of so many digits are not supported where schemas are combined",
                    )
                }
            }
        }
        Ok(())
    }
}

fn least_common_multiple(a: u64, b: u64) -> Option<u64> {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x.checked_rem(y)?);
    }
    a.checked_div(x)?.checked_mul(b)
}

/// Whether several schemas may be for one value, anywhere in it.
fn combines(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            let has = |name: &str| map.contains_key(name);
            let bounds = |name: &String| {
                let name = name.as_str();
                name.contains("inimum") || name.contains("aximum") || name == "multipleOf"
            };
            has("allOf")
                || (has("properties")
                    && (has("patternProperties") || APPLIED.iter().any(|k| has(k))))
                || (map.keys().any(bounds) && APPLIED.iter().any(|k| has(k)))
                || [
                    "items",
                    "prefixItems",
                    "additionalProperties",
                    "patternProperties",
                ]
                .iter()
                .any(|k| has(k) && APPLIED.iter().any(|k| has(k)))
                || APPLIED.iter().filter(|k| has(k)).count() > 1
                || map.values().any(combines)
        }
        Value::Array(list) => list.iter().any(combines),
        _ => false,
    }
}

/// The keywords of one schema, each of them checked, in the one form.
///
/// Errors: `BadGrammar` names the keyword.
pub fn form(
    at: &str,
    mut map: Map<String, Value>,
    whole: &mut Whole,
) -> Result<Map<String, Value>> {
    lists(at, &mut map)?;
    bounds(&mut map, whole);
    names(at, &mut map, whole)?;
    format(&mut map);
    if let Some(step) = map.get("multipleOf").and_then(Value::as_f64) {
        let place = below(at, "multipleOf");
        if remainders(step) > MOST_REMAINDERS {
            return bad(&place, "a step of so many digits is not supported");
        }
        whole.steps.push((place, step));
    }
    Ok(together(map))
}

/// States that tell whether digits are a multiple of a step: as many as what is left of it without its twos and fives, and some.
fn remainders(mut step: f64) -> f64 {
    while step.fract() != 0.0 && step < LONGEST_STEP {
        step *= 10.0;
    }
    if step > LONGEST_STEP {
        return step;
    }
    for prime in [2.0, 5.0] {
        while step % prime == 0.0 {
            step /= prime;
        }
    }
    step
}

/// `prefixItems` and `items` of 2020-12, of whatever draft's.
fn lists(at: &str, map: &mut Map<String, Value>) -> Result<()> {
    let rest = map.shift_remove("additionalItems");
    if !map.get("items").is_some_and(Value::is_array) {
        return Ok(());
    }
    if map.contains_key("prefixItems") {
        return bad(&below(at, "items"), "must be a schema beside prefixItems");
    }
    if let Some(list) = map.get_mut("items").map(Value::take) {
        map.insert("prefixItems".to_owned(), list);
    }
    match rest {
        Some(rest) => map.insert("items".to_owned(), rest),
        None => map.shift_remove("items"),
    };
    Ok(())
}

/// Draft 4 says beside a bound whether it is excluded; and llguidance takes an excluded whole number for allowed where the other
/// bound is less than 1 away.
fn bounds(map: &mut Map<String, Value>, whole: &Whole) {
    for (excluded, plain) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        match map.get(excluded) {
            Some(Value::Bool(true)) => match map.shift_remove(plain) {
                Some(bound) => map.insert(excluded.to_owned(), bound),
                None => map.shift_remove(excluded),
            },
            Some(Value::Bool(false)) => map.shift_remove(excluded),
            _ => None,
        };
    }
    let bound = |name: &str| map.get(name).and_then(Value::as_f64);
    let lowest = bound("minimum")
        .into_iter()
        .chain(bound("exclusiveMinimum"));
    let highest = bound("maximum")
        .into_iter()
        .chain(bound("exclusiveMaximum"));
    let lowest = lowest.fold(f64::NEG_INFINITY, f64::max);
    let highest = highest.fold(f64::INFINITY, f64::min);
    let narrow = highest - lowest < 1.0 || whole.combines;
    let types = map.get("type").map(Value::to_string).unwrap_or_default();
    if !narrow || (!types.is_empty() && !types.contains("number")) {
        return;
    }
    let whole_number = |bound: &f64| bound.fract() == 0.0;
    let above = bound("exclusiveMinimum")
        .filter(whole_number)
        .map(|bound| match bound {
            0.0 => LEAST,
            other => other.next_up(),
        });
    let below = bound("exclusiveMaximum")
        .filter(whole_number)
        .map(|bound| match bound {
            0.0 => -LEAST,
            other => other.next_down(),
        });
    let mut replace = |old: &str, new: &str, bound: Option<f64>| {
        if let Some(number) = bound.and_then(Number::from_f64) {
            map.shift_remove(old);
            map.insert(new.to_owned(), Value::Number(number));
        }
    };
    let above = above.map(|above| above.max(lowest));
    let below = below.map(|below| below.min(highest));
    replace("exclusiveMinimum", "minimum", above);
    replace("exclusiveMaximum", "maximum", below);
}

/// Names that are not listed may come twice, which is one property to a reader.
fn names(at: &str, map: &mut Map<String, Value>, whole: &mut Whole) -> Result<()> {
    let length = |name: &str| match map.get(name) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(named)) => named.len(),
        _ => 0,
    };
    let patterns = length("patternProperties");
    if patterns > MOST_PATTERNS {
        let what = format!("at most {MOST_PATTERNS} patterns are compared with each other");
        return bad(&below(at, "patternProperties"), what);
    }
    let closed = patterns == 0 && map.get("additionalProperties") == Some(&Value::Bool(false));
    let listed = patterns > 0 || length("properties") > 0 || length("required") > 0;
    whole.open |= listed && !closed;
    let required = match map.get("required") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    };
    if length("properties").saturating_sub(required.len()) > MOST_OPTIONAL {
        let what = format!("at most {MOST_OPTIONAL} properties of an object may be missing");
        return bad(&below(at, "properties"), what);
    }
    let least = map.get("minProperties").and_then(Value::as_u64);
    let beyond = usize::try_from(least.unwrap_or(0)).unwrap_or(usize::MAX);
    let beyond = beyond.saturating_sub(required.len());
    if !closed && beyond > 1 {
        return bad(
            &below(at, "minProperties"),
            "more than one property beyond those that are required cannot be counted",
        );
    }
    if closed && beyond == 1 && !map.contains_key("maxProperties") {
        let Some(Value::Object(named)) = map.get("properties") else {
            return Ok(());
        };
        let optional = named.keys().map(String::as_str);
        let optional: Vec<_> = optional.filter(|name| !required.contains(name)).collect();
        if optional.len() > MOST_CHOICES {
            let what = format!("is supported where at most {MOST_CHOICES} may be missing");
            return bad(&below(at, "minProperties"), what);
        }
        let first = each_first(&optional);
        map.shift_remove("minProperties");
        apply(map, [first]);
    }
    Ok(())
}

/// One of the names is there: a schema for each that is the first.
fn each_first(names: &[&str]) -> Value {
    let first = |(index, name): (usize, &&str)| {
        let before = names.iter().take(index);
        let missing: Map<_, _> = before
            .map(|name| (name.to_string(), false.into()))
            .collect();
        json!({ "properties": missing, "required": [name] })
    };
    json!({ "anyOf": names.iter().enumerate().map(first).collect::<Vec<_>>() })
}

/// Adds schemas that hold as well.
fn apply(map: &mut Map<String, Value>, schemas: impl IntoIterator<Item = Value>) {
    let all = map.entry("allOf").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.extend(schemas);
        if all.is_empty() {
            map.shift_remove("allOf");
        }
    }
}

/// A format that is a list of expressions here becomes patterns, which hold beside one that is there.
fn format(map: &mut Map<String, Value>) {
    if !map.get("format").is_some_and(Value::is_array) {
        return;
    }
    let Some(Value::Array(patterns)) = map.shift_remove("format") else {
        return;
    };
    let mut patterns = patterns.into_iter();
    if !map.contains_key("pattern") {
        map.extend(patterns.next().map(|first| ("pattern".to_owned(), first)));
    }
    apply(map, patterns.map(|pattern| json!({ "pattern": pattern })));
}

/// llguidance takes what stands between two applied schemas by itself, and `additionalProperties` then no longer knows what it is
/// additional to. Objects have their properties in the order of the schema, so what was before them stays there.
fn together(map: Map<String, Value>) -> Map<String, Value> {
    let applied = |name: &str| APPLIED.contains(&name);
    let first = map.keys().position(|name| !applied(name));
    let properties = map.keys().position(|name| name == "properties");
    let own = properties.or(first).unwrap_or(0);
    let mut out = Map::new();
    let (mut before, mut after, mut together) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (name, value)) in map.into_iter().enumerate() {
        match (applied(&name), index < own) {
            (false, _) => together.push((name, value)),
            (true, true) => before.push((name, value)),
            (true, false) => after.push((name, value)),
        }
    }
    out.extend(before.into_iter().chain(together).chain(after));
    out
}
