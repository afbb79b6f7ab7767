//! The values of a template: Python's, immutable, and each knows its depth and its size when written out.

use std::sync::{Arc, Mutex, PoisonError};

use num_bigint::BigInt;

use super::budget::{Budget, Charge};
use super::dict::{Dict, View, ViewKind};
use super::error::{ErrorKind, Fault, Result, TemplateError};
use super::string::{Origin, Str};

/// A value of a template. Copies are cheap: what is large is shared.
#[derive(Clone, Debug)]
pub struct Value(pub(super) V);

/// What a `Value` is, for the engine itself.
#[derive(Clone, Debug)]
pub(super) enum V {
    Undefined(Missing),
    None,
    Bool(bool),
    Int(i64),
    /// Only what does not fit `Int`.
    Big(Arc<BigInt>),
    Float(f64),
    Str(Str),
    List(Arc<List>),
    Tuple(Arc<List>),
    Dict(Arc<Dict>),
    View(Arc<View>),
    Range(Arc<Range>),
    Iter(Arc<Iter>),
    Object(Object),
    /// A method that was taken from its value.
    Method(Arc<(V, super::methods::Method)>),
}

/// An index into the template's table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(pub u32);

/// What is not there, and what to say about it when it is used.
#[derive(Clone, Debug)]
pub(super) enum Missing {
    /// No variable of that name.
    Name(NameId),
    /// No attribute of that name in a value of that type.
    Attribute(Type, NameId),
    Other(Arc<Hint>),
}

#[derive(Debug)]
pub(super) struct Hint {
    pub message: String,
    pub kind: ErrorKind,
}

/// What Python's `type` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Undefined,
    None,
    Bool,
    Int,
    Float,
    Markup,
    Str,
    List,
    Tuple,
    Dict,
    Keys,
    Values,
    Items,
    Range,
    Generator,
    Method,
    Namespace,
    Macro,
    Cycler,
    Joiner,
    Loop,
    Function,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Type::Undefined => "Undefined",
            Type::None => "NoneType",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float",
            Type::Markup => "Markup",
            Type::Str => "str",
            Type::List => "list",
            Type::Tuple => "tuple",
            Type::Dict => "dict",
            Type::Keys => "dict_keys",
            Type::Values => "dict_values",
            Type::Items => "dict_items",
            Type::Range => "range",
            Type::Generator => "generator",
            Type::Method => "builtin_function_or_method",
            Type::Namespace => "TemplateNamespace",
            Type::Macro => "Macro",
            Type::Cycler => "Cycler",
            Type::Joiner => "Joiner",
            Type::Loop => "LoopContext",
            Type::Function => "function",
        }
    }
}

/// Things that live in the evaluator's tables, and functions.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Namespace(u32),
    Macro(u32),
    Cycler(u32),
    Joiner(u32),
    Loop { slot: u32, generation: u32 },
    Function(Function),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

impl Function {
    pub const ALL: [(&'static str, Function); 8] = [
        ("range", Function::Range),
        ("dict", Function::Dict),
        ("namespace", Function::Namespace),
        ("cycler", Function::Cycler),
        ("joiner", Function::Joiner),
        ("lipsum", Function::Lipsum),
        ("raise_exception", Function::RaiseException),
        ("strftime_now", Function::StrftimeNow),
    ];
}

/// A list or a tuple.
#[derive(Debug)]
pub(super) struct List {
    pub items: Vec<V>,
    pub depth: u32,
    /// Bytes that the whole takes when written out, shared parts counted each time.
    pub size: usize,
    /// A pair of `groupby`, whose parts also have names.
    pub group: bool,
    pub charge: Charge,
}

/// What a list costs beside its items, with the allocator's own part.
const LIST_BYTES: usize = std::mem::size_of::<List>() + 48;

/// Beside its own bytes, what one entry costs.
pub(super) const ITEM_BYTES: usize = std::mem::size_of::<V>();

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub start: i64,
    pub step: i64,
    pub len: i64,
    pub stop: i64,
}

impl Range {
    pub fn get(&self, index: i64) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(index))
    }
}

/// What Python makes a generator or an iterator of: it can be read once.
#[derive(Debug)]
pub(super) struct Iter {
    items: Mutex<std::vec::IntoIter<V>>,
    pub depth: u32,
    pub size: usize,
    /// Holds what the items were paid with.
    _charge: Charge,
}

