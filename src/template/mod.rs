//! Chat templates: Jinja as transformers runs it, bounded, and with every character's origin kept.
//! README.md has the language and the map of the files.
//!
//! The rules: nothing here recurses on input without counting, allocates without paying first, or lets a value
//! be changed. Strings carry their origins, and a new operation on strings must too.

#![deny(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod ast;
mod attributes;
mod budget;
mod calls;
mod clock;
mod dict;
mod error;
mod eval;
mod expression;
mod expressions;
mod filters;
mod format;
mod hidden;
mod json;
mod lexer;
mod loops;
mod methods;
mod operators;
mod parser;
mod percent;
mod places;
mod predicates;
mod provenance;
mod scan;
mod spec;
mod string;
mod tojson;
mod value;

#[cfg(test)]
mod tests;

pub use budget::Limits;
pub use clock::Now;
pub use error::{ErrorKind, TemplateError};
pub use format::float as python_float;
pub use json::{Json, Object};
pub use string::{Origin, Str};
pub use value::Value;

use eval::Eval;
use value::V;

/// A parsed template: `Send + Sync`, rendered any number of times.
#[derive(Debug)]
pub struct Template {
    source: String,
    parsed: parser::Parsed,
}

/// What a template printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Where the parts of one origin end, in bytes.
    runs: Vec<(usize, Origin)>,
    /// The steps that it took.
    pub steps: u64,
}

impl Rendered {
    /// The text in pieces of one origin: neighbours differ, none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = (&str, Origin)> {
        let mut start = 0;
        self.runs.iter().filter_map(move |(end, origin)| {
            let piece = self.text.get(start..*end)?;
            start = *end;
            Some((piece, *origin)).filter(|_| !piece.is_empty())
        })
    }
}

impl Template {
    /// Errors: `Syntax`, `Unsupported` or `Limit`, with the place.
    pub fn parse(source: &str, limits: &Limits) -> Result<Template, TemplateError> {
        if source.len() > limits.source {
            return Err(TemplateError {
                line: 1,
                column: 1,
                kind: ErrorKind::Limit,
                message: format!(
                    "the template has {} bytes, more than {}",
                    source.len(),
                    limits.source
                ),
            });
        }
        let mut source = match source.contains('\r') {
            true => source.replace("\r\n", "\n").replace('\r', "\n"),
            false => source.to_string(),
        };
        if source.ends_with('\n') {
            source.pop();
        }
        match parser::parse(&source, limits) {
            Ok(parsed) => Ok(Template { source, parsed }),
            Err(fault) => Err(fault.locate(&source)),
        }
    }

    /// The text that was parsed, with its line ends made `\n`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders with the variables of `context`, a dict. The clock is read where the template asks for it.
    ///
    /// Errors: what the template raises, what Python would, or a limit, with the place.
    pub fn render(
        &self,
        context: &Value,
        clock: &dyn Fn() -> Now,
        limits: &Limits,
    ) -> Result<Rendered, TemplateError> {
        self.run(context, clock, limits)
            .map_err(|fault| fault.locate(&self.source))
    }

    fn run(
        &self,
        context: &Value,
        clock: &dyn Fn() -> Now,
        limits: &Limits,
    ) -> error::Result<Rendered> {
        let V::Dict(context, _) = &context.0 else {
            return error::Fault::type_error("the template's context must be a dict");
        };
        let parsed = &self.parsed;
        let mut eval = Eval::new(&self.source, parsed, context, clock, limits)?;
        eval.body(&parsed.body)?;
        let steps = eval.budget.used_steps();
        let (text, runs) = eval.out.into_text().into_parts();
        Ok(Rendered { text, runs, steps })
    }
}
