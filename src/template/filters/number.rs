//! Filters of numbers.

use std::cmp::Ordering;

use num_bigint::BigInt;

use super::super::ast::MathOp;
use super::super::budget::{Budget, FLOAT_STEPS};
use super::super::error::{ErrorKind, Fault, Result};
use super::super::eval::Eval;
use super::super::expression::Arguments;
use super::super::lexer::is_space;
use super::super::methods::int_arg;
use super::super::operators::{self, Number};
use super::super::scan;
use super::super::spec;
use super::super::value::V;
use super::Filter;

pub(super) fn apply(eval: &mut Eval, filter: Filter, value: V, args: Arguments) -> Result<V> {
    match filter {
        Filter::Abs => {
            let [] = args.bind("abs", [])?;
            abs(&value, &mut eval.budget)
        }
        Filter::Int => {
            let [default, base] = args.bind("int", ["default", "base"])?;
            let base = base.map_or(Ok(10), |base| int_arg(&base))?;
            if value.is_undefined() {
                eval.checked(&value)?;
            }
            let found = to_int(&value, base, &mut eval.budget)?;
            match found {
                Some(found) => Ok(found),
                None => default
                    .unwrap_or(V::int(0))
                    .painted(value.shape(), &mut eval.budget),
            }
        }
        Filter::Float => {
            let [default] = args.bind("float", ["default"])?;
            eval.checked(&value)?;
            match to_float(&value, &mut eval.budget)? {
                Some(float) => Ok(V::float(float)),
                None => default
                    .unwrap_or(V::float(0.0))
                    .painted(value.shape(), &mut eval.budget),
            }
        }
        Filter::Round => {
            let [precision, method] = args.bind("round", ["precision", "method"])?;
            eval.checked(&value)?;
            let precision = precision.map_or(Ok(0), |precision| int_arg(&precision))?;
            let method = match &method {
                None => "common",
                Some(V::Str(method)) => method.as_str(),
                Some(_) => "",
            };
            round(eval, &value, precision, method)
        }
        _ => {
            let [binary] = args.bind("filesizeformat", ["binary"])?;
            eval.checked(&value)?;
            let Some(bytes) = to_float(&value, &mut eval.budget)? else {
                return Fault::value_error("could not convert the value to float");
            };
            eval.budget.steps(FLOAT_STEPS)?;
            let text = file_size(bytes, binary.is_some_and(|binary| binary.truth()))?;
            V::text(&text, value.shape(), &mut eval.budget)
        }
    }
}

fn abs(value: &V, budget: &mut Budget) -> Result<V> {
    match operators::number(value) {
        Some(Number::Float(value)) => Ok(V::float(value.abs())),
        Some(Number::Int(value)) if value >= 0 => Ok(V::int(value)),
        Some(Number::Int(value)) => V::big(BigInt::from(value.unsigned_abs()), budget),
        Some(Number::Big(value)) => V::big(BigInt::from(value.magnitude().clone()), budget),
        None => Fault::type_error(format!(
            "bad operand type for abs(): '{}'",
            value.type_name()
        )),
    }
}

/// Python's `int(text, base)`; `None` where it would raise.
fn parse_int(text: &str, base: i64) -> Option<BigInt> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |prefixes: [&str; 2]| {
        prefixes
            .iter()
            .find_map(|prefix| digits.strip_prefix(prefix))
            .map(|rest| rest.strip_prefix('_').unwrap_or(rest))
    };
    let (radix, digits) = match base {
        0 | 16 if prefixed(["0x", "0X"]).is_some() => (16, prefixed(["0x", "0X"])?),
        0 | 8 if prefixed(["0o", "0O"]).is_some() => (8, prefixed(["0o", "0O"])?),
        0 | 2 if prefixed(["0b", "0B"]).is_some() => (2, prefixed(["0b", "0B"])?),
        0 if digits.starts_with('0') && digits.chars().any(|c| !matches!(c, '0' | '_')) => {
            return None
        }
        0 => (10, digits),
        2..=36 => (u32::try_from(base).ok()?, digits),
        _ => return None,
    };
    if digits.len() > 4300
        || digits.starts_with('_')
        || digits.ends_with('_')
        || digits.contains("__")
        || digits.contains(['+', '-'])
    {
        return None;
    }
    let plain = digits.replace('_', "");
    let value = BigInt::parse_bytes(plain.as_bytes(), radix)?;
    Some(match negative {
        true => std::ops::Neg::neg(value),
        false => value,
    })
}

