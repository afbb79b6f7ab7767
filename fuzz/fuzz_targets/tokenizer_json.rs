//! tokenizer.json: loads it, then takes a few texts there and back.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mlxrt_fuzz::template::Origin;
use mlxrt_fuzz::text::{Piece, Specials, TokenFiles, Tokenizer};
use mlxrt_fuzz::{on_small_stack, peak};
use serde_json::Value;

/// Beyond the file: what a hostile one may cost.
const HEAP: usize = 64 << 20;

const TEXTS: &[&str] = &[
    "",
    "a",
    "ab b a",
    " Hé\n\n  llo <s> 12 [UNK]",
    "😀\0\u{1}abababababab\u{fffd}e\u{301}",
];

fuzz_target!(
    init: {
        // The crate below may panic behind the library's guard. What panics in our own files, or gets past
        // the guard, ends the run.
        let fatal = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let file = info.location().map_or("", |place| place.file());
            let ours = ["src/text", "src/template", "src/error", "fuzz_targets", "src/lib.rs"];
            // As scripts/rustc.sh names them, and as they are.
            let theirs = ["/crates/", "/rustc/"].iter().any(|place| file.starts_with(place));
            let theirs = theirs || file.contains("registry");
            if !theirs && ours.iter().any(|part| file.contains(part)) {
                fatal(info);
            }
        }));
    },
    |data: &[u8]| on_small_stack(data, check)
);

fn check(data: &[u8]) {
    let (tokenizer, heap) = peak(|| {
        Tokenizer::new(data, &TokenFiles::default(), None, &mut Vec::new())
    });
    assert!(heap <= HEAP, "loading held {heap} bytes");
    let tokenizer = match tokenizer {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            assert!(error.message.starts_with("tokenizer.json"), "{error:?}");
            assert!(
                error.message.len() < 4096,
                "a message of {} bytes",
                error.message.len()
            );
            return;
        }
    };
    let file: Value = serde_json::from_slice(data).expect("it was just read");
    let size = tokenizer.vocab_size();
    let ((), heap) = peak(|| {
        for text in TEXTS {
            for specials in [Specials::Recognise, Specials::AsText] {
                if let Ok(ids) = tokenizer.encode(text, specials, true) {
                    there_and_back(&tokenizer, &ids, size);
                }
            }
        }
        specials(&tokenizer, &file, size);
        every_id(&tokenizer, size);
    });
    assert!(heap <= HEAP, "a few short texts held {heap} bytes");
}

fn there_and_back(tokenizer: &Tokenizer, ids: &[i32], size: usize) {
    let inside = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < size);
    assert!(
        ids.iter().all(inside),
        "{ids:?} leave the vocabulary of {size}"
    );
    for skip in [false, true] {
        tokenizer.detokenize(ids, skip).expect("ids of its own");
    }
}

/// Special tokens are tokens where the template wrote them, and text where the user did.
fn specials(tokenizer: &Tokenizer, file: &Value, size: usize) {
    let model = &file["model"];
    let text = |key: &str| model[key].as_str().unwrap_or("");
    // What no token stands for becomes this one, whatever the text.
    let unknown = match model["unk_id"].as_i64() {
        Some(id) => i32::try_from(id).ok(),
        None => tokenizer.token_to_id(text("unk_token")),
    };
    let default = if text("type") == "WordPiece" {
        "##"
    } else {
        ""
    };
    let prefix = model["continuing_subword_prefix"]
        .as_str()
        .unwrap_or(default);
    let suffix = text("end_of_word_suffix");
    // Pieces of words and bytes are spelled by other texts than their own.
    let part = |token: &str| {
        (!prefix.is_empty() && token.starts_with(prefix))
            || (!suffix.is_empty() && token.ends_with(suffix))
            || (token.len() == 6 && token.starts_with("<0x"))
    };

    let added = file["added_tokens"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let mut control = HashSet::new();
    let mut contents = Vec::new();
    for token in added.iter().filter(|token| token["special"] == true) {
        let Some(content) = token["content"]
            .as_str()
            .filter(|content| !content.is_empty())
        else {
            continue;
        };
        contents.push(content);
        if let Some(id) = tokenizer.token_to_id(content) {
            if Some(id) != unknown && !part(content) {
                control.insert(id);
            }
        }
    }
    for content in contents.into_iter().take(8) {
        let user = Piece::new(format!("a{content} b"), Origin::Content);
        let model = Piece::new(format!("{content}{content}"), Origin::Assistant);
        let template = Piece::new(content, Origin::Template);
        let cut = content.chars().next().map_or(0, char::len_utf8);
        let halves = [
            Piece::new(&content[..cut], Origin::Template),
            Piece::new(&content[cut..], Origin::Content),
            Piece::new(format!("{content} "), Origin::Content),
        ];
        for pieces in [&[user.clone(), model.clone()][..], &halves[1..]] {
            if let Ok(ids) = tokenizer.encode_pieces(pieces, false, usize::MAX) {
                there_and_back(tokenizer, &ids, size);
                let forged: Vec<_> = ids.iter().filter(|id| control.contains(id)).collect();
                assert!(forged.is_empty(), "{pieces:?} made {forged:?}");
            }
        }
        for trust in [false, true] {
            for pieces in [
                &[user.clone(), template.clone(), model.clone()][..],
                &halves[..],
            ] {
                if let Ok(ids) = tokenizer.encode_pieces(pieces, trust, usize::MAX) {
                    there_and_back(tokenizer, &ids, size);
                }
            }
        }
    }
}

fn every_id(tokenizer: &Tokenizer, size: usize) {
    let last = i32::try_from(size).expect("sizes are limited");
    let ids: Vec<i32> = (0..last.min(300)).collect();
    there_and_back(tokenizer, &ids, size);
    for id in [-1, last, i32::MAX, i32::MIN] {
        assert!(
            tokenizer.detokenize(&[id], false).is_err(),
            "{id} of {size}"
        );
    }
}
