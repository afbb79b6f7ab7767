//! Attributes, subscripts and slices, in the sandbox's order: attribute first for `.`, item first for `[]`.

use std::sync::Arc;

use super::error::{brief, ErrorKind, Fault, Result};
use super::eval::{object_type, Eval};
use super::format;
use super::hidden::{is_hidden, may_be_hidden};
use super::methods::{self, Found, Method};
use super::places;
use super::scan;
use super::string::{Builder, Origin, Str};
use super::value::*;

impl<'t> Eval<'t> {
    /// `value.name`. Errors: the value is not there.
    pub fn attribute(&mut self, value: &V, name: NameId, method: Option<Method>) -> Result<V> {
        let text = self.name(name);
        if value.is_undefined() && self.is_hidden(value, text)? {
            return self.unsafe_attribute(value, text);
        }
        self.checked(value)?;
        if let Some(found) = self.own_attribute(value, text, method)? {
            return Ok(found);
        }
        if let V::Dict(dict, _) = value {
            if let Some(found) = dict.get_str(text, &mut self.budget)? {
                return found.clone().painted(value.shape(), &mut self.budget);
            }
        }
        Ok(V::missing(Some(value.kind()), name).shaped(value.shape()))
    }

    /// What `|attr` finds: attributes only, no items. Errors: the value is not there.
    pub fn named_attribute(&mut self, value: &V, name: &str, method: Option<Method>) -> Result<V> {
        let found = match value.is_undefined() && name.starts_with("__") {
            true => match self.is_hidden(value, name)? {
                true => Some(self.unsafe_attribute(value, name)?),
                false => None,
            },
            false => {
                self.checked(value)?;
                self.own_attribute(value, name, method)?
            }
        };
        Ok(match found {
            Some(found) => found,
            None => {
                let owner = object_type(value.type_name());
                let message = format!("'{owner}' has no attribute '{}'", brief(name));
                V::hint(ErrorKind::Undefined, message, &mut self.budget)?.shaped(value.shape())
            }
        })
    }

    /// What Python's `getattr` finds, less what the sandbox hides.
    fn own_attribute(
        &mut self,
        value: &V,
        name: &str,
        method: Option<Method>,
    ) -> Result<Option<V>> {
        match self.attribute_of(value, name, method)? {
            Some(found) => found.made_of(value.shape(), &mut self.budget).map(Some),
            None => Ok(None),
        }
    }

    fn attribute_of(&mut self, value: &V, name: &str, method: Option<Method>) -> Result<Option<V>> {
        if let Some(method) = method {
            match methods::find(value, method) {
                Found::Yes => {
                    self.budget.step()?;
                    return V::method(value.clone(), method, &mut self.budget).map(Some);
                }
                Found::Unsafe => return self.unsafe_attribute(value, name).map(Some),
                Found::No => {}
            }
        }
        let found = match value {
            V::Object(Object::Namespace(id)) => {
                let Some(data) = self.namespaces.get(*id as usize) else {
                    return Ok(None);
                };
                let shape = data.shape;
                let found = data.place(name, &mut self.budget)?;
                match found.and_then(|at| data.attributes.get(at)) {
                    Some((_, value)) => Some(value.clone()),
                    None if shape == Origin::Template => None,
                    None => {
                        let message = "'TemplateNamespace object' has no attribute";
                        let message = format!("{message} '{}'", brief(name));
                        let hint = V::hint(ErrorKind::Undefined, message, &mut self.budget)?;
                        Some(hint.shaped(shape))
                    }
                }
            }
            V::Object(Object::Loop { slot, generation }) => {
                self.loop_attribute(*slot, *generation, name)?
            }
            V::Object(Object::Macro(id)) => self.macro_attribute(*id, name)?,
            V::Object(object @ (Object::Cycler(_) | Object::Joiner(_))) => {
                self.counter_attribute(object, name)?
            }
            V::Range(range, _) => match name {
                "start" => Some(V::int(range.start)),
                "stop" => Some(V::int(range.stop)),
                "step" => Some(V::int(range.step)),
                _ => None,
            },
            V::Tuple(pair, _) if pair.group => match name {
                "grouper" | "list" => {
                    let item = pair.items.get(usize::from(name == "list")).cloned();
                    match item {
                        Some(item) => Some(item.painted(value.shape(), &mut self.budget)?),
                        None => None,
                    }
                }
                _ => None,
            },
            V::Int(..) | V::Bool(..) | V::Float(..) | V::Big(..) => number_attribute(value, name),
            _ => None,
        };
        if found.is_none() && self.is_hidden(value, name)? {
            return self.unsafe_attribute(value, name).map(Some);
        }
        Ok(found)
    }

