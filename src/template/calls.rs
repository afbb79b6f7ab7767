//! Calls: macros, the global functions and bound methods.

use std::sync::Arc;

use super::budget::Budget;
use super::dict::Dict;
use super::error::{brief, ErrorKind, Fault, Result};
use super::eval::{Counter, Eval};
use super::expression::{required, Arguments};
use super::loops::{collect, Cursor};
use super::methods;
use super::provenance::Carries;
use super::string::{Origin, Str};
use super::value::*;

/// Longer ranges are refused, as jinja2's sandbox does.
const MAX_RANGE: i64 = 100_000;

/// Longer formats of `strftime_now` are refused.
const MAX_DATE: usize = 4096;

/// A named argument, taken out.
fn take(named: &mut Vec<(Str, V)>, name: &str, budget: &mut Budget) -> Result<Option<V>> {
    budget.steps(named.len() >> 2)?;
    let alike = named.iter().filter(|(have, _)| have.len() == name.len());
    budget.bytes(name.len().saturating_mul(alike.count()))?;
    let found = named.iter().position(|(have, _)| have.as_str() == name);
    Ok(found.map(|at| named.remove(at).1))
}

impl<'t> Eval<'t> {
    #[inline(never)]
    pub fn call(&mut self, callee: V, args: Arguments) -> Result<V> {
        match callee {
            V::Object(Object::Macro(id)) => self.call_macro(id, args),
            V::Object(Object::Function(function)) => self.call_function(function, args),
            V::Method(bound) => methods::call(self, bound.owner.clone(), bound.method, args),
            V::Object(Object::Loop { slot, generation }) => {
                let [items] = args.bind("loop", ["iterable"])?;
                let items = required(items, "loop", "iterable")?;
                self.loop_again(slot, generation, &items)
            }
            V::Object(Object::Joiner(id)) => {
                let Some(counter) = self.counters.get_mut(id as usize) else {
                    return Ok(V::none());
                };
                counter.used = counter.used.saturating_add(1);
                match counter.items.items.first() {
                    Some(separator) if counter.used > 1 => Ok(separator.clone()),
                    _ => Ok(V::Str(Str::new("", Origin::Template))),
                }
            }
            other => {
                self.checked(&other)?;
                Fault::type_error(format!("'{}' object is not callable", other.type_name()))
            }
        }
    }

    #[inline(never)]
    fn call_macro(&mut self, id: u32, args: Arguments) -> Result<V> {
        let Some(value) = self.macros.get(id as usize).copied() else {
            return Ok(V::none());
        };
        let def = value.def;
        let name = match def.name {
            Some(name) => self.name(name),
            None => "caller",
        };
        self.recursion.enter()?;
        let outer = self.scope;
        let scope = self.push_scope(value.scope)?;
        let Arguments {
            positional,
            mut named,
            charge: _charge,
        } = args;
        let mut positional = positional.into_iter();
        let explicit_caller = def.params.iter().any(|param| self.name(*param) == "caller");
        // Defaults are evaluated in the macro's own scope, where earlier parameters are known.
        self.scope = Some(scope);
        let first_default = def.params.len().saturating_sub(def.defaults.len());
        for (at, param) in def.params.iter().enumerate() {
            let text = self.name(*param);
            let mut given = positional.next();
            if given.is_none() {
                given = take(&mut named, text, &mut self.budget)?;
            }
            let value = match given {
                Some(value) => value,
                None => {
                    let default = at
                        .checked_sub(first_default)
                        .and_then(|at| def.defaults.get(at));
                    match default {
                        Some(default) => self.eval(default)?,
                        None => {
                            let message = format!("parameter '{}' was not provided", brief(text));
                            V::hint(ErrorKind::Undefined, message, &mut self.budget)?
                        }
                    }
                }
            };
            self.assign(*param, value)?;
        }
        if def.uses_caller && !explicit_caller {
            let caller = match take(&mut named, "caller", &mut self.budget)? {
                Some(caller) => caller,
                None => V::hint(ErrorKind::Undefined, "No caller defined", &mut self.budget)?,
            };
            self.assign_by_name("caller", caller)?;
        }
        if def.uses_kwargs {
            let mut dict = Dict::new(&mut self.budget)?;
            for (name, value) in named.drain(..) {
                dict.insert(V::Str(name), value, &mut self.budget)?;
            }
            self.assign_by_name("kwargs", V::dict(dict))?;
        } else if let Some((unknown, _)) = named.first() {
            return Fault::type_error(match unknown.as_str() {
                "caller" => format!(
                    "macro '{}' was invoked with two values for the special caller argument. \
                     This is most likely a bug.",
                    brief(name)
                ),
                unknown => format!(
                    "macro '{}' takes no keyword argument '{}'",
                    brief(name),
                    brief(unknown)
                ),
            });
        }
        let rest: Vec<V> = positional.collect();
        if def.uses_varargs {
            let rest = V::tuple(rest, &mut self.budget)?;
            self.assign_by_name("varargs", rest)?;
        } else if !rest.is_empty() {
            return Fault::type_error(format!(
                "macro '{}' takes not more than {} argument(s)",
                brief(name),
                def.params.len()
            ));
        }
        let (text, _) = self.capture(|eval| eval.body(&def.body))?;
        self.scope = outer;
        self.drop_scope(scope);
        self.recursion.leave();
        Ok(V::Str(text))
    }

