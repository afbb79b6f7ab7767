//! A pass over the rows of several sessions: they lie one after the other, what looks at other tokens goes session by session, and
//! everything else sees rows.

use std::ops::Range;
use std::rc::Rc;

use super::adapter::AdapterSet;
use super::block::{Kept, Past};
use super::cache::Cache;
use super::decoder::{Decoder, Rows};
use super::modules::Site;
use super::texts::Texts;
use crate::error::{Error, Result};
use crate::mlx::gpu::{Best, Stepped};
use crate::mlx::nn::AttentionMask;
use crate::mlx::{ops, Array};

/// Rows of one session.
pub struct Segment<'a> {
    pub rows: i32,
    /// The last ones, whose logits are wanted.
    pub wanted: i32,
    /// Those of `Decoder::make_caches`.
    pub caches: &'a mut [Cache],
    /// Sessions with equal ones have them by the same reference.
    pub adapters: &'a AdapterSet,
}

/// What a pass gives.
pub struct Logits {
    /// `[rows, vocab]`
    pub all: Array,
    /// Of each row; empty: not known.
    best: Vec<Best>,
}

impl Logits {
    fn new(all: Array) -> Self {
        let best = Vec::new();
        Logits { all, best }
    }

    /// → `[vocab]`
    pub fn row(&self, row: usize) -> Result<Array> {
        row_of(&self.all, row)
    }

    /// The largest one of a row, where the pass has looked for it.
    pub fn best(&self, row: usize) -> Option<&Best> {
        self.best.get(row)
    }
}

/// One row of logits `[rows, vocab]` → `[vocab]`
pub fn row_of(logits: &Array, row: usize) -> Result<Array> {
    let vocab = logits.dim(1);
    let row = i32::try_from(row).unwrap_or(i32::MAX);
    let one = match logits.dim(0) {
        1 => logits.clone(),
        _ => ops::slice(logits, &[row, 0], &[row + 1, vocab])?,
    };
    ops::reshape(&one, &[vocab])
}

/// Whose adapters the rows of a pass have.
#[derive(Clone, Copy)]
pub enum Adapters<'a> {
    One(&'a AdapterSet),
    Each(&'a Mixed<'a>),
}

/// Different adapters in one pass: sets that `Decoder::shares_pass` knows.
pub struct Mixed<'a> {
    /// So many rows of each, one after the other.
    sets: Vec<(i32, &'a AdapterSet)>,
    /// For what none of them changes.
    none: AdapterSet,
}

impl Session<'_> {
    /// How many rows a cache takes at a time.
    fn pieces(&self, cache: &Cache) -> Vec<i32> {
        let sure = self.rows - self.unsure;
        match cache {
            Cache::State(_) if self.unsure > 0 && sure > 0 => vec![sure, self.unsure],
            Cache::Tokens(tokens) if self.singly && tokens.is_turned_by(self.rows) => {
                (0..self.rows).map(|_| 1).collect()
            }
            _ => vec![self.rows],
        }
    }
}

impl<'a> Mixed<'a> {
    fn new(sets: impl Iterator<Item = (i32, &'a AdapterSet)>) -> Self {
        Mixed {
            sets: sets.collect(),
            none: AdapterSet::default(),
        }
    }
}

/// Rows of one session, as blocks look at them.
#[derive(Default)]
pub(super) struct Session<'a> {
    pub rows: i32,
    /// Its rows have the bits that they have one at a time in windows too: where they write over tokens, each sees what was there when
    /// it came. Else they are a prompt's, each of which sees a full window.
    pub singly: bool,
    /// Those at the end that may be taken back: states are asked for before them.
    pub unsure: i32,
    /// For the new tokens, by the number of the cache.
    pub masks: Vec<Rc<AttentionMask>>,
    /// Empty: the new tokens are all there are, and there may be a batch of them.
    pub caches: &'a mut [Cache],
}

/// What a part's rows see of others.
pub struct Seen<'s, 'a> {
    pub(super) past: &'s mut Past<'a>,
    /// Of its cache.
    pub(super) number: Option<usize>,
}

/// What the rows of one session see of others.
pub struct Own<'a> {
    pub mask: &'a AttentionMask,
    /// None: the tokens are all there are.
    pub cache: Option<&'a mut Cache>,
    /// Without a cache: where keys and values of this pass lie for the blocks behind.
    pub kept: Option<&'a mut Kept>,
}

