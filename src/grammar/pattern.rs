//! Regular expressions, looked at before they are compiled.

use regex_syntax::hir::Hir;
use regex_syntax::ParserBuilder;

/// Bytes of one expression or literal.
pub const LONGEST: usize = 64 << 10;
/// Bytes that the shortest text may have that matches one: what is forced is worked out at once.
const LONGEST_MATCH: usize = 64 << 10;
/// Groups within each other.
const DEEPEST: u32 = 100;

/// Errors: what is wrong with it.
pub fn check(pattern: &str) -> Result<(), String> {
    if pattern.len() > LONGEST {
        return Err(format!(
            "the expression has {} bytes, at most {LONGEST} are taken",
            pattern.len()
        ));
    }
    let parsed = ParserBuilder::new()
        .nest_limit(DEEPEST)
        .build()
        .parse(pattern);
    let hir = match parsed {
        Ok(hir) => hir,
        Err(error) => return Err(words(&error)),
    };
    match shortest(&hir) {
        None => Err("no text matches the expression".to_owned()),
        Some(length) if length > LONGEST_MATCH => Err(format!(
            "what matches the expression has at least {length} bytes, at most {LONGEST_MATCH} are taken"
        )),
        Some(_) => Ok(()),
    }
}

fn shortest(hir: &Hir) -> Option<usize> {
    hir.properties().minimum_len()
}

/// What is wrong and where, without the expression.
fn words(error: &regex_syntax::Error) -> String {
    let (what, start) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start),
        _ => return "the expression cannot be read".to_owned(),
    };
    format!("the expression, at character {}: {what}", start.column)
}
