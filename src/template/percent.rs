//! `text % values` and `text.format(…)`. What is formatted keeps its origins, and nothing in a field is more trusted
//! than what decided on it: the field's own characters, and the widths and specifications that are values.

use std::ops::Range;

use super::attributes;
use super::dict::Dict;
use super::error::{ErrorKind, Fault, Result};
use super::eval::Eval;
use super::expression::Arguments;
use super::methods::{self, int_arg, missing_key};
use super::operators::{self, Number};
use super::scan;
use super::spec::{self, Spec};
use super::string::{Builder, Origin, Str, Text};
use super::value::*;

/// `format % right`.
pub(super) fn format(eval: &mut Eval, format: &Str, right: V) -> Result<V> {
    let mapping = match &right {
        V::Dict(dict, _) => Some(dict.clone()),
        _ => None,
    };
    // Which values there are.
    let shape = match &right {
        V::Dict(_, shape) | V::Tuple(_, shape) => *shape,
        _ => Origin::Template,
    };
    // What has items by index or key may be left over.
    let subscripted = matches!(
        right,
        V::Dict(..) | V::List(..) | V::Range(..) | V::Undefined { .. }
    );
    let values = match right {
        V::Tuple(tuple, _) => {
            let count = tuple.items.len();
            eval.budget.room(count.saturating_mul(ITEM_BYTES))?;
            eval.budget.steps(count)?;
            tuple.items.clone()
        }
        other => vec![other],
    };
    printf(eval, format, (values, shape), mapping, subscripted)
}

/// The filter `format`: all positional arguments, or all named ones.
pub(super) fn format_filter(eval: &mut Eval, text: &Str, args: Arguments) -> Result<V> {
    if args.named.is_empty() {
        let values = (args.positional, Origin::Template);
        return printf(eval, text, values, None, false);
    }
    let mut dict = Dict::new(&mut eval.budget)?;
    for (name, value) in args.named {
        dict.insert(V::Str(name), value, &mut eval.budget)?;
    }
    let shape = dict.keys;
    let dict = std::sync::Arc::new(dict);
    let values = (vec![V::Dict(dict.clone(), shape)], shape);
    printf(eval, text, values, Some(dict), true)
}

/// A reader of a format: its characters and where they are.
struct Reader<'a> {
    text: &'a Text,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.as_str().get(self.at..self.end).unwrap_or("")
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at = self.at.saturating_add(c.len_utf8());
        Some(c)
    }

    fn skip(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.next();
        }
        found
    }

    fn digits(&mut self) -> Result<Option<usize>> {
        let rest = self.rest();
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 {
            return Ok(None);
        }
        self.at = self.at.saturating_add(len);
        match rest.get(..len).unwrap_or("").parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Fault::value_error("width or precision too big"),
        }
    }
}

