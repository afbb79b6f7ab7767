//! Upper and lower case, and the questions about characters.

use super::super::budget::Budget;
use super::super::error::Result;
use super::super::eval::Eval;
use super::super::format::{is_printable, pay_for_printable};
use super::super::lexer::is_space;
use super::super::scan;
use super::super::string::{Builder, Str};
use super::super::value::V;
use super::Method;

pub(super) fn convert(eval: &mut Eval, text: &Str, method: Method) -> Result<V> {
    let converted = match method {
        Method::Capitalize => capitalized(eval, text)?,
        Method::Casefold => mapped(eval, text, casefold)?,
        Method::Lower => mapped(eval, text, str::to_lowercase)?,
        Method::Upper => mapped(eval, text, str::to_uppercase)?,
        Method::SwapCase => mapped(eval, text, swapcase)?,
        _ => title(eval, text, |c| !is_cased(c), titlecase)?,
    };
    Ok(V::Str(converted))
}

/// Applies a function to each stretch of one origin. No mapping of case makes a text three times as long.
pub(in super::super) fn mapped(
    eval: &mut Eval,
    text: &Str,
    map: fn(&str) -> String,
) -> Result<Str> {
    let mut out = Builder::new(&mut eval.budget)?;
    out.reserve(text.text().cost(), &mut eval.budget)?;
    for (stretch, origin) in text.text().pieces() {
        let mut rest = stretch;
        while !rest.is_empty() {
            let (word, after) = rest.split_at_checked(words(rest)).unwrap_or((rest, ""));
            // Outside of ASCII, a character takes tens of nanoseconds.
            let price = if word.is_ascii() { 4 } else { 1 };
            eval.budget.steps((word.len() >> price).saturating_add(1))?;
            out.push(&map(word), origin, &mut eval.budget)?;
            rest = after;
        }
    }
    Ok(out.finish_as(text.markup()))
}

/// How much of a text is mapped at once. The lower case of a sigma depends on its word, so the cut is behind white space, unless
/// a word is longer than anybody's.
fn words(text: &str) -> usize {
    let most = scan::border(text, scan::PIECE);
    let head = text.get(..most).unwrap_or(text);
    match head.rfind([' ', '\n']) {
        Some(space) if most < text.len() => space.saturating_add(1),
        _ => most,
    }
}

fn casefold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Full case folding differs from lower case in few letters.
        match c {
            'ß' | 'ẞ' => out.push_str("ss"),
            'ς' => out.push('σ'),
            c if c.is_ascii() => out.push(c.to_ascii_lowercase()),
            c if c.to_uppercase().count() > 1 => {
                out.extend(c.to_uppercase().flat_map(char::to_lowercase));
            }
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

fn swapcase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            out.push(c.to_ascii_lowercase());
        } else if c.is_ascii() {
            out.push(c.to_ascii_uppercase());
        } else if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

