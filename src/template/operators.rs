//! Python's operators on values: arithmetic, equality, order, membership.

use std::cmp::Ordering;

use std::sync::Arc;

use num_bigint::{BigInt, Sign};

use super::ast::MathOp;
use super::budget::Budget;
use super::dict::{float_of, ViewKind};
use super::error::{ErrorKind, Fault, Result};
use super::loops::Cursor;
use super::scan;
use super::string::{Builder, Origin, Str};
use super::value::*;

/// Larger whole numbers are refused: they could not be printed in Python either.
const MAX_BITS: u64 = 1 << 16;

/// A value as Python's arithmetic sees it.
pub(super) enum Number {
    Int(i64),
    Big(Arc<Big>),
    Float(f64),
}

pub(super) fn number(value: &V) -> Option<Number> {
    Some(match value {
        V::Int(value, _) => Number::Int(*value),
        V::Bool(value, _) => Number::Int(i64::from(*value)),
        V::Big(value, _) => Number::Big(value.clone()),
        V::Float(value, _) => Number::Float(*value),
        _ => return None,
    })
}

impl Number {
    fn float(&self) -> Result<f64> {
        let value = match self {
            Number::Int(value) => *value as f64,
            Number::Float(value) => *value,
            Number::Big(value) => float_of(value),
        };
        if value.is_infinite() && !matches!(self, Number::Float(_)) {
            return Fault::new(ErrorKind::Overflow, "int too large to convert to float");
        }
        Ok(value)
    }

    fn big(self) -> BigInt {
        match self {
            Number::Int(value) => BigInt::from(value),
            Number::Big(value) => value.value.clone(),
            Number::Float(_) => BigInt::from(0),
        }
    }
}

pub(super) fn symbol(op: MathOp) -> &'static str {
    match op {
        MathOp::Add => "+",
        MathOp::Sub => "-",
        MathOp::Mul => "*",
        MathOp::Div => "/",
        MathOp::FloorDiv => "//",
        MathOp::Mod => "%",
        MathOp::Pow => "** or pow()",
    }
}

/// `left op right`; neither is undefined.
pub(super) fn math(op: MathOp, left: &V, right: &V, budget: &mut Budget) -> Result<V> {
    match (number(left), number(right)) {
        (Some(a), Some(b)) => {
            let origin = left.shape().max(right.shape());
            return Ok(arithmetic(op, a, b, budget)?.shaped(origin));
        }
        // Who wrote the number decides how much there is.
        (Some(count), None) if op == MathOp::Mul => {
            if let Some(repeated) = repeat(right, count, budget)? {
                return repeated
                    .painted(left.shape(), budget)?
                    .made_of(right.shape(), budget);
            }
        }
        (None, Some(count)) if op == MathOp::Mul => {
            if let Some(repeated) = repeat(left, count, budget)? {
                return repeated
                    .painted(right.shape(), budget)?
                    .made_of(left.shape(), budget);
            }
        }
        _ => {}
    }
    let shape = left.shape().max(right.shape());
    match (op, left, right) {
        (MathOp::Add, V::Str(a), V::Str(b)) => {
            let markup = a.markup() || b.markup();
            let mut out = Builder::new(budget)?;
            for part in [a, b] {
                match markup && !part.markup() {
                    true => super::format::push_escaped(part, &mut out, budget)?,
                    false => out.push_text(part.text(), budget)?,
                }
            }
            Ok(V::Str(out.finish_as(markup)))
        }
        (MathOp::Add, V::List(a, _), V::List(b, _)) => {
            Ok(V::list(joined(a, b, budget)?, budget)?.shaped(shape))
        }
        (MathOp::Add, V::Tuple(a, _), V::Tuple(b, _)) => {
            Ok(V::tuple(joined(a, b, budget)?, budget)?.shaped(shape))
        }
        (MathOp::Add, V::Str(_), other) => Fault::type_error(format!(
            "can only concatenate str (not \"{}\") to str",
            other.type_name()
        )),
        (MathOp::Add, V::List(..), other) => Fault::type_error(format!(
            "can only concatenate list (not \"{}\") to list",
            other.type_name()
        )),
        (MathOp::Add, V::Tuple(..), other) => Fault::type_error(format!(
            "can only concatenate tuple (not \"{}\") to tuple",
            other.type_name()
        )),
        (MathOp::Mul, V::Str(_) | V::List(..) | V::Tuple(..), other)
        | (MathOp::Mul, other, V::Str(_) | V::List(..) | V::Tuple(..)) => {
            Fault::type_error(format!(
                "can't multiply sequence by non-int of type '{}'",
                other.type_name()
            ))
        }
        _ => Fault::type_error(format!(
            "unsupported operand type(s) for {}: '{}' and '{}'",
            symbol(op),
            left.type_name(),
            right.type_name()
        )),
    }
}

