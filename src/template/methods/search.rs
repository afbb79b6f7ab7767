//! Finding and replacing.

use super::super::attributes::Slice;
use super::super::error::{Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::string::{Builder, Str};
use super::super::value::V;
use super::{int_arg, str_arg, Method};

pub(super) fn call(eval: &mut Eval, text: &Str, method: Method, args: Arguments) -> Result<V> {
    let name = method.name();
    let [part, start, stop] = args.bind(name, ["", "", ""])?;
    let part = required(part, name, "sub")?;
    let bound = |bound: Option<V>| match bound {
        None | Some(V::None(_)) => Ok(None),
        Some(bound) => int_arg(&bound).map(Some),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    eval.budget.slow_bytes(text.len())?;
    let all = text.as_str();
    // Places are counted in characters.
    let (from, within) = match (start, stop) {
        (None, None) => (0, Some(all)),
        (start, stop) => {
            let count = all.chars().count();
            let slice = Slice::new(start, stop, 1, count);
            let len = slice.len();
            let first = slice.first_place();
            let byte = |at: usize| all.char_indices().nth(at).map_or(all.len(), |(at, _)| at);
            let end = byte(first.saturating_add(len));
            let beyond = start.is_some_and(|at| usize::try_from(at).is_ok_and(|at| at > count));
            let within = all.get(byte(first)..end.max(byte(first)));
            (first, within.filter(|_| !beyond))
        }
    };
    if matches!(method, Method::StartsWith | Method::EndsWith) {
        return affix(eval, within, method, part);
    }
    let part = str_arg(part)?;
    eval.budget.slow_bytes(part.len())?;
    let part = part.as_str();
    if method == Method::Count {
        let count = within.map_or(0, |within| within.matches(part).count());
        return Ok(V::count(count));
    }
    let found = within.and_then(|within| {
        let at = match method {
            Method::Find | Method::Index => within.find(part),
            _ => within.rfind(part),
        }?;
        let chars = within.get(..at)?.chars().count();
        i64::try_from(chars.saturating_add(from)).ok()
    });
    match found {
        Some(at) => Ok(V::int(at)),
        None if matches!(method, Method::Index | Method::Rindex) => {
            Fault::value_error("substring not found")
        }
        None => Ok(V::int(-1)),
    }
}

fn affix(eval: &mut Eval, within: Option<&str>, method: Method, part: V) -> Result<V> {
    let mut matches = |part: &V| match part {
        V::Str(part) => {
            eval.budget.bytes(part.len())?;
            Ok(within.is_some_and(|within| match method {
                Method::StartsWith => within.starts_with(part.as_str()),
                _ => within.ends_with(part.as_str()),
            }))
        }
        other => Fault::type_error(format!(
            "{} first arg must be str or a tuple of str, not {}",
            method.name(),
            other.type_name()
        )),
    };
    match &part {
        V::Tuple(parts, _) => {
            for part in &parts.items {
                if matches(part)? {
                    return Ok(V::bool(true));
                }
            }
            Ok(V::bool(false))
        }
        part => Ok(V::bool(matches(part)?)),
    }
}

/// Replaces the first so many, or all where negative.
pub(in super::super) fn replace(
    eval: &mut Eval,
    text: &Str,
    old: &Str,
    new: &Str,
    count: i64,
) -> Result<V> {
    let all = text.as_str();
    eval.budget
        .slow_bytes(all.len().saturating_add(old.len()))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = all.match_indices(old.as_str()).take(count);
    let mut out: Option<Builder> = None;
    let mut done = 0;
    for (at, matched) in found {
        let out = match &mut out {
            Some(out) => out,
            None => out.insert(Builder::new(&mut eval.budget)?),
        };
        out.push_range(text.text(), done..at, &mut eval.budget)?;
        // It stands for what it replaces.
        let end = at.saturating_add(matched.len());
        let before = out.raise(match end > at {
            true => text.text().least_trusted_in(at..end),
            false => text.text().least_trusted(),
        });
        out.push_text(new.text(), &mut eval.budget)?;
        out.sink(before);
        done = end;
    }
    let Some(mut out) = out else {
        return Ok(V::Str(text.clone()));
    };
    out.push_range(text.text(), done..all.len(), &mut eval.budget)?;
    Ok(V::Str(out.finish_as(text.markup())))
}
