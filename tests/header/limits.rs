//! The limits that SECURITY.md and the header tell are those of the code: each row names the constant, and says in which words it is
//! told where. What a constant is comes out of the source, since most of them are private to the file that needs them.

use std::fs;

use crate::generate::{header, root};

/// How a number is written.
#[derive(Clone, Copy)]
enum As {
    /// 1,000,000
    Number,
    /// 16 MB, where each step is 1,024.
    Bytes,
    /// 100 MB, where each step is 1,000.
    Decimal,
    /// 20 million
    Million,
    /// 1e30
    Float,
}
use As::{Bytes, Decimal, Float, Million, Number};

/// File, constant or field, how it is written, and phrases with `{}` for it.
type Row = (
    &'static str,
    &'static str,
    As,
    &'static [&'static str],
    &'static [&'static str],
);

const LOAD: &str = "src/load/limits.rs";
const SANITISE: &str = "src/text/sanitise.rs";
const GROWTH: &str = "src/text/growth.rs";
const TABLE: &str = "src/text/table.rs";
const PATTERN: &str = "src/text/pattern.rs";
const TOKENIZER: &str = "src/text/tokenizer.rs";
const BUDGET: &str = "src/template/budget.rs";
const INPUT: &str = "src/capi/input.rs";
const PROMPT: &str = "src/runtime/prompt.rs";

