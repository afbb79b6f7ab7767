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

/// What a `Value` is, for the engine itself. The origins are who decided on the value (`provenance.rs`); a string
/// has them by the character.
#[derive(Clone, Debug)]
pub(super) enum V {
    /// What is not there, and what to say about it when it is used: the hint, or that a value of the type `owner`
    /// has no attribute `name`, or that there is no variable `name`. In one level, which keeps a value at two words.
    Undefined {
        origin: Origin,
        owner: Option<Type>,
        name: NameId,
        hint: Option<Arc<Hint>>,
    },
    None(Origin),
    Bool(bool, Origin),
    Int(i64, Origin),
    /// Only what does not fit `Int`.
    Big(Arc<Big>, Origin),
    Float(f64, Origin),
    Str(Str),
    List(Arc<List>, Origin),
    Tuple(Arc<List>, Origin),
    Dict(Arc<Dict>, Origin),
    View(Arc<View>, Origin),
    Range(Arc<Range>, Origin),
    Iter(Arc<Iter>, Origin),
    Object(Object),
    /// A method that was taken from its value.
    Method(Arc<Bound>),
}

#[derive(Debug)]
pub(super) struct Bound {
    pub owner: V,
    pub method: super::methods::Method,
    _charge: Charge,
}

/// A long whole number.
#[derive(Debug)]
pub(super) struct Big {
    pub value: BigInt,
    _charge: Charge,
}

impl std::ops::Deref for Big {
    type Target = BigInt;

    fn deref(&self) -> &BigInt {
        &self.value
    }
}

/// An index into the template's table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(pub u32);

#[derive(Debug)]
pub(super) struct Hint {
    pub message: String,
    pub kind: ErrorKind,
    _charge: Charge,
}

/// What a small value of its own costs on the heap, with the allocator's own part.
pub(super) const SMALL_BYTES: usize = 96;

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
    /// The least trusted origin in it.
    pub origin: Origin,
    /// A pair of `groupby`, whose parts also have names.
    pub group: bool,
    pub charge: Charge,
}

/// What a list costs beside its items, with the allocator's own part.
const LIST_BYTES: usize = std::mem::size_of::<List>() + 48;

/// Beside its own bytes, what one entry costs.
pub(super) const ITEM_BYTES: usize = std::mem::size_of::<V>();

