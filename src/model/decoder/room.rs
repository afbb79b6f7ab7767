//! What more tokens take, and how many of them can be taken back.

use super::{Cache, Decoder, StepCost};

impl Decoder {
    /// What `n` more tokens in these caches take; `singly`: as rows of a pass.
    pub fn cost(&self, n: i32, singly: bool, caches: &[Cache]) -> StepCost {
        let singly = singly && !self.borrows();
        let rooms = caches.iter().zip(self.costs.caches());
        let rooms: Vec<_> = rooms
            .map(|(cache, bytes)| cache.room_for(n, singly, bytes))
            .collect();
        let longest = caches.iter().map(|cache| cache.length_after(n)).max();
        self.costs.step(n, longest.unwrap_or(0), &rooms)
    }

    /// Whether a block looks at another one's keys and values: it sees those that are there when all rows are.
    pub(in crate::model) fn borrows(&self) -> bool {
        self.blocks
            .iter()
            .any(|block| block.borrows().next().is_some())
    }

    /// Bytes of what is held until it is known which of `n` tokens stay.
    pub fn held_by(&self, n: i32, caches: &[Cache]) -> u64 {
        let caches = caches.iter().zip(self.costs.caches());
        let held = caches.map(|(cache, bytes)| cache.held_by(n, bytes));
        held.fold(0, u64::saturating_add)
    }

    /// Of `n` tokens that are to go into these caches together, so many may go, so that any can be taken back.
    pub fn most_taken_back(&self, n: i32, caches: &[Cache]) -> i32 {
        if self.borrows() && caches.iter().any(|cache| cache.is_turned_by(n)) {
            return 0;
        }
        let most = caches.iter().map(|cache| cache.most_taken_back(n));
        most.min().unwrap_or(n)
    }
}