/// Behind the constant: phrases of SECURITY.md, then phrases of the header.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("src/capi/text.rs", "LARGEST", Bytes, &["| one text, or one array, that is given to a function | {} |"], &["One text or array that goes in has at most {}"]),
    ("src/runtime/ledger.rs", "MOST_OF_SESSION", Number, &["| {} of a session, 16,384 of the process |"], &["RESOURCES when {} requests of the session"]),
    ("src/runtime/ledger.rs", "MOST_OF_PROCESS", Number, &["1,024 of a session, {} of the process |"], &["or {} in all, have not ended"]),
    ("src/words.rs", "MOST_BYTES", Number, &["| {} bytes, one line, no control characters"], &["one line of at most {} bytes without control characters", "and at most {} bytes. The last one to set it wins"]),

    ("src/text/messages.rs", "MAX_BYTES", Bytes, &["| messages of a conversation | {}, 100,000 messages |"], &["Bytes of messages, up to {}"]),
    ("src/text/messages.rs", "MAX_MESSAGES", Number, &["256 MB, {} messages |"], &["JSON array of at most {} messages"]),
    (PROMPT, "MOST_JSON", Bytes, &["| tools, and template arguments, each | {} |"], &["Bytes of tools, up to {}", "Bytes of template_args, up to {}"]),
    (PROMPT, "LONG", Bytes, &["for conversations from {} on"], &[]),
    (PROMPT, "MOST_CHOICE", Bytes, &["| a choice of tools | {} |"], &["Bytes of tool_choice, up to {}"]),
    (TOKENIZER, "MAX_TEXT", Bytes, &["| a text to tokenise | {}; less"], &["Bytes of text, up to {}", "has more than {}, or more than 1 MB without"]),
    (TOKENIZER, "MAX_UNDIVIDED", Bytes, &["without changing its tokens | {}, likewise |"], &["or more than {} without a place where it can be divided"]),
    (TOKENIZER, "MAX_MERGED_WORD", Bytes, &["| a word for BPE; for Unigram | {}; 4 MB"], &["(a word of {})"]),
    (TOKENIZER, "MAX_LOOKED_UP", Bytes, &["{} divided by the bytes of the longest token |"], &[]),
    (TOKENIZER, "SECTION", Bytes, &["tokenising ends within {} of text behind it"], &[]),
    ("src/text/stop.rs", "MOST_STOP_STRINGS", Number, &["| stop strings; stop tokens | {}, of 4,096 bytes each"], &["How many stop strings, up to {}, of"]),
    ("src/text/stop.rs", "MAX_BYTES", Number, &["64, of {} bytes each; 4,096 |"], &["up to 64, of up to {} bytes each"]),
    (INPUT, "MOST_STOP_TOKENS", Number, &["of 4,096 bytes each; {} |"], &["How many stop tokens, up to {}."]),
    (INPUT, "MOST_BIASES", Number, &["| biases | {}, with a finite sum"], &["How many biases, up to {}."]),
    (INPUT, "BANS", Float, &["{} and less bans it"], &["and what is {} or less, bans it"]),
    ("src/grammar/mod.rs", "LONGEST_SOURCE", Bytes, &["rules in Lark's form | {}; 2,000 |"], &["source what that kind says, of at most {}."]),
    ("src/grammar/lark.rs", "MOST_RULES", Number, &["rules in Lark's form | 1 MB; {} |"], &[]),

    (LOAD, "tokenizer_bytes", Bytes, &["| `tokenizer.json` | {}, 4,194,304 ids"], &["tokenizer.json {} and 4,194,304 ids"]),
    (SANITISE, "MAX_FILE", Bytes, &["| `tokenizer.json` | {}, 4,194,304 ids"], &[]),
    (SANITISE, "MAX_VOCABULARY", Number, &["128 MB, {} ids, {} merges |"], &["tokenizer.json 128 MB and {} ids"]),
    (LOAD, "vocab", Number, &["128 MB, {} ids"], &["128 MB and {} ids"]),
    (SANITISE, "MAX_TOKEN", Number, &["| a token of a vocabulary | {} bytes; Unigram"], &[]),
    (SANITISE, "MAX_LOOKED_UP_TOKEN", Number, &["Unigram, WordPiece and WordLevel {} |"], &[]),
    (SANITISE, "MAX_ADDED_TOKEN", Number, &["all together | {} bytes; 1,024 bytes; 2 MB |"], &[]),
    ("src/text/added.rs", "MAX_NORMALIZED", Number, &["all together | 256 bytes; {} bytes; 2 MB |"], &[]),
    (SANITISE, "MAX_ADDED_BYTES", Bytes, &["all together | 256 bytes; 1,024 bytes; {} |"], &[]),
    (SANITISE, "MAX_WORD", Number, &["`max_input_chars_per_word` of WordPiece | {} |"], &[]),
    (SANITISE, "MAX_PROCESSORS", Number, &["of post-processors | {} of each"], &[]),
    (GROWTH, "MAX_STEPS", Number, &["of post-processors | {} of each"], &[]),
    (TABLE, "MAX_STEPS", Number, &["of post-processors | {} of each"], &[]),
    (GROWTH, "MAX_GROWTH", Number, &["pre-tokenizers make of a text | {} times its length |"], &[]),
    (TABLE, "MAX_TOKEN_BYTES", Bytes, &["of all tokens | {}; 256 MB |"], &[]),
    (TABLE, "MAX_TABLE_BYTES", Bytes, &["of all tokens | 4 KB; {} |"], &[]),
    (PATTERN, "MAX_PATTERN", Bytes, &["| a pattern | {}, 2,048 instructions"], &[]),
    (PATTERN, "MAX_CODE", Number, &["| a pattern | 8 KB, {} instructions"], &[]),
    (PATTERN, "STEPS_PER_BYTE", Number, &["| {} for each byte, and 10,000 |"], &[]),
    (PATTERN, "STEPS", Number, &["| 512 for each byte, and {} |"], &[]),

    (LOAD, "template_bytes", Bytes, &["| a template | {}, 250,000 parts"], &["A chat template of more than {} "]),
    (BUDGET, "source", Bytes, &["| a template | {}, 250,000 parts"], &[]),
    ("src/template/parser.rs", "MAX_NODES", Number, &["| a template | 1 MB, {} parts"], &[]),
    (BUDGET, "depth", Number, &["{} levels of nesting", "values {} deep |"], &[]),
    (BUDGET, "SOURCE", Bytes, &["and what fits {} of stack |"], &[]),
    (BUDGET, "steps", Million, &["| a render | {} steps"], &["that takes more than {} steps"]),
    (BUDGET, "bytes", Bytes, &["a second or two), {} alive at once"], &["or more than {} at once."]),
    ("src/template/operators.rs", "MAX_BITS", Number, &["| numbers | {} bits"], &[]),
    ("src/template/format.rs", "MAX_DIGITS", Number, &["bits, {} digits when read or printed"], &[]),
    ("src/template/json.rs", "MAX_DIGITS", Number, &["bits, {} digits when read or printed"], &[]),
    ("src/template/spec.rs", "MAX_DIGITS", Number, &["{} digits in a format"], &[]),
    ("src/template/filters/number.rs", "MAX_NUMBER", Bytes, &["{} of text for `int` and `float` |"], &[]),
    ("src/template/calls.rs", "MAX_DATE", Number, &["| a format of `strftime_now` | {} bytes |"], &[]),
    ("src/template/error.rs", "RAISED", Number, &["| {} characters get into the message |"], &[]),

    (LOAD, "config_bytes", Bytes, &["a safetensors header | {} and 1,000,000 values; 64 MB; 100 MB |"], &["JSON file {} and 1,000,000 values", "adapter_config.json {},"]),
    (LOAD, "json_values", Number, &["| 16 MB and {} values; 64 MB; 100 MB |"], &["JSON file 16 MB and {} values"]),
    (LOAD, "index_bytes", Bytes, &["values; {}; 100 MB |"], &["the index {},"]),
    (LOAD, "header_bytes", Decimal, &["values; 64 MB; {} |"], &["the header of a weight file {} (of", "and a header of {} (BAD_MODEL"]),
    (LOAD, "tensors", Number, &["| tensors; weight files | {}; 4,096 |"], &["{} tensors of 8 dimensions in 4,096 weight files", "weights of {} tensors"]),
    (LOAD, "shards", Number, &["| tensors; weight files | 100,000; {} |"], &["of 8 dimensions in {} weight files"]),
    (LOAD, "rank", Number, &["| dimensions of a tensor; layers; rank of an adapter | {}; "], &["100,000 tensors of {} dimensions"]),
    (LOAD, "layers", Number, &["| dimensions of a tensor; layers; rank of an adapter | 8; {}; "], &["{} layers. What is over one is BAD_MODEL."]),
    (LOAD, "adapter_rank", Number, &["rank of an adapter | 8; 1,024; {} |"], &["a rank of {},"]),
    ("src/runtime/adapter/create.rs", "MOST_RANK", Number, &["rank of an adapter | 8; 1,024; {} |"], &["Columns of A and rows of B, up to {};"]),
    ("src/capi/adapter.rs", "MOST_DIMENSIONS", Number, &["rank of an adapter | {}; "], &["How many dimensions, at most {}."]),
    ("src/train/data.rs", "MOST_BYTES", Bytes, &["| a data set for training | {} |"], &["Bytes of train, up to {};"]),
    ("src/runtime/model.rs", "READ_STEP", Bytes, &["or the time of one read of {}."], &["the time of one read of {}."]),
    ("src/reserve.rs", "SIZE", Bytes, &["has a reserve of {} of address space"], &[]),
    ("src/reserve.rs", "MOST", Bytes, &["(of blocks of up to {})"], &[]),
    ("src/reserve.rs", "ENOUGH", Bytes, &["until {} can be had again"], &[]),
];

