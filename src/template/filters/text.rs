//! Filters of text.

use super::super::dict::ViewKind;
use super::super::error::{Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::format::push_escaped;
use super::super::lexer::is_space;
use super::super::loops::collect;
use super::super::methods::{self, int_arg, str_arg};
use super::super::places::push_part;
use super::super::scan;
use super::super::string::{Builder, Origin, Str};
use super::super::value::V;
use super::Filter;

pub(super) fn apply(eval: &mut Eval, filter: Filter, value: V, args: Arguments) -> Result<V> {
    match filter {
        Filter::UrlEncode => {
            let [] = args.bind("urlencode", [])?;
            return url_encode(eval, &value);
        }
        Filter::Indent => return indent(eval, value, args),
        Filter::Truncate => return truncate(eval, value, args),
        Filter::XmlAttr => return xml_attr(eval, &value, args),
        _ => {}
    }
    let text = eval.str_of(&value)?;
    let done = match filter {
        Filter::Trim => {
            let [chars] = args.bind("trim", ["chars"])?;
            let chars = match chars {
                None | Some(V::None(_)) => None,
                Some(chars) => Some(str_arg(chars)?),
            };
            return methods::strip(eval, &text, chars.as_ref(), true, true);
        }
        Filter::Replace => {
            let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
            let old = eval.str_of(&required(old, "replace", "old")?)?;
            let new = eval.str_of(&required(new, "replace", "new")?)?;
            let count = match count {
                None | Some(V::None(_)) => -1,
                Some(count) => int_arg(&count)?,
            };
            let text = text.with_markup(false, &mut eval.budget)?;
            return methods::replace(eval, &text, &old, &new, count);
        }
        Filter::Format => {
            if !args.positional.is_empty() && !args.named.is_empty() {
                return Fault::type_error(
                    "can't handle positional and keyword arguments at the same time",
                );
            }
            return super::super::percent::format_filter(eval, &text, args);
        }
        Filter::Center => {
            let [width] = args.bind("center", ["width"])?;
            let width = width.unwrap_or(V::int(80));
            let args = Arguments {
                positional: vec![width],
                ..Arguments::default()
            };
            return methods::call(eval, V::Str(text), methods::Method::Center, args);
        }
        _ => {
            let [] = args.bind(filter.name(), [])?;
            match filter {
                Filter::String => text,
                Filter::Upper => methods::mapped(eval, &text, str::to_uppercase)?,
                Filter::Lower => methods::mapped(eval, &text, str::to_lowercase)?,
                Filter::Capitalize => methods::capitalized(eval, &text)?,
                Filter::Title => {
                    let splits = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
                    let upper = |c: char, out: &mut String| out.extend(c.to_uppercase());
                    methods::title(eval, &text, splits, upper)?
                        .with_markup(false, &mut eval.budget)?
                }
                Filter::Safe => text.with_markup(true, &mut eval.budget)?,
                Filter::Escape if text.markup() => text,
                Filter::Escape | Filter::ForceEscape => {
                    let mut out = Builder::new(&mut eval.budget)?;
                    push_escaped(&text, &mut out, &mut eval.budget)?;
                    out.finish_as(true)
                }
                _ => return word_count(eval, &text),
            }
        }
    };
    Ok(V::Str(done))
}

fn word_count(eval: &mut Eval, text: &Str) -> Result<V> {
    let (mut words, mut within) = (0usize, false);
    let count = |c: char| {
        let is_word = c == '_' || c.is_alphanumeric();
        words = words.saturating_add(usize::from(is_word && !within));
        within = is_word;
        false
    };
    scan::position(text.as_str(), count, &mut eval.budget)?;
    Ok(V::count(words))
}

fn indent(eval: &mut Eval, value: V, args: Arguments) -> Result<V> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    eval.checked(&value)?;
    let text = match value {
        V::Str(text) => text,
        other => {
            return Fault::type_error(format!(
                "unsupported operand type(s) for +=: '{}' and 'str'",
                other.type_name()
            ))
        }
    };
    let width = match width {
        Some(V::Str(width)) => width,
        width => {
            let width = width.map_or(Ok(4), |width| int_arg(&width))?;
            let width = usize::try_from(width).unwrap_or(0);
            let empty = methods::own("");
            methods::pad(eval, &empty, width, 0, &methods::own(" "))?
        }
    };
    let first = first.is_some_and(|first| first.truth());
    let blank = blank.is_some_and(|blank| blank.truth());
    let lines = methods::lines(eval, &text, true)?;
    // The line break that jinja2 adds makes a last line of an empty text or of a text that ends in one.
    let all = text.as_str();
    let extra = all.is_empty() || lines_end(all);
    let mut out = Builder::new(&mut eval.budget)?;
    if first {
        out.push_text(width.text(), &mut eval.budget)?;
    }
    let empty = V::Str(methods::own(""));
    let all_lines = lines.as_slice().iter().chain(extra.then_some(&empty));
    // Whoever broke the line before decided on what stands at the start of this one.
    let mut broken = None;
    for line in all_lines {
        let V::Str(line) = line else {
            continue;
        };
        let len = line_len(line.as_str());
        if let Some(origin) = broken {
            let before = out.raise(origin);
            out.push("\n", origin, &mut eval.budget)?;
            if blank || len > 0 {
                out.push_text(width.text(), &mut eval.budget)?;
            }
            out.sink(before);
        }
        out.push_range(line.text(), 0..len, &mut eval.budget)?;
        broken = Some(line.text().least_trusted_in(len..line.len()));
    }
    Ok(V::Str(out.finish_as(text.markup())))
}