fn joined(a: &List, b: &List, budget: &mut Budget) -> Result<Vec<V>> {
    let len = a.items.len().saturating_add(b.items.len());
    budget.steps((len >> 1).saturating_add(1))?;
    budget.room(len.saturating_mul(ITEM_BYTES))?;
    let mut items = Vec::with_capacity(len);
    items.extend_from_slice(&a.items);
    items.extend_from_slice(&b.items);
    Ok(items)
}

/// A sequence times a number; `None` where it is neither.
fn repeat(value: &V, count: Number, budget: &mut Budget) -> Result<Option<V>> {
    let count = match (value, count) {
        (V::Str(_) | V::List(..) | V::Tuple(..), Number::Int(count)) => count.max(0),
        (V::Str(_) | V::List(..) | V::Tuple(..), Number::Big(count)) => {
            if count.sign() == Sign::Minus {
                0
            } else {
                i64::MAX
            }
        }
        _ => return Ok(None),
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    match value {
        V::Str(text) => {
            let mut out = Builder::new(budget)?;
            match text.text().single() {
                Some(origin) => out.push_times(text.as_str(), count, origin, budget)?,
                None => {
                    out.reserve(text.text().cost().saturating_mul(count), budget)?;
                    for _ in 0..count {
                        out.push_text(text.text(), budget)?;
                    }
                }
            }
            Ok(Some(V::Str(out.finish_as(text.markup()))))
        }
        V::List(list, _) | V::Tuple(list, _) => {
            let len = list.items.len().saturating_mul(count);
            budget.room(len.saturating_mul(ITEM_BYTES))?;
            budget.steps(len)?;
            let items: Vec<V> = list.items.iter().cycle().take(len).cloned().collect();
            Ok(Some(match value {
                V::List(..) => V::list(items, budget)?,
                _ => V::tuple(items, budget)?,
            }))
        }
        _ => Ok(None),
    }
}

fn zero_division<T>(message: &str) -> Result<T> {
    Fault::new(ErrorKind::ZeroDivision, message)
}

fn arithmetic(op: MathOp, a: Number, b: Number, budget: &mut Budget) -> Result<V> {
    if matches!(a, Number::Float(_)) || matches!(b, Number::Float(_)) {
        return float_math(op, a.float()?, b.float()?);
    }
    if op == MathOp::Div {
        return divide(a, b, budget);
    }
    if let (Number::Int(a), Number::Int(b)) = (&a, &b) {
        if let Some(value) = small_math(op, *a, *b)? {
            return Ok(V::int(value));
        }
    }
    big_math(op, a.big(), b.big(), budget)
}

/// `/` of whole numbers: the float nearest to the true quotient.
fn divide(a: Number, b: Number, budget: &mut Budget) -> Result<V> {
    let exact = |number: &Number| match number {
        Number::Int(value) => value.unsigned_abs() <= 1 << 53,
        _ => false,
    };
    let divisor = b.float()?;
    if divisor == 0.0 {
        return zero_division("division by zero");
    }
    if exact(&a) && exact(&b) {
        return Ok(V::float(a.float()? / divisor));
    }
    let (a, b) = (a.big(), b.big());
    let limbs = |number: &BigInt| usize::try_from(number.bits() >> 6).unwrap_or(usize::MAX);
    budget.steps(limbs(&a).saturating_add(8).saturating_mul(64))?;
    // Some bits more than a float has, and one for whatever is left.
    let shift = b.bits().saturating_add(70).saturating_sub(a.bits());
    let scaled = std::ops::Shl::shl(&a, shift);
    let (Some(quotient), false) = (scaled.checked_div(&b), shift > 1000) else {
        return Ok(V::float(0.0));
    };
    let rest = quotient
        .checked_mul(&b)
        .is_some_and(|whole| whole != scaled);
    let quotient = match rest {
        true => std::ops::BitOr::bitor(quotient, BigInt::from(1)),
        false => quotient,
    };
    let scale = 0.5f64.powi(i32::try_from(shift).unwrap_or(i32::MAX));
    let value = float_of(&quotient) * scale;
    if value.is_infinite() {
        return Fault::new(
            ErrorKind::Overflow,
            "integer division result too large for a float",
        );
    }
    Ok(V::float(value))
}

/// `None` where the result needs more bits.
fn small_math(op: MathOp, a: i64, b: i64) -> Result<Option<i64>> {
    Ok(match op {
        MathOp::Add => a.checked_add(b),
        MathOp::Sub => a.checked_sub(b),
        MathOp::Mul => a.checked_mul(b),
        MathOp::FloorDiv if b == 0 => {
            return zero_division("integer division or modulo by zero");
        }
        MathOp::Mod if b == 0 => return zero_division("integer modulo by zero"),
        MathOp::FloorDiv => {
            let quotient = a.checked_div(b);
            let exact = a.checked_rem(b) == Some(0);
            match quotient {
                Some(quotient) if !exact && (a < 0) != (b < 0) => quotient.checked_sub(1),
                other => other,
            }
        }
        MathOp::Mod => match a.checked_rem(b) {
            Some(rest) if rest != 0 && (rest < 0) != (b < 0) => rest.checked_add(b),
            other => other,
        },
        MathOp::Pow if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        MathOp::Pow | MathOp::Div => None,
    })
}

fn big_math(op: MathOp, a: BigInt, b: BigInt, budget: &mut Budget) -> Result<V> {
    let (bits_a, bits_b) = (a.bits(), b.bits());
    let limbs = |bits: u64| {
        usize::try_from(bits >> 6)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    };
    let too_large = || {
        Fault::limit(format!(
            "the template makes a whole number of more than {MAX_BITS} bits"
        ))
    };
    if op == MathOp::Pow {
        return big_power(&a, &b, budget, too_large);
    }
    budget.steps(limbs(bits_a).saturating_mul(limbs(bits_b)))?;
    if bits_a.saturating_add(bits_b) > MAX_BITS.saturating_mul(2) {
        return too_large();
    }
    let divides = matches!(op, MathOp::FloorDiv | MathOp::Mod);
    if divides && b.sign() == Sign::NoSign {
        return zero_division("integer division or modulo by zero");
    }
    let value = match op {
        MathOp::Add => a.checked_add(&b),
        MathOp::Sub => a.checked_sub(&b),
        MathOp::Mul => a.checked_mul(&b),
        _ => a.checked_div(&b).and_then(|quotient| {
            // Truncated; Python rounds down.
            let rest = a.checked_sub(&quotient.checked_mul(&b)?)?;
            let down = rest.sign() != Sign::NoSign && rest.sign() != b.sign();
            match op {
                MathOp::FloorDiv if down => quotient.checked_sub(&BigInt::from(1)),
                MathOp::FloorDiv => Some(quotient),
                _ if down => rest.checked_add(&b),
                _ => Some(rest),
            }
        }),
    };
    match value {
        Some(value) if value.bits() <= MAX_BITS => V::big(value, budget),
        _ => too_large(),
    }
}

fn big_power(
    a: &BigInt,
    b: &BigInt,
    budget: &mut Budget,
    too_large: impl Fn() -> Result<V>,
) -> Result<V> {
    if b.sign() == Sign::Minus {
        return float_math(MathOp::Pow, float_of(a), float_of(b));
    }
    let unit = a.bits() <= 1;
    let exponent = match u32::try_from(b) {
        Ok(exponent) => exponent,
        // Of 0, 1 and -1 only the exponent's last bit counts.
        Err(_) if unit => u32::from(b.bit(0)).saturating_add(2),
        Err(_) => return too_large(),
    };
    let bits = a.bits().saturating_mul(u64::from(exponent));
    if !unit && bits > MAX_BITS {
        return too_large();
    }
    let limbs = usize::try_from(bits >> 6).unwrap_or(usize::MAX);
    budget.steps(limbs.saturating_mul(limbs).saturating_add(1))?;
    let value = match unit {
        true => a.pow(exponent.min(3)),
        false => a.pow(exponent),
    };
    V::big(value, budget)
}

fn float_math(op: MathOp, a: f64, b: f64) -> Result<V> {
    Ok(V::float(match op {
        MathOp::Add => a + b,
        MathOp::Sub => a - b,
        MathOp::Mul => a * b,
        MathOp::Div if b == 0.0 => return zero_division("float division by zero"),
        MathOp::Div => a / b,
        MathOp::FloorDiv if b == 0.0 => return zero_division("float floor division by zero"),
        MathOp::Mod if b == 0.0 => return zero_division("float modulo"),
        MathOp::FloorDiv => floor_mod(a, b).0,
        MathOp::Mod => floor_mod(a, b).1,
        MathOp::Pow => return power(a, b),
    }))
}

/// Python's `//` and `%` of floats.
fn floor_mod(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 {
        if (b < 0.0) != (rest < 0.0) {
            rest += b;
            quotient -= 1.0;
        }
    } else {
        rest = 0.0_f64.copysign(b);
    }
    let floor = if quotient != 0.0 {
        let floor = quotient.floor();
        if quotient - floor > 0.5 {
            floor + 1.0
        } else {
            floor
        }
    } else {
        0.0_f64.copysign(a / b)
    };
    (floor, rest)
}

fn power(a: f64, b: f64) -> Result<V> {
    if a == 0.0 && b < 0.0 {
        return zero_division("0.0 cannot be raised to a negative power");
    }
    if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
        return Fault::unsupported("complex numbers are not supported");
    }
    let value = a.powf(b);
    if value.is_infinite() && a.is_finite() && b.is_finite() {
        return Fault::new(ErrorKind::Overflow, "(34, 'Numerical result out of range')");
    }
    Ok(V::float(value))
}