/// Numbers of SECURITY.md's limits that no constant of ours is: of systems, other constants' products, kinds.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "192 KB are used at most; 256 KB are enough", "seen within 10 ms", "`\\u{1b}`", "40 to 400 characters", "more than 4 times its length",
    "1e-6 to 1e6", "1e30 in size; in F16 65,504", "within 50 ms or the time of one word", "within 50 ms or", "Within 50 ms is what", "with 0 bytes done",
];

/// The value of a constant, or of a field of a struct's constant, in one of the forms in which they are written here.
fn value(file: &str, name: &str) -> f64 {
    let source =
        fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let constant = format!("const {name}: ");
    let field = format!("{name}: ");
    let expression = source
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
        .find_map(|line| match line.find(&constant) {
            Some(_) => Some(line.split_once("= ")?.1.strip_suffix(';')?),
            None => line.strip_prefix(&field)?.strip_suffix(','),
        })
        .unwrap_or_else(|| panic!("{file} has no {name}"));
    let number = |text: &str| match text.trim().replace('_', "").parse::<f64>() {
        Ok(number) => number,
        Err(_) => value(file, text.trim()),
    };
    match (expression.split_once("<<"), expression.split_once('/')) {
        (Some((base, shift)), _) => number(base) * number(shift).exp2(),
        (None, Some((whole, parts))) => number(whole) / number(parts),
        (None, None) => number(expression),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn written(value: f64, how: As) -> String {
    let steps = |step: f64| {
        let (mut number, mut unit) = (value, 0);
        while number >= step && unit < 3 {
            (number, unit) = (number / step, unit + 1);
        }
        assert_eq!(number.fract(), 0.0, "{value} is no round number");
        format!("{number} {}", ["bytes", "KB", "MB", "GB"][unit])
    };
    match how {
        Number => grouped(value as u64),
        Bytes => steps(1024.0),
        Decimal => steps(1000.0),
        Million => format!("{} million", value / 1e6),
        Float => format!("{value:e}"),
    }
}

/// One line, without what C's comments begin their lines with.
fn flat(text: &str) -> String {
    let words = text.split_whitespace().filter(|&word| word != "*");
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_limits_that_are_told_are_those_of_the_code() {
    let security = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let begin = security.find("\n## Limits\n").expect("its limits");
    let end = security
        .find("\n## The promises behind it")
        .expect("their end");
    let (security, header) = (flat(&security[begin..end]), flat(&header()));
    let mut missing = Vec::new();
    for &(file, name, how, in_security, in_header) in ROWS {
        let number = written(value(file, name), how);
        for (told, phrases, document) in [
            (&security, in_security, "SECURITY.md"),
            (&header, in_header, "the header"),
        ] {
            for phrase in phrases {
                let phrase = phrase.replace("{}", &number);
                if !told.contains(&phrase) {
                    missing.push(format!("{name} ({file}): {document} has no {phrase:?}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));

    // And nothing else is a number there.
    for other in OTHERS {
        assert!(security.contains(other), "SECURITY.md has no {other:?}");
    }
    let mut rest = security;
    for other in OTHERS {
        rest = rest.replace(other, "");
    }
    let first = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    let known = ROWS
        .iter()
        .map(|&(file, name, how, ..)| first(&written(value(file, name), how)));
    let known: Vec<String> = known.collect();
    let numbers = rest
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_digit() && c != '-'))
        .filter(|word| word.contains(|c: char| c.is_ascii_digit()));
    let untold: Vec<&str> = numbers
        .filter(|word| !known.iter().any(|number| number == word))
        .collect();
    assert!(untold.is_empty(), "no constant is known for {untold:?}");
}
