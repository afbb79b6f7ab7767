//! Cutting strings up; the pieces keep the origins of their characters.

use std::ops::Range;

use super::super::error::{Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::lexer::is_space;
use super::super::string::Str;
use super::super::value::{Items, V};
use super::{int_arg, own, str_arg, Method};

pub(super) fn call(eval: &mut Eval, text: &Str, method: Method, args: Arguments) -> Result<V> {
    let name = method.name();
    let all = text.as_str();
    eval.budget.slow_bytes(all.len())?;
    match method {
        Method::Split | Method::Rsplit => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let most = most.map_or(Ok(-1), |most| int_arg(&most))?;
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let separator = match separator {
                None | Some(V::None(_)) => None,
                Some(separator) => Some(str_arg(separator)?),
            };
            split(
                eval,
                text,
                separator.as_ref(),
                most,
                method == Method::Rsplit,
            )
        }
        Method::SplitLines => {
            let [keep] = args.bind(name, ["keepends"])?;
            let keep = keep.is_some_and(|keep| keep.truth());
            let lines = lines(eval, text, keep)?;
            lines.list(&mut eval.budget)
        }
        Method::Partition | Method::Rpartition => {
            let [separator] = args.bind(name, [""])?;
            let separator = str_arg(required(separator, name, "sep")?)?;
            if separator.len() == 0 {
                return Fault::value_error("empty separator");
            }
            let found = match method {
                Method::Partition => all.find(separator.as_str()),
                _ => all.rfind(separator.as_str()),
            };
            let parts = match found {
                Some(at) => {
                    let end = at.saturating_add(separator.len());
                    vec![
                        part(eval, text, 0..at)?,
                        part(eval, text, at..end)?,
                        part(eval, text, end..all.len())?,
                    ]
                }
                None => {
                    let (whole, empty) = (V::Str(text.clone()), || V::Str(own("")));
                    match method {
                        Method::Partition => vec![whole, empty(), empty()],
                        _ => vec![empty(), empty(), whole],
                    }
                }
            };
            V::tuple(parts, &mut eval.budget)
        }
        _ => {
            let [affix] = args.bind(name, [""])?;
            let affix = str_arg(required(affix, name, "affix")?)?;
            let range = match method {
                Method::RemovePrefix if all.starts_with(affix.as_str()) => affix.len()..all.len(),
                Method::RemoveSuffix if all.ends_with(affix.as_str()) => {
                    0..all.len().saturating_sub(affix.len())
                }
                _ => 0..all.len(),
            };
            part(eval, text, range)
        }
    }
}

fn part(eval: &mut Eval, text: &Str, range: Range<usize>) -> Result<V> {
    Ok(V::Str(text.slice(range, &mut eval.budget)?))
}

fn split(
    eval: &mut Eval,
    text: &Str,
    separator: Option<&Str>,
    most: usize,
    from_end: bool,
) -> Result<V> {
    let all = text.as_str();
    let mut items = Items::new(&mut eval.budget)?;
    match separator {
        Some(separator) if separator.len() == 0 => return Fault::value_error("empty separator"),
        Some(separator) if from_end => {
            let mut end = all.len();
            for (at, matched) in all.rmatch_indices(separator.as_str()).take(most) {
                let item = part(eval, text, at.saturating_add(matched.len())..end)?;
                items.push(item, &mut eval.budget)?;
                end = at;
            }
            let item = part(eval, text, 0..end)?;
            items.push(item, &mut eval.budget)?;
            items.reverse();
        }
        Some(separator) => {
            let mut start = 0;
            for (at, matched) in all.match_indices(separator.as_str()).take(most) {
                let item = part(eval, text, start..at)?;
                items.push(item, &mut eval.budget)?;
                start = at.saturating_add(matched.len());
            }
            let item = part(eval, text, start..all.len())?;
            items.push(item, &mut eval.budget)?;
        }
        None if from_end => {
            let mut rest = all.trim_end_matches(is_space);
            while !rest.is_empty() {
                // With the splits used up, what is at the front stays, white space and all.
                let start = match items.len() < most {
                    true => rest
                        .char_indices()
                        .rev()
                        .find(|(_, c)| is_space(*c))
                        .map_or(0, |(at, c)| at.saturating_add(c.len_utf8())),
                    false => 0,
                };
                let item = part(eval, text, start..rest.len())?;
                items.push(item, &mut eval.budget)?;
                rest = rest.get(..start).unwrap_or("").trim_end_matches(is_space);
            }
            items.reverse();
        }
        None => {
            let mut rest = all.trim_start_matches(is_space);
            while !rest.is_empty() {
                let start = all.len().saturating_sub(rest.len());
                let len = match items.len() < most {
                    true => rest.find(is_space).unwrap_or(rest.len()),
                    false => rest.len(),
                };
                let item = part(eval, text, start..start.saturating_add(len))?;
                items.push(item, &mut eval.budget)?;
                rest = rest.get(len..).unwrap_or("").trim_start_matches(is_space);
            }
        }
    }
    items.list(&mut eval.budget)
}

/// What `splitlines` takes for the end of a line.
pub(in super::super) fn breaks_line(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// `splitlines`.
pub(in super::super) fn lines(eval: &mut Eval, text: &Str, keep: bool) -> Result<Items> {
    let all = text.as_str();
    eval.budget.slow_bytes(all.len())?;
    let mut lines = Items::new(&mut eval.budget)?;
    let mut start = 0;
    let mut chars = all.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !breaks_line(c) {
            continue;
        }
        let mut end = at.saturating_add(c.len_utf8());
        if c == '\r' && chars.next_if(|(_, next)| *next == '\n').is_some() {
            end = end.saturating_add(1);
        }
        let until = if keep { end } else { at };
        let line = part(eval, text, start..until)?;
        lines.push(line, &mut eval.budget)?;
        start = end;
    }
    if start < all.len() {
        let line = part(eval, text, start..all.len())?;
        lines.push(line, &mut eval.budget)?;
    }
    Ok(lines)
}

/// `strip` on either side or both.
pub(in super::super) fn strip(
    eval: &mut Eval,
    text: &Str,
    chars: Option<&Str>,
    left: bool,
    right: bool,
) -> Result<V> {
    let all = text.as_str();
    eval.budget.bytes(all.len())?;
    let mut set = Vec::new();
    if let Some(chars) = chars {
        // They are sorted, which costs more than reading them.
        eval.budget.steps(chars.len())?;
        eval.budget.room(chars.len().saturating_mul(4))?;
        set.extend(chars.as_str().chars());
        set.sort_unstable();
    }
    let goes = |c: char| match chars {
        Some(_) => set.binary_search(&c).is_ok(),
        None => is_space(c),
    };
    let mut rest = all;
    if right {
        rest = rest.trim_end_matches(&goes);
    }
    let end = rest.len();
    if left {
        rest = rest.trim_start_matches(goes);
    }
    part(eval, text, end.saturating_sub(rest.len())..end)
}
