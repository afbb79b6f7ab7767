//! Format specifications of numbers: `08.2f`, `+,d`, `#x`.

use num_bigint::{BigInt, Sign};

use super::budget::{Budget, FLOAT_STEPS};
use super::error::{ErrorKind, Fault, Result};
use super::eval::Eval;
use super::string::{Builder, Origin};

/// More than this are refused.
const MAX_DIGITS: usize = 100_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    pub fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    pub align: Option<char>,
    /// `+`, ` `, or anything else for a minus alone.
    pub sign: char,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    pub grouping: Option<char>,
    pub precision: Option<usize>,
    /// `\0` where none is given.
    pub kind: char,
}

impl Spec {
    /// The part of a field behind its colon.
    pub fn parse(text: &str) -> Result<Spec> {
        let mut spec = Spec::default();
        let mut chars = text.chars().peekable();
        let is_align = |c: char| matches!(c, '<' | '>' | '^' | '=');
        let second = text.chars().nth(1);
        if second.is_some_and(is_align) {
            spec.fill = chars.next();
            spec.align = chars.next();
        } else if let Some(align) = chars.next_if(|c| is_align(*c)) {
            spec.align = Some(align);
        }
        if let Some(sign) = chars.next_if(|c| matches!(c, '+' | '-' | ' ')) {
            spec.sign = sign;
        }
        spec.alternate = chars.next_if_eq(&'#').is_some();
        spec.zero = chars.next_if_eq(&'0').is_some();
        let number = |chars: &mut std::iter::Peekable<std::str::Chars>| {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            match (digits.is_empty(), digits.parse::<usize>()) {
                (true, _) => Ok(None),
                (false, Ok(number)) => Ok(Some(number)),
                _ => Fault::value_error("Too many decimal digits in format string"),
            }
        };
        spec.width = number(&mut chars)?.unwrap_or(0);
        spec.grouping = chars.next_if(|c| matches!(c, ',' | '_'));
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = number(&mut chars)?;
            if spec.precision.is_none() {
                return Fault::value_error("Format specifier missing precision");
            }
        }
        spec.kind = chars.next().unwrap_or('\0');
        if chars.next().is_some() {
            return Fault::value_error("Invalid format specifier");
        }
        Ok(spec)
    }

    pub fn is_empty(&self) -> bool {
        self.fill.is_none()
            && self.align.is_none()
            && self.sign == '\0'
            && !self.alternate
            && !self.zero
            && self.width == 0
            && self.grouping.is_none()
            && self.precision.is_none()
            && self.kind == '\0'
    }
}

/// So many of one character, paid for first.
pub(super) fn fill(
    eval: &mut Eval,
    fill: char,
    count: usize,
    origin: Origin,
    out: &mut Builder,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let mut bytes = [0; 4];
    let fill = fill.encode_utf8(&mut bytes);
    out.push_times(fill, count, origin, &mut eval.budget)
}

/// Digits are put together in front of the budget's own strings.
fn bounded(digits: usize) -> Result<()> {
    if digits > MAX_DIGITS {
        return Fault::limit(format!("a number of more than {MAX_DIGITS} digits"));
    }
    Ok(())
}

/// `int(float)`.
pub(super) fn whole(value: f64, budget: &mut Budget) -> Result<BigInt> {
    budget.steps(FLOAT_STEPS)?;
    if !value.is_finite() {
        return Fault::new(ErrorKind::Overflow, "cannot convert float to integer");
    }
    if value.abs() < 9e18 {
        return Ok(BigInt::from(value as i64));
    }
    // Large ones are whole: what a float keeps of a number, times a power of two.
    let bits = value.to_bits();
    let kept = (bits & ((1 << 52) - 1)) | (1 << 52);
    let shift = ((bits >> 52) & 0x7ff).saturating_sub(1075);
    let size = std::ops::Shl::shl(BigInt::from(kept), shift);
    Ok(match value < 0.0 {
        true => std::ops::Neg::neg(size),
        false => size,
    })
}

/// Sign, prefix and digits, brought to the width.
fn number(
    eval: &mut Eval,
    negative: bool,
    prefix: &str,
    digits: &str,
    spec: &Spec,
    origin: Origin,
    out: &mut Builder,
) -> Result<()> {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    };
    let head = sign.len().saturating_add(prefix.len());
    let zero = spec.zero && spec.align.is_none();
    let align = spec.align.unwrap_or(if zero { '=' } else { '>' });
    let filler = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    let mut digits = digits.to_string();
    if let Some(separator) = spec.grouping {
        let size = if separator == '_' && matches!(spec.kind, 'b' | 'o' | 'x' | 'X') {
            4
        } else {
            3
        };
        let least = match align == '=' && filler == '0' {
            true => spec.width.saturating_sub(head),
            false => 0,
        };
        bounded(least)?;
        eval.budget.slow_bytes(least.saturating_add(digits.len()))?;
        digits = grouped(&digits, separator, size, least);
    }
    let len = digits.chars().count().saturating_add(head);
    let missing = spec.width.saturating_sub(len);
    let left = match align {
        '>' => missing,
        '^' => missing / 2,
        _ => 0,
    };
    fill(eval, filler, left, origin, out)?;
    out.push(sign, origin, &mut eval.budget)?;
    out.push(prefix, origin, &mut eval.budget)?;
    if align == '=' {
        fill(eval, filler, missing, origin, out)?;
    }
    out.push(&digits, origin, &mut eval.budget)?;
    let right = match align {
        '<' | '^' => missing.saturating_sub(left),
        _ => 0,
    };
    fill(eval, filler, right, origin, out)
}

