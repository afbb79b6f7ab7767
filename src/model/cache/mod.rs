//! What a session keeps of its tokens, for each part that looks at earlier ones: keys and values of each token, or a state
//! that all of them went into.

mod extent;
mod state;
#[cfg(test)]
mod tests;
mod tokens;

use crate::dtype::{Dtype, Scheme};
use crate::error::{Error, Result};
use crate::mlx::nn::AttentionMask;
use crate::mlx::stored::arrays_of;
use crate::mlx::Array;

pub use extent::{room_below, Extent, Room};
pub use state::{State, MARKS};
pub use tokens::{Like, Tokens, WINDOW_MARKS};

/// What a part keeps.
#[derive(Clone, Debug)]
pub enum CacheSpec {
    Tokens(TokensSpec),
    State(StateSpec),
}

/// Keys and values of tokens.
#[derive(Clone, Debug)]
pub struct TokensSpec {
    /// Tokens that a query may look back on; `None` = all.
    pub window: Option<i32>,
    /// Of keys and of values.
    pub heads: i32,
    /// Of a key and of a value.
    pub head_dims: [i32; 2],
}

/// Arrays of a fixed size.
#[derive(Clone, Debug)]
pub struct StateSpec {
    /// The shape of each; those that are kept in f32 whatever the block computes in, or in the block's type.
    pub arrays: Vec<(Vec<i32>, StateType)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateType {
    F32,
    /// As the part's `PartTypes::kept`.
    Kept,
}

impl StateType {
    /// `kept`: the block's type.
    pub fn dtype(self, kept: Dtype) -> Dtype {
        match self {
            StateType::F32 => Dtype::F32,
            StateType::Kept => kept,
        }
    }
}

impl CacheSpec {
    /// Of an empty cache of tokens; a session's `window` and `keep` turn one that keeps all into a rotating one.
    pub fn extent(&self, window: Option<i32>, keep: i32) -> Option<Extent> {
        let CacheSpec::Tokens(spec) = self else {
            return None;
        };
        Some(match (spec.window, window) {
            (Some(size), _) => Extent::rotating(size, 0),
            (None, Some(size)) => Extent::rotating(size, keep),
            (None, None) => Extent::full(),
        })
    }
}

impl TokensSpec {
    /// The types and shapes of the arrays of keys, and of values. `kept`: the block's type.
    pub fn arrays(
        &self,
        tokens: i32,
        kept: Dtype,
        scheme: Option<Scheme>,
    ) -> [Vec<(Dtype, Vec<i32>)>; 2] {
        (self.head_dims).map(|dim| arrays_of([self.heads, tokens, dim], kept, scheme))
    }
}

impl StateSpec {
    /// In bytes. `kept`: the block's type.
    pub fn bytes(&self, kept: Dtype) -> u64 {
        let bytes = |(shape, of): &(Vec<i32>, StateType)| {
            let sizes = shape.iter().map(|&n| u64::from(n.unsigned_abs()));
            let numbers = sizes.fold(1, u64::saturating_mul);
            numbers.saturating_mul(of.dtype(kept).size() as u64)
        };
        self.arrays.iter().map(bytes).fold(0, u64::saturating_add)
    }
}

/// Bytes of a cache, before there is anything in it.
#[derive(Clone, Copy, Debug)]
pub enum CacheBytes {
    /// Of a token.
    Tokens(TokenBytes),
    State(u64),
}

/// What a token's keys and its values are made of.
#[derive(Clone, Copy, Debug)]
pub struct TokenBytes {
    pub numbers: [u64; 2],
    /// Of the numbers, or where these are packed, of scales and biases.
    pub dtype: Dtype,
}

impl TokenBytes {
    /// Bytes of keys and of values, packed where there is a scheme.
    pub fn of(self, scheme: Option<Scheme>) -> [u64; 2] {
        self.numbers.map(|numbers| match scheme {
            None => numbers.saturating_mul(self.dtype.size() as u64),
            Some(scheme) => scheme.affine_bytes(numbers, self.dtype),
        })
    }
}

impl Room {
    /// A state of so many bytes with all its marks.
    pub fn of_state(bytes: u64) -> Room {
        let held = bytes.saturating_mul(1 + MARKS as u64);
        Room {
            before: held,
            after: held,
            copied: bytes,
        }
    }
}

/// What one part keeps for a session.
pub enum Cache {
    Tokens(Tokens),
    State(State),
}

impl Cache {
    pub fn new(spec: &CacheSpec, window: Option<i32>, keep: i32) -> Self {
        match spec.extent(window, keep) {
            Some(extent) => Cache::Tokens(Tokens::new(extent)),
            None => Cache::State(State::default()),
        }
    }

