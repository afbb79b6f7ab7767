//! Filters of lists and of whatever can be iterated over.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::dict::{hashable, Dict};
use super::super::error::{brief, ErrorKind, Fault, Result};
use super::super::eval::Eval;
use super::super::expression::{required, Arguments};
use super::super::loops::{collect, Cursor};
use super::super::methods::{self, int_arg, str_arg};
use super::super::operators;
use super::super::predicates::{self, Predicate};
use super::super::string::{Builder, Origin, Str};
use super::super::value::*;
use super::Filter;

pub(super) fn apply(eval: &mut Eval, filter: Filter, value: V, args: Arguments) -> Result<V> {
    match filter {
        Filter::List => {
            let [] = args.bind("list", [])?;
            collect(&value, &mut eval.budget)?.list(&mut eval.budget)
        }
        Filter::First | Filter::Last => end(eval, filter, &value, args),
        Filter::Join => join(eval, &value, args),
        Filter::Map => map(eval, &value, args),
        Filter::Select | Filter::Reject | Filter::SelectAttr | Filter::RejectAttr => {
            select(eval, filter, &value, args)
        }
        Filter::Batch => batch(eval, &value, args),
        Filter::Slice => slices(eval, &value, args),
        Filter::DictSort => dict_sort(eval, &value, args),
        Filter::Sort => sort(eval, &value, args),
        Filter::GroupBy => group_by(eval, &value, args),
        Filter::Unique => unique(eval, &value, args),
        Filter::Min | Filter::Max => extreme(eval, filter, &value, args),
        Filter::Sum => sum(eval, &value, args),
        _ => reverse(eval, &value, args),
    }
}

fn end(eval: &mut Eval, filter: Filter, value: &V, args: Arguments) -> Result<V> {
    let [] = args.bind(filter.name(), [])?;
    let found = match (filter, value) {
        (Filter::First, value) => Cursor::new(value)?.next(&mut eval.budget)?,
        (_, V::List(list, shape) | V::Tuple(list, shape)) => match list.items.last() {
            Some(item) => Some(item.clone().painted(*shape, &mut eval.budget)?),
            None => None,
        },
        (_, V::Iter(..)) => return Fault::type_error("'generator' object is not reversible"),
        (_, value) => collect(value, &mut eval.budget)?.pop(),
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let which = match filter {
        Filter::First => "first",
        _ => "last",
    };
    let message = format!("No {which} item, sequence was empty.");
    V::hint(ErrorKind::Undefined, message, &mut eval.budget)
}

/// A path such as `a.b.0`, or none.
enum Getter {
    Whole,
    Path(Vec<V>),
}

impl Getter {
    fn new(eval: &mut Eval, attribute: Option<V>) -> Result<Getter> {
        Ok(match attribute {
            None | Some(V::None(_)) => Getter::Whole,
            Some(V::Str(path)) => {
                // A part is a string of its own.
                eval.budget.steps(path.len())?;
                eval.budget.room(path.len().saturating_mul(128))?;
                Getter::of_path(path.as_str(), path.text().least_trusted())
            }
            Some(other) => Getter::Path(vec![other]),
        })
    }

    fn of_path(path: &str, origin: Origin) -> Getter {
        let parts = path.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            match part.parse() {
                Ok(index) if digits => V::int(index),
                _ => V::Str(Str::new(part, origin)),
            }
        });
        Getter::Path(parts.collect())
    }

    fn get(&self, eval: &mut Eval, item: &V, default: Option<&V>) -> Result<V> {
        let mut value = item.clone();
        if let Getter::Path(parts) = self {
            for part in parts {
                value = eval.item(&value, part)?;
                if let (V::Undefined { origin, .. }, Some(default)) = (&value, default) {
                    value = default.clone().painted(*origin, &mut eval.budget)?;
                }
            }
        }
        Ok(value)
    }

    /// What is compared: text in lower case, unless case counts.
    fn key(&self, eval: &mut Eval, item: &V, case: bool, default: Option<&V>) -> Result<V> {
        let value = self.get(eval, item, default)?;
        fold(eval, value, case)
    }
}