/// Python's `float(text)`.
fn parse_float(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digit = |at: Option<&u8>| at.is_some_and(u8::is_ascii_digit);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'_' {
            let before = at.checked_sub(1).and_then(|at| bytes.get(at));
            if !digit(before) || !digit(bytes.get(at.saturating_add(1))) {
                return None;
            }
        }
    }
    let plain = text.replace('_', "");
    let unsigned = plain.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let named = matches!(unsigned.as_str(), "inf" | "infinity" | "nan");
    if !named && unsigned.contains(|c: char| c.is_ascii_alphabetic() && c != 'e') {
        return None;
    }
    plain.parse().ok()
}

/// Longer texts are no number: a few thousand digits are the most that Python reads as a whole one.
const MAX_NUMBER: usize = 64 << 10;

/// The part of a text that may be a number, paid for; `None` where it is too long.
fn number_in<'a>(text: &'a str, budget: &mut Budget) -> Result<Option<&'a str>> {
    let start = scan::position(text, |c| !is_space(c), budget)?;
    let text = start.and_then(|start| text.get(start..)).unwrap_or("");
    let end = scan::end_of_last(text, |c| !is_space(c), budget)?.unwrap_or(0);
    let text = text.get(..end).unwrap_or("");
    if text.len() > MAX_NUMBER {
        return Ok(None);
    }
    // Its digits are copied, read several times and multiplied.
    budget.steps((text.len() >> 2).saturating_add(8))?;
    Ok(Some(text))
}

pub(in super::super) fn to_float(value: &V, budget: &mut Budget) -> Result<Option<f64>> {
    Ok(match value {
        V::Str(text) => number_in(text.as_str(), budget)?.and_then(parse_float),
        value => match operators::number(value) {
            Some(Number::Int(value)) => Some(value as f64),
            Some(Number::Float(value)) => Some(value),
            Some(Number::Big(value)) => {
                let float = super::super::dict::float_of(&value);
                if float.is_infinite() {
                    return Fault::new(ErrorKind::Overflow, "int too large to convert to float");
                }
                Some(float)
            }
            None => None,
        },
    })
}

/// What `int(float)` gives; `None` for what is no number, or infinite.
fn truncated(value: f64, budget: &mut Budget) -> Result<Option<V>> {
    if !value.is_finite() {
        return Ok(None);
    }
    let whole = value.trunc();
    if whole.abs() < 9e18 {
        return Ok(Some(V::int(whole as i64)));
    }
    let whole = spec::whole(whole, budget)?;
    V::big(whole, budget).map(Some)
}

fn to_int(value: &V, base: i64, budget: &mut Budget) -> Result<Option<V>> {
    Ok(match value {
        V::Str(text) => {
            let Some(text) = number_in(text.as_str(), budget)? else {
                return Ok(None);
            };
            return match (parse_int(text, base), parse_float(text)) {
                (Some(value), _) => V::big(value, budget).map(Some),
                (None, Some(float)) => truncated(float, budget),
                (None, None) => Ok(None),
            };
        }
        V::Float(value, _) if value.is_infinite() => {
            return Fault::new(
                ErrorKind::Overflow,
                "cannot convert float infinity to integer",
            )
        }
        V::Float(value, _) => return truncated(*value, budget),
        V::Bool(value, _) => Some(V::int(i64::from(*value))),
        V::Int(..) | V::Big(..) => Some(value.clone()),
        _ => None,
    })
}

