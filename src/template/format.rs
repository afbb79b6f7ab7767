//! Values as Python's `str` and `repr` write them.

use num_bigint::BigInt;

use super::budget::{Budget, SHORTEST_STEPS};
use super::dict::ViewKind;
use super::error::{Fault, Result};
use super::eval::Eval;
use super::scan;
use super::string::{Builder, Origin, Str};
use super::value::*;

/// Python refuses to print longer whole numbers.
const MAX_DIGITS: u64 = 4300;

impl Eval<'_> {
    /// `str(value)`.
    pub fn str_of(&mut self, value: &V) -> Result<Str> {
        match value {
            V::Str(text) => Ok(text.clone()),
            V::Undefined { origin, .. } => Ok(Str::new("", *origin)),
            value => self.repr_of(value),
        }
    }

    /// `repr(value)`.
    pub fn repr_of(&mut self, value: &V) -> Result<Str> {
        let mut out = Builder::new(&mut self.budget)?;
        repr(self, value, &mut out)?;
        Ok(out.finish())
    }
}

/// For messages: not longer than a line.
pub(super) fn brief_repr(eval: &mut Eval, value: &V) -> Result<String> {
    let size = value.size();
    if size > 400 {
        return Ok(format!("of type '{}'", value.type_name()));
    }
    Ok(eval.repr_of(value)?.as_str().to_string())
}

/// Numbers and punctuation have the origin of whoever decided on the value, quotes that of the string.
///
/// The depth of values is bounded; only namespaces can hold themselves, and are counted.
pub(super) fn repr(eval: &mut Eval, value: &V, out: &mut Builder) -> Result<()> {
    let before = out.raise(match value {
        V::Str(_) => Origin::Template,
        value => value.shape(),
    });
    plain_repr(eval, value, out)?;
    out.sink(before);
    Ok(())
}

fn plain_repr(eval: &mut Eval, value: &V, out: &mut Builder) -> Result<()> {
    eval.budget.descend()?;
    let plain = |text: &str, eval: &mut Eval, out: &mut Builder| {
        out.push(text, Origin::Template, &mut eval.budget)
    };
    match value {
        V::Undefined { .. } => plain("Undefined", eval, out),
        V::None(_) => plain("None", eval, out),
        V::Bool(true, _) => plain("True", eval, out),
        V::Bool(false, _) => plain("False", eval, out),
        V::Int(value, _) => plain(&value.to_string(), eval, out),
        V::Big(value, _) => {
            let digits = big_digits(value, &mut eval.budget)?;
            plain(&digits, eval, out)
        }
        V::Float(value, _) => {
            eval.budget.steps(SHORTEST_STEPS)?;
            plain(&float(*value), eval, out)
        }
        V::Str(text) if text.markup() => {
            let origin = text.text().least_trusted();
            out.push("Markup(", origin, &mut eval.budget)?;
            push_quoted(text, out, &mut eval.budget)?;
            out.push(")", origin, &mut eval.budget)
        }
        V::Str(text) => push_quoted(text, out, &mut eval.budget),
        V::List(list, _) => {
            plain("[", eval, out)?;
            row(eval, list.items.iter(), out)?;
            plain("]", eval, out)
        }
        V::Tuple(list, _) => {
            plain("(", eval, out)?;
            row(eval, list.items.iter(), out)?;
            plain(if list.items.len() == 1 { ",)" } else { ")" }, eval, out)
        }
        V::Dict(dict, _) => {
            plain("{", eval, out)?;
            for (at, (key, value)) in dict.entries.iter().enumerate() {
                if at > 0 {
                    plain(", ", eval, out)?;
                }
                repr(eval, key, out)?;
                plain(": ", eval, out)?;
                repr(eval, value, out)?;
            }
            plain("}", eval, out)
        }
        V::View(view, _) => {
            plain(value.type_name(), eval, out)?;
            plain("([", eval, out)?;
            for (at, (key, value)) in view.dict.entries.iter().enumerate() {
                if at > 0 {
                    plain(", ", eval, out)?;
                }
                match view.kind {
                    ViewKind::Keys => repr(eval, key, out)?,
                    ViewKind::Values => repr(eval, value, out)?,
                    ViewKind::Items => {
                        plain("(", eval, out)?;
                        row(eval, [key, value].into_iter(), out)?;
                        plain(")", eval, out)?;
                    }
                }
            }
            plain("])", eval, out)
        }
        V::Range(range, _) if range.step == 1 => plain(
            &format!("range({}, {})", range.start, range.stop),
            eval,
            out,
        ),
        V::Range(range, _) => plain(
            &format!("range({}, {}, {})", range.start, range.stop, range.step),
            eval,
            out,
        ),
        V::Iter(..) => plain("<generator object>", eval, out),
        V::Method(bound) => {
            let (name, owner) = (bound.method.name(), bound.owner.type_name());
            let text = format!("<built-in method {name} of {owner} object>");
            plain(&text, eval, out)
        }
        V::Object(object) => object_repr(eval, object, out),
    }
}

