//! Regular expressions, looked at before they are compiled.

use regex_syntax::ast::{
    self, Ast, ClassSetBinaryOp, ClassSetItem, Flag, FlagsItemKind, GroupKind, HexLiteralKind,
    LiteralKind, Span, SpecialLiteralKind,
};
use regex_syntax::hir::Hir;
use regex_syntax::ParserBuilder;

/// Bytes of one expression or literal.
pub const LONGEST: usize = 64 << 10;
/// Bytes that the shortest text may have that matches one: what is forced is worked out at once.
const LONGEST_MATCH: usize = 64 << 10;
/// A group of this name is llguidance's way to look ahead.
const LOOK_AHEAD: &str = "stop";
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

/// What a schema's pattern is in the syntax of the crate: what ECMA 262 has the same signs for and means otherwise is written
/// so that it matches only what both would, and what cannot be is refused.
///
/// Errors: what is wrong with it.
pub fn of_schema(pattern: &str) -> Result<String, String> {
    check(pattern)?;
    let parsed = ast::parse::ParserBuilder::new()
        .nest_limit(DEEPEST)
        .build()
        .parse(pattern);
    let parsed = parsed.map_err(|error| error.kind().to_string())?;
    let rewriting = Rewriting {
        changes: Vec::new(),
        dot_is_all: false,
    };
    let rewriting = ast::visit(&parsed, rewriting)?;
    let (mut out, mut from) = (String::new(), 0);
    for (span, instead) in rewriting.changes {
        let (start, end) = (span.start.offset, span.end.offset);
        out.push_str(pattern.get(from..start).unwrap_or_default());
        out.push_str(instead);
        from = end;
    }
    out.push_str(pattern.get(from..).unwrap_or_default());
    Ok(out)
}

/// `.`, which is no end of a line: ECMA 262 has four of these.
const DOT: &str = r"[^\n\r\u2028\u2029]";
/// White space to ECMA 262, to Python and to the crate.
const SPACE: &str = r"[\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]";
/// White space to none of them.
const NO_SPACE: &str =
    r"[^\t-\r\x1c-\x1f \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]";

struct Rewriting {
    /// In the order of the text.
    changes: Vec<(Span, &'static str)>,
    /// A flag says that `.` matches ends of lines, too.
    dot_is_all: bool,
}

impl Rewriting {
    fn space(&mut self, class: &ast::ClassPerl) {
        if class.kind == ast::ClassPerlKind::Space {
            let instead = if class.negated { NO_SPACE } else { SPACE };
            self.changes.push((class.span, instead));
        }
    }

    fn flags(&mut self, flags: &ast::Flags) {
        let all = |item: &ast::FlagsItem| item.kind == FlagsItemKind::Flag(Flag::DotMatchesNewLine);
        self.dot_is_all |= flags.items.iter().any(all);
    }

    fn literal(literal: &ast::Literal) -> Result<(), String> {
        match literal.kind {
            LiteralKind::HexBrace(HexLiteralKind::X)
            | LiteralKind::HexFixed(HexLiteralKind::UnicodeLong)
            | LiteralKind::Special(SpecialLiteralKind::Bell) => {
                let c = literal.span.start.column;
                Err(format!(
                    "the expression, at character {c}: the escape is not ECMA 262's"
                ))
            }
            _ => Ok(()),
        }
    }
}

impl ast::Visitor for Rewriting {
    type Output = Rewriting;
    type Err = String;

    fn finish(self) -> Result<Rewriting, String> {
        Ok(self)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Flags(set) => self.flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(flags) => self.flags(flags),
                GroupKind::CaptureName { name, .. } if name.name == LOOK_AHEAD => {
                    return Err(format!("a group cannot be named {LOOK_AHEAD}"));
                }
                _ => {}
            },
            Ast::Dot(span) if !self.dot_is_all => self.changes.push((**span, DOT)),
            Ast::ClassPerl(class) => self.space(class),
            Ast::Literal(literal) => Self::literal(literal)?,
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Bracketed(_) | ClassSetItem::Ascii(_) => {
                let c = item.span().start.column;
                return Err(format!(
                    "the expression, at character {c}: a class within a class is not ECMA 262's"
                ));
            }
            ClassSetItem::Perl(class) => self.space(class),
            ClassSetItem::Literal(literal) => Self::literal(literal)?,
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, op: &ClassSetBinaryOp) -> Result<(), String> {
        let c = op.span.start.column;
        Err(format!(
            "the expression, at character {c}: classes are not added and taken away in ECMA 262"
        ))
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