fn printf(
    eval: &mut Eval,
    format: &Str,
    (values, shape): (Vec<V>, Origin),
    mapping: Option<std::sync::Arc<Dict>>,
    subscripted: bool,
) -> Result<V> {
    // Whatever comes earlier in the format decides which value is left for a field.
    let mut seen = shape;
    let mut values = values.into_iter();
    let mut reader = Reader {
        text: format.text(),
        at: 0,
        end: format.len(),
    };
    let mut out = Builder::new(&mut eval.budget)?;
    loop {
        let start = reader.at;
        eval.budget.step()?;
        let Some(found) = reader.rest().find('%') else {
            out.push_range(format.text(), start..format.len(), &mut eval.budget)?;
            break;
        };
        let percent = start.saturating_add(found);
        out.push_range(format.text(), start..percent, &mut eval.budget)?;
        reader.at = percent.saturating_add(1);
        let mut from_mapping = None;
        if reader.skip('(') {
            let Some(mapping) = &mapping else {
                return Fault::type_error("format requires a mapping");
            };
            let Some(end) = reader.rest().find(')') else {
                return Fault::value_error("incomplete format key");
            };
            let name = reader.rest().get(..end).unwrap_or("");
            match mapping.get_str(name, &mut eval.budget)? {
                Some(value) => from_mapping = Some(value.clone()),
                None => return missing_key(eval, &V::Str(methods::own(name))),
            }
            reader.at = reader.at.saturating_add(end).saturating_add(1);
        }
        let mut next = |from_mapping: Option<V>| match from_mapping.or_else(|| values.next()) {
            Some(value) => Ok(value),
            None => Fault::type_error("not enough arguments for format string"),
        };
        let mut spec = Spec::default();
        while let Some(flag) = reader.rest().chars().next() {
            eval.budget.step()?;
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = '+',
                ' ' if spec.sign != '+' => spec.sign = ' ',
                ' ' => {}
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => break,
            }
            reader.next();
        }
        if reader.skip('*') {
            let width = next(None)?;
            seen = seen.max(width.shape());
            let width = int_arg(&width)?;
            if width < 0 {
                spec.align = Some('<');
            }
            spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        } else if let Some(width) = reader.digits()? {
            spec.width = width;
        }
        if reader.skip('.') {
            spec.precision = Some(match reader.skip('*') {
                true => {
                    let precision = next(None)?;
                    seen = seen.max(precision.shape());
                    usize::try_from(int_arg(&precision)?).unwrap_or(0)
                }
                false => reader.digits()?.unwrap_or(0),
            });
        }
        while reader.skip('l') || reader.skip('h') || reader.skip('L') {
            eval.budget.step()?;
        }
        let Some(kind) = reader.next() else {
            return Fault::value_error("incomplete format");
        };
        seen = seen.max(format.text().least_trusted_in(start..reader.at));
        let before = out.raise(seen);
        if kind == '%' {
            out.push("%", seen, &mut eval.budget)?;
        } else {
            let value = next(from_mapping)?;
            convert(eval, spec, kind, &value, &mut out)?;
        }
        out.sink(before);
    }
    if values.next().is_some() && !subscripted {
        return Fault::type_error("not all arguments converted during string formatting");
    }
    Ok(V::Str(out.finish_as(format.markup())))
}

/// One conversion of a `%` format.
fn convert(
    eval: &mut Eval,
    mut spec: Spec,
    kind: char,
    value: &V,
    out: &mut Builder,
) -> Result<()> {
    spec.kind = kind;
    if spec.align == Some('<') {
        spec.zero = false;
    }
    let align = spec.align.unwrap_or('>');
    let text = match kind {
        's' => eval.str_of(value)?,
        'r' => eval.repr_of(value)?,
        'a' => {
            let text = eval.repr_of(value)?;
            ascii(eval, &text)?
        }
        'c' => match value {
            V::Str(text) if text.len() <= 4 && text.as_str().chars().count() == 1 => text.clone(),
            value => character(eval, value)?,
        },
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let number = operators::number(value);
            let whole = match (kind, number) {
                ('d' | 'i' | 'u', Some(Number::Float(float))) => {
                    spec::whole(float, &mut eval.budget)?
                }
                (_, Some(Number::Int(int))) => num_bigint::BigInt::from(int),
                (_, Some(Number::Big(int))) => int.value.clone(),
                ('d' | 'i' | 'u', _) => {
                    eval.checked(value)?;
                    return Fault::type_error(format!(
                        "%{kind} format: a real number is required, not {}",
                        value.type_name()
                    ));
                }
                _ => {
                    eval.checked(value)?;
                    return Fault::type_error(format!(
                        "%{kind} format: an integer is required, not {}",
                        value.type_name()
                    ));
                }
            };
            if matches!(kind, 'i' | 'u') {
                spec.kind = 'd';
            }
            return spec::integer(eval, &whole, &spec, value.shape(), out);
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            eval.checked(value)?;
            let float = match operators::number(value) {
                Some(Number::Int(int)) => int as f64,
                Some(Number::Float(float)) => float,
                Some(Number::Big(big)) => super::dict::float_of(&big),
                None => {
                    return Fault::type_error(format!(
                        "must be real number, not {}",
                        value.type_name()
                    ))
                }
            };
            spec.precision.get_or_insert(6);
            return spec::float(eval, float, &spec, value.shape(), out);
        }
        other => {
            return Fault::value_error(format!("unsupported format character '{other}'"));
        }
    };
    let precision = if kind == 'c' { None } else { spec.precision };
    padded(eval, &text, precision, spec.width, align, ' ', out)
}

