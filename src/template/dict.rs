//! Dicts in the order of insertion, and their views.

use std::collections::HashMap;
use std::sync::Arc;

use num_bigint::{BigInt, Sign};

use super::budget::{Budget, Charge};
use super::error::{Fault, Result};
use super::string::{Origin, Str};
use super::value::{check, ITEM_BYTES, SMALL_BYTES, V};

/// Immutable once made. Keys are what Python can hash: strings, numbers, none, tuples of such.
#[derive(Debug, Default)]
pub(super) struct Dict {
    pub entries: Vec<(V, V)>,
    /// Where there are many string keys, where each is.
    index: HashMap<Str, usize>,
    pub depth: u32,
    pub size: usize,
    /// The least trusted origin in it.
    pub origin: Origin,
    /// The least trusted origin of its keys.
    pub keys: Origin,
    charge: Charge,
}

/// From so many string keys on, a look-up goes through the index.
const INDEXED: usize = 12;
/// What an entry takes at most beside its own bytes: the list and the index grow by doubling.
const INDEX_BYTES: usize = 112;
/// What a dict costs beside its entries, with the allocator's own part.
const DICT_BYTES: usize = std::mem::size_of::<Dict>() + 48;

impl Dict {
    /// An empty dict to `insert` into.
    pub fn new(budget: &mut Budget) -> Result<Dict> {
        Ok(Dict {
            charge: budget.charge(DICT_BYTES)?,
            size: ITEM_BYTES,
            depth: 1,
            ..Dict::default()
        })
    }

    pub(super) fn of_caller(entries: impl Iterator<Item = (Str, V)>) -> Dict {
        let mut dict = Dict {
            size: ITEM_BYTES,
            depth: 1,
            ..Dict::default()
        };
        for (key, value) in entries {
            dict.count(&V::Str(key.clone()), &value);
            match dict.find_str(key.as_str()) {
                Some(at) => dict.replace(at, value),
                None => dict.add(V::Str(key), value),
            }
        }
        dict
    }

    fn count(&mut self, key: &V, value: &V) {
        self.size = self
            .size
            .saturating_add(key.size())
            .saturating_add(value.size());
        self.depth = self
            .depth
            .max(value.depth().max(key.depth()).saturating_add(1));
        self.keys = self.keys.max(key.least_trusted());
        self.origin = self.origin.max(self.keys).max(value.least_trusted());
    }