impl<'a> Seen<'_, 'a> {
    /// See `Past`.
    pub fn texts(&self) -> Option<&'a Texts> {
        self.past.texts
    }

    /// See `Past`.
    pub fn per_layer(&self) -> Option<&Array> {
        self.past.per_layer.as_ref()
    }

    /// Of arrays `[batch, n, …]` what `mix` makes of each session's rows, `[batch, n, …]` as well. Of one session alone it may make
    /// fewer rows, and be given arrays with fewer.
    pub fn each<const N: usize>(
        self,
        arrays: [&Array; N],
        mut mix: impl FnMut([Array; N], Own) -> Result<Array>,
    ) -> Result<Array> {
        let Seen { past, number } = self;
        let (mut outputs, mut first) = (Vec::new(), 0);
        let alone = past.sessions.len() == 1;
        for session in &mut past.sessions {
            let rows = first..first + session.rows;
            first = rows.end;
            let cache = number.and_then(|number| session.caches.get(number));
            let pieces = cache.map_or(vec![session.rows], |cache| session.pieces(cache));
            let own = Own {
                mask: number
                    .and_then(|number| session.masks.get(number))
                    .map_or(&AttentionMask::None, Rc::as_ref),
                cache: number.and_then(|number| session.caches.get_mut(number)),
                kept: number.and_then(|number| past.kept.get_mut(number)),
            };
            if alone && pieces.len() == 1 {
                return mix(arrays.map(Array::clone), own);
            }
            let (mask, mut cache, mut kept) = (own.mask, own.cache, own.kept);
            let mut start = rows.start;
            for piece in pieces {
                let own = Own {
                    // What goes in alone sees all.
                    mask: match piece == session.rows {
                        true => mask,
                        false => &AttentionMask::None,
                    },
                    cache: cache.as_deref_mut(),
                    kept: kept.as_deref_mut(),
                };
                outputs.push(mix(some_rows(arrays, 1, start..start + piece)?, own)?);
                start += piece;
            }
        }
        match outputs.as_slice() {
            [one] => Ok(one.clone()),
            all => ops::concatenate(&all.iter().collect::<Vec<_>>(), 1),
        }
    }
}

/// These rows of each array, along an axis.
fn some_rows<const N: usize>(
    arrays: [&Array; N],
    axis: i32,
    rows: Range<i32>,
) -> Result<[Array; N]> {
    let some = arrays.map(|array| {
        let (mut start, mut stop) = (vec![0; array.shape().len()], array.shape().to_vec());
        let axis = match axis {
            0.. => usize::try_from(axis).ok(),
            _ => start.len().checked_sub(axis.unsigned_abs() as usize),
        };
        let place = axis.and_then(|axis| start.get_mut(axis).zip(stop.get_mut(axis)));
        let (start_at, stop_at) =
            place.ok_or_else(|| Error::internal("rows of an array without"))?;
        (*start_at, *stop_at) = (rows.start, rows.end);
        ops::slice(array, &start, &stop)
    });
    // (`try_map` of arrays is not stable.)
    let some = some.into_iter().collect::<Result<Vec<_>>>()?;
    <[Array; N]>::try_from(some).map_err(|_| Error::internal("another number of arrays"))
}

impl<'a> Adapters<'a> {
    /// The set that all rows go by at a module; None: they differ there.
    pub fn of(self, site: Site) -> Option<&'a AdapterSet> {
        match self {
            Adapters::One(set) => Some(set),
            Adapters::Each(Mixed { sets, none }) => {
                let changed = sets.iter().any(|(_, set)| set.patch(site).is_some());
                (!changed).then_some(none)
            }
        }
    }

    /// The same where they must not differ.
    pub fn one(self, site: Site) -> Result<&'a AdapterSet> {
        let differ = || Error::internal("adapters that cannot share a pass");
        self.of(site).ok_or_else(differ)
    }

    /// So many rows of each set, one after the other; of one alone all.
    pub fn rows(self) -> impl Iterator<Item = (Option<i32>, &'a AdapterSet)> {
        let (one, sets) = match self {
            Adapters::One(set) => (Some((None, set)), &[][..]),
            Adapters::Each(mixed) => (None, mixed.sets.as_slice()),
        };
        let sets = sets.iter().map(|&(rows, set)| (Some(rows), set));
        one.into_iter().chain(sets)
    }

    /// Of arrays `[…, rows, width]` what `make` makes of each set's rows, joined.
    pub fn each<const N: usize>(
        self,
        arrays: [&Array; N],
        make: impl Fn([Array; N], &AdapterSet) -> Result<Array>,
    ) -> Result<Array> {
        let (mut outputs, mut first) = (Vec::new(), 0);
        for (rows, set) in self.rows() {
            let Some(rows) = rows else {
                return make(arrays.map(Array::clone), set);
            };
            outputs.push(make(some_rows(arrays, -2, first..first + rows)?, set)?);
            first += rows;
        }
        if arrays.iter().any(|array| array.dim(-2) != first) {
            return Err(Error::internal("adapters of other rows"));
        }
        ops::concatenate(&outputs.iter().collect::<Vec<_>>(), -2)
    }
}

impl Decoder {
    /// Whether sessions with these adapters share a pass with such as have others: all that they change is linear layers.
    pub fn shares_pass(&self, set: &AdapterSet) -> bool {
        let is_linear = |index: usize| self.live.is_linear(index);
        set.sites().all(is_linear)
    }