/// A character by its number: nobody the template trusts wrote it.
fn character(eval: &mut Eval, value: &V) -> Result<Str> {
    let Some(Number::Int(code)) = operators::number(value) else {
        return Fault::type_error("%c requires int or char");
    };
    let Some(c) = u32::try_from(code).ok().and_then(char::from_u32) else {
        return Fault::new(ErrorKind::Overflow, "%c arg not in range(0x110000)");
    };
    let mut out = Builder::new(&mut eval.budget)?;
    out.push_char(c, Origin::Content, &mut eval.budget)?;
    Ok(out.finish())
}

fn ascii(eval: &mut Eval, text: &Str) -> Result<Str> {
    let mut out = Builder::new(&mut eval.budget)?;
    super::format::push_mapped(text, &mut out, &mut eval.budget, |c| match c as u32 {
        ..=0x7f => None,
        code @ ..=0xff => Some(format!("\\x{code:02x}")),
        code @ ..=0xffff => Some(format!("\\u{code:04x}")),
        code => Some(format!("\\U{code:08x}")),
    })?;
    Ok(out.finish())
}

/// A text cut to a number of characters and brought to a width. How much that takes is up to whoever wrote the text.
fn padded(
    eval: &mut Eval,
    text: &Str,
    precision: Option<usize>,
    width: usize,
    align: char,
    fill: char,
    out: &mut Builder,
) -> Result<()> {
    let all = text.as_str();
    let origin = text.text().least_trusted();
    let end = match precision {
        Some(most) => scan::place(all, most, &mut eval.budget)?,
        None => all.len(),
    };
    let count = match width {
        0 => 0,
        _ => scan::count(all.get(..end).unwrap_or(""), &mut eval.budget)?,
    };
    let missing = width.saturating_sub(count);
    let left = match align {
        '>' => missing,
        '^' => missing / 2,
        _ => 0,
    };
    spec::fill(eval, fill, left, origin, out)?;
    out.push_range(text.text(), 0..end, &mut eval.budget)?;
    spec::fill(eval, fill, missing.saturating_sub(left), origin, out)
}

/// `text.format(…)`.
pub(super) fn str_format(eval: &mut Eval, format: &Str, args: Arguments) -> Result<V> {
    let mut named = Dict::new(&mut eval.budget)?;
    for (name, value) in args.named {
        named.insert(V::Str(name), value, &mut eval.budget)?;
    }
    let named = (std::sync::Arc::new(named), Origin::Template);
    write_fields(eval, format, args.positional, named)
}

pub(super) fn str_format_map(eval: &mut Eval, format: &Str, mapping: V) -> Result<V> {
    let V::Dict(dict, shape) = mapping else {
        return Fault::type_error("format_map() takes a mapping");
    };
    write_fields(eval, format, Vec::new(), (dict, shape))
}

fn write_fields(
    eval: &mut Eval,
    format: &Str,
    positional: Vec<V>,
    named: (std::sync::Arc<Dict>, Origin),
) -> Result<V> {
    let mut out = Builder::new(&mut eval.budget)?;
    let mut fields = Fields {
        positional,
        named,
        next: Some(0),
        seen: Origin::Template,
    };
    let all = 0..format.len();
    fields.write(eval, format.text(), all, 0, &mut out)?;
    Ok(V::Str(out.finish_as(format.markup())))
}

struct Fields {
    positional: Vec<V>,
    /// With who decided which there are.
    named: (std::sync::Arc<Dict>, Origin),
    /// The next field without a number; `None` once one had a number.
    next: Option<usize>,
    /// The least trusted origin of the format so far: it decides which value is the next.
    seen: Origin,
}

