//! Loops, and reading any iterable value one item at a time.

use std::sync::Arc;

use super::ast::For;
use super::budget::Budget;
use super::dict::{Dict, View};
use super::error::{ErrorKind, Fault, Result};
use super::eval::{Eval, Flow, ScopeId};
use super::provenance::control;
use super::scan;
use super::string::{Origin, Str};
use super::value::*;

/// A place in an iterable.
#[derive(Debug)]
pub(super) struct Cursor {
    place: Place,
    /// Who decided which items there are.
    pub shape: Origin,
}

#[derive(Debug)]
enum Place {
    List(Arc<List>, usize),
    Str(Str, usize),
    Dict(Arc<Dict>, usize),
    View(Arc<View>, usize),
    Range(Arc<Range>, i64),
    Iter(Arc<Iter>),
    Empty,
}

impl Cursor {
    /// Errors: the value cannot be iterated over.
    pub fn new(value: &V) -> Result<Cursor> {
        let place = match value {
            V::List(list, _) | V::Tuple(list, _) => Place::List(list.clone(), 0),
            V::Str(text) => Place::Str(text.clone(), 0),
            V::Dict(dict, _) => Place::Dict(dict.clone(), 0),
            V::View(view, _) => Place::View(view.clone(), 0),
            V::Range(range, _) => Place::Range(range.clone(), 0),
            V::Iter(iter, _) => Place::Iter(iter.clone()),
            V::Undefined { .. } => Place::Empty,
            value => {
                return Fault::type_error(format!("'{}' object is not iterable", value.type_name()))
            }
        };
        Ok(Cursor {
            place,
            shape: value.shape(),
        })
    }

    pub fn next(&mut self, budget: &mut Budget) -> Result<Option<V>> {
        budget.step()?;
        let take = |at: &mut usize| {
            let now = *at;
            *at = at.saturating_add(1);
            now
        };
        let item = match &mut self.place {
            Place::List(list, at) => list.items.get(take(at)).cloned(),
            Place::Dict(dict, at) => dict.entries.get(take(at)).map(|(key, _)| key.clone()),
            Place::View(view, at) => view.get(take(at), budget)?,
            Place::Iter(iter) => iter.next(),
            Place::Empty => None,
            Place::Range(range, at) => {
                let item = (*at < range.len).then(|| V::int(range.get(*at)));
                *at = at.saturating_add(1);
                item
            }
            Place::Str(text, at) => {
                let rest = text.as_str().get(*at..).unwrap_or("");
                let Some(c) = rest.chars().next() else {
                    return Ok(None);
                };
                let end = at.saturating_add(c.len_utf8());
                // The characters of markup are plain.
                let item = text.slice(*at..end, budget)?.with_markup(false, budget)?;
                *at = end;
                // Each character has an origin of its own.
                return Ok(Some(V::Str(item)));
            }
        };
        match item {
            Some(item) => item.painted(self.shape, budget).map(Some),
            None => Ok(None),
        }
    }

    /// How many items there are in all, where that is known without reading them.
    fn len(&self, budget: &mut Budget) -> Result<Option<usize>> {
        Ok(Some(match &self.place {
            Place::List(list, _) => list.items.len(),
            Place::Str(text, _) => scan::count(text.as_str(), budget)?,
            Place::Dict(dict, _) => dict.entries.len(),
            Place::View(view, _) => view.dict.entries.len(),
            Place::Range(range, _) => usize::try_from(range.len).unwrap_or(0),
            Place::Empty => 0,
            Place::Iter(_) => return Ok(None),
        }))
    }

    /// All that is left.
    pub fn rest(mut self, budget: &mut Budget) -> Result<Items> {
        let count = match &self.place {
            Place::Iter(iter) => iter.len(),
            _ => self.len(budget)?.unwrap_or(0),
        };
        let mut items = Items::with_capacity(count, budget)?;
        while let Some(item) = self.next(budget)? {
            items.push(item, budget)?;
        }
        Ok(items)
    }
}

