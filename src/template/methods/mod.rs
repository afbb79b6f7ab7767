//! The methods of Python's strings, lists, tuples and dicts that a template may call.

mod case;
mod fill;
mod search;
mod split;

use num_bigint::Sign;

use super::dict::{Dict, ViewKind};
use super::error::{ErrorKind, Fault, Result};
use super::eval::Eval;
use super::expression::{required, Arguments};
use super::operators::{self, Number};
use super::provenance::Carries;
use super::string::{Origin, Str};
use super::value::*;

pub(super) use case::{capitalized, is_lower, is_upper, mapped, title};
pub(super) use fill::pad;
pub(super) use search::replace;
pub(super) use split::{breaks_line, lines, strip};

macro_rules! methods {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A method by name, whatever types have it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::template) enum Method { $($variant),* }

        impl Method {
            #[cfg(test)]
            pub const ALL: &[Method] = &[$(Method::$variant),*];

            pub fn from_name(name: &str) -> Option<Method> {
                match name { $($name => Some(Method::$variant),)* _ => None }
            }

            pub fn name(self) -> &'static str {
                match self { $(Method::$variant => $name),* }
            }
        }
    };
}

methods! {
    Capitalize "capitalize", Casefold "casefold", Center "center", Count "count", Encode "encode",
    EndsWith "endswith", ExpandTabs "expandtabs", Find "find", Format "format",
    FormatMap "format_map", Index "index", IsAlnum "isalnum", IsAlpha "isalpha",
    IsAscii "isascii", IsDecimal "isdecimal", IsDigit "isdigit", IsIdentifier "isidentifier",
    IsLower "islower", IsNumeric "isnumeric", IsPrintable "isprintable", IsSpace "isspace",
    IsTitle "istitle", IsUpper "isupper", Join "join", Ljust "ljust", Lower "lower",
    Lstrip "lstrip", MakeTrans "maketrans", Partition "partition", RemovePrefix "removeprefix",
    RemoveSuffix "removesuffix", Replace "replace", Rfind "rfind", Rindex "rindex",
    Rjust "rjust", Rpartition "rpartition", Rsplit "rsplit", Rstrip "rstrip", Split "split",
    SplitLines "splitlines", StartsWith "startswith", Strip "strip", SwapCase "swapcase",
    Title "title", Translate "translate", Upper "upper", Zfill "zfill",
    Append "append", Clear "clear", Copy "copy", Extend "extend", Insert "insert", Pop "pop",
    Remove "remove", Reverse "reverse", Sort "sort",
    FromKeys "fromkeys", Get "get", Items "items", Keys "keys", PopItem "popitem",
    SetDefault "setdefault", Update "update", Values "values", Mapping "mapping",
    Cycle "cycle", Changed "changed", Next "next", Reset "reset",
    IsInteger "is_integer", BitLength "bit_length", BitCount "bit_count", Conjugate "conjugate",
}

/// Whether a value has a method, and whether the sandbox lets it be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Yes,
    /// It would change a list or a dict.
    Unsafe,
    No,
}

pub(super) fn find(value: &V, method: Method) -> Found {
    use Method::*;
    let found = match (value, method) {
        (V::List(..), Append | Clear | Pop | Reverse | Insert | Sort | Extend | Remove)
        | (V::Dict(..), Clear | Pop | PopItem | SetDefault | Update) => return Found::Unsafe,
        (V::List(..), Copy | Count | Index)
        | (V::Tuple(..) | V::Range(..), Count | Index)
        | (V::Dict(..), Copy | FromKeys | Get | Items | Keys | Values)
        | (V::Object(Object::Function(Function::Dict)), FromKeys)
        | (V::View(..), Mapping)
        | (V::Object(Object::Loop { .. }), Cycle | Changed)
        | (V::Object(Object::Cycler(_)), Next | Reset)
        | (V::Int(..) | V::Bool(..) | V::Big(..), BitLength | BitCount | Conjugate)
        | (V::Float(..), IsInteger | Conjugate) => true,
        (V::Str(_), Append | Clear | Copy | Extend | Insert | Pop | Remove | Reverse | Sort)
        | (V::Str(_), FromKeys | Get | Items | Keys | PopItem | SetDefault | Update | Values)
        | (V::Str(_), Mapping | Cycle | Changed | Next | Reset | IsInteger | BitLength)
        | (V::Str(_), BitCount | Conjugate) => false,
        (V::Str(_), _) => true,
        _ => false,
    };
    match found {
        true => Found::Yes,
        false => Found::No,
    }
}