/// The title case of a character, which is not always its upper case.
fn titlecase(c: char, out: &mut String) {
    match c as u32 {
        code @ 0x1c4..=0x1cc => {
            // Three letters each: upper, title and lower case.
            let third = code.saturating_sub(0x1c4) / 3;
            let title = third.saturating_mul(3).saturating_add(0x1c5);
            out.extend(char::from_u32(title));
        }
        0x1f1..=0x1f3 => out.push('\u{1f2}'),
        0x10d0..=0x10ff => out.push(c),
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

/// Upper case at the start, lower case for the rest.
pub(in super::super) fn capitalized(eval: &mut Eval, text: &Str) -> Result<Str> {
    let mut first = true;
    title(
        eval,
        text,
        move |_| std::mem::replace(&mut first, false),
        titlecase,
    )
}

/// One case for the first letter, behind every character that ends a word, and lower case elsewhere.
pub(in super::super) fn title(
    eval: &mut Eval,
    text: &Str,
    mut begins: impl FnMut(char) -> bool,
    letter: fn(char, &mut String),
) -> Result<Str> {
    let mut out = Builder::new(&mut eval.budget)?;
    let mut before = ' ';
    let mut word = String::new();
    // Whether a letter begins a word is up to whoever wrote the character before it.
    let mut before_by = text.text().most_trusted();
    for (piece, origin) in text.text().pieces() {
        for c in piece.chars() {
            word.clear();
            if begins(before) {
                letter(c, &mut word);
            } else {
                word.extend(c.to_lowercase());
            }
            before = c;
            let by = match is_cased(c) {
                true => origin.max(before_by),
                false => origin,
            };
            out.push(&word, by, &mut eval.budget)?;
            before_by = origin;
        }
    }
    Ok(out.finish_as(text.markup()))
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

fn is_title(c: char) -> bool {
    matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}

pub(in super::super) fn is_lower(text: &str, budget: &mut Budget) -> Result<bool> {
    let mut cased = false;
    let holds = |c: char| {
        cased |= c.is_lowercase();
        !c.is_uppercase() && !is_title(c)
    };
    Ok(scan::all(text, holds, budget)? && cased)
}

pub(in super::super) fn is_upper(text: &str, budget: &mut Budget) -> Result<bool> {
    let mut cased = false;
    let holds = |c: char| {
        cased |= c.is_uppercase();
        !c.is_lowercase() && !is_title(c)
    };
    Ok(scan::all(text, holds, budget)? && cased)
}

fn is_titled(text: &str, budget: &mut Budget) -> Result<bool> {
    let (mut before_cased, mut any) = (false, false);
    let holds = |c: char| {
        let begins = c.is_uppercase() || is_title(c);
        let cased = begins || c.is_lowercase();
        // A letter begins a word where none stands before it, and only there.
        let fits = !cased || begins != before_cased;
        any |= cased;
        before_cased = cased;
        fits
    };
    Ok(scan::all(text, holds, budget)? && any)
}

/// `isdecimal`, for the digits that occur: the ASCII ones and the decimal blocks of common scripts.
fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || (c.is_numeric() && !is_other_digit(c) && decimal_block(c))
}

fn decimal_block(c: char) -> bool {
    const ZEROS: [u32; 22] = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50,
        0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xff10, 0x1d7ce, 0x1d7d8, 0x1d7e2,
    ];
    let code = c as u32;
    ZEROS
        .iter()
        .any(|zero| code.checked_sub(*zero).is_some_and(|digit| digit < 10))
}

/// Digits that are no decimals, such as superscripts.
fn is_other_digit(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⓪')
}

/// `isalnum` and the like.
pub(super) fn is(method: Method, text: &str, budget: &mut Budget) -> Result<bool> {
    if method == Method::IsPrintable {
        pay_for_printable(text, budget)?;
    }
    let mut all = |holds: fn(char) -> bool| scan::all(text, holds, budget);
    let holds = match method {
        Method::IsAscii => return all(|c| c.is_ascii()),
        Method::IsPrintable => return all(is_printable),
        Method::IsLower => return is_lower(text, budget),
        Method::IsUpper => return is_upper(text, budget),
        Method::IsTitle => return is_titled(text, budget),
        Method::IsAlnum => all(char::is_alphanumeric),
        Method::IsAlpha => all(|c| c.is_alphabetic() && !is_mark(c)),
        Method::IsDecimal => all(is_decimal),
        Method::IsDigit => all(|c| is_decimal(c) || is_other_digit(c)),
        Method::IsNumeric => all(char::is_numeric),
        Method::IsIdentifier => match text.chars().next() {
            Some(first) if first != '_' && !first.is_alphabetic() => Ok(false),
            _ => all(|c| c == '_' || c.is_alphanumeric()),
        },
        _ => all(is_space),
    };
    Ok(holds? && !text.is_empty())
}

/// Numerals of letters' shape are alphabetic for Unicode, not for Python.
fn is_mark(c: char) -> bool {
    matches!(c, 'Ⅰ'..='ↈ' | 'Ⓐ'..='ⓩ')
}