/// All items of a value; of what shape they are is the caller's to pass on.
pub(super) fn collect(value: &V, budget: &mut Budget) -> Result<Items> {
    Cursor::new(value)?.rest(budget)
}

/// The item that comes next, if it was looked at already.
#[derive(Debug)]
enum After {
    Unknown,
    End,
    Item(V),
}

/// A loop that runs: what `loop` shows.
#[derive(Debug)]
pub(super) struct LoopState<'t> {
    node: &'t For,
    cursor: Cursor,
    pub generation: u32,
    /// From 0; -1 before the first.
    index: i64,
    depth: u32,
    current: V,
    before: V,
    after: After,
    len: Option<usize>,
    /// What is left in the cursor has passed the loop's test.
    tested: bool,
    changed: Option<List>,
    /// The scope around the loop.
    scope: ScopeId,
}

impl<'t> Eval<'t> {
    pub fn for_statement(&mut self, node: &'t For) -> Result<()> {
        let items = self.eval(&node.iter)?;
        self.run_loop(node, &items, 0)
            .map_err(|fault| fault.placed(node.at))
    }

    fn run_loop(&mut self, node: &'t For, items: &V, depth: u32) -> Result<()> {
        let cursor = Cursor::new(items)?;
        // A generator is read to its end even where nothing is done with its items.
        let guard = node
            .guard()
            .filter(|_| !matches!(cursor.place, Place::Iter(_)));
        let outer = self.scope;
        let slot = self.loops.len();
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let len = match node.test {
            None => cursor.len(&mut self.budget)?,
            Some(_) => None,
        };
        self.loops.push(LoopState {
            node,
            cursor,
            generation,
            index: -1,
            depth,
            current: V::none(),
            before: V::none(),
            after: After::Unknown,
            len,
            tested: false,
            changed: None,
            scope: outer,
        });
        let mut ran = false;
        while let Some(item) = self.next_item(slot)? {
            ran = true;
            control::took(1);
            let scope = self.push_scope(outer)?;
            self.scope = Some(scope);
            if let (true, Some(name)) = (node.uses_loop, self.loop_name) {
                let this = Object::Loop {
                    slot: u32::try_from(slot).unwrap_or(u32::MAX),
                    generation,
                };
                self.assign(name, V::Object(this))?;
            }
            self.bind(&node.target, item)?;
            let flow = match guard {
                None => self.body(&node.body)?,
                Some((test, body)) if self.eval(test)?.truth() => self.body(body)?,
                Some(_) => Flow::Break,
            };
            self.scope = outer;
            self.drop_scope(scope);
            if flow == Flow::Break {
                break;
            }
        }
        self.loops.truncate(slot);
        control::took(0);
        if !ran && !node.otherwise.is_empty() {
            self.in_scope(|eval| eval.body(&node.otherwise))?;
        }
        Ok(())
    }

    /// Moves a loop on.
    fn next_item(&mut self, slot: usize) -> Result<Option<V>> {
        let after = match self.loops.get_mut(slot) {
            Some(state) => std::mem::replace(&mut state.after, After::Unknown),
            None => After::End,
        };
        let item = match after {
            After::Item(item) => Some(item),
            After::End => None,
            After::Unknown => self.pull(slot)?,
        };
        let Some(item) = item else {
            return Ok(None);
        };
        if let Some(state) = self.loops.get_mut(slot) {
            state.index = state.index.saturating_add(1);
            if state.node.uses_loop {
                state.before = std::mem::replace(&mut state.current, item.clone());
            }
        }
        Ok(Some(item))
    }

    /// The next item that passes the loop's test.
    fn pull(&mut self, slot: usize) -> Result<Option<V>> {
        loop {
            let Some(state) = self.loops.get_mut(slot) else {
                return Ok(None);
            };
            let Some(item) = state.cursor.next(&mut self.budget)? else {
                return Ok(None);
            };
            let (node, outer) = (state.node, state.scope);
            let tested = state.tested;
            let Some(test) = node.test.as_ref().filter(|_| !tested) else {
                return Ok(Some(item));
            };
            let current = std::mem::replace(&mut self.scope, outer);
            let passes = self.in_scope(|eval| {
                eval.bind(&node.target, item.clone())?;
                Ok(eval.eval(test)?.truth())
            })?;
            self.scope = current;
            if passes {
                return Ok(Some(item));
            }
        }
    }