fn round(eval: &mut Eval, value: &V, precision: i64, method: &str) -> Result<V> {
    let Some(number) = operators::number(value) else {
        return Fault::type_error(format!(
            "type {} doesn't define __round__ method",
            value.type_name()
        ));
    };
    match (method, number) {
        ("common", Number::Float(float)) => {
            Ok(V::float(round_float(float, precision, &mut eval.budget)?))
        }
        ("common", _) if precision >= 0 => operators::positive(value),
        ("common", _) => round_int(eval, value, precision),
        ("ceil" | "floor", _) => {
            let float = to_float(value, &mut eval.budget)?.unwrap_or(0.0);
            let places = i32::try_from(precision).unwrap_or(0);
            // Python's `10**precision` is a whole number up to here, and as exact as a float.
            let unit = 10f64.powi(places);
            let scaled = float * unit;
            let whole = match method {
                "ceil" => scaled.ceil(),
                _ => scaled.floor(),
            };
            eval.budget.step()?;
            Ok(V::float(whole / unit))
        }
        _ => Fault::value_error("method must be common, ceil or floor"),
    }
}

/// A whole number to tens, hundreds and so on, halves to even.
fn round_int(eval: &mut Eval, value: &V, precision: i64) -> Result<V> {
    if precision < -4300 {
        return Ok(V::int(0));
    }
    let places = V::int(precision.saturating_neg());
    let unit = eval.math(MathOp::Pow, V::int(10), places)?;
    let down = eval.math(MathOp::FloorDiv, value.clone(), unit.clone())?;
    let rest = eval.math(MathOp::Mod, value.clone(), unit.clone())?;
    let twice = eval.math(MathOp::Mul, rest, V::int(2))?;
    let odd = eval.math(MathOp::Mod, down.clone(), V::int(2))?.truth();
    let up = match operators::order(&twice, &unit, "<", &mut eval.budget)? {
        Some(Ordering::Greater) => true,
        Some(Ordering::Equal) => odd,
        _ => false,
    };
    let rounded = eval.math(MathOp::Add, down, V::int(i64::from(up)))?;
    eval.math(MathOp::Mul, rounded, unit)
}

/// Python's `round`: exact on the value that the float has, halves to even.
pub(super) fn round_float(value: f64, precision: i64, budget: &mut Budget) -> Result<f64> {
    if !value.is_finite() || precision > 330 {
        return Ok(value);
    }
    if precision < 0 {
        let places = precision.unsigned_abs();
        if places > 308 {
            return Ok(0.0_f64.copysign(value));
        }
        let unit = 10f64.powi(i32::try_from(places).unwrap_or(0));
        let scaled = value / unit;
        let rounded = match (scaled - scaled.trunc()).abs() == 0.5 {
            true => (scaled / 2.0).round() * 2.0,
            false => scaled.round(),
        };
        return Ok(rounded * unit);
    }
    if value.abs() >= 9_007_199_254_740_992.0 {
        // Whole, as every float from there on.
        return Ok(value);
    }
    let places = usize::try_from(precision).unwrap_or(0);
    budget.steps(FLOAT_STEPS.saturating_add(places >> 1))?;
    Ok(format!("{value:.places$}").parse().unwrap_or(value))
}

fn file_size(bytes: f64, binary: bool) -> Result<String> {
    let (base, names): (f64, [&str; 8]) = match binary {
        true => (
            1024.0,
            ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"],
        ),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if bytes == 1.0 {
        return Ok("1 Byte".to_string());
    }
    if !bytes.is_finite() {
        return Fault::value_error("cannot convert float to integer");
    }
    if bytes < base {
        return Ok(format!("{:.0} Bytes", bytes.trunc()));
    }
    let mut unit = base;
    let mut name = "";
    for next in names {
        unit *= base;
        name = next;
        if bytes < unit {
            break;
        }
    }
    Ok(format!("{:.1} {name}", base * bytes / unit))
}