pub(super) fn negative(value: &V, budget: &mut Budget) -> Result<V> {
    let negated = match number(value) {
        Some(Number::Int(value)) => match value.checked_neg() {
            Some(value) => V::int(value),
            None => V::big(std::ops::Neg::neg(BigInt::from(value)), budget)?,
        },
        Some(Number::Big(value)) => V::big(std::ops::Neg::neg(&value.value), budget)?,
        Some(Number::Float(value)) => V::float(-value),
        None => {
            return Fault::type_error(format!(
                "bad operand type for unary -: '{}'",
                value.type_name()
            ))
        }
    };
    Ok(negated.shaped(value.shape()))
}

pub(super) fn positive(value: &V) -> Result<V> {
    match value {
        V::Bool(value, origin) => Ok(V::Int(i64::from(*value), *origin)),
        V::Int(..) | V::Big(..) | V::Float(..) => Ok(value.clone()),
        _ => Fault::type_error(format!(
            "bad operand type for unary +: '{}'",
            value.type_name()
        )),
    }
}

/// Orders two numbers; not-a-number has no order.
fn number_order(a: &Number, b: &Number, budget: &mut Budget) -> Result<Option<Ordering>> {
    if let (Number::Big(a), Number::Big(_)) = (a, b) {
        budget.bytes(big_bytes(a))?;
    }
    Ok(match (a, b) {
        (Number::Float(a), Number::Float(b)) => a.partial_cmp(b),
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(b)),
        (Number::Int(a), Number::Float(b)) => int_float(*a, *b),
        (Number::Float(a), Number::Int(b)) => int_float(*b, *a).map(Ordering::reverse),
        (Number::Big(a), Number::Float(b)) => float_of(a).partial_cmp(b),
        (Number::Float(a), Number::Big(b)) => a.partial_cmp(&float_of(b)),
        (Number::Big(a), Number::Big(b)) => Some(a.value.cmp(&b.value)),
        (Number::Big(a), Number::Int(b)) => Some(a.value.cmp(&BigInt::from(*b))),
        (Number::Int(a), Number::Big(b)) => Some(BigInt::from(*a).cmp(&b.value)),
    })
}

