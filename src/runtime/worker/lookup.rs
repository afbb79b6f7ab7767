//! Guesses what comes next from what a request has said and was asked: where its last tokens stood before, the same may follow.
//! Code that is edited and JSON that is rewritten come largely so.

/// Tokens that must have stood before.
pub(super) const ALIKE: usize = 3;
/// Tokens that are guessed at a time: with the known one before them they fill the rows that the kernels take at nearly one price.
const SIZES: [usize; 3] = [3, 7, MOST];
/// At most, where nobody says otherwise.
pub(super) const MOST: usize = 14;
/// Places in the table.
const PLACES: [usize; 2] = [1 << 8, 1 << 16];
/// Tokens that may be left out, or put in others' places, of a text that is copied.
const LEFT_OUT: usize = 8;
/// Tokens that are compared.
const COMPARED: usize = 16;
/// What wrong guesses may cost at first, in passes of one row.
const FREE: f32 = 2.0;
/// And then of each token.
const SHARE: f32 = 0.01;
/// What right ones gave, and wrong ones took, counts for no more than so many passes.
const CREDIT: f32 = 4.0;

/// What guesses cost, in passes of one row: up to four rows, eight, twelve, as models of 0.6 to 1 billion parameters were measured on one
/// core and on two, and some more, for caches that have to be written back.
fn cost(guessed: usize) -> f32 {
    match guessed {
        0..=3 => 1.0,
        4..=7 => 2.0,
        8..=11 => 3.0,
        _ => 4.0,
    }
}

/// Of one request.
pub(super) struct Lookup {
    /// By the hash of `ALIKE` tokens where they stood last: the place behind them, 0 for nowhere. What stands there is compared.
    table: Vec<u32>,
    /// Tokens that are in the table.
    known: usize,
    /// Tokens to guess next time.
    eager: usize,
    /// Where the last guess was taken from.
    place: usize,
    /// Behind what was guessed right last, of up to two texts that are copied; 0 for none.
    sources: [usize; 2],
    /// What guesses have cost and not given, in passes, when the sequence was `since` long.
    debt: f32,
    since: Option<usize>,
    /// The sequence has to be so long for the next guess.
    from: usize,
}

impl Default for Lookup {
    fn default() -> Self {
        Lookup {
            table: Vec::new(),
            known: 0,
            eager: SIZES[0],
            place: 0,
            sources: [0; 2],
            debt: -FREE,
            since: None,
            from: 0,
        }
    }
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

    /// How many of those before both places are the same; few of them are looked at.
    fn alike_before(&self, place: usize, end: usize) -> usize {
        let pairs = (1..=COMPARED.min(place)).map(|n| (self.get(place - n), self.get(end - n)));
        pairs.take_while(|(one, other)| one == other).count()
    }
}