    fn macro_attribute(&mut self, id: u32, name: &str) -> Result<Option<V>> {
        let Some(def) = self.macros.get(id as usize).map(|value| value.def) else {
            return Ok(None);
        };
        Ok(Some(match name {
            "name" => match def.name {
                Some(name) => V::Str(self.name_str(name)),
                None => V::Str(Str::new("caller", Origin::Template)),
            },
            "arguments" => {
                let names = def.params.iter().map(|id| V::Str(self.name_str(*id)));
                V::tuple(names.collect(), &mut self.budget)?
            }
            "catch_kwargs" => V::bool(def.uses_kwargs),
            "catch_varargs" => V::bool(def.uses_varargs),
            "caller" => V::bool(def.uses_caller),
            _ => return Ok(None),
        }))
    }

    /// `value[key]`: who wrote the key chooses.
    pub fn item(&mut self, value: &V, key: &V) -> Result<V> {
        self.checked(value)?;
        let chosen = key.least_trusted();
        let found = self
            .item_of(value, key)?
            .painted(chosen, &mut self.budget)?;
        match value {
            V::Str(_) => found.made_of(value.shape(), &mut self.budget),
            _ => found.painted(value.shape(), &mut self.budget),
        }
    }

    fn item_of(&mut self, value: &V, key: &V) -> Result<V> {
        let found = match (value, key) {
            (V::Dict(dict, _), key) => match dict.get(key, &mut self.budget) {
                Ok(found) => found.cloned(),
                Err(fault) if fault.kind == ErrorKind::Type => None,
                Err(fault) => return Err(fault),
            },
            (V::List(list, _) | V::Tuple(list, _), V::Int(..) | V::Bool(..)) => {
                index(key, list.items.len()).and_then(|at| list.items.get(at).cloned())
            }
            (V::Str(text), V::Int(..) | V::Bool(..)) => self.char_at(text, key)?,
            (V::Range(range, _), V::Int(..) | V::Bool(..)) => {
                let len = usize::try_from(range.len).unwrap_or(0);
                let at = index(key, len).and_then(|at| i64::try_from(at).ok());
                at.map(|at| V::int(range.get(at)))
            }
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let V::Str(name) = key {
            let method = Method::from_name(name.as_str());
            if let Some(found) = self.own_attribute(value, name.as_str(), method)? {
                return Ok(found);
            }
        }
        let owner = object_type(value.type_name());
        let shown = format::brief_repr(self, key)?;
        let message = match key {
            V::Str(_) => format!("'{owner}' has no attribute {shown}"),
            _ => format!("{owner} has no element {shown}"),
        };
        V::hint(ErrorKind::Undefined, message, &mut self.budget)
    }

    fn char_at(&mut self, text: &Str, key: &V) -> Result<Option<V>> {
        let all = text.as_str();
        self.budget.bytes(all.len())?;
        let range = if all.is_ascii() {
            index(key, all.len()).map(|at| at..at.saturating_add(1))
        } else {
            let count = scan::count(all, &mut self.budget)?;
            match index(key, count) {
                None => None,
                Some(at) => {
                    let at = scan::place(all, at, &mut self.budget)?;
                    let c = all.get(at..).and_then(|rest| rest.chars().next());
                    c.map(|c| at..at.saturating_add(c.len_utf8()))
                }
            }
        };
        let Some(range) = range else {
            return Ok(None);
        };
        let (start, stop) = match key {
            // Of the last character the bound behind it is the end.
            V::Int(-1, _) => (Some(-1), None),
            V::Int(at, _) => (Some(*at), at.checked_add(1)),
            // `True` and `False` are places too.
            V::Bool(true, _) => (Some(1), Some(2)),
            _ => (Some(0), Some(1)),
        };
        Ok(Some(V::Str(self.part(text, range, (start, stop))?)))
    }

    /// The bytes of a range, which are what the bounds give.
    fn part(
        &mut self,
        text: &Str,
        range: std::ops::Range<usize>,
        bounds: (Option<i64>, Option<i64>),
    ) -> Result<Str> {
        if text.text().single().is_some() {
            return text.slice(range, &mut self.budget);
        }
        let mut out = Builder::new(&mut self.budget)?;
        out.push("", text.text().least_trusted(), &mut self.budget)?;
        places::push_part(&mut out, text.text(), range, bounds, &mut self.budget)?;
        Ok(out.finish_as(text.markup()))
    }

    /// `value[start:stop:step]`: who wrote the bounds chooses.
    pub fn slice(&mut self, value: &V, bounds: [V; 3]) -> Result<V> {
        self.checked(value)?;
        let chosen = bounds.iter().map(V::shape).max().unwrap_or_default();
        let found = self.slice_of(value, bounds)?;
        let found = found.painted(chosen, &mut self.budget)?;
        found.made_of(value.shape(), &mut self.budget)
    }

    fn slice_of(&mut self, value: &V, bounds: [V; 3]) -> Result<V> {
        let [start, stop, step] = &bounds;
        let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?);
        if step == Some(0) {
            return Fault::value_error("slice step cannot be zero");
        }
        let step = step.unwrap_or(1);
        match value {
            V::List(list, _) | V::Tuple(list, _) => {
                let places = Slice::new(start, stop, step, list.items.len());
                self.budget.room(places.len().saturating_mul(ITEM_BYTES))?;
                self.budget.steps((places.len() >> 1).saturating_add(1))?;
                let items = places
                    .filter_map(|at| list.items.get(at).cloned())
                    .collect();
                match value {
                    V::List(..) => V::list(items, &mut self.budget),
                    _ => V::tuple(items, &mut self.budget),
                }
            }
            V::Str(text) => self.slice_str(text, start, stop, step),
            V::Range(range, _) => {
                let len = usize::try_from(range.len).unwrap_or(0);
                let places = Slice::new(start, stop, step, len);
                let first = i64::try_from(places.start).unwrap_or(0);
                let count = i64::try_from(places.len()).unwrap_or(0);
                let step = range.step.saturating_mul(step);
                let begin = range.get(first);
                let range = Range {
                    start: begin,
                    step,
                    len: count,
                    stop: begin.saturating_add(step.saturating_mul(count)),
                    _charge: self.budget.charge(SMALL_BYTES)?,
                };
                Ok(V::Range(Arc::new(range), Origin::Template))
            }
            value => {
                let owner = object_type(value.type_name());
                let message = format!("{owner} has no element slice");
                V::hint(ErrorKind::Undefined, message, &mut self.budget)
            }
        }
    }