fn fold(eval: &mut Eval, value: V, case: bool) -> Result<V> {
    Ok(match value {
        V::Str(text) if !case => V::Str(methods::mapped(eval, &text, str::to_lowercase)?),
        value => value,
    })
}

fn truth(value: Option<V>) -> bool {
    value.is_some_and(|value| value.truth())
}

fn given(value: Option<V>) -> Option<V> {
    value.filter(|value| !matches!(value, V::None(_)))
}

fn join(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = match separator {
        Some(separator) => eval.str_of(&separator)?,
        None => methods::own(""),
    };
    let getter = Getter::new(eval, attribute)?;
    let mut cursor = Cursor::new(value)?;
    // As many as there are items.
    let separator = separator.painted(cursor.shape, &mut eval.budget)?;
    let mut out = Builder::new(&mut eval.budget)?;
    let mut first = true;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        if !std::mem::replace(&mut first, false) {
            out.push_text(separator.text(), &mut eval.budget)?;
        }
        let item = getter.get(eval, &item, None)?;
        let item = eval.str_of(&item)?;
        out.push_text(item.text(), &mut eval.budget)?;
    }
    Ok(V::Str(out.finish()))
}

fn map(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let Arguments {
        mut positional,
        named,
        charge,
    } = args;
    let mut items = Items::new(&mut eval.budget)?;
    if !value.truth() {
        return items.iter(&mut eval.budget);
    }
    let mut cursor = Cursor::new(value)?;
    if positional.is_empty() && named.iter().any(|(name, _)| name.as_str() == "attribute") {
        let args = Arguments {
            positional,
            named,
            charge,
        };
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let getter = Getter::new(eval, attribute)?;
        let default = given(default);
        while let Some(item) = cursor.next(&mut eval.budget)? {
            let item = getter.get(eval, &item, default.as_ref())?;
            items.push(item, &mut eval.budget)?;
        }
        return items.iter(&mut eval.budget);
    }
    if positional.is_empty() {
        return Fault::type_error("map requires a filter argument");
    }
    let name = str_arg(positional.remove(0))?;
    let Some(filter) = Filter::from_name(name.as_str()) else {
        let message = format!("No filter named '{}'.", brief(name.as_str()));
        return Fault::new(ErrorKind::Runtime, message);
    };
    // `map('map', …)` nests filters.
    eval.recursion.enter()?;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        let args = copied(eval, &positional, &named)?;
        let item = super::apply(eval, filter, item, args)?;
        items.push(item, &mut eval.budget)?;
    }
    eval.recursion.leave();
    items.iter(&mut eval.budget)
}

fn copied(eval: &mut Eval, positional: &[V], named: &[(Str, V)]) -> Result<Arguments> {
    let count = named
        .len()
        .saturating_mul(2)
        .saturating_add(positional.len());
    eval.budget.steps(count >> 1)?;
    Ok(Arguments {
        charge: eval.budget.charge(count.saturating_mul(ITEM_BYTES))?,
        positional: positional.to_vec(),
        named: named.to_vec(),
    })
}

