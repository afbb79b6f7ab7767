//! Grammars in Lark's form, looked at before they are compiled: how deep they nest, and the directives that would take their
//! own way around what is checked here.

use super::pattern;
use crate::error::{Error, Result};

/// Brackets within each other.
const DEEPEST: usize = 100;
/// Rules and terminals: a fault in one that others lead to, one after the other, is told with all of their words for each of them, which
/// takes two seconds with so many.
const MOST_RULES: usize = 2000;

/// Errors: `BadGrammar` names the line.
pub fn check(source: &str) -> Result<()> {
    let mut scanner = Scanner {
        rest: source,
        line: 1,
    };
    let (mut depth, mut rules) = (0_usize, 0_usize);
    while let Some(c) = scanner.next() {
        match c {
            '#' => scanner.skip_line(),
            '/' if scanner.rest.starts_with('/') => scanner.skip_line(),
            '"' | '/' => {
                let line = scanner.line;
                let text = scanner.until(c);
                if text.len() > pattern::LONGEST {
                    let most = pattern::LONGEST;
                    return bad(line, format!("a literal is longer than {most} bytes"));
                }
                if c == '/' {
                    let checked = pattern::check(&text.replace("\\/", "/"));
                    checked.or_else(|what| bad(line, what))?;
                }
            }
            '(' | '[' | '{' => {
                depth = depth.saturating_add(1);
                if depth > DEEPEST {
                    return bad(scanner.line, format!("brackets nest deeper than {DEEPEST}"));
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ':' => {
                rules = rules.saturating_add(1);
                if rules > MOST_RULES {
                    return bad(
                        scanner.line,
                        format!("there are more than {MOST_RULES} rules"),
                    );
                }
            }
            '%' => {
                let name: String = scanner
                    .rest
                    .chars()
                    .take_while(char::is_ascii_lowercase)
                    .collect();
                if !matches!(name.as_str(), "import" | "ignore" | "declare" | "override") {
                    return bad(scanner.line, format!("%{name} is not supported"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn bad<T>(line: usize, what: String) -> Result<T> {
    Err(Error::bad_grammar(format!("line {line}: {what}")))
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        if c == '\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(c)
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|c| c != '\n') {}
    }

    /// What comes before the next `end` that no backslash stands before.
    fn until(&mut self, end: char) -> &'a str {
        let text = self.rest;
        loop {
            let behind = self.rest.len();
            match self.next() {
                Some('\\') => {
                    self.next();
                }
                Some(c) if c != end => {}
                _ => {
                    return text
                        .get(..text.len().saturating_sub(behind))
                        .unwrap_or(text)
                }
            }
        }
    }
}
