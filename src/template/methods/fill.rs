//! Padding.

use super::super::error::{Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::scan;
use super::super::string::{Builder, Str};
use super::super::value::V;
use super::{int_arg, own, str_arg, Method};

pub(super) fn call(eval: &mut Eval, text: &Str, method: Method, args: Arguments) -> Result<V> {
    let name = method.name();
    if method == Method::ExpandTabs {
        let [size] = args.bind(name, ["tabsize"])?;
        let size = size.map_or(Ok(8), |size| int_arg(&size))?;
        return expand_tabs(eval, text, usize::try_from(size).unwrap_or(0));
    }
    let [width, fill] = args.bind(name, ["", ""])?;
    let width = int_arg(&required(width, name, "width")?)?;
    if method == Method::Zfill {
        return zfill(eval, text, width);
    }
    let fill = match fill {
        Some(fill) => str_arg(fill)?,
        None => own(" "),
    };
    if fill.as_str().chars().nth(1).is_some() || fill.len() == 0 {
        return Fault::type_error("The fill character must be exactly one character long");
    }
    let missing = missing(eval, text, width)?;
    let (left, right) = match method {
        Method::Ljust => (0, missing),
        Method::Rjust => (missing, 0),
        _ => {
            // Python puts the odd one to the left where the width is odd.
            let odd = missing & usize::try_from(width).unwrap_or(0) & 1;
            let left = (missing / 2).saturating_add(odd);
            (left, missing.saturating_sub(left))
        }
    };
    Ok(V::Str(pad(eval, text, left, right, &fill)?))
}

fn missing(eval: &mut Eval, text: &Str, width: i64) -> Result<usize> {
    let width = usize::try_from(width).unwrap_or(0);
    Ok(width.saturating_sub(scan::count(text.as_str(), &mut eval.budget)?))
}

/// The text with so many fillers on either side; how many it takes is up to whoever wrote the text.
pub(in super::super) fn pad(
    eval: &mut Eval,
    text: &Str,
    left: usize,
    right: usize,
    fill: &Str,
) -> Result<Str> {
    let fillers = left.saturating_add(right).saturating_mul(fill.len());
    let mut out = Builder::new(&mut eval.budget)?;
    out.reserve(fillers.saturating_add(text.text().cost()), &mut eval.budget)?;
    let origin = fill.text().least_trusted().max(text.text().least_trusted());
    out.push_times(fill.as_str(), left, origin, &mut eval.budget)?;
    out.push_text(text.text(), &mut eval.budget)?;
    out.push_times(fill.as_str(), right, origin, &mut eval.budget)?;
    Ok(out.finish_as(text.markup()))
}

fn zfill(eval: &mut Eval, text: &Str, width: i64) -> Result<V> {
    let missing = missing(eval, text, width)?;
    let sign = usize::from(text.as_str().starts_with(['+', '-']));
    let mut out = Builder::new(&mut eval.budget)?;
    out.reserve(missing, &mut eval.budget)?;
    out.push_range(text.text(), 0..sign, &mut eval.budget)?;
    let origin = text.text().least_trusted();
    out.push_times("0", missing, origin, &mut eval.budget)?;
    out.push_range(text.text(), sign..text.len(), &mut eval.budget)?;
    Ok(V::Str(out.finish_as(text.markup())))
}

fn expand_tabs(eval: &mut Eval, text: &Str, size: usize) -> Result<V> {
    let mut out = Builder::new(&mut eval.budget)?;
    let mut column = 0usize;
    // How wide a tab is depends on what stands before it.
    let mut seen = text.text().most_trusted();
    for (piece, origin) in text.text().pieces() {
        seen = seen.max(origin);
        for c in piece.chars() {
            match c {
                '\t' => {
                    let rest = column.checked_rem(size).unwrap_or(0);
                    let width = size.saturating_sub(rest);
                    eval.budget.step()?;
                    out.push_times(" ", width, seen, &mut eval.budget)?;
                    column = column.saturating_add(width);
                }
                c => {
                    out.push_char(c, origin, &mut eval.budget)?;
                    column = match c {
                        '\n' | '\r' => 0,
                        _ => column.saturating_add(1),
                    };
                }
            }
        }
    }
    Ok(V::Str(out.finish_as(text.markup())))
}