fn select(eval: &mut Eval, filter: Filter, value: &V, args: Arguments) -> Result<V> {
    let Arguments {
        positional,
        named,
        charge: _charge,
    } = args;
    let mut items = Items::new(&mut eval.budget)?;
    if !value.truth() {
        return items.iter(&mut eval.budget);
    }
    let mut rest = positional.into_iter();
    let getter = match filter {
        Filter::SelectAttr | Filter::RejectAttr => match rest.next() {
            Some(attribute) => Getter::new(eval, Some(attribute))?,
            None => return Fault::type_error("Missing parameter for attribute name"),
        },
        _ => Getter::Whole,
    };
    let wanted = matches!(filter, Filter::Select | Filter::SelectAttr);
    let predicate = match rest.next() {
        None => None,
        Some(name) => {
            let name = str_arg(name)?;
            match Predicate::from_name(name.as_str()) {
                Some(predicate) => Some(predicate),
                None => {
                    let message = format!("No test named '{}'.", brief(name.as_str()));
                    return Fault::new(ErrorKind::Runtime, message);
                }
            }
        }
    };
    let rest: Vec<V> = rest.collect();
    let mut cursor = Cursor::new(value)?;
    let mut decided = Origin::Template;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        let value = getter.get(eval, &item, None)?;
        let (holds, origin) = match predicate {
            None => (value.truth(), value.shape()),
            Some(predicate) => {
                let args = copied(eval, &rest, &named)?;
                predicates::test(eval, predicate, value, args)?
            }
        };
        decided = decided.max(origin);
        if holds == wanted {
            items.push(item, &mut eval.budget)?;
        }
    }
    Ok(items.iter(&mut eval.budget)?.shaped(decided))
}

/// What fills a list up; how many items lack is up to who decided on the list's.
fn filler(eval: &mut Eval, fill: Option<V>, shape: Origin) -> Result<Option<V>> {
    match given(fill) {
        Some(fill) => fill.painted(shape, &mut eval.budget).map(Some),
        None => Ok(None),
    }
}

/// How many groups, or how large: more than there can be are refused.
fn count_arg(value: V) -> Result<usize> {
    Ok(usize::try_from(int_arg(&value)?).unwrap_or(0))
}

fn batch(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [count, fill] = args.bind("batch", ["linecount", "fill_with"])?;
    let count = count_arg(required(count, "batch", "linecount")?)?;
    let mut cursor = Cursor::new(value)?;
    let fill = filler(eval, fill, cursor.shape)?;
    let mut batches = Items::new(&mut eval.budget)?;
    let mut batch = Items::new(&mut eval.budget)?;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        // A count of zero is reached only by an empty batch, as in Python.
        if batch.len() == count {
            let next = Items::new(&mut eval.budget)?;
            let full = std::mem::replace(&mut batch, next).list(&mut eval.budget)?;
            batches.push(full, &mut eval.budget)?;
        }
        batch.push(item, &mut eval.budget)?;
    }
    if batch.len() > 0 {
        if let Some(fill) = fill {
            let missing = count.saturating_sub(batch.len());
            eval.budget.steps(missing)?;
            for _ in 0..missing {
                batch.push(fill.clone(), &mut eval.budget)?;
            }
        }
        let batch = batch.list(&mut eval.budget)?;
        batches.push(batch, &mut eval.budget)?;
    }
    batches.iter(&mut eval.budget)
}