/// A whole number that counts or points.
pub(super) fn int_arg(value: &V) -> Result<i64> {
    match operators::number(value) {
        Some(Number::Int(value)) => Ok(value),
        Some(Number::Big(value)) if value.sign() == Sign::Minus => Ok(i64::MIN),
        Some(Number::Big(_)) => Ok(i64::MAX),
        _ => Fault::type_error(format!(
            "'{}' object cannot be interpreted as an integer",
            value.type_name()
        )),
    }
}

pub(super) fn str_arg(value: V) -> Result<Str> {
    match value {
        V::Str(text) => Ok(text),
        other => Fault::type_error(format!("must be str, not {}", other.type_name())),
    }
}

impl Method {
    /// What of the arguments gets into the result as it is; a new method says so here or has them all as choosers.
    fn carries(self) -> Carries {
        match self {
            Method::Center | Method::Ljust | Method::Rjust | Method::Replace | Method::Get => {
                Carries::One(1, "")
            }
            Method::Format | Method::FormatMap | Method::Join | Method::Cycle => Carries::All,
            _ => Carries::Nothing,
        }
    }
}

#[inline(never)]
pub(super) fn call(eval: &mut Eval, value: V, method: Method, args: Arguments) -> Result<V> {
    eval.budget.step()?;
    if let V::Str(_) = value {
        if !matches!(method, Method::Format | Method::FormatMap | Method::Join) {
            for arg in &args.positional {
                eval.checked(arg)?;
            }
        }
    }
    let chosen = args.choosers(method.carries());
    let shape = value.shape();
    let found = call_on(eval, value, method, args)?;
    let found = found.made_of(shape, &mut eval.budget)?;
    found.painted(chosen, &mut eval.budget)
}

fn call_on(eval: &mut Eval, value: V, method: Method, args: Arguments) -> Result<V> {
    match &value {
        V::Str(text) => str_method(eval, text, method, args),
        V::List(..) | V::Tuple(..) => match method {
            Method::Copy => super::loops::collect(&value, &mut eval.budget)?.list(&mut eval.budget),
            _ => search_items(eval, &value, method, args),
        },
        V::Range(..) => search_items(eval, &value, method, args),
        V::Dict(dict, shape) => dict_method(eval, (dict, *shape), method, args),
        V::View(view, shape) => Ok(V::Dict(view.dict.clone(), *shape)),
        V::Object(Object::Function(_)) => from_keys(eval, args),
        V::Object(Object::Loop { slot, generation }) => match method {
            Method::Cycle => eval.loop_cycle(*slot, *generation, args.positional),
            _ => eval.loop_changed(*slot, *generation, args.positional),
        },
        V::Object(Object::Cycler(id)) => Ok(eval.cycler_move(*id, method == Method::Reset)),
        V::Float(number, _) if method == Method::IsInteger => {
            Ok(V::bool(number.is_finite() && number.fract() == 0.0))
        }
        V::Int(..) | V::Bool(..) | V::Big(..) if method != Method::Conjugate => {
            let small = |value: u64| num_bigint::BigUint::from(value);
            let count = |magnitude: &num_bigint::BigUint| match method {
                Method::BitLength => magnitude.bits(),
                _ => magnitude.count_ones(),
            };
            let bits = match operators::number(&value) {
                Some(Number::Int(value)) => count(&small(value.unsigned_abs())),
                Some(Number::Big(value)) => {
                    eval.budget.bytes(big_bytes(&value))?;
                    count(value.magnitude())
                }
                _ => 0,
            };
            Ok(V::int(i64::try_from(bits).unwrap_or(i64::MAX)))
        }
        _ => operators::positive(&value),
    }
}