impl Fields {
    /// Writes a format, whose specifications may hold fields of their own, one level deep.
    fn write(
        &mut self,
        eval: &mut Eval,
        format: &Text,
        range: Range<usize>,
        level: usize,
        out: &mut Builder,
    ) -> Result<()> {
        let mut reader = Reader {
            text: format,
            at: range.start,
            end: range.end,
        };
        loop {
            let start = reader.at;
            let is_brace = |c| matches!(c, '{' | '}');
            let Some(found) = scan::position(reader.rest(), is_brace, &mut eval.budget)? else {
                return out.push_range(format, start..range.end, &mut eval.budget);
            };
            let brace = start.saturating_add(found);
            out.push_range(format, start..brace, &mut eval.budget)?;
            self.seen = self.seen.max(format.least_trusted_in(start..brace));
            reader.at = brace;
            match (reader.next(), reader.rest().chars().next()) {
                (Some('{'), Some('{')) | (Some('}'), Some('}')) => {
                    let one = brace..brace.saturating_add(1);
                    out.push_range(format, one, &mut eval.budget)?;
                    reader.next();
                }
                (Some('{'), None) => {
                    return Fault::value_error("Single '{' encountered in format string")
                }
                (Some('{'), _) => self.field(eval, &mut reader, level, out)?,
                _ => return Fault::value_error("Single '}' encountered in format string"),
            }
        }
    }

    fn field(
        &mut self,
        eval: &mut Eval,
        reader: &mut Reader,
        level: usize,
        out: &mut Builder,
    ) -> Result<()> {
        if level > 1 {
            return Fault::value_error("Max string recursion exceeded");
        }
        let rest = reader.rest();
        let mut open = 1usize;
        let mut bracket = false;
        let closes = |c| {
            match c {
                '[' => bracket = true,
                ']' => bracket = false,
                '{' if !bracket => open = open.saturating_add(1),
                '}' if !bracket => open = open.saturating_sub(1),
                _ => {}
            }
            open == 0
        };
        let Some(end) = scan::position(rest, closes, &mut eval.budget)? else {
            return Fault::value_error("expected '}' before end of string");
        };
        let field = rest.get(..end).unwrap_or("");
        let body = reader.at;
        reader.at = body.saturating_add(end).saturating_add(1);
        let braces = body.saturating_sub(1)..reader.at;
        let mut origin = reader.text.least_trusted_in(braces);
        self.seen = self.seen.max(origin);
        let name_len = field.find(['!', ':']).unwrap_or(field.len());
        let (name, tail) = field.split_at_checked(name_len).unwrap_or((field, ""));
        let (conversion, spec_text) = match tail.strip_prefix('!') {
            Some(tail) => {
                let conversion = tail.chars().next();
                let after = tail.get(conversion.map_or(0, char::len_utf8)..);
                (conversion, after.unwrap_or(""))
            }
            None => (None, tail),
        };
        if name.is_empty() || name.starts_with(['.', '[']) {
            origin = self.seen;
        }
        let mut value = self.value(eval, name)?;
        value = match conversion {
            None => value,
            Some('s') => V::Str(eval.str_of(&value)?),
            Some('r') => V::Str(eval.repr_of(&value)?),
            Some('a') => {
                let text = eval.repr_of(&value)?;
                V::Str(ascii(eval, &text)?)
            }
            Some(other) => {
                return Fault::value_error(format!("Unknown conversion specifier {other}"))
            }
        };
        let mut spec = Builder::new(&mut eval.budget)?;
        if let Some(text) = spec_text.strip_prefix(':') {
            let end = body.saturating_add(end);
            let text = end.saturating_sub(text.len())..end;
            self.write(eval, reader.text, text, level.saturating_add(1), &mut spec)?;
        }
        let spec = spec.into_text();
        let before = out.raise(origin.max(spec.least_trusted()));
        formatted(eval, &value, &Spec::parse(spec.as_str())?, out)?;
        out.sink(before);
        Ok(())
    }

