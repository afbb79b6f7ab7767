//! Which places of a prompt are marked, for states and windows, which go back to marks only.

use crate::runtime::caches::Known;

/// Where a prompt is likely to be gone on from otherwise. Where it parts from another one that is `known`, as a third one may; or
/// where the last turn begins; or where it parts from what its own session had. Behind the last turn that is ended in it, for
/// `states`, which remember more places than windows. And at its end, but for the token that is computed in any case.
pub(super) fn marks(prompt: &[i32], stop_tokens: &[i32], known: Known, states: bool) -> Vec<usize> {
    let turn = |prompt: &[i32]| prompt.iter().rposition(|id| stop_tokens.contains(id));
    let turn_end = turn(prompt);
    let begins = turn_end.and_then(|end| turn(prompt.get(..end)?));
    let begins = begins.filter(|_| !states).map_or(0, |at| at + 1);
    let turn_end = turn_end.filter(|_| states).map_or(0, |at| at + 1);
    let mut parts = [known.others, begins, known.own].into_iter();
    let parts = parts.find(|&at| at > 0).unwrap_or(0);
    let end = prompt.len().saturating_sub(1);
    let mut marks = vec![parts, turn_end, end];
    marks.retain(|&mark| mark > 0 && mark <= end);
    marks.sort_unstable();
    marks.dedup();
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_and_partings_are_marked() {
        let nothing = Known::default();
        let known = |own, others| Known { own, others };
        // Three turns that end with 9, and what asks for an answer.
        let chat = [1, 2, 9, 3, 4, 5, 9, 6, 9, 7, 8];
        let windows = |known| marks(&chat, &[9], known, false);
        let states = |known| marks(&chat, &[9], known, true);
        assert_eq!(
            (windows(nothing), states(nothing)),
            (vec![7, 10], vec![9, 10])
        );
        assert_eq!(
            (windows(known(5, 0)), states(known(5, 0))),
            (vec![7, 10], vec![5, 9, 10])
        );
        assert_eq!(
            (windows(known(5, 6)), states(known(5, 6))),
            (vec![6, 10], vec![6, 9, 10])
        );
        // One turn, or none that is told.
        assert_eq!(marks(&chat[..4], &[9], nothing, false), [3]);
        assert_eq!(marks(&chat, &[], known(4, 0), false), [4, 10]);
        assert_eq!(marks(&chat[..3], &[9], nothing, true), [2]);
        assert!(marks(&chat[..1], &[9], nothing, true).is_empty());
        assert!(marks(&[], &[9], nothing, true).is_empty());
    }

    #[test]
    fn what_can_be_gone_back_to_is_no_parting() {
        let beyond = |own, others, held| {
            let known = Known { own, others }.beyond(held);
            (known.own, known.others)
        };
        assert_eq!(beyond(40, 60, 10), (40, 60));
        assert_eq!(beyond(40, 60, 35), (0, 60));
        assert_eq!(beyond(60, 60, 10), (60, 0));
        assert_eq!(beyond(17, 17, 10), (0, 0));
    }
}