fn str_method(eval: &mut Eval, text: &Str, method: Method, args: Arguments) -> Result<V> {
    use Method::*;
    match method {
        Capitalize | Casefold | Lower | SwapCase | Title | Upper => {
            let [] = args.bind(method.name(), [])?;
            case::convert(eval, text, method)
        }
        IsAlnum | IsAlpha | IsAscii | IsDecimal | IsDigit | IsIdentifier | IsLower | IsNumeric
        | IsPrintable | IsSpace | IsTitle | IsUpper => {
            let [] = args.bind(method.name(), [])?;
            let is = case::is(method, text.as_str(), &mut eval.budget)?;
            Ok(V::bool(is))
        }
        Center | Ljust | Rjust | Zfill | ExpandTabs => fill::call(eval, text, method, args),
        Count | EndsWith | Find | Index | Rfind | Rindex | StartsWith => {
            search::call(eval, text, method, args)
        }
        Replace => {
            let [old, new, count] = args.bind("replace", ["", "", ""])?;
            let old = str_arg(required(old, "replace", "old")?)?;
            let new = str_arg(required(new, "replace", "new")?)?;
            let count = count.map_or(Ok(-1), |count| int_arg(&count))?;
            let new = match text.markup() && !new.markup() {
                true => {
                    let mut escaped = super::string::Builder::new(&mut eval.budget)?;
                    super::format::push_escaped(&new, &mut escaped, &mut eval.budget)?;
                    escaped.finish()
                }
                false => new,
            };
            replace(eval, text, &old, &new, count)
        }
        Strip | Lstrip | Rstrip => {
            let [chars] = args.bind(method.name(), [""])?;
            let chars = match chars {
                None | Some(V::None(_)) => None,
                Some(chars) => Some(str_arg(chars)?),
            };
            strip(
                eval,
                text,
                chars.as_ref(),
                method != Rstrip,
                method != Lstrip,
            )
        }
        Split | Rsplit | SplitLines | Partition | Rpartition | RemovePrefix | RemoveSuffix => {
            split::call(eval, text, method, args)
        }
        Join => {
            let [items] = args.bind("join", [""])?;
            let items = required(items, "join", "iterable")?;
            join(eval, text, &items)
        }
        Format => super::percent::str_format(eval, text, args),
        FormatMap => {
            let [mapping] = args.bind("format_map", [""])?;
            let mapping = required(mapping, "format_map", "mapping")?;
            super::percent::str_format_map(eval, text, mapping)
        }
        other => Fault::unsupported(format!("str.{} is not supported", other.name())),
    }
}

/// `separator.join(items)`: strings only.
fn join(eval: &mut Eval, separator: &Str, items: &V) -> Result<V> {
    let Ok(mut cursor) = super::loops::Cursor::new(items) else {
        return Fault::type_error("can only join an iterable");
    };
    let markup = separator.markup();
    // As many as there are items.
    let separator = separator.painted(cursor.shape, &mut eval.budget)?;
    let mut out = super::string::Builder::new(&mut eval.budget)?;
    let mut at = 0usize;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        if at > 0 {
            out.push_text(separator.text(), &mut eval.budget)?;
        }
        match item {
            V::Str(part) if markup && !part.markup() => {
                super::format::push_escaped(&part, &mut out, &mut eval.budget)?;
            }
            V::Str(part) => out.push_text(part.text(), &mut eval.budget)?,
            other if markup => {
                let part = eval.str_of(&other)?;
                super::format::push_escaped(&part, &mut out, &mut eval.budget)?;
            }
            other => {
                return Fault::type_error(format!(
                    "sequence item {at}: expected str instance, {} found",
                    other.type_name()
                ))
            }
        }
        at = at.saturating_add(1);
    }
    Ok(V::Str(out.finish_as(markup)))
}

