//! Finding and replacing.

use super::super::attributes::Slice;
use super::super::budget::Budget;
use super::super::error::{Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::scan;
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
    let all = text.as_str();
    let budget = &mut eval.budget;
    // Places are counted in characters.
    let (from, within) = match (start, stop) {
        (None, None) => (0, Some(all)),
        (start, stop) => {
            let count = scan::count(all, budget)?;
            let slice = Slice::new(start, stop, 1, count);
            let first = slice.first_place();
            let begin = scan::place(all, first, budget)?;
            let rest = all.get(begin..).unwrap_or("");
            let len = scan::place(rest, slice.len(), budget)?;
            let beyond = start.is_some_and(|at| usize::try_from(at).is_ok_and(|at| at > count));
            (first, rest.get(..len).filter(|_| !beyond))
        }
    };
    if matches!(method, Method::StartsWith | Method::EndsWith) {
        return affix(eval, within, method, part);
    }
    let part = str_arg(part)?;
    let within_all = within.unwrap_or("");
    let (mut count, mut found) = (0usize, None);
    if within.is_some() {
        let mut each = |at, _: &mut Budget| {
            count = count.saturating_add(1);
            found = Some(at);
            Ok(method == Method::Count)
        };
        match method {
            Method::Rfind | Method::Rindex => {
                scan::matches_from_end(within_all, part.as_str(), budget, &mut each)?;
            }
            _ => scan::matches(within_all, part.as_str(), budget, &mut each)?,
        }
    }
    if method == Method::Count {
        return Ok(V::count(count));
    }
    match found {
        Some(at) => {
            let before = within_all.get(..at).unwrap_or("");
            let chars = scan::count(before, budget)?;
            Ok(V::count(chars.saturating_add(from)))
        }
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
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 {
        return Ok(V::Str(text.clone()));
    }
    let mut out: Option<Builder> = None;
    let (mut done, mut replaced) = (0, 0usize);
    let each = |at: usize, budget: &mut Budget| {
        let out = match &mut out {
            Some(out) => out,
            None => out.insert(Builder::new(budget)?),
        };
        out.push_range(text.text(), done..at, budget)?;
        // It stands for what it replaces.
        let end = at.saturating_add(old.len());
        let before = out.raise(match end > at {
            true => text.text().least_trusted_in(at..end),
            false => text.text().least_trusted(),
        });
        out.push_text(new.text(), budget)?;
        out.sink(before);
        done = end;
        replaced = replaced.saturating_add(1);
        Ok(replaced < count)
    };
    scan::matches(all, old.as_str(), &mut eval.budget, each)?;
    let Some(mut out) = out else {
        return Ok(V::Str(text.clone()));
    };
    out.push_range(text.text(), done..all.len(), &mut eval.budget)?;
    Ok(V::Str(out.finish_as(text.markup())))
}