    /// Looks at the next item without moving on.
    fn look_ahead(&mut self, slot: usize) -> Result<Option<V>> {
        if let Some(After::Unknown) = self.loops.get(slot).map(|state| &state.after) {
            let after = match self.pull(slot)? {
                Some(item) => After::Item(item),
                None => After::End,
            };
            if let Some(state) = self.loops.get_mut(slot) {
                state.after = after;
            }
        }
        Ok(match self.loops.get(slot).map(|state| &state.after) {
            Some(After::Item(item)) => Some(item.clone()),
            _ => None,
        })
    }

    fn loop_slot(&self, slot: u32, generation: u32) -> Result<usize> {
        let slot = slot as usize;
        match self.loops.get(slot) {
            Some(state) if state.generation == generation => Ok(slot),
            _ => Fault::new(
                ErrorKind::Runtime,
                "'loop' is used after its loop has ended",
            ),
        }
    }

    fn loop_length(&mut self, slot: usize) -> Result<usize> {
        if let Some(len) = self.loops.get(slot).and_then(|state| state.len) {
            return Ok(len);
        }
        let mut items = Items::new(&mut self.budget)?;
        while let Some(item) = self.pull(slot)? {
            items.push(item, &mut self.budget)?;
        }
        let Some(state) = self.loops.get_mut(slot) else {
            return Ok(0);
        };
        let seen = usize::try_from(state.index.saturating_add(1)).unwrap_or(0);
        let ahead = usize::from(matches!(state.after, After::Item(_)));
        let len = items.len().saturating_add(seen).saturating_add(ahead);
        state.len = Some(len);
        // They passed the test: it is not asked again.
        let list = items.into_list(&mut self.budget)?;
        state.cursor.place = Place::List(Arc::new(list), 0);
        state.tested = true;
        Ok(len)
    }

    /// An attribute of `loop`; `None` where there is none of that name.
    pub fn loop_attribute(&mut self, slot: u32, generation: u32, name: &str) -> Result<Option<V>> {
        let slot = self.loop_slot(slot, generation)?;
        let Some(state) = self.loops.get(slot) else {
            return Ok(None);
        };
        let index = state.index;
        let depth = i64::from(state.depth);
        // How often a loop has run is its control; how often it will is known from its items.
        let shape = state.cursor.shape;
        let int = |value: i64| Ok(Some(V::int(value)));
        match name {
            "index0" => int(index),
            "index" => int(index.saturating_add(1)),
            "first" => Ok(Some(V::bool(index == 0))),
            "depth0" => int(depth),
            "depth" => int(depth.saturating_add(1)),
            "previtem" if index == 0 => {
                let message = "there is no previous item";
                V::hint(ErrorKind::Undefined, message, &mut self.budget).map(Some)
            }
            "previtem" => Ok(Some(state.before.clone())),
            "last" => Ok(Some(V::Bool(self.look_ahead(slot)?.is_none(), shape))),
            "nextitem" => Ok(Some(match self.look_ahead(slot)? {
                Some(item) => item,
                None => {
                    let message = "there is no next item";
                    V::hint(ErrorKind::Undefined, message, &mut self.budget)?.shaped(shape)
                }
            })),
            "length" | "revindex" | "revindex0" => {
                let len = i64::try_from(self.loop_length(slot)?).unwrap_or(i64::MAX);
                let value = match name {
                    "length" => len,
                    "revindex" => len.saturating_sub(index),
                    _ => len.saturating_sub(index.saturating_add(1)),
                };
                Ok(Some(V::Int(value, shape)))
            }
            _ => Ok(None),
        }
    }

    /// `loop.cycle(…)`.
    pub fn loop_cycle(&mut self, slot: u32, generation: u32, items: Vec<V>) -> Result<V> {
        let slot = self.loop_slot(slot, generation)?;
        let index = self.loops.get(slot).map_or(0, |state| state.index);
        let index = usize::try_from(index).unwrap_or(0);
        match index.checked_rem(items.len()) {
            Some(at) => Ok(items.into_iter().nth(at).unwrap_or(V::none())),
            None => Fault::type_error("no items for cycling given"),
        }
    }

