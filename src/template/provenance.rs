//! Who decided on a value, and what that means for what is made of it.
//!
//! The rule: a character of the output is at most as trusted as every value that the operations which made it read to
//! decide *that* it is there, *which* one it is, or *where* it is. That is the flow of data. The flow of control is no
//! part of it: what the template itself writes in an arm of `if`, in a pass of `for`, or as the other side of `and`,
//! `or` and `x if y else z` is its own. README.md says more.
//!
//! Three things carry origins: the characters of a string; a number, a truth, none and what is undefined, as a whole;
//! and of a list or a dict its *shape*, which is how many items it has and which ones. What is taken out of a list is
//! never more trusted than its shape.
//!
//! An operation does not do this by itself. Whoever calls a filter, a method or a test (`filters::apply`,
//! `methods::call`) paints what comes back with the origins of all arguments, less those that it says it `carries`
//! over into its result character by character.

use super::budget::Budget;
use super::error::Result;
use super::expression::Arguments;
use super::string::Origin;
use super::value::*;

/// The origin that a value has as a whole, to read or to write; None where its parts have theirs.
macro_rules! own_origin {
    ($value:expr) => {
        match $value {
            V::Undefined { origin, .. }
            | V::None(origin)
            | V::Bool(_, origin)
            | V::Int(_, origin)
            | V::Big(_, origin)
            | V::Float(_, origin)
            | V::List(_, origin)
            | V::Tuple(_, origin)
            | V::Dict(_, origin)
            | V::View(_, origin)
            | V::Range(_, origin)
            | V::Iter(_, origin) => Some(origin),
            V::Str(_) | V::Object(_) | V::Method(_) => None,
        }
    };
}

impl V {
    /// The least trusted origin of anything in the value.
    pub fn least_trusted(&self) -> Origin {
        match self {
            V::List(list, shape) | V::Tuple(list, shape) => list.origin.max(*shape),
            V::Dict(dict, shape) => dict.origin.max(*shape),
            V::View(view, shape) => view.dict.origin.max(*shape),
            V::Iter(iter, shape) => iter.origin.max(*shape),
            V::Method(bound) => bound.owner.least_trusted(),
            value => value.shape(),
        }
    }

    /// Who decided on the value as a whole: of a list or a dict how many items it has and which, not what they hold.
    #[inline]
    pub fn shape(&self) -> Origin {
        match (own_origin!(self), self) {
            (Some(origin), _) => *origin,
            (None, V::Str(text)) => text.text().least_trusted(),
            (None, V::Method(bound)) => bound.owner.shape(),
            (None, _) => Origin::Template,
        }
    }

    /// The value, decided on by `by` as well. Characters that a string has keep their origins.
    #[inline]
    pub fn shaped(mut self, by: Origin) -> V {
        if let Some(origin) = own_origin!(&mut self) {
            *origin = by.max(*origin);
        }
        self
    }

    /// The value, with nothing in it more trusted than `by`.
    #[inline]
    pub fn painted(self, by: Origin, budget: &mut Budget) -> Result<V> {
        match self {
            value if by == Origin::Template => Ok(value),
            V::Str(text) => Ok(V::Str(text.painted(by, budget)?)),
            V::Method(bound) => {
                let owner = bound.owner.clone().painted(by, budget)?;
                V::method(owner, bound.method, budget)
            }
            value => Ok(value.shaped(by)),
        }
    }

    /// What an operation made of a value of that shape: a number or a list is as trusted as that, and so is an empty
    /// string.
    pub fn made_of(self, shape: Origin, budget: &mut Budget) -> Result<V> {
        match &self {
            V::Str(text) if text.len() > 0 => Ok(self),
            V::Method(_) => Ok(self),
            _ => self.painted(shape, budget),
        }
    }
}

/// Which arguments an operation copies into its result character by character, each with its own origin. All others
/// only choose, and so their origins are the whole result's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Nothing,
    /// The one in this place, which may also be given by this name.
    One(usize, &'static str),
    /// All but the first, and but the one of this name.
    Rest(&'static str),
    All,
}

impl Arguments {
    /// The least trusted origin of the arguments that choose.
    pub fn choosers(&self, carries: Carries) -> Origin {
        let positional = self.positional.iter().enumerate();
        let positional = positional.filter(|(at, _)| match carries {
            Carries::Nothing => true,
            Carries::One(place, _) => *at != place,
            Carries::Rest(_) => *at == 0,
            Carries::All => false,
        });
        let named = self.named.iter().filter(|(name, _)| match carries {
            Carries::Nothing => true,
            Carries::One(_, carried) => name.as_str() != carried,
            Carries::Rest(chooses) => name.as_str() == chooses,
            Carries::All => false,
        });
        let named =
            named.map(|(name, value)| value.least_trusted().max(name.text().least_trusted()));
        let positional = positional.map(|(_, value)| value.least_trusted());
        positional.chain(named).max().unwrap_or_default()
    }
}

/// The flow of control, so that tests can tell it from the flow of data.
#[cfg(test)]
pub(super) mod control {
    use std::cell::RefCell;

    thread_local!(static TAKEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) });

    pub fn took(way: usize) {
        TAKEN.with_borrow_mut(|taken| taken.push(way));
    }

    /// What was taken since the last call.
    pub fn taken() -> Vec<usize> {
        TAKEN.take()
    }
}

#[cfg(not(test))]
pub(super) mod control {
    #[inline(always)]
    pub fn took(_way: usize) {}
}
