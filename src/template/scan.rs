//! Looking through text a piece at a time. Each piece is paid before it is read: no text is so long that a render goes on
//! without a look at its budget, or at the watch, while it is read.

use super::budget::Budget;
use super::error::Result;

/// Bytes that are read or written at once: less than a millisecond of work.
pub(super) const PIECE: usize = 32 << 10;

/// Longer texts are searched for by their beginning or their end.
const HEAD: usize = 4 << 10;

/// The text in pieces, which end between characters and are short at first: who finds something soon pays little.
pub(super) fn pieces(text: &str) -> Pieces<'_> {
    Pieces {
        rest: text,
        size: 64,
        from_end: false,
    }
}

/// The pieces from the last to the first.
pub(super) fn pieces_from_end(text: &str) -> Pieces<'_> {
    Pieces {
        from_end: true,
        ..pieces(text)
    }
}

pub(super) struct Pieces<'a> {
    rest: &'a str,
    size: usize,
    from_end: bool,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = match self.from_end {
            false => self.rest.split_at_checked(border(self.rest, self.size))?,
            true => {
                let kept = border(self.rest, self.rest.len().saturating_sub(self.size));
                let (rest, piece) = self.rest.split_at_checked(kept)?;
                (piece, rest)
            }
        };
        self.rest = rest;
        self.size = self.size.saturating_mul(2).min(PIECE);
        Some(piece)
    }
}

/// The first place from `at` on that is between two characters.
pub(super) fn border(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at = at.saturating_add(1);
    }
    at
}

/// Where the first character is that is meant.
pub(super) fn position(
    text: &str,
    mut is_meant: impl FnMut(char) -> bool,
    budget: &mut Budget,
) -> Result<Option<usize>> {
    let mut at = 0usize;
    for piece in pieces(text) {
        budget.slow_bytes(piece.len())?;
        if let Some(found) = piece.find(&mut is_meant) {
            return Ok(Some(at.saturating_add(found)));
        }
        at = at.saturating_add(piece.len());
    }
    Ok(None)
}

/// Where the last character ends that is meant.
pub(super) fn end_of_last(
    text: &str,
    mut is_meant: impl FnMut(char) -> bool,
    budget: &mut Budget,
) -> Result<Option<usize>> {
    let mut end = text.len();
    for piece in pieces_from_end(text) {
        budget.slow_bytes(piece.len())?;
        let kept = piece.trim_end_matches(|c| !is_meant(c)).len();
        if kept > 0 {
            let behind = piece.len().saturating_sub(kept);
            return Ok(Some(end.saturating_sub(behind)));
        }
        end = end.saturating_sub(piece.len());
    }
    Ok(None)
}

pub(super) fn all(
    text: &str,
    mut holds: impl FnMut(char) -> bool,
    budget: &mut Budget,
) -> Result<bool> {
    Ok(position(text, |c| !holds(c), budget)?.is_none())
}

/// How many characters there are.
pub(super) fn count(text: &str, budget: &mut Budget) -> Result<usize> {
    let mut count = 0usize;
    for piece in pieces(text) {
        budget.bytes(piece.len())?;
        count = count.saturating_add(piece.chars().count());
    }
    Ok(count)
}

/// Where so many characters end: the length where there are no more.
pub(super) fn place(text: &str, chars: usize, budget: &mut Budget) -> Result<usize> {
    let (mut at, mut left) = (0usize, chars);
    for piece in pieces(text) {
        budget.bytes(piece.len())?;
        let count = piece.chars().count();
        if count >= left {
            let within = piece.char_indices().nth(left);
            return Ok(at.saturating_add(within.map_or(piece.len(), |(at, _)| at)));
        }
        left = left.saturating_sub(count);
        at = at.saturating_add(piece.len());
    }
    Ok(at)
}

/// Calls `each` with where the text `part` begins, from the first to the last, as long as it says true; none overlap.
pub(super) fn matches(
    text: &str,
    part: &str,
    budget: &mut Budget,
    mut each: impl FnMut(usize, &mut Budget) -> Result<bool>,
) -> Result<()> {
    let head = part.get(..border(part, HEAD)).unwrap_or(part);
    let mut from = 0usize;
    let mut size = 64usize;
    loop {
        // What begins in front of `border` is found now, and the rest from there on.
        let mut next = border(text, from.saturating_add(size));
        let end = border(text, next.saturating_add(head.len()));
        let last = end == text.len();
        budget.slow_bytes(end.saturating_sub(from).saturating_add(head.len()))?;
        let window = text.get(from..end).unwrap_or("");
        for (at, _) in window.match_indices(head) {
            let at = at.saturating_add(from);
            if at >= next && !last {
                break;
            }
            let after = at.saturating_add(part.len());
            if head.len() < part.len() {
                budget.bytes(part.len())?;
                let whole = text.get(at..after) == Some(part);
                if whole && !each(at, budget)? {
                    return Ok(());
                }
                // The beginnings of two may overlap.
                next = match whole {
                    true => after,
                    false => border(text, at.saturating_add(1)),
                };
                size = 64;
                break;
            }
            if !each(at, budget)? {
                return Ok(());
            }
            next = next.max(after);
        }
        if next >= text.len() || (last && head.len() == part.len()) {
            return Ok(());
        }
        from = next;
        size = size.saturating_mul(2).min(PIECE);
    }
}