    /// `loop.changed(…)`.
    pub fn loop_changed(&mut self, slot: u32, generation: u32, values: Vec<V>) -> Result<V> {
        let slot = self.loop_slot(slot, generation)?;
        let Some(state) = self.loops.get_mut(slot) else {
            return Ok(V::none());
        };
        // What was there before was compared, too.
        let origin = state
            .changed
            .as_ref()
            .map_or(Origin::Template, |before| before.origin);
        let same = match &state.changed {
            Some(before) if before.items.len() == values.len() => {
                let mut same = true;
                for (a, b) in before.items.iter().zip(&values) {
                    same &= super::operators::equal(a, b, &mut self.budget)?;
                }
                same
            }
            _ => false,
        };
        if !same {
            state.changed = Some(List::new(values, &mut self.budget)?);
        }
        Ok(V::Bool(!same, origin))
    }

    /// `loop(…)`, in a recursive loop: its body once more, for other items.
    pub fn loop_again(&mut self, slot: u32, generation: u32, items: &V) -> Result<V> {
        let slot = self.loop_slot(slot, generation)?;
        let Some(state) = self.loops.get(slot) else {
            return Ok(V::none());
        };
        let (node, scope, depth) = (state.node, state.scope, state.depth);
        if !node.recursive {
            return Fault::type_error(
                "The loop must have the 'recursive' marker to be called recursively.",
            );
        }
        self.recursion.enter()?;
        let current = std::mem::replace(&mut self.scope, scope);
        let (text, ()) =
            self.capture(|eval| eval.run_loop(node, items, depth.saturating_add(1)))?;
        self.scope = current;
        self.recursion.leave();
        Ok(V::Str(text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::template::{Limits, Now, Origin, Str, Template, Value};

    fn render(source: &str) -> String {
        let limits = Limits::default();
        let items = ["a", "b", "c"].map(|text| Value::str(text, Origin::Content));
        let items = Value::list(items.to_vec()).unwrap();
        let context = Value::dict(vec![(Str::new("items", Origin::Content), items)]).unwrap();
        let clock = || Now::from_unix(0, 0);
        let template = Template::parse(source, &limits).unwrap();
        template.render(&context, &clock, &limits).unwrap().text
    }

    #[test]
    fn a_loop_behind_a_guard_prints_what_it_would_without() {
        let cases = [
            ("{% set n = namespace(f=false) %}{% for x in items %}{% if not n.f %}{{ x }}{% if x == 'b' %}{% set n.f = true %}{% endif %}{% endif %}{% else %}-{% endfor %}{{ n.f }}", "abTrue"),
            ("{% for x in items %}{% if no %}{{ x }}{% endif %}{% else %}-{% endfor %}.", "."),
            ("{% for x in [] %}{% if no %}{{ x }}{% endif %}{% else %}-{% endfor %}.", "-."),
            ("{% for x in [0, 1, 2] %}{% if x %}{{ x }}{% endif %}{% endfor %}", "12"),
            ("{% for x in items %}{% if not loop.first %}{{ x }}{% endif %}{% endfor %}", "bc"),
            ("{% for x in items %}{% if no %}{% else %}{{ x }}{% endif %}{% endfor %}", "abc"),
            ("{% for x in items %}{% if not no %}{{ x }}{% continue %}{% endif %}{% endfor %}", "abc"),
            // What reads a generator leaves nothing of it.
            ("{% set g = items|select %}{% for x in g %}{% if no %}{% endif %}{% endfor %}{{ g|list }}", "[]"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source), expected, "{source}");
        }
    }

    #[test]
    fn a_guard_that_is_false_ends_its_loop() {
        let search = "{% for x in range(100000) %}{% for y in range(100000) %}{% if no %}{% endif %}{% endfor %}{% endfor %}.";
        assert_eq!(render(search), ".");
    }
}