impl Iter {
    pub fn next(&self) -> Option<V> {
        self.items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl V {
    pub fn depth(&self) -> u32 {
        match self {
            V::List(list) | V::Tuple(list) => list.depth,
            V::Dict(dict) => dict.depth,
            V::View(view) => view.dict.depth.saturating_add(1),
            V::Iter(iter) => iter.depth,
            V::Method(bound) => bound.0.depth().saturating_add(1),
            _ => 0,
        }
    }

    pub fn size(&self) -> usize {
        match self {
            V::Str(text) => text.len().saturating_add(ITEM_BYTES),
            V::List(list) | V::Tuple(list) => list.size,
            V::Dict(dict) => dict.size,
            V::View(view) => view.dict.size,
            V::Iter(iter) => iter.size,
            V::Big(big) => (big.bits() as usize >> 1).saturating_add(ITEM_BYTES),
            V::Method(bound) => bound.0.size(),
            _ => ITEM_BYTES,
        }
    }

    pub fn list(items: Vec<V>, budget: &mut Budget) -> Result<V> {
        Ok(V::List(Arc::new(List::new(items, budget)?)))
    }

    pub fn tuple(items: Vec<V>, budget: &mut Budget) -> Result<V> {
        Ok(V::Tuple(Arc::new(List::new(items, budget)?)))
    }

    pub fn big(value: BigInt) -> V {
        match i64::try_from(&value) {
            Ok(small) => V::Int(small),
            Err(_) => V::Big(Arc::new(value)),
        }
    }

    /// A string of the engine's own making.
    pub fn text(text: &str, origin: Origin, budget: &mut Budget) -> Result<V> {
        let mut out = super::string::Builder::new(budget)?;
        out.push(text, origin, budget)?;
        Ok(V::Str(out.finish()))
    }

    pub fn hint(kind: ErrorKind, message: impl Into<String>) -> V {
        V::Undefined(Missing::Other(Arc::new(Hint {
            message: message.into(),
            kind,
        })))
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, V::Undefined(_))
    }

    /// The name of the type in Python.
    pub fn type_name(&self) -> &'static str {
        self.kind().name()
    }

    pub fn kind(&self) -> Type {
        match self {
            V::Undefined(_) => Type::Undefined,
            V::None => Type::None,
            V::Bool(_) => Type::Bool,
            V::Int(_) | V::Big(_) => Type::Int,
            V::Float(_) => Type::Float,
            V::Str(text) if text.markup() => Type::Markup,
            V::Str(_) => Type::Str,
            V::List(_) => Type::List,
            V::Tuple(_) => Type::Tuple,
            V::Dict(_) => Type::Dict,
            V::View(view) => match view.kind {
                ViewKind::Keys => Type::Keys,
                ViewKind::Values => Type::Values,
                ViewKind::Items => Type::Items,
            },
            V::Range(_) => Type::Range,
            V::Iter(_) => Type::Generator,
            V::Method(_) => Type::Method,
            V::Object(object) => match object {
                Object::Namespace(_) => Type::Namespace,
                Object::Macro(_) => Type::Macro,
                Object::Cycler(_) => Type::Cycler,
                Object::Joiner(_) => Type::Joiner,
                Object::Loop { .. } => Type::Loop,
                Object::Function(_) => Type::Function,
            },
        }
    }

    pub fn truth(&self) -> bool {
        match self {
            V::Undefined(_) | V::None => false,
            V::Bool(value) => *value,
            V::Int(value) => *value != 0,
            V::Float(value) => *value != 0.0,
            V::Str(text) => !text.as_str().is_empty(),
            V::List(list) | V::Tuple(list) => !list.items.is_empty(),
            V::Dict(dict) => !dict.entries.is_empty(),
            V::View(view) => !view.dict.entries.is_empty(),
            V::Range(range) => range.len > 0,
            V::Big(_) | V::Iter(_) | V::Object(_) | V::Method(_) => true,
        }
    }
}

/// A list in the making: pays before it grows.
#[derive(Debug)]
pub(super) struct Items {
    items: Vec<V>,
    charge: Charge,
}

impl Items {
    pub fn new(budget: &mut Budget) -> Result<Items> {
        Ok(Items {
            items: Vec::new(),
            charge: budget.charge(LIST_BYTES)?,
        })
    }

    pub fn with_capacity(count: usize, budget: &mut Budget) -> Result<Items> {
        let mut items = Items::new(budget)?;
        items.grow(count, budget)?;
        Ok(items)
    }

    fn grow(&mut self, count: usize, budget: &mut Budget) -> Result<()> {
        let needed = self.items.len().saturating_add(count);
        let capacity = self.items.capacity();
        if needed > capacity {
            // Four at first: most lists are short.
            let more = budget.growth(capacity, needed.max(4));
            let added = more.saturating_sub(capacity);
            self.charge.grow(added.saturating_mul(ITEM_BYTES))?;
            self.items
                .reserve_exact(more.saturating_sub(self.items.len()));
        }
        Ok(())
    }

    #[inline]
    pub fn push(&mut self, item: V, budget: &mut Budget) -> Result<()> {
        if self.items.len() == self.items.capacity() {
            self.grow(1, budget)?;
        }
        self.items.push(item);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn as_slice(&self) -> &[V] {
        &self.items
    }

    pub fn reverse(&mut self) {
        self.items.reverse();
    }

    pub fn pop(&mut self) -> Option<V> {
        self.items.pop()
    }

    pub fn into_list(self, budget: &mut Budget) -> Result<List> {
        List::paid(self.items, self.charge, budget)
    }

    pub fn list(self, budget: &mut Budget) -> Result<V> {
        Ok(V::List(Arc::new(self.into_list(budget)?)))
    }

    pub fn iter(self, budget: &mut Budget) -> Result<V> {
        let list = self.into_list(budget)?;
        Ok(V::Iter(Arc::new(Iter {
            depth: list.depth,
            size: list.size,
            items: Mutex::new(list.items.into_iter()),
            _charge: list.charge,
        })))
    }
}

impl List {
    pub fn new(items: Vec<V>, budget: &mut Budget) -> Result<List> {
        let bytes = items.capacity().saturating_mul(ITEM_BYTES);
        let charge = budget.charge(bytes.saturating_add(LIST_BYTES))?;
        List::paid(items, charge, budget)
    }

