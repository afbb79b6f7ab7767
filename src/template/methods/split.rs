//! Cutting strings up; the pieces keep the origins of their characters.

use std::ops::Range;

use super::super::budget::Budget;
use super::super::error::{Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::lexer::is_space;
use super::super::scan;
use super::super::string::Str;
use super::super::value::{Items, V};
use super::{int_arg, own, str_arg, Method};

pub(super) fn call(eval: &mut Eval, text: &Str, method: Method, args: Arguments) -> Result<V> {
    let name = method.name();
    let all = text.as_str();
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
            let mut found = None;
            let first = |at, _: &mut Budget| {
                found = Some(at);
                Ok(false)
            };
            let (budget, part_of) = (&mut eval.budget, separator.as_str());
            match method {
                Method::Partition => scan::matches(all, part_of, budget, first)?,
                _ => scan::matches_from_end(all, part_of, budget, first)?,
            }
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
            eval.budget.bytes(affix.len())?;
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
        Some(_) if most == 0 => items.push(V::Str(text.clone()), &mut eval.budget)?,
        Some(separator) if from_end => {
            let mut end = all.len();
            let each = |at: usize, budget: &mut Budget| {
                let item = text.slice(at.saturating_add(separator.len())..end, budget)?;
                items.push(V::Str(item), budget)?;
                end = at;
                Ok(items.len() < most)
            };
            scan::matches_from_end(all, separator.as_str(), &mut eval.budget, each)?;
            let item = part(eval, text, 0..end)?;
            items.push(item, &mut eval.budget)?;
            items.reverse();
        }
        Some(separator) => {
            let mut start = 0;
            let each = |at: usize, budget: &mut Budget| {
                items.push(V::Str(text.slice(start..at, budget)?), budget)?;
                start = at.saturating_add(separator.len());
                Ok(items.len() < most)
            };
            scan::matches(all, separator.as_str(), &mut eval.budget, each)?;
            let item = part(eval, text, start..all.len())?;
            items.push(item, &mut eval.budget)?;
        }
        None if from_end => {
            let mut rest = trimmed_end(all, eval)?;
            while !rest.is_empty() {
                // With the splits used up, what is at the front stays, white space and all.
                let start = match items.len() < most {
                    true => scan::end_of_last(rest, is_space, &mut eval.budget)?.unwrap_or(0),
                    false => 0,
                };
                let item = part(eval, text, start..rest.len())?;
                items.push(item, &mut eval.budget)?;
                rest = trimmed_end(rest.get(..start).unwrap_or(""), eval)?;
            }
            items.reverse();
        }
        None => {
            let mut rest = trimmed_start(all, eval)?;
            while !rest.is_empty() {
                let start = all.len().saturating_sub(rest.len());
                let space = match items.len() < most {
                    true => scan::position(rest, is_space, &mut eval.budget)?,
                    false => None,
                };
                let len = space.unwrap_or(rest.len());
                let item = part(eval, text, start..start.saturating_add(len))?;
                items.push(item, &mut eval.budget)?;
                rest = trimmed_start(rest.get(len..).unwrap_or(""), eval)?;
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

fn trimmed_start<'a>(text: &'a str, eval: &mut Eval) -> Result<&'a str> {
    let start = scan::position(text, |c| !is_space(c), &mut eval.budget)?;
    Ok(start.and_then(|start| text.get(start..)).unwrap_or(""))
}

fn trimmed_end<'a>(text: &'a str, eval: &mut Eval) -> Result<&'a str> {
    let end = scan::end_of_last(text, |c| !is_space(c), &mut eval.budget)?;
    Ok(text.get(..end.unwrap_or(0)).unwrap_or(""))
}

/// `splitlines`.
pub(in super::super) fn lines(eval: &mut Eval, text: &Str, keep: bool) -> Result<Items> {
    let all = text.as_str();
    let mut lines = Items::new(&mut eval.budget)?;
    let mut start = 0;
    while start < all.len() {
        let rest = all.get(start..).unwrap_or("");
        let found = scan::position(rest, breaks_line, &mut eval.budget)?;
        let at = found.unwrap_or(rest.len());
        let broken = rest.get(at..).unwrap_or("");
        let len = match broken.starts_with("\r\n") {
            true => 2,
            false => broken.chars().next().map_or(0, char::len_utf8),
        };
        let end = at.saturating_add(len);
        let until = start.saturating_add(if keep { end } else { at });
        let line = part(eval, text, start..until)?;
        lines.push(line, &mut eval.budget)?;
        start = start.saturating_add(end);
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
    let budget = &mut eval.budget;
    let mut set = Vec::new();
    for piece in chars
        .map(|chars| scan::pieces(chars.as_str()))
        .into_iter()
        .flatten()
    {
        // They are sorted, which costs more than reading them; of a kind, one stays.
        budget.steps(piece.len().saturating_add(set.len() >> 3))?;
        budget.room(set.len().saturating_add(piece.len()).saturating_mul(8))?;
        set.extend(piece.chars());
        set.sort();
        set.dedup();
    }
    let stays = |c: char| match chars {
        Some(_) => set.binary_search(&c).is_err(),
        None => !is_space(c),
    };
    let end = match right {
        true => scan::end_of_last(all, stays, budget)?.unwrap_or(0),
        false => all.len(),
    };
    let kept = all.get(..end).unwrap_or("");
    let start = match left {
        true => scan::position(kept, stays, budget)?.unwrap_or(end),
        false => 0,
    };
    if chars.is_some() {
        let looked_up = all.len().saturating_sub(end).saturating_add(start);
        budget.steps(looked_up >> 2)?;
    }
    part(eval, text, start..end)
}
