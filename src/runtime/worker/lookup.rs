//! Guesses what comes next from what a request has said and was asked: where its last tokens stood before, the same may follow.
//! Code that is edited and JSON that is rewritten come largely so.

/// Tokens that must have stood before.
const ALIKE: usize = 3;
/// Tokens that are guessed at a time where nobody says otherwise.
pub(super) const MOST: usize = 8;
/// Places in the table.
const PLACES: [usize; 2] = [1 << 8, 1 << 16];
/// Tokens without a guess where guesses keep failing.
const LONGEST_REST: usize = 128;

/// Of one request.
#[derive(Default)]
pub(super) struct Lookup {
    /// By the hash of `ALIKE` tokens where they stood last: the place behind them, 0 for nowhere. What stands there is compared.
    table: Vec<u32>,
    /// Tokens that are in the table.
    known: usize,
    /// Tokens to guess next time.
    eager: usize,
    /// Guesses in a row of which nothing came.
    misses: u32,
    /// The sequence has to be so long for the next guess.
    from: usize,
}

/// The prompt, and the answer behind it.
pub(super) struct Sequence<'a>(pub &'a [i32], pub &'a [i32]);

impl Sequence<'_> {
    fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    pub fn get(&self, at: usize) -> Option<i32> {
        let answer = at.checked_sub(self.0.len());
        answer
            .map_or_else(|| self.0.get(at), |at| self.1.get(at))
            .copied()
    }

    /// Those before `end`.
    fn alike(&self, end: usize) -> Option<[i32; ALIKE]> {
        let first = end.checked_sub(ALIKE)?;
        let mut tokens = [0; ALIKE];
        for (at, token) in tokens.iter_mut().enumerate() {
            *token = self.get(first + at)?;
        }
        Some(tokens)
    }
}

impl Lookup {
    /// At most `most` tokens that may come behind these.
    pub fn guess(&mut self, tokens: &Sequence, most: usize) -> Vec<i32> {
        let end = tokens.len();
        #[cfg(test)]
        let told = tests::told(tokens, most);
        #[cfg(test)]
        if let Some((guesses, true)) = told {
            return guesses;
        }
        if end < self.from || most == 0 || !self.learn(tokens) {
            return Vec::new();
        }
        #[cfg(test)]
        if let Some((guesses, _)) = told {
            return guesses.into_iter().take(self.eager.max(1)).collect();
        }
        let Some(last) = tokens.alike(end) else {
            return Vec::new();
        };
        let place = self.place(last).map_or(0, |place| *place as usize);
        self.remember(last, end);
        if tokens.alike(place) != Some(last) {
            return Vec::new();
        }
        // What repeats itself goes on repeating.
        let behind = (place..end).cycle();
        let n = most.min(self.eager.max(1));
        behind.take(n).map_while(|at| tokens.get(at)).collect()
    }

    /// What became of a guess in a sequence of so many tokens.
    pub fn learn_from(&mut self, guessed: usize, right: usize, length: usize) {
        if right == guessed {
            self.eager = (2 * guessed).min(2 * MOST);
            self.misses = 0;
        } else if right > 0 {
            self.eager = right + 1;
            self.misses = 0;
        } else {
            self.eager = 1;
            self.misses = self.misses.saturating_add(1);
            let rest = 1_usize.checked_shl(self.misses).unwrap_or(LONGEST_REST);
            self.from = length.saturating_add(rest.min(LONGEST_REST));
        }
    }

    /// Takes up the tokens before the last one. False: there is no memory for it.
    fn learn(&mut self, tokens: &Sequence) -> bool {
        let end = tokens.len();
        if self.table.is_empty() {
            let [least, most] = PLACES;
            let places = end.next_power_of_two().clamp(least, most);
            if crate::room::now(4 * places, "guesses of the next tokens").is_err() {
                self.from = usize::MAX;
                return false;
            }
            self.table = vec![0; places];
            self.eager = MOST / 2;
        }
        for at in self.known.max(ALIKE)..end {
            if let Some(alike) = tokens.alike(at) {
                self.remember(alike, at);
            }
        }
        self.known = end;
        true
    }