#[derive(Debug)]
pub(super) struct Range {
    pub start: i64,
    pub step: i64,
    pub len: i64,
    pub stop: i64,
    pub _charge: Charge,
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
    pub origin: Origin,
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
            V::List(list, _) | V::Tuple(list, _) => list.depth,
            V::Dict(dict, _) => dict.depth,
            V::View(view, _) => view.dict.depth.saturating_add(1),
            V::Iter(iter, _) => iter.depth,
            V::Method(bound) => bound.owner.depth().saturating_add(1),
            _ => 0,
        }
    }

    pub fn size(&self) -> usize {
        match self {
            V::Str(text) => text.len().saturating_add(ITEM_BYTES),
            V::List(list, _) | V::Tuple(list, _) => list.size,
            V::Dict(dict, _) => dict.size,
            V::View(view, _) => view.dict.size,
            V::Iter(iter, _) => iter.size,
            V::Big(big, _) => (big.bits() as usize >> 1).saturating_add(ITEM_BYTES),
            V::Method(bound) => bound.owner.size(),
            _ => ITEM_BYTES,
        }
    }

    pub fn list(items: Vec<V>, budget: &mut Budget) -> Result<V> {
        Ok(V::List(
            Arc::new(List::new(items, budget)?),
            Origin::Template,
        ))
    }

    pub fn tuple(items: Vec<V>, budget: &mut Budget) -> Result<V> {
        Ok(V::Tuple(
            Arc::new(List::new(items, budget)?),
            Origin::Template,
        ))
    }

    /// A dict that was made here: whoever wrote a key decided what it holds.
    pub fn dict(dict: Dict) -> V {
        let keys = dict.keys;
        V::Dict(Arc::new(dict), keys)
    }

    // Values of the template's own, until `painted` says otherwise.

    pub fn none() -> V {
        V::None(Origin::Template)
    }

    pub fn bool(value: bool) -> V {
        V::Bool(value, Origin::Template)
    }

    pub fn int(value: i64) -> V {
        V::Int(value, Origin::Template)
    }

    pub fn float(value: f64) -> V {
        V::Float(value, Origin::Template)
    }

    /// So many.
    pub fn count(value: usize) -> V {
        V::int(i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// A whole number of the caller's or of the template's, charged to nobody.
    pub fn given_big(value: BigInt) -> V {
        V::charged_big(value, Charge::default())
    }

    /// A whole number that was computed.
    pub fn big(value: BigInt, budget: &mut Budget) -> Result<V> {
        let bytes = big_bytes(&value);
        budget.bytes(bytes)?;
        let charge = budget.charge(bytes.saturating_add(SMALL_BYTES))?;
        Ok(V::charged_big(value, charge))
    }

    fn charged_big(value: BigInt, _charge: Charge) -> V {
        match i64::try_from(&value) {
            Ok(small) => V::int(small),
            Err(_) => V::Big(Arc::new(Big { value, _charge }), Origin::Template),
        }
    }

    /// A method, taken from its value.
    pub fn method(owner: V, method: super::methods::Method, budget: &mut Budget) -> Result<V> {
        let _charge = budget.charge(SMALL_BYTES)?;
        Ok(V::Method(Arc::new(Bound {
            owner,
            method,
            _charge,
        })))
    }

    pub fn view(kind: ViewKind, dict: Arc<Dict>, shape: Origin, budget: &mut Budget) -> Result<V> {
        Ok(V::View(Arc::new(View::new(kind, dict, budget)?), shape))
    }

    /// A string of the engine's own making.
    pub fn text(text: &str, origin: Origin, budget: &mut Budget) -> Result<V> {
        let mut out = super::string::Builder::new(budget)?;
        out.push(text, origin, budget)?;
        Ok(V::Str(out.finish()))
    }

    pub fn hint(kind: ErrorKind, message: impl Into<String>, budget: &mut Budget) -> Result<V> {
        let message = message.into();
        budget.slow_bytes(message.len())?;
        let _charge = budget.charge(message.len().saturating_add(SMALL_BYTES))?;
        Ok(V::Undefined {
            origin: Origin::Template,
            owner: None,
            name: NameId(0),
            hint: Some(Arc::new(Hint {
                message,
                kind,
                _charge,
            })),
        })
    }

    /// No variable of that name, or no attribute of that name in a value of the type.
    pub fn missing(owner: Option<Type>, name: NameId) -> V {
        V::Undefined {
            origin: Origin::Template,
            owner,
            name,
            hint: None,
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, V::Undefined { .. })
    }

    /// The name of the type in Python.
    pub fn type_name(&self) -> &'static str {
        self.kind().name()
    }

    pub fn kind(&self) -> Type {
        match self {
            V::Undefined { .. } => Type::Undefined,
            V::None(_) => Type::None,
            V::Bool(..) => Type::Bool,
            V::Int(..) | V::Big(..) => Type::Int,
            V::Float(..) => Type::Float,
            V::Str(text) if text.markup() => Type::Markup,
            V::Str(_) => Type::Str,
            V::List(..) => Type::List,
            V::Tuple(..) => Type::Tuple,
            V::Dict(..) => Type::Dict,
            V::View(view, _) => match view.kind {
                ViewKind::Keys => Type::Keys,
                ViewKind::Values => Type::Values,
                ViewKind::Items => Type::Items,
            },
            V::Range(..) => Type::Range,
            V::Iter(..) => Type::Generator,
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
            V::Undefined { .. } | V::None(_) => false,
            V::Bool(value, _) => *value,
            V::Int(value, _) => *value != 0,
            V::Float(value, _) => *value != 0.0,
            V::Str(text) => !text.as_str().is_empty(),
            V::List(list, _) | V::Tuple(list, _) => !list.items.is_empty(),
            V::Dict(dict, _) => !dict.entries.is_empty(),
            V::View(view, _) => !view.dict.entries.is_empty(),
            V::Range(range, _) => range.len > 0,
            V::Big(..) | V::Iter(..) | V::Object(_) | V::Method(_) => true,
        }
    }
}