fn row<'a>(eval: &mut Eval, items: impl Iterator<Item = &'a V>, out: &mut Builder) -> Result<()> {
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(", ", Origin::Template, &mut eval.budget)?;
        }
        repr(eval, item, out)?;
    }
    Ok(())
}

#[inline(never)]
fn object_repr(eval: &mut Eval, object: &Object, out: &mut Builder) -> Result<()> {
    let text = match object {
        Object::Namespace(id) => {
            eval.recursion.enter()?;
            let data = eval.namespaces.get(*id as usize);
            let count = data.map_or(0, |data| data.attributes.len());
            // Held while they are printed, in which the namespace may be met again.
            let _charge = eval.budget.charge(count.saturating_mul(2 * ITEM_BYTES))?;
            eval.budget.steps(count)?;
            let data = eval.namespaces.get(*id as usize);
            let attributes = data.map_or_else(Vec::new, |data| data.attributes.clone());
            out.push("<Namespace {", Origin::Template, &mut eval.budget)?;
            for (at, (name, value)) in attributes.iter().enumerate() {
                if at > 0 {
                    out.push(", ", Origin::Template, &mut eval.budget)?;
                }
                push_quoted(name, out, &mut eval.budget)?;
                out.push(": ", Origin::Template, &mut eval.budget)?;
                repr(eval, value, out)?;
            }
            eval.recursion.leave();
            "}>".to_string()
        }
        Object::Macro(id) => {
            let name = eval
                .macros
                .get(*id as usize)
                .and_then(|value| value.def.name);
            match name {
                Some(name) => format!("<Macro '{}'>", eval.name(name)),
                None => "<Macro 'caller'>".to_string(),
            }
        }
        Object::Loop { slot, generation } => {
            let mut part = |name| -> Result<String> {
                let value = eval.loop_attribute(*slot, *generation, name)?;
                Ok(match value {
                    Some(V::Int(value, _)) => value.to_string(),
                    _ => String::new(),
                })
            };
            format!("<LoopContext {}/{}>", part("index")?, part("length")?)
        }
        Object::Cycler(_) => "<Cycler>".to_string(),
        Object::Joiner(_) => "<Joiner>".to_string(),
        Object::Function(function) => {
            let mut all = Function::ALL.iter();
            let name = all.find(|(_, have)| have == function).map_or("", |f| f.0);
            format!("<function {name}>")
        }
    };
    out.push(&text, Origin::Template, &mut eval.budget)
}

/// A string in quotes, escaped where Python does; what stands for a character has its origin.
fn push_quoted(text: &Str, out: &mut Builder, budget: &mut Budget) -> Result<()> {
    let all = text.as_str();
    pay_for_printable(all, budget)?;
    let quote = match all.contains('\'') && !all.contains('"') {
        true => '"',
        false => '\'',
    };
    let origin = text.text().least_trusted();
    out.push_char(quote, origin, budget)?;
    push_mapped(text, out, budget, |c| quoted_char(c, quote))?;
    out.push_char(quote, origin, budget)
}

