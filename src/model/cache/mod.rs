//! What a session keeps of its tokens, for each part that looks at earlier ones.

mod extent;
mod tokens;

pub use extent::{room_below, Extent, Room};
pub use tokens::{Cache, Like};

/// What a part keeps.
#[derive(Clone, Debug)]
pub struct CacheSpec {
    /// Tokens that a query may look back on; `None` = all.
    pub window: Option<i32>,
    /// Of keys and of values.
    pub heads: i32,
    pub head_dim: i32,
}

impl CacheSpec {
    /// Of an empty cache; a session's `window` and `keep` turn one that keeps all into a rotating one.
    pub fn extent(&self, window: Option<i32>, keep: i32) -> Extent {
        match (self.window, window) {
            (Some(size), _) => Extent::rotating(size, 0),
            (None, Some(size)) => Extent::rotating(size, keep),
            (None, None) => Extent::full(),
        }
    }
}