/// Bytes of a whole number.
pub(super) fn big_bytes(value: &BigInt) -> usize {
    usize::try_from(value.bits() >> 3)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
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
        Ok(V::List(Arc::new(self.into_list(budget)?), Origin::Template))
    }

    pub fn iter(self, budget: &mut Budget) -> Result<V> {
        let list = self.into_list(budget)?;
        let iter = Iter {
            depth: list.depth,
            size: list.size,
            origin: list.origin,
            items: Mutex::new(list.items.into_iter()),
            _charge: list.charge,
        };
        Ok(V::Iter(Arc::new(iter), Origin::Template))
    }
}

impl List {
    pub fn new(items: Vec<V>, budget: &mut Budget) -> Result<List> {
        let bytes = items.capacity().saturating_mul(ITEM_BYTES);
        let charge = budget.charge(bytes.saturating_add(LIST_BYTES))?;
        List::paid(items, charge, budget)
    }

    fn paid(items: Vec<V>, charge: Charge, budget: &mut Budget) -> Result<List> {
        budget.steps((items.len() >> 2).saturating_add(1))?;
        let (depth, size, origin) = measure(items.iter());
        check(depth, size, budget)?;
        Ok(List {
            items,
            depth,
            size,
            origin,
            group: false,
            charge,
        })
    }
}

/// Depth, size and least trusted origin of a container of these.
pub(super) fn measure<'a>(items: impl Iterator<Item = &'a V>) -> (u32, usize, Origin) {
    let mut depth = 0;
    let mut size = ITEM_BYTES;
    let mut origin = Origin::Template;
    for item in items {
        depth = item.depth().max(depth);
        size = item.size().saturating_add(size);
        origin = item.least_trusted().max(origin);
    }
    (depth.saturating_add(1), size, origin)
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
        Value(V::none())
    }

    pub fn bool(value: bool) -> Value {
        Value(V::bool(value))
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
        digits
            .parse::<BigInt>()
            .ok()
            .map(|big| Value(V::given_big(big)))
    }

    /// A list that the host put together: its items keep their origins.
    ///
    /// Errors: deeper than 200.
    pub fn list(items: Vec<Value>) -> std::result::Result<Value, TemplateError> {
        let items: Vec<V> = items.into_iter().map(|item| item.0).collect();
        let (depth, size, origin) = measure(items.iter());
        given(depth)?;
        let list = List {
            items,
            depth,
            size,
            origin,
            group: false,
            charge: Charge::default(),
        };
        Ok(Value(V::List(Arc::new(list), Origin::Template)))
    }

    /// A dict that the host put together; of two entries with one key the last counts.
    ///
    /// Errors: deeper than 200.
    pub fn dict(entries: Vec<(Str, Value)>) -> std::result::Result<Value, TemplateError> {
        let dict = Dict::of_caller(entries.into_iter().map(|(key, value)| (key, value.0)));
        given(dict.depth)?;
        Ok(Value(V::Dict(Arc::new(dict), Origin::Template)))
    }

    /// The value, and this origin decided on it: on its length, or on what number it is.
    pub fn shaped(self, by: Origin) -> Value {
        Value(self.0.shaped(by))
    }

    /// A value of one origin: every string in it, keys included, every number, and how many there are of what.
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
        serde_json::Value::Null => Value(V::None(origin)),
        serde_json::Value::Bool(value) => Value(V::Bool(*value, origin)),
        serde_json::Value::Number(number) => Value(match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => V::Int(int, origin),
            (None, Some(int)) => V::given_big(BigInt::from(int)).shaped(origin),
            (None, None) => V::Float(number.as_f64().unwrap_or(f64::NAN), origin),
        }),
        serde_json::Value::String(text) => Value::str(text.as_str(), origin),
        serde_json::Value::Array(items) => {
            let items: std::result::Result<Vec<_>, _> = items
                .iter()
                .map(|item| given_json(item, origin, level))
                .collect();
            Value(Value::list(items?)?.0.shaped(origin))
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
            Value(Value::dict(entries?)?.0.shaped(origin))
        }
    })
}