/// Separators between groups of digits, zeros in front up to a width.
fn grouped(digits: &str, separator: char, size: usize, least: usize) -> String {
    let whole = digits
        .find(|c: char| !c.is_ascii_hexdigit())
        .unwrap_or(digits.len());
    let (whole, rest) = digits.split_at_checked(whole).unwrap_or((digits, ""));
    let mut reversed = String::new();
    let mut count = 0usize;
    let mut source = whole.chars().rev();
    loop {
        let next = source.next();
        let written = reversed.len().saturating_add(rest.len());
        if next.is_none() && written >= least {
            break;
        }
        if count > 0 && count.checked_rem(size) == Some(0) {
            reversed.push(separator);
        }
        reversed.push(next.unwrap_or('0'));
        count = count.saturating_add(1);
    }
    let mut out: String = reversed.chars().rev().collect();
    out.push_str(rest);
    out
}

pub(super) fn integer(
    eval: &mut Eval,
    value: &BigInt,
    spec: &Spec,
    origin: Origin,
    out: &mut Builder,
) -> Result<()> {
    let magnitude = value.magnitude();
    let limbs = usize::try_from(magnitude.bits() >> 6).unwrap_or(usize::MAX);
    eval.budget
        .steps(limbs.saturating_mul(limbs).saturating_add(1))?;
    let (prefix, mut digits) = match spec.kind {
        'b' => ("0b", magnitude.to_str_radix(2)),
        'o' => ("0o", magnitude.to_str_radix(8)),
        'x' => ("0x", magnitude.to_str_radix(16)),
        'X' => ("0X", magnitude.to_str_radix(16).to_uppercase()),
        'd' => {
            let plain = super::format::big_digits(value, &mut eval.budget)?;
            ("", plain.trim_start_matches('-').to_string())
        }
        other => {
            return Fault::value_error(format!(
                "Unknown format code '{other}' for object of type 'int'"
            ))
        }
    };
    // Of a whole number, `%` formats take the precision for a number of digits.
    let missing = spec.precision.unwrap_or(0).saturating_sub(digits.len());
    if missing > 0 {
        bounded(missing)?;
        eval.budget.bytes(missing)?;
        digits.insert_str(0, &"0".repeat(missing));
    }
    let prefix = if spec.alternate { prefix } else { "" };
    let negative = value.sign() == Sign::Minus;
    number(eval, negative, prefix, &digits, spec, origin, out)
}

pub(super) fn float(
    eval: &mut Eval,
    value: f64,
    spec: &Spec,
    origin: Origin,
    out: &mut Builder,
) -> Result<()> {
    let negative = value.is_sign_negative() && !value.is_nan();
    let size = value.abs();
    let precision = spec.precision.unwrap_or(6);
    // A float has up to 309 digits in front of its point.
    eval.budget.room(precision.saturating_add(400))?;
    let digits = precision.saturating_add(400);
    eval.budget.steps(FLOAT_STEPS.saturating_add(digits >> 2))?;
    let mut digits = if !size.is_finite() {
        if size.is_nan() { "nan" } else { "inf" }.to_string()
    } else {
        // More digits than the exact value has are zeros, which would cost a large number of steps.
        bounded(precision)?;
        match spec.kind {
            'f' | 'F' => format!("{size:.precision$}"),
            '%' => format!("{:.precision$}%", size * 100.0),
            'e' | 'E' => exponent(&format!("{size:.precision$e}")),
            'g' | 'G' | 'n' => general(size, precision, spec.alternate),
            '\0' => match spec.precision {
                None => super::format::float(size),
                Some(precision) => {
                    let text = general(size, precision, false);
                    match text.contains(['.', 'e']) {
                        true => text,
                        false => format!("{text}.0"),
                    }
                }
            },
            other => {
                return Fault::value_error(format!(
                    "Unknown format code '{other}' for object of type 'float'"
                ))
            }
        }
    };
    if spec.alternate && matches!(spec.kind, 'f' | 'F' | 'e' | 'E') && precision == 0 {
        let at = digits.find('e').unwrap_or(digits.len());
        digits.insert(at, '.');
    }
    if matches!(spec.kind, 'E' | 'F' | 'G') {
        digits = digits.to_uppercase();
    }
    number(eval, negative, "", &digits, spec, origin, out)
}

/// Rust's `1e5` as Python's `1e+05`.
fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

fn general(value: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let decimals = precision.saturating_sub(1);
    let scientific = format!("{value:.decimals$e}");
    let (_, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i64 = power.parse().unwrap_or(0);
    let most = i64::try_from(precision).unwrap_or(i64::MAX);
    let trimmed = |digits: &str| match digits.contains('.') && !keep_zeros {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_string(),
        false => digits.to_string(),
    };
    if (-4..most).contains(&power) {
        let places = most.saturating_sub(1).saturating_sub(power);
        let places = usize::try_from(places).unwrap_or(0);
        return trimmed(&format!("{value:.places$}"));
    }
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    exponent(&format!("{}e{power}", trimmed(digits)))
}