    fn slice_str(
        &mut self,
        text: &Str,
        start: Option<i64>,
        stop: Option<i64>,
        step: i64,
    ) -> Result<V> {
        let all = text.as_str();
        self.budget.bytes(all.len())?;
        let ascii = all.is_ascii();
        let count = match ascii {
            true => all.len(),
            false => scan::count(all, &mut self.budget)?,
        };
        let places = Slice::new(start, stop, step, count);
        if step == 1 {
            let end = places.start.saturating_add(places.len());
            let mut byte = |at: usize| match ascii {
                true => Ok(at.min(all.len())),
                false => scan::place(all, at, &mut self.budget),
            };
            let (from, to) = (byte(places.start)?, byte(end)?);
            let part = self.part(text, from..to.max(from), (start, stop))?;
            return Ok(V::Str(part));
        }
        // One entry a character.
        self.budget.room(count.saturating_mul(16))?;
        let mut chars: Vec<(usize, char)> = Vec::with_capacity(count);
        let mut at = 0usize;
        for piece in scan::pieces(all) {
            self.budget.slow_bytes(piece.len())?;
            chars.extend(
                piece
                    .char_indices()
                    .map(|(within, c)| (at.saturating_add(within), c)),
            );
            at = at.saturating_add(piece.len());
        }
        let mut out = Builder::new(&mut self.budget)?;
        if (start, stop, step) != (None, None, -1) && text.text().single().is_none() {
            out.raise(text.text().least_trusted());
        }
        for at in places {
            if let Some((at, c)) = chars.get(at) {
                out.push_char(*c, text.text().origin_at(*at), &mut self.budget)?;
            }
        }
        Ok(V::Str(out.finish_as(text.markup())))
    }
}

/// `value.name`, for a name that the template did not write as such.
pub(super) fn by_name(eval: &mut Eval, value: &V, name: &str) -> Result<V> {
    let method = Method::from_name(name);
    let found = eval.named_attribute(value, name, method)?;
    if let (V::Undefined { .. }, V::Dict(dict, shape)) = (&found, value) {
        if let Some(item) = dict.get_str(name, &mut eval.budget)? {
            return item.clone().painted(*shape, &mut eval.budget);
        }
    }
    Ok(found)
}