    /// The same again; nothing is copied before one of the two goes on.
    pub fn fork(&mut self) -> Cache {
        match self {
            Cache::Tokens(tokens) => Cache::Tokens(tokens.fork()),
            Cache::State(state) => Cache::State(state.clone()),
        }
    }

    /// How keys and values of tokens are packed, before there are any. States are not.
    pub fn pack_in(&mut self, scheme: Option<Scheme>) {
        if let Cache::Tokens(tokens) = self {
            tokens.pack_in(scheme);
        }
    }

    pub fn tokens(&mut self) -> Result<&mut Tokens> {
        match self {
            Cache::Tokens(tokens) => Ok(tokens),
            Cache::State(_) => Err(other_cache()),
        }
    }

    pub fn as_tokens(&self) -> Option<&Tokens> {
        match self {
            Cache::Tokens(tokens) => Some(tokens),
            Cache::State(_) => None,
        }
    }

    pub fn state(&mut self) -> Result<&mut State> {
        match self {
            Cache::State(state) => Ok(state),
            Cache::Tokens(_) => Err(other_cache()),
        }
    }

    pub fn is_state(&self) -> bool {
        matches!(self, Cache::State(_))
    }

    /// Tokens seen.
    pub fn offset(&self) -> i32 {
        match self {
            Cache::Tokens(tokens) => tokens.offset(),
            Cache::State(state) => state.offset(),
        }
    }

    /// Tokens of the sequence with `n` more, as far as it is known.
    pub fn length(&self, n: i32) -> i32 {
        match self {
            Cache::Tokens(tokens) => tokens.length(n),
            Cache::State(state) => state.offset().saturating_add(n),
        }
    }

    /// When it grows next, it takes so many tokens at once, and never room for more than `most`.
    pub fn expect(&mut self, tokens: i32, most: i32) {
        if let Cache::Tokens(cache) = self {
            cache.expect(tokens, most);
        }
    }

    /// Bytes that it holds, spare room and marks included.
    pub fn nbytes(&self) -> u64 {
        match self {
            Cache::Tokens(tokens) => tokens.nbytes(),
            Cache::State(state) => state.nbytes(),
        }
    }

    /// What `n` more tokens take; `singly`: in a window they come one at a time, as those that are drawn. `bytes`: before there are any.
    pub fn room_for(&self, n: i32, singly: bool, bytes: CacheBytes) -> Room {
        match (self, bytes) {
            (Cache::Tokens(tokens), CacheBytes::Tokens(token)) => tokens.room_for(n, singly, token),
            (Cache::State(state), CacheBytes::State(bytes)) => state.room(bytes),
            _ => Room::default(),
        }
    }

    /// Tokens that `n` more see at most, they themselves included.
    pub fn length_after(&self, n: i32) -> i32 {
        match self {
            Cache::Tokens(tokens) => tokens.length_after(n),
            Cache::State(_) => 0,
        }
    }

    pub fn clear(&mut self) {
        match self {
            Cache::Tokens(tokens) => tokens.clear(),
            Cache::State(state) => *state = State::default(),
        }
    }

    /// How many of the first `n` tokens it can go back to: a window that has dropped tokens and a state go back to their marks.
    pub fn reach(&self, n: i32) -> i32 {
        match self {
            Cache::Tokens(tokens) => tokens.reach(n),
            Cache::State(state) => state.reach(n),
        }
    }