/// As `matches`, from the last to the first.
pub(super) fn matches_from_end(
    text: &str,
    part: &str,
    budget: &mut Budget,
    mut each: impl FnMut(usize, &mut Budget) -> Result<bool>,
) -> Result<()> {
    let tail = border(part, part.len().saturating_sub(HEAD));
    let tail = part.get(tail..).unwrap_or(part);
    let mut until = text.len();
    let mut size = 64usize;
    loop {
        // What ends behind `border` is found now, and the rest up to there.
        let mut next = border(text, until.saturating_sub(size)).min(until);
        let start = border(text, next.saturating_sub(tail.len())).min(next);
        let first = start == 0;
        budget.slow_bytes(until.saturating_sub(start).saturating_add(tail.len()))?;
        let window = text.get(start..until).unwrap_or("");
        for (at, matched) in window.rmatch_indices(tail) {
            let end = start.saturating_add(at).saturating_add(matched.len());
            if end <= next && !first {
                break;
            }
            let at = end.checked_sub(part.len());
            if tail.len() < part.len() {
                budget.bytes(part.len())?;
                let whole = at.filter(|at| text.get(*at..end) == Some(part));
                if let Some(at) = whole {
                    if !each(at, budget)? {
                        return Ok(());
                    }
                }
                next = whole.unwrap_or_else(|| before(text, end));
                size = 64;
                break;
            }
            let at = at.unwrap_or(0);
            if !each(at, budget)? {
                return Ok(());
            }
            next = next.min(at);
        }
        if next == 0 || (first && tail.len() == part.len()) {
            return Ok(());
        }
        until = next;
        size = size.saturating_mul(2).min(PIECE);
    }
}

/// The last place in front of `at` that is between two characters.
fn before(text: &str, at: usize) -> usize {
    let mut at = at.saturating_sub(1);
    while !text.is_char_boundary(at) {
        at = at.saturating_sub(1);
    }
    at
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::budget::Limits;
    use super::*;

    /// Texts longer than pieces, with parts that overlap themselves, across pieces and longer than `HEAD`.
    #[test]
    fn finds_what_the_standard_library_finds() {
        let mut budget = Budget::new(
            &Limits {
                steps: u64::MAX,
                ..Limits::default()
            },
            0,
        );
        let budget = &mut budget;
        let a = |n: usize| "a".repeat(n);
        let text = format!("{}é{}b{}é{}", a(100_000), a(5000), a(70_000), a(4095));
        let mixed = "é-ab ".repeat(20_000);
        let parts = [
            "a".to_string(),
            "é".to_string(),
            "aab".to_string(),
            "éa".to_string(),
            String::new(),
            "ab é".to_string(),
            a(4096) + "b",
            a(5000) + "b",
            a(9000),
            "é".to_string() + &a(4095),
            mixed.clone(),
        ];
        for text in ["", "a", &text, &mixed, &a(9000), "aé"] {
            for part in &parts {
                let mut found = vec![];
                let mut all = |at, _: &mut Budget| {
                    found.push(at);
                    Ok(true)
                };
                matches(text, part, budget, &mut all).unwrap();
                let wanted: Vec<usize> = text.match_indices(part.as_str()).map(|m| m.0).collect();
                assert!(found == wanted, "{} in {}", part.len(), text.len());
                let mut found = vec![];
                let mut all = |at, _: &mut Budget| {
                    found.push(at);
                    Ok(true)
                };
                matches_from_end(text, part, budget, &mut all).unwrap();
                let wanted: Vec<usize> = text.rmatch_indices(part.as_str()).map(|m| m.0).collect();
                assert!(found == wanted, "last {} in {}", part.len(), text.len());
            }
            let chars = text.chars().count();
            assert_eq!(count(text, budget).unwrap(), chars);
            for nth in [0, 1, 70, 40_000, chars] {
                let at = text
                    .char_indices()
                    .nth(nth)
                    .map_or(text.len(), |(at, _)| at);
                assert_eq!(place(text, nth, budget).unwrap(), at);
            }
            for c in ['a', 'é', 'b', ' '] {
                assert_eq!(position(text, |d| d == c, budget).unwrap(), text.find(c));
                let end = text.rfind(c).map(|at| at + c.len_utf8());
                assert_eq!(end_of_last(text, |d| d == c, budget).unwrap(), end);
            }
        }
    }
}