impl Lookup {
    /// At most `most` tokens that may come behind these, from a place before which the last `least` or more stand.
    pub fn guess(&mut self, tokens: &Sequence, most: usize, least: usize) -> Vec<i32> {
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
            self.place = end;
            return guesses.into_iter().take(self.eager).collect();
        }
        let (alike, place) = self.find(tokens, end);
        if alike < least.max(1) {
            return Vec::new();
        }
        self.place = place;
        // What repeats itself goes on repeating.
        let behind = (place..end).cycle();
        let n = most.min(self.eager);
        behind.take(n).map_while(|at| tokens.get(at)).collect()
    }

    /// The place that most of the last tokens stood before: in what is copied, where it may go on behind a change, or where the same
    /// few stood last. And how many they are.
    fn find(&mut self, tokens: &Sequence, end: usize) -> (usize, usize) {
        let mut best = (0, 0);
        for source in self.sources.into_iter().filter(|&source| source > 0) {
            let near = source..source.saturating_add(LEFT_OUT).min(end);
            let alike = near.map(|place| (tokens.alike_before(place, end), place));
            if let Some(found) = alike.into_iter().find(|(alike, _)| *alike > 0) {
                best = if found.0 > best.0 { found } else { best };
            }
        }
        if let Some(last) = tokens.alike(end) {
            let place = self.place_of(last).map_or(0, |place| *place as usize);
            self.remember(last, end);
            if tokens.alike(place) == Some(last) {
                let alike = tokens.alike_before(place, end);
                best = if alike > best.0 { (alike, place) } else { best };
            }
        }
        best
    }

    /// What became of a guess in a sequence of so many tokens.
    pub fn learn_from(&mut self, guessed: usize, right: usize, length: usize) {
        self.eager = match right == guessed {
            true => *SIZES.iter().find(|&&size| size > guessed).unwrap_or(&MOST),
            false => SIZES[usize::from(right >= SIZES[1])],
        };
        let behind = self.place.saturating_add(right);
        if right > 0 {
            let [last, before] = self.sources;
            let other = |source: usize| source.abs_diff(behind) > LEFT_OUT + right;
            self.sources = [behind, if other(last) { last } else { before }];
        } else if self.sources == [0; 2] {
            self.sources[0] = behind;
        }
        // What they cost of any text is bounded.
        let passed = length.saturating_sub(self.since.unwrap_or(length));
        let debt = (self.debt - SHARE * passed as f32).max(-CREDIT);
        self.debt = (debt + cost(guessed) - right as f32).clamp(-CREDIT, CREDIT);
        self.since = Some(length);
        let rest = (self.debt / SHARE).max(0.0) as usize;
        self.from = length.saturating_add(rest);
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
        if let Some(place) = self.place_of(alike) {
            *place = end;
        }
    }

    fn place_of(&mut self, alike: [i32; ALIKE]) -> Option<&mut u32> {
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
        assert!(lookup.guess(&Sequence(&prompt, &[]), 4, 1).is_empty());
        assert_eq!(
            lookup.guess(&Sequence(&prompt, &[9, 2, 3, 4]), 2, 1),
            [5, 6]
        );
        // The answer counts, too, and what repeats itself goes on.
        let mut lookup = Lookup::default();
        let answer = [1, 2, 3, 1, 2, 3];
        assert_eq!(lookup.guess(&Sequence(&[7], &answer), 4, 1), [1, 2, 3]);
    }

    #[test]
    fn guesses_grow() {
        let mut lookup = Lookup::default();
        let tokens: Vec<i32> = (0..400).map(|at| at % 7).collect();
        let guess = |lookup: &mut Lookup, length: usize| {
            lookup.guess(&Sequence(&tokens[..length], &[]), 16, 1).len()
        };
        assert_eq!(guess(&mut lookup, 20), 3);
        lookup.learn_from(3, 3, 24);
        assert_eq!(guess(&mut lookup, 24), 7);
        lookup.learn_from(7, 7, 32);
        assert_eq!(guess(&mut lookup, 32), MOST);
        lookup.learn_from(MOST, 8, 41);
        assert_eq!(guess(&mut lookup, 41), 7);
        lookup.learn_from(7, 2, 44);
        assert_eq!(guess(&mut lookup, 44), 3);
        // What was right before is not forgotten at once.
        lookup.learn_from(3, 0, 45);
        assert_eq!(guess(&mut lookup, 45), 3);
    }

    /// Of a text that is copied some tokens are others, some are new, and some are left out: it is found again at the next one.
    #[test]
    fn a_copy_goes_on_behind_a_change() {
        let text: Vec<i32> = (100..200).collect();
        let mut lookup = Lookup::default();
        let mut answer = vec![100, 101, 102];
        let guess =
            |lookup: &mut Lookup, answer: &[i32]| lookup.guess(&Sequence(&text, answer), 3, 1);
        assert_eq!(guess(&mut lookup, &answer), [103, 104, 105]);
        // One of them is another.
        answer.extend([103, 7]);
        lookup.learn_from(3, 1, text.len() + answer.len());
        assert!(guess(&mut lookup, &answer).is_empty());
        answer.push(105);
        assert_eq!(guess(&mut lookup, &answer), [106, 107, 108]);
        // Some are new.
        answer.extend([106, 107, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        lookup.learn_from(3, 2, text.len() + answer.len() - 9);
        assert!(guess(&mut lookup, &answer).is_empty());
        answer.push(108);
        assert_eq!(guess(&mut lookup, &answer), [109, 110, 111]);
        // Some are left out, in the middle of what was guessed.
        answer.extend([109, 115]);
        lookup.learn_from(3, 1, text.len() + answer.len());
        assert_eq!(guess(&mut lookup, &answer), [116, 117, 118]);
    }

    /// Whatever is said, guesses of which none is right cost less than three tokens of a hundred.
    #[test]
    fn what_is_never_right_rests() {
        let tokens: Vec<i32> = (0..3000).map(|at| at % 7).collect();
        let mut lookup = Lookup::default();
        let mut spent = 0.0;
        for length in 100..tokens.len() {
            let guessed = lookup.guess(&Sequence(&tokens[..length], &[]), 16, 1).len();
            if guessed > 0 {
                spent += cost(guessed);
                lookup.learn_from(guessed, 0, length + 1);
            }
            let said = (length - 100) as f32;
            assert!(spent <= FREE + cost(3) + SHARE * said, "{spent} of {said}");
        }
        // And no miss makes it rest for ever.
        assert!(spent > 20.0, "{spent}");
        (0..100).for_each(|_| lookup.learn_from(3, 0, 5000));
        assert!(lookup.from < 5500, "{}", lookup.from);
    }
}