    /// Tokens i32 or u32 `[rows]`, of one session after the other; the caches take them.
    pub fn next_rows(&self, tokens: &Array, segments: &mut [Segment]) -> Result<NextRows> {
        let first = segments.first().map(|first| first.adapters);
        let first = first.ok_or_else(|| Error::internal("a pass of nobody"))?;
        let alike = |segment: &Segment| std::ptr::eq(segment.adapters, first);
        let (all, asked);
        let [by_all, by_asked] = match segments.iter().all(alike) {
            true => [Adapters::One(first); 2],
            false => {
                all = Mixed::new(segments.iter().map(|of| (of.rows, of.adapters)));
                asked = Mixed::new(segments.iter().map(|of| (of.wanted, of.adapters)));
                [Adapters::Each(&all), Adapters::Each(&asked)]
            }
        };
        let places = wanted(segments);
        let mut sessions = self.sessions(segments)?;
        if let Some(stepped) = self.step(tokens, &mut sessions, by_all)? {
            return self.next_of_step(stepped, &places);
        }
        let hidden = self.through_blocks(tokens, sessions, Rows::All, by_all)?;
        let logits = self.logits_by(&rows_at(&hidden, &places)?, by_asked)?;
        let logits = ops::reshape(&logits, &[logits.dim(1), self.config.vocab_size])?;
        Ok(NextRows {
            logits: Logits::new(logits),
            hidden: Some(hidden),
        })
    }

    fn next_of_step(&self, stepped: Stepped, (places, _): &(Vec<i32>, i32)) -> Result<NextRows> {
        let Stepped { logits, best } = stepped;
        let all = places.len() == best.len();
        let logits = match all {
            true => logits,
            false => ops::take(&logits, &Array::from_i32(places)?)?,
        };
        // The largest one of other numbers may be another.
        let changes = self.config.logits.scale.or(self.config.logits.softcap);
        let best = if all && changes.is_none() {
            best
        } else {
            Vec::new()
        };
        Ok(NextRows {
            logits: Logits {
                all: self.scaled(logits)?,
                best,
            },
            hidden: None,
        })
    }

    /// Of a head: the same of tokens and what came out of the model, or with `own` of the head, for the token before each of them,
    /// `[1, rows, hidden]`. What comes out here is what goes in with the next token, of the wanted rows.
    pub fn next_rows_ahead(
        &self,
        tokens: &Array,
        hidden: (&Array, bool),
        segments: &mut [Segment],
    ) -> Result<NextRows> {
        let joined = self.joined.ok_or_else(|| Error::internal("no head"))?;
        let places = wanted(segments);
        let sessions = self.sessions(segments)?;
        let out = self.through_head(tokens, hidden, sessions, Rows::All)?;
        let out = rows_at(&out, &places)?;
        let none = AdapterSet::default();
        let normed = self.live.with(&none).norm(joined.norm, &out)?;
        let logits = self.logits_of_normed(&normed, Adapters::One(&none))?;
        let logits = ops::reshape(&logits, &[logits.dim(1), self.config.vocab_size])?;
        Ok(NextRows {
            logits: Logits::new(logits),
            hidden: Some(if joined.normed { normed } else { out }),
        })
    }

    fn sessions<'a>(&self, segments: &'a mut [Segment]) -> Result<Vec<Session<'a>>> {
        let singly = !self.borrows();
        let sessions = segments.iter_mut().map(|segment| {
            let mut session = self.session(segment.rows, segment.caches)?;
            session.singly = singly;
            // The logits behind the last row that is sure are wanted, too.
            session.unsure = segment.wanted - 1;
            Ok(session)
        });
        sessions.collect()
    }
}

/// What comes of the rows of several sessions.
pub struct NextRows {
    /// After the wanted tokens of each session, of one session after the other.
    pub logits: Logits,
    /// What came out of the last block, of all rows: `[1, rows, hidden]`. None of a step, which models with a head do not have.
    pub hidden: Option<Array>,
}

/// The places of the wanted rows, and the number of all.
fn wanted(segments: &[Segment]) -> (Vec<i32>, i32) {
    let (mut places, mut end) = (Vec::new(), 0);
    for Segment { rows, wanted, .. } in segments {
        end += rows;
        places.extend(end - wanted..end);
    }
    (places, end)
}

/// hidden `[1, rows, hidden]` → of the rows at these places `[1, wanted, hidden]`
fn rows_at(hidden: &Array, (places, all): &(Vec<i32>, i32)) -> Result<Array> {
    let count = i32::try_from(places.len()).unwrap_or(i32::MAX);
    if count == *all {
        return Ok(hidden.clone());
    }
    let width = hidden.dim(2);
    // [rows, hidden] → [1, wanted, hidden]
    let rows = ops::reshape(hidden, &[*all, width])?;
    let rows = ops::take(&rows, &Array::from_i32(places)?)?;
    ops::reshape(&rows, &[1, count, width])
}
