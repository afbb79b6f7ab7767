//! `tojson`, as transformers defines it: Python's `json.dumps` without HTML escapes.

use super::budget::SHORTEST_STEPS;
use super::error::{Fault, Result};
use super::eval::Eval;
use super::expression::Arguments;
use super::format;
use super::methods::int_arg;
use super::operators;
use super::string::{Builder, Origin, Str};
use super::value::*;

struct Style {
    ascii: bool,
    /// One level's white space.
    indent: Option<Str>,
    between: Str,
    colon: Str,
    sort: bool,
}

pub(super) fn tojson(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = args.bind("tojson", names)?;
    let own = |text: &str| Str::new(text, Origin::Template);
    let indent = match indent {
        None | Some(V::None(_)) => None,
        Some(V::Str(text)) => Some(text),
        Some(other) => {
            let width = usize::try_from(int_arg(&other)?).unwrap_or(0);
            let mut spaces = Builder::new(&mut eval.budget)?;
            spaces.push_times(" ", width, Origin::Template, &mut eval.budget)?;
            Some(spaces.finish())
        }
    };
    let (between, colon) = match separators {
        None | Some(V::None(_)) if indent.is_some() => (own(","), own(": ")),
        None | Some(V::None(_)) => (own(", "), own(": ")),
        Some(V::List(pair, _) | V::Tuple(pair, _)) => match pair.items.as_slice() {
            [V::Str(between), V::Str(colon)] => (between.clone(), colon.clone()),
            _ => return Fault::value_error("separators must be a pair of strings"),
        },
        Some(_) => return Fault::value_error("separators must be a pair of strings"),
    };
    let style = Style {
        ascii: ascii.is_some_and(|value| value.truth()),
        indent,
        between,
        colon,
        sort: sort.is_some_and(|value| value.truth()),
    };
    let mut out = Builder::new(&mut eval.budget)?;
    write(eval, value, &style, 0, &mut out)?;
    Ok(V::Str(out.finish()))
}

fn plain(eval: &mut Eval, text: &str, out: &mut Builder) -> Result<()> {
    out.push(text, Origin::Template, &mut eval.budget)
}

/// Numbers and punctuation have the origin of whoever decided on the value, quotes that of the string.
///
/// The depth of values is bounded.
fn write(eval: &mut Eval, value: &V, style: &Style, level: usize, out: &mut Builder) -> Result<()> {
    let before = out.raise(match value {
        V::Str(_) => Origin::Template,
        value => value.shape(),
    });
    write_plain(eval, value, style, level, out)?;
    out.sink(before);
    Ok(())
}

fn write_plain(
    eval: &mut Eval,
    value: &V,
    style: &Style,
    level: usize,
    out: &mut Builder,
) -> Result<()> {
    eval.budget.descend()?;
    match value {
        V::Str(text) => string(eval, text, style, out),
        V::List(list, _) | V::Tuple(list, _) => {
            if list.items.is_empty() {
                return plain(eval, "[]", out);
            }
            plain(eval, "[", out)?;
            let inner = level.saturating_add(1);
            for (at, item) in list.items.iter().enumerate() {
                separate(eval, style, inner, at > 0, out)?;
                write(eval, item, style, inner, out)?;
            }
            line(eval, style, level, out)?;
            plain(eval, "]", out)
        }
        V::Dict(dict, _) => {
            if dict.entries.is_empty() {
                return plain(eval, "{}", out);
            }
            plain(eval, "{", out)?;
            let inner = level.saturating_add(1);
            let sorted;
            let entries = match style.sort {
                true => {
                    eval.budget
                        .room(dict.entries.len().saturating_mul(4 * ITEM_BYTES))?;
                    // The order that they are in depends on all of them.
                    out.raise(dict.keys);
                    let keyed = dict.entries.iter().map(|e| (e.0.clone(), e.clone()));
                    sorted = operators::sort(keyed.collect(), false, &mut eval.budget)?;
                    &sorted
                }
                false => &dict.entries,
            };
            for (at, (name, value)) in entries.iter().enumerate() {
                separate(eval, style, inner, at > 0, out)?;
                key(eval, name, style, out)?;
                out.push_text(style.colon.text(), &mut eval.budget)?;
                write(eval, value, style, inner, out)?;
            }
            line(eval, style, level, out)?;
            plain(eval, "}", out)
        }
        other => match scalar(eval, other)? {
            Some(text) => plain(eval, &text, out),
            None => Fault::type_error(format!(
                "Object of type {} is not JSON serializable",
                other.type_name()
            )),
        },
    }
}

fn separate(
    eval: &mut Eval,
    style: &Style,
    level: usize,
    comma: bool,
    out: &mut Builder,
) -> Result<()> {
    if comma {
        out.push_text(style.between.text(), &mut eval.budget)?;
    }
    line(eval, style, level, out)
}

fn line(eval: &mut Eval, style: &Style, level: usize, out: &mut Builder) -> Result<()> {
    if let Some(indent) = &style.indent {
        plain(eval, "\n", out)?;
        for _ in 0..level {
            out.push_text(indent.text(), &mut eval.budget)?;
        }
    }
    Ok(())
}

fn scalar(eval: &mut Eval, value: &V) -> Result<Option<String>> {
    Ok(Some(match value {
        V::None(_) => "null".to_string(),
        V::Bool(true, _) => "true".to_string(),
        V::Bool(false, _) => "false".to_string(),
        V::Int(value, _) => value.to_string(),
        V::Big(value, _) => format::big_digits(value, &mut eval.budget)?,
        V::Float(value, _) if value.is_nan() => "NaN".to_string(),
        V::Float(value, _) if value.is_infinite() => match *value > 0.0 {
            true => "Infinity".to_string(),
            false => "-Infinity".to_string(),
        },
        V::Float(value, _) => {
            eval.budget.steps(SHORTEST_STEPS)?;
            format::float(*value)
        }
        _ => return Ok(None),
    }))
}

fn key(eval: &mut Eval, key: &V, style: &Style, out: &mut Builder) -> Result<()> {
    if let V::Str(text) = key {
        return string(eval, text, style, out);
    }
    match scalar(eval, key)? {
        Some(text) => out.push(&format!("\"{text}\""), key.shape(), &mut eval.budget),
        None => Fault::type_error(format!(
            "keys must be str, int, float, bool or None, not {}",
            key.type_name()
        )),
    }
}

fn string(eval: &mut Eval, text: &Str, style: &Style, out: &mut Builder) -> Result<()> {
    let origin = text.text().least_trusted();
    out.push("\"", origin, &mut eval.budget)?;
    format::push_mapped(text, out, &mut eval.budget, |c| match c {
        '"' => Some("\\\"".to_string()),
        '\\' => Some("\\\\".to_string()),
        '\n' => Some("\\n".to_string()),
        '\r' => Some("\\r".to_string()),
        '\t' => Some("\\t".to_string()),
        '\u{8}' => Some("\\b".to_string()),
        '\u{c}' => Some("\\f".to_string()),
        '\0'..='\u{1f}' => Some(format!("\\u{:04x}", c as u32)),
        c if c.is_ascii() || !style.ascii => None,
        c => Some(
            c.encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect(),
        ),
    })?;
    out.push("\"", origin, &mut eval.budget)
}