    /// Goes back to the first `n` tokens, which `reach` gave.
    pub fn cut(&mut self, n: i32) -> Result<()> {
        match self {
            Cache::Tokens(tokens) => tokens.cut(n),
            Cache::State(state) => {
                state.cut(n);
                Ok(())
            }
        }
    }

    /// Of the next `n` tokens, which go in singly, all but the first `sure` can be taken back until others come: a state remembers
    /// what it is behind those, a window that they turn keeps what they write over. What `held` gives is evaluated before they are
    /// queued.
    pub fn hold(&mut self, n: i32, sure: i32) -> Result<()> {
        match self {
            Cache::Tokens(tokens) => tokens.hold(n),
            Cache::State(state) => {
                state.hold(sure);
                Ok(())
            }
        }
    }

    /// What a window keeps of what is written over.
    pub fn held(&self) -> impl Iterator<Item = &Array> {
        self.as_tokens().into_iter().flat_map(Tokens::held)
    }

    /// Nothing is taken back any more.
    pub fn settle(&mut self) {
        match self {
            Cache::Tokens(tokens) => tokens.settle(),
            Cache::State(state) => state.settle(),
        }
    }

    /// The first `at` tokens are a place that it can go back to from now on, if it can now.
    pub fn mark(&mut self, at: i32) {
        match self {
            Cache::Tokens(tokens) => tokens.mark(at),
            Cache::State(state) => state.mark(at),
        }
    }

    /// Only where it is now is kept; false: so it was before.
    pub fn drop_marks(&mut self) -> bool {
        match self {
            Cache::Tokens(tokens) => tokens.drop_marks(),
            Cache::State(state) => state.drop_marks(),
        }
    }

    /// Whether a mark among the next `n` tokens is only made where it is. Before a window turns, it is made at any time.
    pub fn marks_in_passing(&self, n: i32) -> bool {
        match self {
            Cache::Tokens(tokens) => tokens.marks_in_passing(n),
            Cache::State(_) => true,
        }
    }

    /// Whether it is a window that `n` more tokens turn: they write over others.
    pub fn is_turned_by(&self, n: i32) -> bool {
        self.as_tokens()
            .is_some_and(|tokens| tokens.is_turned_by(n))
    }

    /// How many of `n` more tokens can be taken back together.
    pub fn most_taken_back(&self, n: i32) -> i32 {
        (self.as_tokens()).map_or(n, |tokens| tokens.most_taken_back(n))
    }

    /// Bytes that `hold` of `n` tokens keeps.
    pub fn held_by(&self, n: i32, bytes: CacheBytes) -> u64 {
        match (self, bytes) {
            (Cache::Tokens(tokens), CacheBytes::Tokens(token)) => tokens.held_by(n, token),
            (Cache::State(state), _) => state.bytes(),
            (Cache::Tokens(_), CacheBytes::State(_)) => 0,
        }
    }

    /// Whether it is of a kind that goes back to marks.
    pub fn takes_marks(&self) -> bool {
        match self {
            Cache::Tokens(tokens) => tokens.extent().window().is_some(),
            Cache::State(_) => true,
        }
    }

    /// Whether what it holds depends on how it was filled.
    pub fn is_path_dependent(&self) -> bool {
        match self {
            Cache::Tokens(tokens) => tokens.is_path_dependent(),
            Cache::State(_) => false,
        }
    }

    /// What has to be evaluated for the cache to be.
    pub fn arrays(&self) -> Box<dyn Iterator<Item = &Array> + '_> {
        match self {
            Cache::Tokens(tokens) => Box::new(tokens.arrays()),
            Cache::State(state) => Box::new(state.arrays().iter()),
        }
    }

    /// The mask for `n` new tokens, before they are put in.
    pub fn mask(&self, n: i32) -> Result<AttentionMask> {
        match self {
            Cache::Tokens(tokens) => tokens.mask(n),
            Cache::State(_) => Ok(AttentionMask::None),
        }
    }
}

fn other_cache() -> Error {
    Error::internal("a cache of another kind")
}
