//! Words for people: errors, warnings, lines of the log. What they name is other people's (files, keys, tensors, types), and
//! would steer a terminal, forge a line of a log, or bury the sentence, if it could.
//!
//! Whoever names something writes it [`quoted`] or [`cut`]. What nobody remembered ends at the edge: every error that C gets,
//! every line of the log and every warning goes through [`plain`].

use std::borrow::Cow;

/// Bytes of a whole message.
pub const MOST_BYTES: usize = 1_900;

/// The name in quotes, escaped, with at most so many characters.
pub fn quoted(text: &str, max: usize) -> String {
    let mut out = String::from("\"");
    let mut chars = text.chars();
    for c in chars.by_ref().take(max) {
        match c {
            '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// A name as it is, or its two ends where it has more characters than that.
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    let too_long = text.len() > max && text.chars().nth(max).is_some();
    if !too_long {
        return Cow::Borrowed(text);
    }
    let half = max / 2;
    let head = text.char_indices().nth(half).map_or(0, |(at, _)| at);
    let tail = text.char_indices().rev().nth(half.saturating_sub(1));
    let tail = tail.map_or(text.len(), |(at, _)| at);
    let (head, tail) = (text.get(..head), text.get(tail..));
    Cow::Owned([head.unwrap_or(""), "…", tail.unwrap_or("")].concat())
}

/// A whole message: one line, with nothing that a terminal obeys, of at most [`MOST_BYTES`].
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.len() <= MOST_BYTES && !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    // Both ends count: the first names the place, the last says why. Cut before and after, so that the work is bounded by
    // what is kept, and what escapes make longer is too.
    let text = ends(text, MOST_BYTES);
    let mut out = String::new();
    for c in text.chars() {
        match steers(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(ends(&out, MOST_BYTES).into_owned())
}

/// Two thirds of the bytes from the start, the rest from the end.
fn ends(text: &str, most: usize) -> Cow<'_, str> {
    const BETWEEN: &str = " … ";
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let most = most.saturating_sub(BETWEEN.len());
    let mut head = most.saturating_sub(most / 3);
    let mut tail = text.len().saturating_sub(most / 3);
    while !text.is_char_boundary(head) {
        head = head.saturating_sub(1);
    }
    while !text.is_char_boundary(tail) {
        tail = tail.saturating_add(1);
    }
    let (head, tail) = (text.get(..head), text.get(tail..));
    Cow::Owned([head.unwrap_or(""), BETWEEN, tail.unwrap_or("")].concat())
}

/// Controls (C0, DEL, C1), ends of lines, what turns the direction of text, and what is not seen and no part of a word.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_escaped_and_what_people_write_is_not() {
        for kept in ["", "config.json: \"a\\b\" is 3", "ä日本語👩‍👩‍👧 نص، עברית 'x'"]
        {
            assert!(matches!(plain(kept), Cow::Borrowed(same) if same == kept));
        }
        // Miri takes minutes for all that there are.
        let last = if cfg!(miri) { 0x3000 } else { 0x10_FFFF };
        let steering = (0..=last).filter_map(char::from_u32).filter(|c| {
            c.is_control() || "\u{202a}\u{202e}\u{2066}\u{2069}\u{2028}\u{2029}".contains(*c)
        });
        for c in steering {
            let said = plain(&format!("a{c}b")).into_owned();
            assert_eq!(said, format!("a\\u{{{:x}}}b", c as u32));
        }
        assert_eq!(plain("a\r\n\x1b[2Jb\0"), "a\\u{d}\\u{a}\\u{1b}[2Jb\\u{0}");
    }

    #[test]
    fn a_message_has_an_end_and_keeps_both_of_its_own() {
        for (middle, bytes) in [("x", 1), ("é", 2), ("語", 3), ("😀", 4), ("\x1b", 1)] {
            for count in [MOST_BYTES - 20, MOST_BYTES, MOST_BYTES + 1, 100_000] {
                let text = format!("config.json: {} is odd", middle.repeat(count / bytes));
                let said = plain(&text);
                assert!(said.len() <= MOST_BYTES, "{}", said.len());
                assert!(said.starts_with("config.json: "), "{said}");
                assert!(said.ends_with(" is odd"), "{said}");
            }
        }
        let exact = "x".repeat(MOST_BYTES);
        assert_eq!(plain(&exact), exact);
    }

    #[test]
    fn names_are_cut() {
        assert_eq!(quoted("a\n\"'\u{202e}é", 9), r#""a\n\"'\u{202e}é""#);
        assert_eq!(quoted("abcdef", 3), "\"abc…\"");
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abc…efg");
        assert_eq!(cut("äöüßéèê", 4), "äö…èê");
        assert_eq!(cut("äöüß", 4), "äöüß");
    }
}