/// Exact, also beyond the whole numbers that a float holds.
fn int_float(a: i64, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    if b.abs() >= 1e19 {
        return Some(if b > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        });
    }
    let whole = b.trunc();
    let order = i128::from(a).cmp(&(whole as i128));
    Some(order.then_with(|| whole.partial_cmp(&b).unwrap_or(Ordering::Equal)))
}

/// `a == b`. The depth of values is bounded, and so is this recursion.
pub(super) fn equal(a: &V, b: &V, budget: &mut Budget) -> Result<bool> {
    budget.descend()?;
    Ok(match (a, b) {
        (V::Str(a), V::Str(b)) => {
            if a.len() == b.len() {
                budget.bytes(a.len())?;
            }
            a == b
        }
        (V::Int(a, _), V::Int(b, _)) => a == b,
        (V::None(_), V::None(_)) | (V::Undefined { .. }, V::Undefined { .. }) => true,
        (V::List(a, _), V::List(b, _)) | (V::Tuple(a, _), V::Tuple(b, _)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (V::Dict(a, _), V::Dict(b, _)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match b.get(key, budget)? {
                    Some(other) if equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (V::Range(a, _), V::Range(b, _)) => {
            a.len == b.len && (a.len == 0 || a.start == b.start) && (a.len <= 1 || a.step == b.step)
        }
        (V::Iter(a, _), V::Iter(b, _)) => Arc::ptr_eq(a, b),
        (V::View(a, _), V::View(b, _)) => {
            if a.kind != b.kind
                || a.kind == ViewKind::Values
                || a.dict.entries.len() != b.dict.entries.len()
            {
                return Ok(false);
            }
            for (key, value) in &a.dict.entries {
                match b.dict.get(key, budget)? {
                    Some(other) if a.kind == ViewKind::Items => {
                        if !equal(value, other, budget)? {
                            return Ok(false);
                        }
                    }
                    Some(_) => {}
                    None => return Ok(false),
                }
            }
            true
        }
        (V::Object(a), V::Object(b)) => same_object(a, b),
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => number_order(&a, &b, budget)? == Some(Ordering::Equal),
            _ => false,
        },
    })
}

fn same_object(a: &Object, b: &Object) -> bool {
    match (a, b) {
        (Object::Namespace(a), Object::Namespace(b))
        | (Object::Macro(a), Object::Macro(b))
        | (Object::Cycler(a), Object::Cycler(b))
        | (Object::Joiner(a), Object::Joiner(b)) => a == b,
        (Object::Loop { generation: a, .. }, Object::Loop { generation: b, .. }) => a == b,
        (Object::Function(a), Object::Function(b)) => a == b,
        _ => false,
    }
}

/// Python's `is`, as far as values here have an identity.
pub(super) fn identical(a: &V, b: &V) -> bool {
    match (a, b) {
        (V::Str(a), V::Str(b)) => a.same(b) || (a.len() <= 1 && a == b),
        (V::List(a, _), V::List(b, _)) | (V::Tuple(a, _), V::Tuple(b, _)) => Arc::ptr_eq(a, b),
        (V::Dict(a, _), V::Dict(b, _)) => Arc::ptr_eq(a, b),
        (V::None(_), V::None(_)) => true,
        (V::Bool(a, _), V::Bool(b, _)) => a == b,
        (V::Int(a, _), V::Int(b, _)) => a == b && (-5..=256).contains(a),
        (V::Object(a), V::Object(b)) => same_object(a, b),
        _ => false,
    }
}

/// The order of two values; `None` where one is not a number at all. `symbol` is for the message.
pub(super) fn order(a: &V, b: &V, symbol: &str, budget: &mut Budget) -> Result<Option<Ordering>> {
    budget.descend()?;
    match (a, b) {
        (V::Str(a), V::Str(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            // Code points are in the order of their UTF-8.
            return Ok(Some(a.as_str().cmp(b.as_str())));
        }
        (V::List(a, _), V::List(b, _)) | (V::Tuple(a, _), V::Tuple(b, _)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(a, b, budget)? {
                    return order(a, b, symbol, budget);
                }
            }
            return Ok(Some(a.items.len().cmp(&b.items.len())));
        }
        _ => {}
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return number_order(&a, &b, budget);
    }
    Fault::type_error(format!(
        "'{symbol}' not supported between instances of '{}' and '{}'",
        a.type_name(),
        b.type_name()
    ))
}

/// `item in container`.
pub(super) fn contains(container: &V, item: &V, budget: &mut Budget) -> Result<bool> {
    match container {
        V::Str(text) => {
            let V::Str(part) = item else {
                return Fault::type_error(format!(
                    "'in <string>' requires string as left operand, not {}",
                    item.type_name()
                ));
            };
            let mut found = false;
            scan::matches(text.as_str(), part.as_str(), budget, |_, _| {
                found = true;
                Ok(false)
            })?;
            Ok(found)
        }
        V::Dict(dict, _) => Ok(dict.get(item, budget)?.is_some()),
        V::View(view, _) if view.kind == ViewKind::Keys => {
            Ok(view.dict.get(item, budget)?.is_some())
        }
        V::Range(range, _) => {
            let at = match number(item) {
                Some(Number::Int(value)) => value,
                Some(Number::Float(value)) if value.fract() == 0.0 => value as i64,
                _ => return Ok(false),
            };
            let offset = at.saturating_sub(range.start);
            let index = offset.checked_div(range.step).unwrap_or(-1);
            let exact = offset.checked_rem(range.step) == Some(0);
            Ok(exact && index >= 0 && index < range.len)
        }
        V::List(..) | V::Tuple(..) | V::View(..) | V::Iter(..) | V::Undefined { .. } => {
            let mut cursor = Cursor::new(container)?;
            while let Some(have) = cursor.next(budget)? {
                if equal(&have, item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        other => Fault::type_error(format!(
            "argument of type '{}' is not iterable",
            other.type_name()
        )),
    }
}

/// Sorts like Python: stable, by `<` alone, and an error where two cannot be compared.
pub(super) fn sort<T: Clone>(
    items: Vec<(V, T)>,
    reverse: bool,
    budget: &mut Budget,
) -> Result<Vec<T>> {
    let mut sorted = items;
    let len = sorted.len();
    // `order` asks for the rest, one step a comparison and more for long keys.
    budget.steps(len.saturating_mul(2))?;
    budget.room(len.saturating_mul(4 * ITEM_BYTES))?;
    if reverse {
        sorted.reverse();
    }
    let mut width = 1usize;
    while width < len {
        let mut merged = Vec::with_capacity(len);
        for pair in sorted.chunks(width.saturating_mul(2)) {
            let (left, right) = pair.split_at(width.min(pair.len()));
            let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
            loop {
                let take_right = match (left.peek(), right.peek()) {
                    (Some(a), Some(b)) => {
                        order(&b.0, &a.0, "<", budget)?.is_some_and(Ordering::is_lt)
                    }
                    (None, None) => break,
                    (a, _) => a.is_none(),
                };
                merged.extend(
                    if take_right {
                        right.next()
                    } else {
                        left.next()
                    }
                    .cloned(),
                );
            }
        }
        sorted = merged;
        width = width.saturating_mul(2);
    }
    if reverse {
        sorted.reverse();
    }
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}

/// An empty string of the engine's own.
pub(super) fn empty() -> V {
    V::Str(Str::new("", Origin::Template))
}