    /// For the few names that the engine itself gives; the template uses them, so they are known.
    fn assign_by_name(&mut self, name: &str, value: V) -> Result<()> {
        match self.id(name) {
            Some(id) => self.assign(id, value),
            None => Ok(()),
        }
    }

    #[inline(never)]
    fn call_function(&mut self, function: Function, args: Arguments) -> Result<V> {
        match function {
            Function::Range => self.range(args),
            Function::Dict => self.make_dict(args),
            Function::Namespace => {
                let mut attributes = Vec::new();
                let mut decided = Origin::Template;
                if let V::Dict(dict, shape) = self.make_dict(args)? {
                    decided = shape;
                    for (name, value) in &dict.entries {
                        let V::Str(name) = name else {
                            return Fault::type_error("attribute name must be string");
                        };
                        let value = value.clone().painted(shape, &mut self.budget)?;
                        attributes.push((name.clone(), value));
                    }
                }
                self.new_namespace(attributes, decided)
            }
            Function::Cycler => {
                if args.positional.is_empty() {
                    return Fault::new(ErrorKind::Runtime, "at least one item has to be provided");
                }
                self.new_counter(args.positional).map(Object::Cycler)
            }
            .map(V::Object),
            Function::Joiner => {
                let [separator] = args.bind("joiner", ["sep"])?;
                let comma = || V::Str(Str::new(", ", Origin::Template));
                let separator = separator.unwrap_or_else(comma);
                Ok(V::Object(Object::Joiner(
                    self.new_counter(vec![separator])?,
                )))
            }
            Function::Lipsum => Fault::unsupported("lipsum is not supported: it prints at random"),
            Function::RaiseException => {
                let [message] = args.bind("raise_exception", ["message"])?;
                let message = required(message, "raise_exception", "message")?;
                let message = self.str_of(&message)?;
                Fault::raised(message.as_str())
            }
            Function::StrftimeNow => {
                let [format] = args.bind("strftime_now", ["format"])?;
                let format = required(format, "strftime_now", "format")?;
                let V::Str(format) = format else {
                    return Fault::type_error(format!(
                        "strftime() argument 1 must be str, not {}",
                        format.type_name()
                    ));
                };
                if format.len() > MAX_DATE {
                    let message = format!("a format of a date of more than {MAX_DATE} bytes");
                    return Fault::limit(message);
                }
                // A directive takes some hundred nanoseconds, and so does the clock.
                self.budget
                    .steps(format.len().saturating_mul(16).saturating_add(64))?;
                let text = (self.clock)().strftime(format.as_str());
                let origin = format.text().least_trusted();
                V::text(&text, origin, &mut self.budget)
            }
        }
    }

    fn new_counter(&mut self, items: Vec<V>) -> Result<u32> {
        self.pay_for_entry()?;
        let items = Arc::new(List::new(items, &mut self.budget)?);
        let id = u32::try_from(self.counters.len()).unwrap_or(u32::MAX);
        self.counters.push(Counter { items, used: 0 });
        Ok(id)
    }

    pub fn cycler_current(&self, id: u32) -> Option<V> {
        let counter = self.counters.get(id as usize)?;
        let items = &counter.items.items;
        let at = counter.used.checked_rem(items.len())?;
        items.get(at).cloned()
    }