    fn remember(&mut self, alike: [i32; ALIKE], end: usize) {
        let end = u32::try_from(end).unwrap_or(0);
        if let Some(place) = self.place(alike) {
            *place = end;
        }
    }

    fn place(&mut self, alike: [i32; ALIKE]) -> Option<&mut u32> {
        let mix = |hash: u64, token: &i32| {
            (hash ^ u64::from(token.unsigned_abs())).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let hash = alike.iter().fold(0, mix) >> 40;
        let mask = self.table.len().checked_sub(1)?;
        self.table.get_mut(usize::try_from(hash).ok()? & mask)
    }
}

#[cfg(test)]
pub(in crate::runtime) mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// On the engine's thread.
        pub static TELL: RefCell<Option<Tell>> = const { RefCell::new(None) };
    }

    /// What is guessed instead of what stood before.
    pub struct Tell {
        /// Prompts and what is answered to them.
        pub answers: Vec<(Vec<i32>, Vec<i32>)>,
        /// Every so many tokens of an answer another one.
        pub wrong: usize,
        /// As many as can be, however it went before.
        pub always: bool,
    }

    /// And whether nobody asks how it went before.
    pub(in crate::runtime::worker) fn told(
        tokens: &Sequence,
        most: usize,
    ) -> Option<(Vec<i32>, bool)> {
        TELL.with_borrow(|tell| {
            let Tell {
                answers,
                wrong,
                always,
            } = tell.as_ref()?;
            let (_, answer) = answers.iter().find(|(prompt, _)| prompt == tokens.0)?;
            let done = tokens.1.len();
            // More and fewer.
            let most = if *always {
                most.min(1 + done * 5 % 14)
            } else {
                most
            };
            let next = answer.iter().zip(1..).skip(done).take(most);
            let other = |id: i32| if id > 2 { id - 1 } else { id + 1 };
            let next = next.map(|(&id, at)| if at % wrong == 0 { other(id) } else { id });
            Some((next.collect(), *always))
        })
    }

    #[test]
    fn what_stood_before_comes_again() {
        let mut lookup = Lookup::default();
        let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
        assert!(lookup.guess(&Sequence(&prompt, &[]), 4).is_empty());
        assert_eq!(lookup.guess(&Sequence(&prompt, &[9, 2, 3, 4]), 2), [5, 6]);
        // The answer counts, too, and what repeats itself goes on.
        let mut lookup = Lookup::default();
        let answer = [1, 2, 3, 1, 2, 3];
        assert_eq!(lookup.guess(&Sequence(&[7], &answer), 4), [1, 2, 3, 1]);
    }

    #[test]
    fn guesses_grow_and_rest() {
        let mut lookup = Lookup::default();
        let tokens: Vec<i32> = (0..400).map(|at| at % 7).collect();
        let guess = |lookup: &mut Lookup, length: usize| {
            lookup.guess(&Sequence(&tokens[..length], &[]), 16).len()
        };
        assert_eq!(guess(&mut lookup, 20), 4);
        lookup.learn_from(4, 4, 24);
        assert_eq!(guess(&mut lookup, 24), 8);
        lookup.learn_from(8, 2, 27);
        assert_eq!(guess(&mut lookup, 27), 3);
        lookup.learn_from(3, 0, 28);
        assert_eq!((guess(&mut lookup, 29), guess(&mut lookup, 30)), (0, 1));
        lookup.learn_from(1, 0, 31);
        assert_eq!((guess(&mut lookup, 34), guess(&mut lookup, 35)), (0, 1));
        // No miss makes it rest for ever.
        (0..100).for_each(|_| lookup.learn_from(1, 0, 40));
        assert_eq!(guess(&mut lookup, 168), 1);
    }
}