/// `count` and `index` of what has items.
fn search_items(eval: &mut Eval, value: &V, method: Method, args: Arguments) -> Result<V> {
    let [item, start, stop] = args.bind(method.name(), ["", "", ""])?;
    let item = required(item, method.name(), "value")?;
    let items = super::loops::collect(value, &mut eval.budget)?;
    let place = |bound: Option<V>, default: usize| -> Result<usize> {
        Ok(match bound {
            None => default,
            Some(bound) => {
                let at = int_arg(&bound)?;
                let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let at = if at < 0 { at.saturating_add(len) } else { at };
                usize::try_from(at.max(0)).unwrap_or(usize::MAX)
            }
        })
    };
    let start = place(start, 0)?;
    let stop = place(stop, items.len())?;
    // Every item was compared.
    let origin = value.least_trusted();
    let mut count = 0i64;
    for (at, have) in items.as_slice().iter().enumerate() {
        if at < start || at >= stop || !operators::equal(have, &item, &mut eval.budget)? {
            continue;
        }
        if method == Method::Index {
            return Ok(V::count(at).shaped(origin));
        }
        count = count.saturating_add(1);
    }
    if method == Method::Index {
        let item = super::format::brief_repr(eval, &item)?;
        let what = value.type_name();
        return Fault::value_error(match value {
            V::Tuple(..) => "tuple.index(x): x not in tuple".to_string(),
            _ => format!("{item} is not in {what}"),
        });
    }
    Ok(V::Int(count, origin))
}

fn dict_method(
    eval: &mut Eval,
    (dict, shape): (&std::sync::Arc<Dict>, Origin),
    method: Method,
    args: Arguments,
) -> Result<V> {
    match method {
        Method::Get => {
            let [key, default] = args.bind("get", ["", ""])?;
            let key = required(key, "get", "key")?;
            let found = dict.get(&key, &mut eval.budget)?;
            let found = found.cloned().or(default).unwrap_or(V::none());
            found.painted(shape, &mut eval.budget)
        }
        Method::FromKeys => from_keys(eval, args),
        _ => {
            let [] = args.bind(method.name(), [])?;
            match method {
                Method::Items => V::view(ViewKind::Items, dict.clone(), shape, &mut eval.budget),
                Method::Keys => V::view(ViewKind::Keys, dict.clone(), shape, &mut eval.budget),
                Method::Values => V::view(ViewKind::Values, dict.clone(), shape, &mut eval.budget),
                // Nothing changes a dict: the copy may be the dict itself.
                _ => Ok(V::Dict(dict.clone(), shape)),
            }
        }
    }
}

fn from_keys(eval: &mut Eval, args: Arguments) -> Result<V> {
    let [keys, value] = args.bind("fromkeys", ["", ""])?;
    let keys = required(keys, "fromkeys", "iterable")?;
    let value = value.unwrap_or(V::none());
    let mut dict = Dict::new(&mut eval.budget)?;
    let mut keys = super::loops::Cursor::new(&keys)?;
    while let Some(key) = keys.next(&mut eval.budget)? {
        dict.insert(key, value.clone(), &mut eval.budget)?;
    }
    Ok(V::dict(dict))
}

pub(super) fn missing_key<T>(eval: &mut Eval, key: &V) -> Result<T> {
    let key = super::format::brief_repr(eval, key)?;
    Fault::new(ErrorKind::Key, key)
}

/// A piece of text that a method adds of itself.
pub(super) fn own(text: &str) -> Str {
    Str::new(text, Origin::Template)
}