    /// What `cycler` and `joiner` have besides methods. Whoever decided on an item may have decided that it is there.
    pub fn counter_attribute(&mut self, object: &Object, name: &str) -> Result<Option<V>> {
        let (Object::Cycler(id) | Object::Joiner(id)) = object else {
            return Ok(None);
        };
        let Some(counter) = self.counters.get(*id as usize) else {
            return Ok(None);
        };
        Ok(match (object, name) {
            (Object::Cycler(id), "current") => self.cycler_current(*id),
            (Object::Cycler(_), "items") => {
                self.budget.steps(counter.items.items.len() >> 2)?;
                let shape = counter.items.items.iter().map(V::shape).max();
                let items = V::Tuple(counter.items.clone(), Origin::Template);
                Some(items.shaped(shape.unwrap_or_default()))
            }
            (Object::Cycler(_), "pos") => {
                let pos = counter.used.checked_rem(counter.items.items.len());
                pos.and_then(|pos| i64::try_from(pos).ok()).map(V::int)
            }
            (Object::Joiner(_), "sep") => counter.items.items.first().cloned(),
            (Object::Joiner(_), "used") => Some(V::bool(counter.used > 0)),
            _ => None,
        })
    }

    /// `cycler.next()` and `cycler.reset()`.
    pub fn cycler_move(&mut self, id: u32, reset: bool) -> V {
        let current = self.cycler_current(id);
        if let Some(counter) = self.counters.get_mut(id as usize) {
            counter.used = match reset {
                true => 0,
                false => counter.used.saturating_add(1),
            };
        }
        match current {
            Some(value) if !reset => value,
            _ => V::none(),
        }
    }

    /// A dict as trusted as the one that it is a copy of, and as the keys that were added.
    fn make_dict(&mut self, args: Arguments) -> Result<V> {
        let mut dict = Dict::new(&mut self.budget)?;
        let mut shape = Origin::Template;
        let Arguments {
            mut positional,
            named,
            charge: _charge,
        } = args;
        if positional.len() > 1 {
            return Fault::type_error(format!(
                "dict expected at most 1 argument, got {}",
                positional.len()
            ));
        }
        match positional.pop() {
            None => {}
            Some(V::Dict(from, from_shape)) => {
                shape = from_shape;
                for (key, value) in &from.entries {
                    self.budget.step()?;
                    dict.insert(key.clone(), value.clone(), &mut self.budget)?;
                }
            }
            Some(pairs) => {
                self.checked(&pairs)?;
                shape = pairs.shape();
                let mut pairs = Cursor::new(&pairs)?;
                while let Some(pair) = pairs.next(&mut self.budget)? {
                    match collect(&pair, &mut self.budget)?.as_slice() {
                        [key, value] => {
                            shape = shape.max(key.least_trusted());
                            dict.insert(key.clone(), value.clone(), &mut self.budget)?;
                        }
                        _ => {
                            return Fault::value_error(
                                "dictionary update sequence element has not length 2",
                            )
                        }
                    }
                }
            }
        }
        for (name, value) in named {
            shape = shape.max(name.text().least_trusted());
            dict.insert(V::Str(name), value, &mut self.budget)?;
        }
        Ok(V::Dict(Arc::new(dict), shape))
    }

    fn range(&mut self, args: Arguments) -> Result<V> {
        let mut numbers = Vec::new();
        let origin = args.choosers(Carries::Nothing);
        for arg in &args.positional {
            self.checked(arg)?;
            numbers.push(methods::int_arg(arg)?);
        }
        if !args.named.is_empty() {
            return Fault::type_error("range() takes no keyword arguments");
        }
        let (start, stop, step) = match numbers.as_slice() {
            [stop] => (0, *stop, 1),
            [start, stop] => (*start, *stop, 1),
            [start, stop, step] => (*start, *stop, *step),
            [] => return Fault::type_error("range expected at least 1 argument, got 0"),
            more => {
                return Fault::type_error(format!(
                    "range expected at most 3 arguments, got {}",
                    more.len()
                ))
            }
        };
        if step == 0 {
            return Fault::value_error("range() arg 3 must not be zero");
        }
        let len = super::attributes::stepped_length(start, stop, step);
        if len > MAX_RANGE {
            return Fault::new(
                ErrorKind::Overflow,
                format!(
                    "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."
                ),
            );
        }
        let range = Range {
            start,
            step,
            len,
            stop,
            _charge: self.budget.charge(SMALL_BYTES)?,
        };
        Ok(V::Range(Arc::new(range), origin))
    }
}