    fn paid(items: Vec<V>, charge: Charge, budget: &mut Budget) -> Result<List> {
        budget.steps((items.len() >> 3).saturating_add(1))?;
        let (depth, size) = measure(items.iter());
        check(depth, size, budget)?;
        Ok(List {
            items,
            depth,
            size,
            group: false,
            charge,
        })
    }
}

/// Depth and size of a container of these.
pub(super) fn measure<'a>(items: impl Iterator<Item = &'a V>) -> (u32, usize) {
    let mut depth = 0;
    let mut size = ITEM_BYTES;
    for item in items {
        depth = item.depth().max(depth);
        size = item.size().saturating_add(size);
    }
    (depth.saturating_add(1), size)
}

pub(super) fn check(depth: u32, size: usize, budget: &Budget) -> Result<()> {
    if depth > budget.max_depth {
        return Fault::limit(format!(
            "the template makes a value deeper than {}",
            budget.max_depth
        ));
    }
    if size > budget.max_size {
        return Fault::limit(format!(
            "the template makes a value larger than {} bytes",
            budget.max_size
        ));
    }
    Ok(())
}

/// No value of the caller may be deeper.
const MAX_GIVEN_DEPTH: u32 = 200;

impl Value {
    #[cfg(test)]
    pub fn none() -> Value {
        Value(V::None)
    }

    pub fn bool(value: bool) -> Value {
        Value(V::Bool(value))
    }

    pub fn str(text: impl Into<String>, origin: Origin) -> Value {
        Value(V::Str(Str::new(text, origin)))
    }

    /// A whole number of any length, as JSON and Python write it.
    #[cfg(test)]
    pub fn int_from_digits(digits: &str) -> Option<Value> {
        if digits.len() > 4300 {
            return None;
        }
        digits.parse::<BigInt>().ok().map(|big| Value(V::big(big)))
    }

    /// Errors: deeper than 200.
    pub fn list(items: Vec<Value>) -> std::result::Result<Value, TemplateError> {
        let items: Vec<V> = items.into_iter().map(|item| item.0).collect();
        let (depth, size) = measure(items.iter());
        given(depth)?;
        Ok(Value(V::List(Arc::new(List {
            items,
            depth,
            size,
            group: false,
            charge: Charge::default(),
        }))))
    }

    /// A dict; of two entries with one key the last counts. Errors: deeper than 200.
    pub fn dict(entries: Vec<(Str, Value)>) -> std::result::Result<Value, TemplateError> {
        let dict = Dict::of_caller(entries.into_iter().map(|(key, value)| (key, value.0)));
        given(dict.depth)?;
        Ok(Value(V::Dict(Arc::new(dict))))
    }

    /// A value of the caller: every string in it, keys included, has the one origin.
    ///
    /// Errors: deeper than 200.
    #[cfg(test)]
    pub fn from_json(
        json: &serde_json::Value,
        origin: Origin,
    ) -> std::result::Result<Value, TemplateError> {
        given_json(json, origin, 0)
    }
}

fn given(depth: u32) -> std::result::Result<(), TemplateError> {
    if depth <= MAX_GIVEN_DEPTH {
        return Ok(());
    }
    Err(TemplateError {
        line: 0,
        column: 0,
        kind: ErrorKind::Limit,
        message: format!("a value of the template's context is deeper than {MAX_GIVEN_DEPTH}"),
    })
}

#[cfg(test)]
fn given_json(
    json: &serde_json::Value,
    origin: Origin,
    level: u32,
) -> std::result::Result<Value, TemplateError> {
    given(level)?;
    let level = level.saturating_add(1);
    Ok(match json {
        serde_json::Value::Null => Value(V::None),
        serde_json::Value::Bool(value) => Value(V::Bool(*value)),
        serde_json::Value::Number(number) => Value(match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => V::Int(int),
            (None, Some(int)) => V::big(BigInt::from(int)),
            (None, None) => V::Float(number.as_f64().unwrap_or(f64::NAN)),
        }),
        serde_json::Value::String(text) => Value::str(text.as_str(), origin),
        serde_json::Value::Array(items) => {
            let items: std::result::Result<Vec<_>, _> = items
                .iter()
                .map(|item| given_json(item, origin, level))
                .collect();
            Value::list(items?)?
        }
        serde_json::Value::Object(entries) => {
            let entries: std::result::Result<Vec<_>, _> = entries
                .iter()
                .map(|(key, value)| {
                    Ok((
                        Str::new(key.as_str(), origin),
                        given_json(value, origin, level)?,
                    ))
                })
                .collect();
            Value::dict(entries?)?
        }
    })
}
