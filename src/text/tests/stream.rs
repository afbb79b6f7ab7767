//! The stream's guarantees, as properties over random tokens, stop strings and cuts.
//!
//! The oracle knows all tokens at once: their bytes joined, the lossy text, where each byte's character ends.

use super::tokens::{real, small};
use super::Rng;
use crate::text::stop::StopStrings;
use crate::text::{Chunk, Finish, Kind, StreamOptions, TextStream, Token, Tokenizer};

struct Oracle {
    text: String,
    /// For every token: where its last character ends in the text, and whether that character is complete.
    ends: Vec<(usize, bool)>,
    /// Whether the token has bytes at all.
    has_bytes: Vec<bool>,
}

fn oracle(tokenizer: &Tokenizer, tokens: &[(i32, Kind)]) -> Oracle {
    let mut bytes: Vec<u8> = Vec::new();
    let mut borders = Vec::new();
    let mut has_bytes = Vec::new();
    let mut first = true;
    for (id, kind) in tokens {
        let before = bytes.len();
        if *kind == Kind::Normal && !tokenizer.is_special(*id) {
            bytes.extend_from_slice(tokenizer.table.bytes(*id, first));
            first = false;
        }
        has_bytes.push(bytes.len() > before);
        borders.push(bytes.len());
    }
    // For every byte: where its character ends in the lossy text, and whether the end of all cut it short.
    let mut byte_ends = Vec::new();
    let mut at = 0;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (length, shown, complete) = (1..=4.min(rest.len()))
            .find(|n| std::str::from_utf8(&rest[..*n]).is_ok())
            .map(|n| (n, n, true))
            .unwrap_or_else(
                || match std::str::from_utf8(rest).unwrap_err().error_len() {
                    Some(n) => (n, 3, true),
                    None => (rest.len(), 3, false),
                },
            );
        at += shown;
        byte_ends.extend(std::iter::repeat_n((at, complete), length));
        rest = &rest[length..];
    }
    let normal: Vec<i32> = tokens
        .iter()
        .filter(|t| t.1 == Kind::Normal)
        .map(|t| t.0)
        .collect();
    let text = tokenizer.detokenize(&normal, true).unwrap();
    let lossy = String::from_utf8_lossy(&bytes);
    let stripped = lossy.len() - text.len();
    assert!(lossy.ends_with(&text) && stripped <= 1);
    let ends = borders.iter().map(|border| match border.checked_sub(1) {
        Some(last) => (
            byte_ends[last].0 - stripped.min(byte_ends[last].0),
            byte_ends[last].1,
        ),
        None => (0, true),
    });
    Oracle {
        ends: ends.collect(),
        text,
        has_bytes,
    }
}

/// The stop string that ends first, of those the one that starts first.
fn first_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    (1..=text.len()).find_map(|end| {
        let here = stops
            .iter()
            .enumerate()
            .filter(|(_, s)| text.as_bytes()[..end].ends_with(s.as_bytes()));
        here.map(|(index, s)| (end - s.len(), index)).min()
    })
}

fn token(index: usize, id: i32) -> Token {
    Token {
        id,
        logprob: -(index as f32),
        top: vec![(id, index as f32)],
    }
}

fn run(
    tokenizer: &Tokenizer,
    tokens: &[(i32, Kind)],
    stops: &[String],
    how: Finish,
    tokens_only: bool,
) -> (Vec<Chunk>, TextStream) {
    let stops = StopStrings::new(stops).unwrap();
    let mut stream = TextStream::new(
        tokenizer.detokenizer(true, false),
        &stops,
        StreamOptions {
            tokens_only,
            ..StreamOptions::default()
        },
    );
    let mut chunks = Vec::new();
    for (index, (id, kind)) in tokens.iter().enumerate() {
        stream.push(token(index, *id), *kind);
        chunks.extend(std::iter::from_fn(|| stream.pop()));
    }
    stream.finish(how);
    chunks.extend(std::iter::from_fn(|| stream.pop()));
    (chunks, stream)
}