/// Pushes a string with some characters replaced by others.
pub(super) fn push_mapped(
    text: &Str,
    out: &mut Builder,
    budget: &mut Budget,
    replace: impl Fn(char) -> Option<String>,
) -> Result<()> {
    for (stretch, origin) in text.text().pieces() {
        for piece in scan::pieces(stretch) {
            budget.slow_bytes(piece.len())?;
            let mut done = 0;
            for (at, c) in piece.char_indices() {
                if let Some(replacement) = replace(c) {
                    out.push(piece.get(done..at).unwrap_or(""), origin, budget)?;
                    out.push(&replacement, origin, budget)?;
                    done = at.saturating_add(c.len_utf8());
                }
            }
            out.push(piece.get(done..).unwrap_or(""), origin, budget)?;
        }
    }
    Ok(())
}

fn quoted_char(c: char, quote: char) -> Option<String> {
    match c {
        ' '..='~' if c != quote && c != '\\' => None,
        '\n' => Some("\\n".to_string()),
        '\r' => Some("\\r".to_string()),
        '\t' => Some("\\t".to_string()),
        '\\' => Some("\\\\".to_string()),
        c if c == quote => Some(format!("\\{c}")),
        c if is_printable(c) => None,
        c => Some(match c as u32 {
            code @ ..=0xff => format!("\\x{code:02x}"),
            code @ ..=0xffff => format!("\\u{code:04x}"),
            code => format!("\\U{code:08x}"),
        }),
    }
}

/// Steps for asking whether characters outside of ASCII are printable: each takes about a hundred nanoseconds.
pub(super) fn pay_for_printable(text: &str, budget: &mut Budget) -> Result<()> {
    budget.bytes(text.len())?;
    match text.is_ascii() {
        true => Ok(()),
        false => budget.steps(text.len() >> 1),
    }
}

/// Python's `str.isprintable` of one character.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    if c.is_alphanumeric() {
        return true;
    }
    // Debug formatting escapes just what is not printable; behind another character, combining marks stay.
    if c.escape_debug().len() == 1 {
        return true;
    }
    let mut bytes = [b'a'; 5];
    let len = bytes
        .get_mut(1..)
        .map_or(0, |rest| c.encode_utf8(rest).len());
    let text = bytes
        .get(..=len)
        .and_then(|text| std::str::from_utf8(text).ok());
    text.is_some_and(|text| text.escape_debug().nth(1) == Some(c))
}

/// `repr` of a float: the shortest digits, scientific below 1e-4 and from 1e16 on.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let mut shortest = format!("{value:e}");
    let digits = shortest.split('e').next().unwrap_or_default();
    let digits = digits.bytes().filter(u8::is_ascii_digit).count();
    let mut even = false;
    if digits >= 16 {
        // Of two that are equally near Python takes the even one, and Rust any.
        let rounded = format!("{value:.*e}", digits.saturating_sub(1));
        if rounded != shortest && rounded.parse() == Ok(value) {
            (shortest, even) = (rounded, true);
        }
    }
    let places = i32::try_from(digits).unwrap_or(0).saturating_sub(1);
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let places = usize::try_from(places.saturating_sub(exponent)).unwrap_or(0);
    let mut plain = match even {
        true => format!("{value:.places$}"),
        false => format!("{value}"),
    };
    if !plain.contains('.') {
        plain.push_str(".0");
    }
    plain
}

pub(super) fn big_digits(value: &BigInt, budget: &mut Budget) -> Result<String> {
    // Three digits take about ten bits.
    if value.bits() > MAX_DIGITS.saturating_mul(10).saturating_div(3) {
        return Fault::value_error(format!(
            "Exceeds the limit ({MAX_DIGITS} digits) for integer string conversion; \
             use sys.set_int_max_str_digits() to increase the limit"
        ));
    }
    let limbs = usize::try_from(value.bits() >> 6).unwrap_or(usize::MAX);
    budget.steps(limbs.saturating_mul(limbs).saturating_add(1))?;
    Ok(value.to_string())
}

/// markupsafe's `escape`.
pub(super) fn push_escaped(text: &Str, out: &mut Builder, budget: &mut Budget) -> Result<()> {
    push_mapped(text, out, budget, |c| {
        Some(
            match c {
                '&' => "&amp;",
                '>' => "&gt;",
                '<' => "&lt;",
                '\'' => "&#39;",
                '"' => "&#34;",
                _ => return None,
            }
            .to_string(),
        )
    })
}
