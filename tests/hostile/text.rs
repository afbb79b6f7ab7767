//! Row 3: text that is no text, at every place where text goes in.

use std::ffi::c_char;
use std::ptr::{null, null_mut};

use crate::abi::*;
use crate::child::{exactly, qwen};
use crate::common::{load, outcome, Failure};
use crate::list::Cases;
use crate::verdict::*;
use crate::{list_class, sized};

list_class!("3", "bad UTF-8, NUL, empty and absurd lengths", "text");

const PLACES: [&str; 12] = [
    "path",
    "draft_path",
    "resource_dir",
    "text",
    "input.text",
    "input.messages",
    "input.tools",
    "input.template_args",
    "input.tool_choice",
    "stop",
    "ids",
    "input.tokens",
];

/// Not UTF-8: stray bytes, too short, too long, surrogates, beyond U+10FFFF.
const BAD: [&[u8]; 10] = [
    b"\x80",
    b"\xff",
    b"ab\xc3",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xf8\x88\x80\x80\x80",
    b"\xc0\x80",
    b"a\xe0\x80\xafb",
];

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for place in PLACES.into_iter().take(9) {
        for (number, bytes) in BAD.into_iter().enumerate() {
            let run = move || refused(place, Some(bytes), NTS);
            cases.push((format!("{place}: bad bytes {number}"), Box::new(run)));
        }
        let run = move || odd(place, Some(b""), NTS);
        cases.push((format!("{place}: empty"), Box::new(run)));
        if !["path", "draft_path", "resource_dir"].contains(&place) {
            let run = move || odd(place, Some(b"a\0b"), 3);
            cases.push((format!("{place}: NUL in the middle"), Box::new(run)));
            let run = move || odd(place, None, 0);
            cases.push((format!("{place}: NULL with length 0"), Box::new(run)));
            let run = move || odd(place, Some(b"abc"), 0);
            cases.push((format!("{place}: length 0"), Box::new(run)));
        }
    }
    for place in PLACES.into_iter().skip(3) {
        for length in [NTS - 1, NTS / 2, NTS / 2 + 1, NTS / 4 + 1, 1 << 62] {
            let run = move || refused(place, Some(b"abc"), length);
            cases.push((format!("{place}: length {length}"), Box::new(run)));
        }
        let run = move || refused(place, None, 1);
        cases.push((format!("{place}: NULL with length 1"), Box::new(run)));
    }
    // Long texts: in sections, or over a limit.
    for (part, length, fits) in [
        ("the cat ", 4 << 20, true),
        ("the cat ", (64 << 20) + 1, false),
        ("x", 256 << 10, true),
        ("x", (256 << 10) + 1, false),
        ("x", 2 << 20, false),
        ("\n", 2 << 20, false),
        (" ", 64 << 20, false),
        ("e\u{301}", 64 << 20, false),
    ] {
        let run = move || {
            let mut text = part.repeat(length / part.len());
            text.push_str(part.get(..length % part.len()).unwrap_or(""));
            let told = give("text", Some(text.as_bytes()), text.len());
            match (fits, told) {
                (true, told) => fine_or_named(told, &[], &[]),
                (false, Err(failure)) => named(&failure, &["INVALID_ARGUMENT"], &["text"]),
                (false, Ok(())) => Err(Wrong("it is tokenised".into())),
            }
        };
        cases.push((format!("text: {length} bytes of {part:?}"), Box::new(run)));
    }
    for length in [5_000, 70_000, 10_000_000] {
        let run = move || {
            let path = vec![b'a'; length];
            match give("path", Some(&path), NTS) {
                Err(failure) => named(&failure, &["INVALID_ARGUMENT", "NOT_FOUND", "IO"], &[]),
                Ok(()) => Err(Wrong("it loads".into())),
            }
        };
        cases.push((format!("path: {length} bytes"), Box::new(run)));
    }
    cases
}

const NTS: usize = usize::MAX;

fn refused(place: &str, bytes: Option<&[u8]>, length: usize) -> Outcome {
    match give(place, bytes, length) {
        Ok(()) => Err(Wrong("it is accepted".into())),
        Err(failure) => {
            // Without a pointer, what is missing is any input at all.
            let word = match bytes {
                None => place.trim_start_matches("input."),
                Some(_) => place,
            };
            named(&failure, &["INVALID_ARGUMENT", "UNSUPPORTED"], &[word])
        }
    }
}

fn odd(place: &str, bytes: Option<&[u8]>, length: usize) -> Outcome {
    let codes = &["INVALID_ARGUMENT", "UNSUPPORTED", "NOT_FOUND"];
    fine_or_named(give(place, bytes, length), codes, &[])
}

/// Hands the bytes to the function that takes them at this place.
fn give(place: &str, bytes: Option<&[u8]>, length: usize) -> Result<(), Failure> {
    let bytes = bytes.map(|bytes| [bytes, b"\0"].concat());
    let text: *const c_char = bytes.as_ref().map_or(null(), |b| b.as_ptr().cast());
    let good_path = crate::common::c_path(&qwen());
    let messages = r#"[{"role":"user","content":"Hi"}]"#;
    let mut input = sized!(mlxrt_input);
    let mut load_options = sized!(mlxrt_load_options);
    let mut init_options = sized!(mlxrt_init_options);
    let mut options = exactly(2);
    let (mut made, mut ids, mut out, mut count) = (null_mut(), null_mut(), null_mut(), 0);
    // SAFETY: every pointer is NULL, NUL-terminated, or of memory that lives through the call; lengths beyond it are
    // refused before anything is read.
    unsafe {
        match place {
            "path" => return outcome(mlxrt_model_load(text, null(), &mut made)),
            "draft_path" => {
                load_options.draft_path = text;
                return outcome(mlxrt_model_load(
                    good_path.as_ptr(),
                    &load_options,
                    &mut made,
                ));
            }
            "resource_dir" => {
                init_options.resource_dir = text;
                return outcome(mlxrt_init(&init_options));
            }
            _ => {}
        }
        let model = load(&qwen())?;
        match place {
            "text" => {
                let error = mlxrt_tokenize(model.0, text, length, 0, &mut ids, &mut count);
                return outcome(error);
            }
            "ids" => {
                let error = mlxrt_detokenize(model.0, text.cast(), length, 0, &mut out, null_mut());
                return outcome(error);
            }
            "input.tokens" => (input.tokens, input.token_count) = (text.cast(), length),
            "input.text" => (input.text, input.text_len) = (text, length),
            "input.messages" => (input.messages, input.messages_len) = (text, length),
            _ => (input.messages, input.messages_len) = (messages.as_ptr().cast(), messages.len()),
        }
        match place {
            "input.tools" => (input.tools, input.tools_len) = (text, length),
            "input.template_args" => {
                (input.template_args, input.template_args_len) = (text, length)
            }
            "input.tool_choice" => (input.tool_choice, input.tool_choice_len) = (text, length),
            _ => {}
        }
        let (stops, lengths) = ([text], [length]);
        if place == "stop" {
            (options.stop, options.stop_lens) = (stops.as_ptr(), lengths.as_ptr());
            options.stop_count = 1;
        }
        let session = model.session(0);
        let error = mlxrt_generate(session.0, &input, &options, None, null_mut(), null_mut());
        outcome(error)
    }
}