/// Checks every guarantee for one list; returns whether a stop string was met.
fn check(tokenizer: &Tokenizer, tokens: &[(i32, Kind)], stops: &[String], how: Finish) -> bool {
    let all = oracle(tokenizer, tokens);
    let context = || format!("{tokens:?} {stops:?} {how:?} {:?}", all.text);
    // What cancelling leaves to match in is only what was complete.
    let whole = all
        .ends
        .iter()
        .zip(&all.has_bytes)
        .position(|(end, bytes)| *bytes && !end.1);
    let matchable = if how == Finish::Cancelled && whole.is_some() {
        all.text.strip_suffix('\u{fffd}').unwrap()
    } else {
        &all.text
    };
    let stop = first_stop(matchable, stops);
    // The tokens that must arrive: up to the first with a byte inside the match, or inside an open code point.
    let kept = match (stop, how) {
        (Some((start, _)), _) => {
            let cut = |i: &usize| all.has_bytes[*i] && all.ends[*i].0 > start;
            (0..tokens.len()).find(cut).unwrap_or(tokens.len())
        }
        (None, Finish::Cancelled) => whole.unwrap_or(tokens.len()),
        (None, Finish::End) => tokens.len(),
    };
    let ids: Vec<i32> = tokens[..kept].iter().map(|t| t.0).collect();
    let text = match stop {
        Some((start, _)) => all.text[..start].to_string(),
        None => {
            let normal: Vec<i32> = tokens[..kept]
                .iter()
                .filter(|t| t.1 == Kind::Normal)
                .map(|t| t.0)
                .collect();
            tokenizer.detokenize(&normal, true).unwrap()
        }
    };

    let (chunks, stream) = run(tokenizer, tokens, stops, how, false);
    let got: Vec<i32> = chunks.iter().flat_map(|c| c.tokens.clone()).collect();
    assert_eq!(
        chunks.iter().map(|c| c.text.as_str()).collect::<String>(),
        text,
        "{}",
        context()
    );
    if stop.is_some() {
        // A token without text right at the match may be on either side of it.
        assert!(
            got.len() <= kept && got == ids[..got.len()],
            "{got:?} {}",
            context()
        );
        assert!(
            (got.len()..kept).all(|i| !all.has_bytes[i]),
            "{got:?} {}",
            context()
        );
    } else {
        assert_eq!(got, ids, "{}", context());
    }
    assert_eq!(stream.stopped(), stop.map(|s| s.1), "{}", context());
    assert_eq!(stream.delivered(), got.len());

    let (mut index, mut shown) = (0, 0);
    for chunk in &chunks {
        assert!(!chunk.text.is_empty() || !chunk.tokens.is_empty());
        let before = shown;
        shown += chunk.text.len();
        assert!(
            chunk.logprobs.len() == chunk.tokens.len() && chunk.tops.len() == chunk.tokens.len()
        );
        for (nth, id) in chunk.tokens.iter().enumerate() {
            assert_eq!(
                (chunk.logprobs[nth], &chunk.tops[nth]),
                (-(index as f32), &vec![(*id, index as f32)])
            );
            if tokens[index].1 == Kind::Silent {
                assert!(
                    chunk.text.is_empty() && chunk.tokens.len() == 1,
                    "{}",
                    context()
                );
            } else if all.has_bytes[index] && all.ends[index].0 > 0 {
                // It arrives with the chunk that completes its text, neither before nor after.
                let end = all.ends[index].0;
                // (A silent token inside the character parts it from the token that began it.)
                let parted = (0..index).any(|i| {
                    all.has_bytes[i]
                        && all.ends[i].0 == end
                        && tokens[i..index].iter().any(|t| t.1 == Kind::Silent)
                });
                assert!(
                    (before < end || parted) && end <= shown,
                    "token {index} {}",
                    context()
                );
            }
            index += 1;
        }
    }

    // Without text the same tokens arrive; without stop strings each at once.
    let (bare, _) = run(tokenizer, tokens, stops, how, true);
    assert!(bare.iter().all(|c| c.text.is_empty()));
    let bare: Vec<i32> = bare.iter().flat_map(|c| c.tokens.clone()).collect();
    if stops.is_empty() {
        assert_eq!(bare, tokens.iter().map(|t| t.0).collect::<Vec<_>>());
    } else {
        assert_eq!(bare, got);
    }
    stop.is_some()
}