fn slices(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [count, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let count = count_arg(required(count, "slice", "slices")?)?;
    let fill = filler(eval, fill, value.shape())?;
    let items = collect(value, &mut eval.budget)?;
    let (Some(per), Some(longer)) = (
        items.len().checked_div(count),
        items.len().checked_rem(count),
    ) else {
        return Fault::new(
            ErrorKind::ZeroDivision,
            "integer division or modulo by zero",
        );
    };
    let mut slices = Items::new(&mut eval.budget)?;
    let mut rest = items.as_slice().iter();
    for at in 0..count {
        // A list, however short.
        eval.budget.steps(2)?;
        let len = per.saturating_add(usize::from(at < longer));
        let mut slice = Items::new(&mut eval.budget)?;
        for item in rest.by_ref().take(len) {
            slice.push(item.clone(), &mut eval.budget)?;
        }
        if let (Some(fill), true) = (&fill, at >= longer) {
            slice.push(fill.clone(), &mut eval.budget)?;
        }
        let slice = slice.list(&mut eval.budget)?;
        slices.push(slice, &mut eval.budget)?;
    }
    slices.iter(&mut eval.budget)
}

fn dict_sort(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let names = ["case_sensitive", "by", "reverse"];
    let [case, by, reverse] = args.bind("dictsort", names)?;
    let case = truth(case);
    let by_value = match &by {
        None => false,
        Some(V::Str(by)) if by.as_str() == "key" => false,
        Some(V::Str(by)) if by.as_str() == "value" => true,
        Some(_) => {
            return Fault::value_error("You can only sort by either \"key\" or \"value\"");
        }
    };
    eval.checked(value)?;
    let V::Dict(dict, _) = value else {
        return Fault::type_error(format!(
            "'{}' object has no attribute 'items'",
            value.type_name()
        ));
    };
    eval.budget
        .room(dict.entries.len().saturating_mul(4 * ITEM_BYTES))?;
    let mut keyed = Vec::with_capacity(dict.entries.len());
    for (key, value) in &dict.entries {
        let by = if by_value { value } else { key };
        let pair = vec![key.clone(), value.clone()];
        let pair = V::tuple(pair, &mut eval.budget)?;
        keyed.push((fold(eval, by.clone(), case)?, pair));
    }
    let decided = decided(&keyed);
    let sorted = operators::sort(keyed, truth(reverse), &mut eval.budget)?;
    Ok(V::list(sorted, &mut eval.budget)?.shaped(decided))
}

/// Who decides on the order: everyone who wrote a key.
fn decided<T>(keyed: &[(V, T)]) -> Origin {
    let origins = keyed.iter().map(|(key, _)| key.least_trusted());
    origins.max().unwrap_or_default()
}

fn sort(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let names = ["reverse", "case_sensitive", "attribute"];
    let [reverse, case, attribute] = args.bind("sort", names)?;
    let case = truth(case);
    let getters = match &attribute {
        Some(V::Str(paths)) => {
            eval.budget.steps(paths.len())?;
            eval.budget.room(paths.len().saturating_mul(128))?;
            let origin = paths.text().least_trusted();
            let paths = paths.as_str().split(',');
            paths.map(|path| Getter::of_path(path, origin)).collect()
        }
        _ => vec![Getter::new(eval, attribute)?],
    };
    let items = collect(value, &mut eval.budget)?;
    eval.budget
        .room(items.len().saturating_mul(4 * ITEM_BYTES))?;
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.as_slice() {
        let item = item.clone();
        let key = match getters.as_slice() {
            [single] => single.key(eval, &item, case, None)?,
            several => {
                let mut keys = Vec::with_capacity(several.len());
                for getter in several {
                    keys.push(getter.key(eval, &item, case, None)?);
                }
                V::list(keys, &mut eval.budget)?
            }
        };
        keyed.push((key, item));
    }
    // jinja2 compares lists of keys, also of one: equal ones stop no sort, whether they know `<` or not.
    let plain = |key: &V| matches!(key, V::Str(_)) || operators::number(key).is_some();
    if getters.len() == 1 && !keyed.iter().all(|(key, _)| plain(key)) {
        for (key, _) in &mut keyed {
            *key = V::list(vec![std::mem::replace(key, V::none())], &mut eval.budget)?;
        }
    }
    let decided = decided(&keyed);
    let sorted = operators::sort(keyed, truth(reverse), &mut eval.budget)?;
    Ok(V::list(sorted, &mut eval.budget)?.shaped(decided))
}

fn group_by(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let names = ["attribute", "default", "case_sensitive"];
    let [attribute, default, case] = args.bind("groupby", names)?;
    let getter = Getter::new(eval, Some(required(attribute, "groupby", "attribute")?))?;
    let default = given(default);
    let case = truth(case);
    let items = collect(value, &mut eval.budget)?;
    eval.budget
        .room(items.len().saturating_mul(8 * ITEM_BYTES))?;
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.as_slice() {
        let item = item.clone();
        let key = getter.key(eval, &item, case, default.as_ref())?;
        keyed.push((key.clone(), (key, item)));
    }
    let decided = decided(&keyed);
    let sorted = operators::sort(keyed, false, &mut eval.budget)?;
    let mut groups: Vec<(V, Vec<V>)> = Vec::new();
    for (key, item) in sorted {
        match groups.last_mut() {
            Some((have, items)) if operators::equal(have, &key, &mut eval.budget)? => {
                items.push(item);
            }
            _ => groups.push((key, vec![item])),
        }
    }
    let mut pairs = Vec::with_capacity(groups.len());
    for (key, items) in groups {
        // Shown is the first key as it was, not in lower case.
        let shown = match items.first() {
            Some(first) if !case => getter.get(eval, first, default.as_ref())?,
            _ => key,
        };
        let items = V::list(items, &mut eval.budget)?;
        let mut pair = List::new(vec![shown, items], &mut eval.budget)?;
        pair.group = true;
        pairs.push(V::Tuple(Arc::new(pair), Origin::Template));
    }
    Ok(V::list(pairs, &mut eval.budget)?.shaped(decided))
}

fn unique(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [case, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let case = truth(case);
    let getter = Getter::new(eval, attribute)?;
    let mut cursor = Cursor::new(value)?;
    let mut seen = Dict::new(&mut eval.budget)?;
    let mut items = Items::new(&mut eval.budget)?;
    let mut decided = Origin::Template;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        let key = getter.key(eval, &item, case, None)?;
        decided = decided.max(key.least_trusted());
        hashable(&key, &mut eval.budget)?;
        if seen.get(&key, &mut eval.budget)?.is_none() {
            seen.insert(key, V::none(), &mut eval.budget)?;
            items.push(item, &mut eval.budget)?;
        }
    }
    Ok(items.iter(&mut eval.budget)?.shaped(decided))
}

fn extreme(eval: &mut Eval, filter: Filter, value: &V, args: Arguments) -> Result<V> {
    let [case, attribute] = args.bind(filter.name(), ["case_sensitive", "attribute"])?;
    let case = truth(case);
    let getter = Getter::new(eval, attribute)?;
    let (symbol, wanted) = match filter {
        Filter::Min => ("<", Ordering::Less),
        _ => (">", Ordering::Greater),
    };
    let mut cursor = Cursor::new(value)?;
    let mut best: Option<(V, V)> = None;
    let mut decided = cursor.shape;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        let key = getter.key(eval, &item, case, None)?;
        decided = decided.max(key.least_trusted());
        let better = match &best {
            None => true,
            Some((best, _)) => {
                eval.checked(&key)?;
                eval.checked(best)?;
                operators::order(&key, best, symbol, &mut eval.budget)? == Some(wanted)
            }
        };
        if better {
            best = Some((key, item));
        }
    }
    match best {
        Some((_, item)) => item.painted(decided, &mut eval.budget),
        None => {
            let message = "No aggregated item, sequence was empty.";
            V::hint(ErrorKind::Undefined, message, &mut eval.budget)
        }
    }
}

fn sum(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let getter = Getter::new(eval, attribute)?;
    let mut total = start.unwrap_or(V::int(0));
    if let V::Str(_) = total {
        return Fault::type_error("sum() can't sum strings [use ''.join(seq) instead]");
    }
    let mut cursor = Cursor::new(value)?;
    while let Some(item) = cursor.next(&mut eval.budget)? {
        let item = getter.get(eval, &item, None)?;
        total = eval.math(super::super::ast::MathOp::Add, total, item)?;
    }
    Ok(total)
}

fn reverse(eval: &mut Eval, value: &V, args: Arguments) -> Result<V> {
    let [] = args.bind("reverse", [])?;
    if let V::Str(_) = value {
        return eval.slice(value, [V::none(), V::none(), V::int(-1)]);
    }
    let Ok(items) = Cursor::new(value) else {
        return Fault::type_error("argument must be iterable");
    };
    let mut items = items.rest(&mut eval.budget)?;
    items.reverse();
    match value {
        // Without an order of its own, jinja2 makes a list first.
        V::Iter(..) => items.list(&mut eval.budget),
        _ => items.iter(&mut eval.budget),
    }
}
