//! Jinja's filters, and transformers' `tojson`.

mod number;
mod sequence;
mod text;

use super::error::{Fault, Result};
use super::eval::Eval;
use super::expression::{required, Arguments};
use super::methods;
use super::provenance::Carries;
use super::scan;
use super::tojson::tojson;
use super::value::*;

pub(super) use number::to_float;

macro_rules! filters {
    ($($variant:ident $($name:literal)|+),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::template) enum Filter { $($variant),* }

        impl Filter {
            #[cfg(test)]
            pub const ALL: &[Filter] = &[$(Filter::$variant),*];

            pub fn from_name(name: &str) -> Option<Filter> {
                match name { $($($name)|+ => Some(Filter::$variant),)* _ => None }
            }

            pub fn name(self) -> &'static str {
                match self { $(Filter::$variant => filters!(@first $($name)+)),* }
            }
        }
    };
    (@first $first:literal $($rest:literal)*) => { $first };
}

filters! {
    Abs "abs", Attr "attr", Batch "batch", Capitalize "capitalize", Center "center",
    Default "default" | "d", DictSort "dictsort", Escape "escape" | "e",
    FileSizeFormat "filesizeformat", First "first", Float "float", ForceEscape "forceescape",
    Format "format", GroupBy "groupby", Indent "indent", Int "int", Join "join", Last "last",
    Length "length" | "count", List "list", Lower "lower", Items "items", Map "map", Min "min",
    Max "max", Pprint "pprint", Random "random", Reject "reject", RejectAttr "rejectattr",
    Replace "replace", Reverse "reverse", Round "round", Safe "safe", Select "select",
    SelectAttr "selectattr", Slice "slice", Sort "sort", String "string", StripTags "striptags",
    Sum "sum", Title "title", Trim "trim", Truncate "truncate", Unique "unique", Upper "upper",
    UrlEncode "urlencode", Urlize "urlize", WordCount "wordcount", WordWrap "wordwrap",
    XmlAttr "xmlattr", ToJson "tojson",
}

impl Filter {
    /// What of the arguments gets into the result as it is; a new filter says so here or has them all as choosers.
    fn carries(self) -> Carries {
        match self {
            Filter::Default => Carries::One(0, "default_value"),
            Filter::Join => Carries::One(0, "d"),
            Filter::Replace => Carries::One(1, "new"),
            Filter::Batch | Filter::Slice => Carries::One(1, "fill_with"),
            Filter::Format => Carries::All,
            // The filter that it maps with looks at the rest.
            Filter::Map => Carries::Rest("attribute"),
            _ => Carries::Nothing,
        }
    }
}

#[inline(never)]
pub(super) fn apply(eval: &mut Eval, filter: Filter, value: V, args: Arguments) -> Result<V> {
    eval.budget.step()?;
    let chosen = args.choosers(filter.carries());
    let shape = value.shape();
    let found = apply_to(eval, filter, value, args)?;
    let found = found.made_of(shape, &mut eval.budget)?;
    found.painted(chosen, &mut eval.budget)
}

fn apply_to(eval: &mut Eval, filter: Filter, value: V, args: Arguments) -> Result<V> {
    use Filter::*;
    match filter {
        Default => {
            let [default, boolean] = args.bind("default", ["default_value", "boolean"])?;
            let boolean = boolean.is_some_and(|boolean| boolean.truth());
            match value.is_undefined() || (boolean && !value.truth()) {
                true => {
                    let default = default.unwrap_or_else(super::operators::empty);
                    default.painted(value.shape(), &mut eval.budget)
                }
                false => Ok(value),
            }
        }
        ToJson => tojson(eval, &value, args),
        Length => {
            let [] = args.bind("length", [])?;
            length(eval, &value)
        }
        Attr => {
            let [name] = args.bind("attr", ["name"])?;
            let name = methods::str_arg(required(name, "attr", "name")?)?;
            attr(eval, &value, name.as_str())
        }
        Items => {
            let [] = args.bind("items", [])?;
            match &value {
                V::Undefined { .. } => {
                    super::value::Items::new(&mut eval.budget)?.iter(&mut eval.budget)
                }
                V::Dict(dict, _) => {
                    let mut pairs =
                        super::value::Items::with_capacity(dict.entries.len(), &mut eval.budget)?;
                    for (key, value) in &dict.entries {
                        eval.budget.steps(2)?;
                        let pair = vec![key.clone(), value.clone()];
                        let pair = V::tuple(pair, &mut eval.budget)?;
                        pairs.push(pair, &mut eval.budget)?;
                    }
                    pairs.iter(&mut eval.budget)
                }
                _ => Fault::type_error("Can only get item pairs from a mapping."),
            }
        }
        Abs | Float | Int | Round | FileSizeFormat => number::apply(eval, filter, value, args),
        Capitalize | Center | Escape | ForceEscape | Format | Indent | Lower | Replace | Safe
        | String | Title | Trim | Truncate | Upper | UrlEncode | WordCount | XmlAttr => {
            text::apply(eval, filter, value, args)
        }
        Random | Pprint | StripTags | Urlize | WordWrap => {
            Fault::unsupported(format!("the filter '{}' is not supported", filter.name()))
        }
        _ => sequence::apply(eval, filter, value, args),
    }
}

/// `len(value)`.
fn length(eval: &mut Eval, value: &V) -> Result<V> {
    let len = match value {
        V::Undefined { .. } => 0,
        V::Str(text) => scan::count(text.as_str(), &mut eval.budget)?,
        V::List(list, _) | V::Tuple(list, _) => list.items.len(),
        V::Dict(dict, _) => dict.entries.len(),
        V::View(view, _) => view.dict.entries.len(),
        V::Range(range, _) => usize::try_from(range.len).unwrap_or(0),
        V::Object(Object::Loop { slot, generation }) => {
            let len = eval.loop_attribute(*slot, *generation, "length")?;
            return Ok(len.unwrap_or(V::int(0)));
        }
        other => {
            return Fault::type_error(format!(
                "object of type '{}' has no len()",
                other.type_name()
            ))
        }
    };
    Ok(V::count(len))
}

/// An attribute by name, without falling back to items.
fn attr(eval: &mut Eval, value: &V, name: &str) -> Result<V> {
    let method = methods::Method::from_name(name);
    eval.named_attribute(value, name, method)
}