/// Stop strings cut out of the text itself, so that they are met, and their neighbours.
fn stops(rng: &mut Rng, text: &str) -> Vec<String> {
    let borders: Vec<usize> = text
        .char_indices()
        .map(|(i, _)| i)
        .chain([text.len()])
        .collect();
    let mut list = Vec::new();
    for _ in 0..rng.below(4) {
        let from = rng.below(borders.len());
        let to = (from + 1 + rng.below(6)).min(borders.len() - 1);
        let mut stop = text[borders[from]..borders[to]].to_string();
        match rng.below(5) {
            0 => stop.push('a'),
            1 => stop.insert(0, 'é'),
            2 => stop = stop.chars().take(1).collect(),
            _ => {}
        }
        if !stop.is_empty() {
            list.push(stop);
        }
    }
    list
}

fn property(tokenizer: &Tokenizer, pool: &[i32], rounds: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut met = 0;
    for _ in 0..rounds {
        let tokens: Vec<(i32, Kind)> = (0..rng.below(14))
            .map(|_| {
                let id = if rng.below(3) > 0 {
                    *rng.pick(pool)
                } else {
                    rng.below(tokenizer.vocab_size()) as i32
                };
                (
                    id,
                    if rng.below(12) == 0 {
                        Kind::Silent
                    } else {
                        Kind::Normal
                    },
                )
            })
            .collect();
        let text = oracle(tokenizer, &tokens).text;
        let stops = stops(&mut rng, &text);
        for how in [Finish::End, Finish::Cancelled] {
            met += usize::from(check(tokenizer, &tokens, &stops, how));
        }
    }
    assert!(
        met > rounds / 5,
        "only {met} of {rounds} rounds met a stop string"
    );
}

#[test]
fn guarantees_hold_for_a_small_tokenizer() {
    let (tokenizer, _) = small();
    // Whole characters, parts of characters, and tokens that hold a border of one.
    let pool: Vec<i32> = [
        b'a', b'b', b' ', 0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80, 0xe2, 0xff,
    ]
    .map(i32::from)
    .into_iter()
    .chain(256..tokenizer.vocab_size() as i32)
    .collect();
    property(&tokenizer, &pool, 40_000, 5);
}

#[test]
fn guarantees_hold_for_real_tokenizers() {
    for real in real() {
        let short = |id: &i32| (1..=3).contains(&real.ours.table.bytes(*id, false).len());
        let pool: Vec<i32> = (0..real.ours.vocab_size() as i32)
            .filter(short)
            .take(600)
            .collect();
        property(&real.ours, &pool, 4_000, 17);
    }
}

#[test]
fn holds_back_only_what_could_become_a_stop_string() {
    let (tokenizer, _) = small();
    let mut rng = Rng::new(23);
    for _ in 0..5_000 {
        let text: String = (0..rng.below(30))
            .map(|_| *rng.pick(&['a', 'b', 'é', ' ']))
            .collect();
        let stops: Vec<String> = ["aab", "abé", "ba "]
            .iter()
            .take(1 + rng.below(3))
            .map(|s| s.to_string())
            .collect();
        let set = StopStrings::new(&stops).unwrap();
        let mut stream = TextStream::new(
            tokenizer.detokenizer(true, false),
            &set,
            StreamOptions::default(),
        );
        let (mut pushed, mut shown) = (String::new(), String::new());
        for c in text.chars() {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                stream.push(token(0, i32::from(byte)), Kind::Normal);
            }
            pushed.push(c);
            shown.extend(std::iter::from_fn(|| stream.pop()).map(|chunk| chunk.text));
            if stream.stopped().is_some() {
                break;
            }
            let held = pushed.strip_prefix(&shown).unwrap();
            let longest = (0..=pushed.len())
                .filter(|at| pushed.is_char_boundary(*at))
                .map(|at| &pushed[at..])
                .find(|rest| stops.iter().any(|s| s.starts_with(rest)));
            assert_eq!(Some(held), longest, "{pushed:?} {stops:?}");
        }
    }
}

/// Millions of tokens that never complete anything cost no more each than the first.
#[test]
fn long_streams_stay_linear() {
    let (tokenizer, _) = small();
    let stops = StopStrings::new(&["a".repeat(4000) + "b"]).unwrap();
    for byte in [0xc3, 0xf0, i32::from(b'a')] {
        let mut stream = TextStream::new(
            tokenizer.detokenizer(true, false),
            &stops,
            StreamOptions::default(),
        );
        let start = std::time::Instant::now();
        let mut shown = 0;
        for _ in 0..200_000 {
            stream.push(token(0, byte), Kind::Normal);
            shown += stream.pop().map_or(0, |c| c.tokens.len());
        }
        assert!(shown >= 195_000);
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