/// The bytes of a line without what breaks it.
fn line_len(line: &str) -> usize {
    let text = line.strip_suffix("\r\n");
    let text = text.or_else(|| line.strip_suffix(methods::breaks_line));
    text.unwrap_or(line).len()
}

/// Whether the text ends in what `splitlines` takes for a line break, after which one more counts.
fn lines_end(text: &str) -> bool {
    text.ends_with(|c| c != '\r' && methods::breaks_line(c))
}

fn truncate(eval: &mut Eval, value: V, args: Arguments) -> Result<V> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, kill, end, leeway] = args.bind("truncate", names)?;
    let length = length.map_or(Ok(255), |length| int_arg(&length))?;
    let leeway = match leeway {
        None | Some(V::None(_)) => 5,
        Some(leeway) => int_arg(&leeway)?,
    };
    let end = match end {
        None => methods::own("..."),
        Some(end) => str_arg(end)?,
    };
    let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let end_len = whole(scan::count(end.as_str(), &mut eval.budget)?);
    if length < end_len {
        return Fault::value_error(format!("expected length >= {end_len}, got {length}"));
    }
    if leeway < 0 {
        return Fault::value_error(format!("expected leeway >= 0, got {leeway}"));
    }
    // Nothing of it is too long.
    if value.is_undefined() {
        return Ok(value);
    }
    let text = str_arg(value)?;
    let all = text.as_str();
    let most = length.saturating_add(leeway);
    if whole(scan::count(all, &mut eval.budget)?) <= most {
        return Ok(V::Str(text));
    }
    let kept = usize::try_from(length.saturating_sub(end_len)).unwrap_or(0);
    let mut cut = scan::place(all, kept, &mut eval.budget)?;
    if !kill.is_some_and(|kill| kill.truth()) {
        let space = all.get(..cut).and_then(|head| head.rfind(' '));
        cut = space.unwrap_or(cut);
    }
    let mut out = Builder::new(&mut eval.budget)?;
    let bounds = (None, i64::try_from(kept).ok());
    push_part(&mut out, text.text(), 0..cut, bounds, &mut eval.budget)?;
    // It is there because the text is so long.
    out.raise(text.text().least_trusted());
    out.push_text(end.text(), &mut eval.budget)?;
    Ok(V::Str(out.finish_as(text.markup())))
}

fn url_encode(eval: &mut Eval, value: &V) -> Result<V> {
    let mut out = Builder::new(&mut eval.budget)?;
    let pairs = match value {
        V::Str(_)
        | V::Undefined { .. }
        | V::None(_)
        | V::Bool(..)
        | V::Int(..)
        | V::Float(..)
        | V::Big(..)
        | V::Object(_) => {
            let text = eval.str_of(value)?;
            quote(eval, &text, false, &mut out)?;
            return Ok(V::Str(out.finish()));
        }
        V::Dict(dict, shape) => V::view(ViewKind::Items, dict.clone(), *shape, &mut eval.budget)?,
        other => other.clone(),
    };
    out.raise(value.shape());
    let pairs = collect(&pairs, &mut eval.budget)?;
    for (at, pair) in pairs.as_slice().iter().enumerate() {
        let pair = collect(pair, &mut eval.budget)?;
        let [key, value] = pair.as_slice() else {
            return Fault::value_error("not enough or too many values to unpack (expected 2)");
        };
        if at > 0 {
            out.push("&", Origin::Template, &mut eval.budget)?;
        }
        let key = eval.str_of(key)?;
        quote(eval, &key, true, &mut out)?;
        out.push("=", Origin::Template, &mut eval.budget)?;
        let value = eval.str_of(value)?;
        quote(eval, &value, true, &mut out)?;
    }
    Ok(V::Str(out.finish()))
}

fn quote(eval: &mut Eval, text: &Str, query: bool, out: &mut Builder) -> Result<()> {
    super::super::format::push_mapped(text, out, &mut eval.budget, |c| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' | '~' => None,
        '/' if !query => None,
        ' ' if query => Some("+".to_string()),
        c => {
            let mut quoted = String::with_capacity(12);
            let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let (high, low) = (digit(byte >> 4), digit(byte & 15));
                quoted.extend(['%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
            }
            Some(quoted)
        }
    })
}

fn xml_attr(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [space] = args.bind("xmlattr", ["autospace"])?;
    let space = space.is_none_or(|space| space.truth());
    eval.checked(value)?;
    let V::Dict(dict, shape) = value else {
        return Fault::type_error(format!(
            "'{}' object has no attribute 'items'",
            value.type_name()
        ));
    };
    let mut out = Builder::new(&mut eval.budget)?;
    out.raise(*shape);
    let mut any = false;
    for (key, value) in &dict.entries {
        // What there is of this attribute, and the space before the next, is up to the value.
        out.raise(value.least_trusted());
        if matches!(value, V::None(_) | V::Undefined { .. }) {
            continue;
        }
        let key = str_arg(key.clone())?;
        let bad = |c: char| c.is_ascii_whitespace() || matches!(c, '\u{b}' | '/' | '>' | '=');
        if scan::position(key.as_str(), bad, &mut eval.budget)?.is_some() {
            return Fault::value_error("Invalid character in attribute name");
        }
        if any || space {
            out.push(" ", Origin::Template, &mut eval.budget)?;
        }
        any = true;
        let value = eval.str_of(value)?;
        push_escaped(&key, &mut out, &mut eval.budget)?;
        out.push("=\"", Origin::Template, &mut eval.budget)?;
        match value.markup() {
            true => out.push_text(value.text(), &mut eval.budget)?,
            false => push_escaped(&value, &mut out, &mut eval.budget)?,
        }
        out.push("\"", Origin::Template, &mut eval.budget)?;
    }
    Ok(V::Str(out.finish()))
}