impl Eval<'_> {
    fn unsafe_attribute(&mut self, value: &V, name: &str) -> Result<V> {
        let owner = match value {
            V::Tuple(pair, _) if pair.group => "_GroupTuple",
            V::Object(Object::Function(function)) => match function {
                Function::Namespace | Function::Cycler | Function::Joiner => "type",
                Function::Dict => "TemplateDict",
                _ => "function",
            },
            value => value.type_name(),
        };
        let name = brief(name);
        let message = format!("access to attribute '{name}' of '{owner}' object is unsafe.");
        V::hint(ErrorKind::Security, message, &mut self.budget)
    }

    fn is_hidden(&mut self, value: &V, name: &str) -> Result<bool> {
        if !may_be_hidden(name) {
            return Ok(false);
        }
        // The names that there are, one after the other.
        self.budget.steps(32)?;
        Ok(is_hidden(value, name))
    }
}

fn number_attribute(value: &V, name: &str) -> Option<V> {
    let int = match value {
        V::Bool(value, _) => V::int(i64::from(*value)),
        value => value.clone(),
    };
    match (name, &int) {
        ("real", _) => Some(int),
        ("numerator", V::Int(..) | V::Big(..)) => Some(int),
        ("denominator", V::Int(..) | V::Big(..)) => Some(V::int(1)),
        ("imag", V::Float(..)) => Some(V::float(0.0)),
        ("imag", _) => Some(V::int(0)),
        _ => None,
    }
}

/// Where an index, from the end where negative, points in so many items.
pub(super) fn index(key: &V, len: usize) -> Option<usize> {
    let at = match key {
        V::Int(at, _) => *at,
        V::Bool(at, _) => i64::from(*at),
        _ => return None,
    };
    let at = match at < 0 {
        true => i64::try_from(len).ok()?.checked_add(at)?,
        false => at,
    };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn bound(value: &V) -> Result<Option<i64>> {
    use num_bigint::Sign;
    match value {
        V::None(_) => Ok(None),
        V::Int(value, _) => Ok(Some(*value)),
        V::Bool(value, _) => Ok(Some(i64::from(*value))),
        V::Big(value, _) if value.sign() == Sign::Minus => Ok(Some(i64::MIN)),
        V::Big(..) => Ok(Some(i64::MAX)),
        _ => {
            Fault::type_error("slice indices must be integers or None or have an __index__ method")
        }
    }
}

/// The places that a slice names, in order.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    start: usize,
    step: i64,
    left: usize,
    at: i64,
}

impl Slice {
    /// As Python's `slice.indices`.
    pub fn new(start: Option<i64>, stop: Option<i64>, step: i64, len: usize) -> Slice {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let (lowest, highest) = match step < 0 {
            true => (-1, len.saturating_sub(1)),
            false => (0, len),
        };
        let place = |at: i64| match at < 0 {
            true => at.saturating_add(len).max(lowest),
            false => at.min(highest),
        };
        let backward = step < 0;
        let start = start.map_or(if backward { highest } else { lowest }, place);
        let stop = stop.map_or(if backward { lowest } else { highest }, place);
        let left = stepped_length(start, stop, step);
        Slice {
            start: usize::try_from(start).unwrap_or(0),
            step,
            left: usize::try_from(left).unwrap_or(0),
            at: start,
        }
    }

    pub fn len(&self) -> usize {
        self.left
    }

    /// The first place, also of an empty slice.
    pub fn first_place(&self) -> usize {
        self.start
    }
}

impl Iterator for Slice {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let at = usize::try_from(self.at).ok();
        self.at = self.at.saturating_add(self.step);
        at
    }
}

/// How many steps there are from `start` towards `stop`, without `stop`; `step` is not 0.
pub(super) fn stepped_length(start: i64, stop: i64, step: i64) -> i64 {
    let distance = match step < 0 {
        true => start.saturating_sub(stop),
        false => stop.saturating_sub(start),
    };
    let stride = step.checked_abs().unwrap_or(i64::MAX);
    match distance > 0 {
        true => distance
            .saturating_sub(1)
            .checked_div(stride)
            .unwrap_or(0)
            .saturating_add(1),
        false => 0,
    }
}