    fn replace(&mut self, at: usize, value: V) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.1 = value;
        }
    }

    fn add(&mut self, key: V, value: V) {
        self.entries.push((key, value));
        if self.entries.len() < INDEXED {
            return;
        }
        if self.index.is_empty() {
            let keys = self.entries.iter().enumerate();
            self.index = keys
                .filter_map(|(at, (key, _))| match key {
                    V::Str(key) => Some((key.clone(), at)),
                    _ => None,
                })
                .collect();
        } else if let Some((V::Str(key), _)) = self.entries.last() {
            let at = self.entries.len().saturating_sub(1);
            self.index.insert(key.clone(), at);
        }
    }

    /// Sets a key; an earlier one keeps its place.
    pub fn insert(&mut self, key: V, value: V, budget: &mut Budget) -> Result<()> {
        self.charge
            .grow((ITEM_BYTES * 2).saturating_add(INDEX_BYTES))?;
        self.count(&key, &value);
        check(self.depth, self.size, budget)?;
        if let V::Str(key) = &key {
            // It is hashed for the index, and each time that this grows.
            budget.bytes(key.len().saturating_mul(2))?;
            if !self.index.is_empty() {
                budget.steps(4)?;
            }
        }
        match self.find(&key, budget)? {
            Some(at) => self.replace(at, value),
            None => self.add(key, value),
        }
        Ok(())
    }

    /// Steps for a look-up by a string.
    fn pay(&self, key: &str, budget: &mut Budget) -> Result<()> {
        budget.bytes(key.len())?;
        match self.index.is_empty() {
            true => budget.steps(self.entries.len() >> 3),
            false => Ok(()),
        }
    }

    fn find_str(&self, key: &str) -> Option<usize> {
        if self.index.is_empty() {
            return self
                .entries
                .iter()
                .position(|(have, _)| matches!(have, V::Str(have) if have.as_str() == key));
        }
        self.index.get(key).copied()
    }

    /// Errors: the key cannot be hashed.
    fn find(&self, key: &V, budget: &mut Budget) -> Result<Option<usize>> {
        if let V::Str(key) = key {
            self.pay(key.as_str(), budget)?;
            return Ok(self.find_str(key.as_str()));
        }
        hashable(key, budget)?;
        budget.steps((self.entries.len() >> 1).saturating_add(1))?;
        for (at, (have, _)) in self.entries.iter().enumerate() {
            if super::operators::equal(have, key, budget)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    pub fn get_str(&self, key: &str, budget: &mut Budget) -> Result<Option<&V>> {
        self.pay(key, budget)?;
        let found = self.find_str(key).and_then(|at| self.entries.get(at));
        Ok(found.map(|(_, value)| value))
    }

    /// Errors: the key cannot be hashed.
    pub fn get(&self, key: &V, budget: &mut Budget) -> Result<Option<&V>> {
        Ok(self
            .find(key, budget)?
            .and_then(|at| self.entries.get(at))
            .map(|(_, value)| value))
    }
}

/// Errors: the key cannot be hashed.
pub(super) fn hashable(key: &V, budget: &mut Budget) -> Result<()> {
    match key {
        V::List(..) | V::Dict(..) => {
            Fault::type_error(format!("unhashable type: '{}'", key.type_name()))
        }
        V::Tuple(tuple, _) => {
            budget.descend()?;
            let mut items = tuple.items.iter();
            items.try_for_each(|item| hashable(item, budget))
        }
        _ => budget.step(),
    }
}

/// What `keys()`, `values()` and `items()` give.
#[derive(Debug)]
pub(super) struct View {
    pub kind: ViewKind,
    pub dict: Arc<Dict>,
    _charge: Charge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ViewKind {
    Keys,
    Values,
    Items,
}

impl View {
    pub fn new(kind: ViewKind, dict: Arc<Dict>, budget: &mut Budget) -> Result<View> {
        let _charge = budget.charge(SMALL_BYTES)?;
        Ok(View {
            kind,
            dict,
            _charge,
        })
    }

    /// The entry at a place, as the view shows it.
    pub fn get(&self, at: usize, budget: &mut Budget) -> Result<Option<V>> {
        let Some((key, value)) = self.dict.entries.get(at) else {
            return Ok(None);
        };
        Ok(Some(match self.kind {
            ViewKind::Keys => key.clone(),
            ViewKind::Values => value.clone(),
            ViewKind::Items => V::tuple(vec![key.clone(), value.clone()], budget)?,
        }))
    }
}

/// Rounds to nearest, as Python does; what is too large is infinite.
pub(super) fn float_of(big: &BigInt) -> f64 {
    let bits = big.bits();
    let magnitude = big.magnitude();
    if bits > 1024 {
        return f64::INFINITY.copysign(if big.sign() == Sign::Minus { -1.0 } else { 1.0 });
    }
    let shift = bits.saturating_sub(64);
    let kept = std::ops::Shr::shr(magnitude, shift);
    // One for whatever is left: a float has far fewer bits.
    let rest = magnitude
        .trailing_zeros()
        .is_some_and(|zeros| zeros < shift);
    let kept = u64::try_from(kept).unwrap_or(u64::MAX) | u64::from(rest);
    let value = kept as f64 * 2f64.powi(i32::try_from(shift).unwrap_or(0));
    if big.sign() == Sign::Minus {
        -value
    } else {
        value
    }
}