    /// `name.attribute[item]`.
    fn value(&mut self, eval: &mut Eval, name: &str) -> Result<V> {
        let first_len = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at_checked(first_len).unwrap_or((name, ""));
        let mut value = if first.is_empty() || first.bytes().all(|b| b.is_ascii_digit()) {
            let at = match (first.is_empty(), self.next) {
                (true, Some(next)) => {
                    self.next = next.checked_add(1);
                    next
                }
                (true, None) => return Fault::value_error(
                    "cannot switch from manual field specification to automatic field numbering",
                ),
                (false, next) => {
                    if next.is_some_and(|next| next > 0) {
                        return Fault::value_error(
                            "cannot switch from manual field specification to automatic field numbering",
                        );
                    }
                    self.next = None;
                    first.parse().unwrap_or(usize::MAX)
                }
            };
            match self.positional.get(at) {
                Some(value) => value.clone(),
                None => {
                    return Fault::new(
                        ErrorKind::Index,
                        format!("Replacement index {at} out of range for positional args tuple"),
                    )
                }
            }
        } else {
            let (dict, shape) = &self.named;
            match dict.get_str(first, &mut eval.budget)? {
                Some(value) => value.clone().painted(*shape, &mut eval.budget)?,
                None => return missing_key(eval, &V::Str(methods::own(first))),
            }
        };
        while let Some(c) = rest.chars().next() {
            eval.budget.step()?;
            let (key, after, is_item) = match c {
                '.' => {
                    let inner = rest.get(1..).unwrap_or("");
                    let len = inner.find(['.', '[']).unwrap_or(inner.len());
                    (inner.get(..len), inner.get(len..), false)
                }
                '[' => {
                    let inner = rest.get(1..).unwrap_or("");
                    let Some(len) = inner.find(']') else {
                        return Fault::value_error("Missing ']' in format string");
                    };
                    (inner.get(..len), inner.get(len.saturating_add(1)..), true)
                }
                _ => {
                    return Fault::value_error(
                        "Only '.' or '[' may follow ']' in format field specifier",
                    )
                }
            };
            let key = key.unwrap_or("");
            rest = after.unwrap_or("");
            if key.is_empty() {
                return Fault::value_error("Empty attribute in format string");
            }
            let digits = key.bytes().all(|b| b.is_ascii_digit());
            value = match (is_item, key.parse()) {
                (true, Ok(index)) if digits => eval.item(&value, &V::int(index))?,
                (true, _) => eval.item(&value, &V::Str(methods::own(key)))?,
                (false, _) => attributes::by_name(eval, &value, key)?,
            };
        }
        Ok(value)
    }
}

/// `format(value, spec)`.
fn formatted(eval: &mut Eval, value: &V, spec: &Spec, out: &mut Builder) -> Result<()> {
    let fill = spec.fill.unwrap_or(' ');
    let origin = value.shape();
    match value {
        V::Str(text) => {
            if !matches!(spec.kind, '\0' | 's') {
                return Fault::value_error(format!(
                    "Unknown format code '{}' for object of type 'str'",
                    spec.kind
                ));
            }
            let zero = spec.zero && spec.fill.is_none();
            let fill = if zero { '0' } else { fill };
            let align = spec.align.unwrap_or('<');
            padded(eval, text, spec.precision, spec.width, align, fill, out)
        }
        V::Bool(..) if spec.kind == '\0' => {
            let text = eval.str_of(value)?;
            let align = spec.align.unwrap_or('<');
            padded(eval, &text, spec.precision, spec.width, align, fill, out)
        }
        V::Int(..) | V::Big(..) | V::Bool(..) => match spec.kind {
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' => {
                let float = super::filters::to_float(value, &mut eval.budget)?.unwrap_or(0.0);
                let mut spec = spec.clone();
                spec.precision.get_or_insert(6);
                spec::float(eval, float, &spec, origin, out)
            }
            'c' => {
                let text = character(eval, value)?;
                let align = spec.align.unwrap_or('<');
                padded(eval, &text, None, spec.width, align, fill, out)
            }
            _ => {
                let whole = match operators::number(value) {
                    Some(Number::Int(int)) => num_bigint::BigInt::from(int),
                    Some(Number::Big(int)) => int.value.clone(),
                    _ => num_bigint::BigInt::from(0),
                };
                if spec.precision.is_some() {
                    return Fault::value_error("Precision not allowed in integer format specifier");
                }
                let mut spec = spec.clone();
                if matches!(spec.kind, '\0' | 'n') {
                    spec.kind = 'd';
                }
                spec::integer(eval, &whole, &spec, origin, out)
            }
        },
        V::Float(float, _) => {
            let mut spec = spec.clone();
            if spec.kind != '\0' {
                spec.precision.get_or_insert(6);
            }
            spec::float(eval, *float, &spec, origin, out)
        }
        other => {
            if !spec.is_empty() {
                return Fault::type_error(format!(
                    "unsupported format string passed to {}.__format__",
                    other.type_name()
                ));
            }
            let text = eval.str_of(other)?;
            out.push_text(text.text(), &mut eval.budget)
        }
    }
}
