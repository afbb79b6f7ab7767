//! Source to tokens, with Jinja's rules of white space: `trim_blocks` and `lstrip_blocks` are on.

use super::error::{ErrorKind, Fault, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'s> {
    /// Text outside of tags.
    Data(&'s str),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(&'s str),
    /// Between its quotes, escapes as written.
    Str(&'s str),
    Int(&'s str),
    Float(&'s str),
    Op(&'static str),
    End,
}

impl Token<'_> {
    /// As jinja2's messages call it.
    pub fn describe(&self) -> &str {
        match self {
            Token::Data(_) => "template data / text",
            Token::VariableBegin => "begin of print statement",
            Token::VariableEnd => "end of print statement",
            Token::BlockBegin => "begin of statement block",
            Token::BlockEnd => "end of statement block",
            Token::Name(name) => name,
            Token::Str(_) => "string",
            Token::Int(_) => "integer",
            Token::Float(_) => "float",
            Token::Op(op) => op,
            Token::End => "end of template",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    Block,
    Variable,
}

/// The longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
    state: State,
    /// A tag that was found behind the text before it.
    pending: Option<(u32, Token<'s>)>,
    /// Brackets that are open in the tag.
    open: Vec<&'static str>,
    /// The last match ended a line.
    line_starting: bool,
}

/// What `str.isspace` takes for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

impl<'s> Lexer<'s> {
    /// The source has `\n` for every line break, and no last one.
    pub fn new(source: &'s str) -> Lexer<'s> {
        Lexer {
            source,
            at: 0,
            state: State::Data,
            pending: None,
            open: Vec::new(),
            line_starting: true,
        }
    }

    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or("")
    }

    fn advance(&mut self, bytes: usize) {
        let end = self.at.saturating_add(bytes).min(self.source.len());
        if let Some(last) = self.source.get(self.at..end).and_then(|m| m.chars().last()) {
            self.line_starting = last == '\n';
        } else {
            self.line_starting = false;
        }
        self.at = end;
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Fault::new(ErrorKind::Syntax, message).map_err(|fault: Box<Fault>| fault.placed(offset(at)))
    }

    /// The next token and where it starts.
    pub fn next(&mut self) -> Result<(u32, Token<'s>)> {
        loop {
            if let Some(token) = self.pending.take() {
                return Ok(token);
            }
            let token = match self.state {
                State::Data => self.data()?,
                State::Block | State::Variable => self.tag()?,
            };
            if let Some(token) = token {
                return Ok(token);
            }
        }
    }

    /// Text up to the next tag, then the tag's beginning.
    fn data(&mut self) -> Result<Option<(u32, Token<'s>)>> {
        let start = self.at;
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(Some((offset(start), Token::End)));
        }
        let Some(found) = find_tag(rest) else {
            self.advance(rest.len());
            return Ok(Some((offset(start), Token::Data(rest))));
        };
        let (text, tag) = rest.split_at_checked(found).unwrap_or((rest, ""));
        let kind = tag.get(..2).unwrap_or("");
        let after = tag.get(2..).unwrap_or("");
        let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
        let text = self.before_tag(text, kind, sign);
        let inside = after.get(usize::from(sign.is_some())..).unwrap_or("");
        let tag_at = offset(start.saturating_add(found));
        let begun = tag.len().saturating_sub(inside.len());
        if kind == "{%" {
            if let Some(body) = raw_begin(inside) {
                let begun = rest.len().saturating_sub(body.len());
                self.advance(begun);
                let raw = self.raw(tag_at)?;
                self.pending = raw.map(|(at, text)| (at, Token::Data(text)));
                return Ok(data_token(start, text));
            }
        }
        self.advance(found.saturating_add(begun));
        match kind {
            "{#" => self.comment(tag_at)?,
            "{{" => {
                self.state = State::Variable;
                self.pending = Some((tag_at, Token::VariableBegin));
            }
            _ => {
                self.state = State::Block;
                self.pending = Some((tag_at, Token::BlockBegin));
            }
        }
        Ok(data_token(start, text))
    }

    /// What is left of the text in front of a tag.
    fn before_tag(&self, text: &'s str, kind: &str, sign: Option<char>) -> &'s str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            Some(_) => text,
            None if kind == "{{" => text,
            None => {
                let line = text.rfind('\n').map_or(0, |at| at.saturating_add(1));
                let (kept, indent) = text.split_at_checked(line).unwrap_or((text, ""));
                if (line > 0 || self.line_starting) && indent.chars().all(is_space) {
                    kept
                } else {
                    text
                }
            }
        }
    }

    fn comment(&mut self, at: u32) -> Result<()> {
        let rest = self.rest();
        let Some(end) = rest.find("#}") else {
            return self.fail(at as usize, "Missing end of comment tag");
        };
        let sign = rest.get(..end).and_then(|text| text.chars().last());
        let after = rest.get(end.saturating_add(2)..).unwrap_or("");
        let after = after_block(after, sign);
        self.advance(rest.len().saturating_sub(after.len()));
        Ok(())
    }

    /// The text of `{% raw %}`, from behind its tag.
    fn raw(&mut self, at: u32) -> Result<Option<(u32, &'s str)>> {
        let start = self.at;
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest.get(from..).and_then(|r| r.find("{%")) {
            let tag = from.saturating_add(found);
            let text = rest.get(..tag).unwrap_or("");
            let after = rest.get(tag.saturating_add(2)..).unwrap_or("");
            let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
            let inside = after.get(usize::from(sign.is_some())..).unwrap_or("");
            let end = trim_start(inside)
                .strip_prefix("endraw")
                .map(trim_start)
                .and_then(|after| {
                    let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
                    let closed = after.get(usize::from(sign.is_some())..)?;
                    Some(after_block(closed.strip_prefix("%}")?, sign))
                });
            if let Some(end) = end {
                let text = self.before_tag(text, "{%", sign);
                self.advance(rest.len().saturating_sub(end.len()));
                return Ok(Some((offset(start), text)).filter(|_| !text.is_empty()));
            }
            from = tag.saturating_add(2);
        }
        self.fail(at as usize, "Missing end of raw directive")
    }

    /// The end of the tag, or a token in it.
    fn tag(&mut self) -> Result<Option<(u32, Token<'s>)>> {
        let start = self.at;
        let rest = self.rest();
        if self.open.is_empty() {
            if let Some((after, token)) = self.tag_end(rest) {
                self.advance(rest.len().saturating_sub(after.len()));
                self.state = State::Data;
                return Ok(Some((offset(start), token)));
            }
        }
        let Some(first) = rest.chars().next() else {
            return Ok(Some((offset(start), Token::End)));
        };
        if is_space(first) {
            self.advance(rest.len().saturating_sub(trim_start(rest).len()));
            return Ok(None);
        }
        let (len, token) = if first.is_ascii_digit() {
            let after_dot = self
                .source
                .get(..start)
                .is_some_and(|before| before.ends_with('.'));
            number(rest, after_dot)
        } else if first == '_' || first.is_alphabetic() {
            let name = rest
                .split(|c: char| c != '_' && !c.is_alphanumeric())
                .next();
            let name = name.unwrap_or("");
            (name.len(), Token::Name(name))
        } else if let Some((len, inside)) = quoted(rest, first) {
            (len, Token::Str(inside))
        } else if let Some(op) = OPERATORS.iter().find(|op| rest.starts_with(**op)) {
            self.balance(op)?;
            (op.len(), Token::Op(op))
        } else {
            let at = self.source.get(..start).map_or(0, |s| s.chars().count());
            return self.fail(start, format!("unexpected char {first:?} at {at}"));
        };
        self.advance(len);
        Ok(Some((offset(start), token)))
    }

    fn tag_end(&self, rest: &'s str) -> Option<(&'s str, Token<'s>)> {
        if self.state == State::Variable {
            if let Some(after) = rest.strip_prefix("-}}") {
                return Some((trim_start(after), Token::VariableEnd));
            }
            return Some((rest.strip_prefix("}}")?, Token::VariableEnd));
        }
        let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
        let closed = rest.get(usize::from(sign.is_some())..)?;
        Some((
            after_block(closed.strip_prefix("%}")?, sign),
            Token::BlockEnd,
        ))
    }

    fn balance(&mut self, op: &'static str) -> Result<()> {
        match op {
            "(" => self.open.push(")"),
            "[" => self.open.push("]"),
            "{" => self.open.push("}"),
            ")" | "]" | "}" => match self.open.pop() {
                None => return self.fail(self.at, format!("unexpected '{op}'")),
                Some(expected) if expected != op => {
                    return self.fail(self.at, format!("unexpected '{op}', expected '{expected}'"))
                }
                Some(_) => {}
            },
            _ => {}
        }
        Ok(())
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn data_token(start: usize, text: &str) -> Option<(u32, Token<'_>)> {
    (!text.is_empty()).then_some((offset(start), Token::Data(text)))
}

fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut from = 0usize;
    loop {
        let found = text.get(from..)?.find('{')?.saturating_add(from);
        if matches!(bytes.get(found.saturating_add(1)), Some(b'{' | b'%' | b'#')) {
            return Some(found);
        }
        from = found.saturating_add(1);
    }
}

/// Behind the end of a block: `-` eats all white space, `+` nothing, else one line break goes.
fn after_block(after: &str, sign: Option<char>) -> &str {
    match sign {
        Some('-') => trim_start(after),
        Some('+') => after,
        _ => after.strip_prefix('\n').unwrap_or(after),
    }
}

/// Behind `{%` and its sign: what follows `raw %}`, if that is what it is.
fn raw_begin(inside: &str) -> Option<&str> {
    let after = trim_start(trim_start(inside).strip_prefix("raw")?);
    match after.strip_prefix("-%}") {
        Some(body) => Some(trim_start(body)),
        None => after.strip_prefix("%}"),
    }
}

/// A string literal: its length and what is between the quotes.
fn quoted(rest: &str, quote: char) -> Option<(usize, &str)> {
    if !matches!(quote, '\'' | '"') {
        return None;
    }
    let inside = rest.get(1..)?;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some((at.saturating_add(2), inside.get(..at)?)),
            _ => {}
        }
    }
    None
}

/// The digits at the start, single underscores between them allowed.
fn digits(text: &str, allowed: fn(&u8) -> bool) -> usize {
    let bytes = text.as_bytes();
    let mut len = 0usize;
    loop {
        let next = bytes.get(len);
        let after = bytes.get(len.saturating_add(1));
        if next.is_some_and(allowed) {
            len = len.saturating_add(1);
        } else if len > 0 && next == Some(&b'_') && after.is_some_and(allowed) {
            len = len.saturating_add(2);
        } else {
            return len;
        }
    }
}

fn number(rest: &str, after_dot: bool) -> (usize, Token<'_>) {
    let decimal = u8::is_ascii_digit as fn(&u8) -> bool;
    let tail = |from: usize| rest.get(from..).unwrap_or("");
    if !after_dot {
        let whole = digits(rest, decimal);
        let mut end = whole;
        if let Some(fraction) = tail(end).strip_prefix('.') {
            let len = digits(fraction, decimal);
            if len > 0 {
                end = end.saturating_add(1).saturating_add(len);
            }
        }
        if let Some(exponent) = tail(end).strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let len = digits(exponent.get(sign..).unwrap_or(""), decimal);
            if len > 0 {
                end = end
                    .saturating_add(1)
                    .saturating_add(sign)
                    .saturating_add(len);
            }
        }
        if end > whole {
            return (end, Token::Float(rest.get(..end).unwrap_or("")));
        }
    }
    type Allowed = fn(&u8) -> bool;
    let prefixed: [(&str, Allowed); 3] = [
        ("0b", |b| matches!(b, b'0' | b'1')),
        ("0o", |b| (b'0'..=b'7').contains(b)),
        ("0x", u8::is_ascii_hexdigit),
    ];
    for (prefix, allowed) in prefixed {
        let head = rest.get(..2).unwrap_or("");
        if head.eq_ignore_ascii_case(prefix) {
            let underscore = usize::from(tail(2).starts_with('_'));
            let len = digits(tail(2usize.saturating_add(underscore)), allowed);
            if len > 0 {
                let end = len.saturating_add(2).saturating_add(underscore);
                return (end, Token::Int(rest.get(..end).unwrap_or("")));
            }
        }
    }
    let len = if rest.starts_with('0') {
        digits(rest, |b| *b == b'0')
    } else {
        digits(rest, decimal)
    };
    (len, Token::Int(rest.get(..len).unwrap_or("")))
}

/// The text of a string literal, its escapes resolved as Python's `unicode-escape` does.
pub(super) fn unescape(raw: &str, out: &mut String) -> std::result::Result<(), String> {
    let mut chars = raw.chars();
    let mut high: Option<u32> = None;
    while let Some(c) = chars.next() {
        let code = match c {
            '\\' => match escape(&mut chars, out)? {
                Some(code) => code,
                None => continue,
            },
            c => c as u32,
        };
        // A pair of surrogates is one character here; Python would keep two that cannot be printed.
        let code = match (high.take(), code) {
            (Some(high), 0xdc00..=0xdfff) => {
                let high = (high & 0x3ff) << 10;
                (high | (code & 0x3ff)).saturating_add(0x10000)
            }
            (Some(_), _) => return Err("a lone surrogate in a string".to_string()),
            (None, 0xd800..=0xdbff) => {
                high = Some(code);
                continue;
            }
            (None, code) => code,
        };
        out.push(char::from_u32(code).ok_or("illegal Unicode character")?);
    }
    match high {
        None => Ok(()),
        Some(_) => Err("a lone surrogate in a string".to_string()),
    }
}

/// Behind a backslash: the character meant, or none where the text was written already.
fn escape(
    chars: &mut std::str::Chars,
    out: &mut String,
) -> std::result::Result<Option<u32>, String> {
    let hex = |chars: &mut std::str::Chars, len: usize| {
        let text = chars.as_str().get(..len).unwrap_or("");
        let all = text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(text, 16).ok().filter(|_| all);
        *chars = chars.as_str().get(len..).unwrap_or("").chars();
        code.ok_or_else(|| "truncated escape in a string".to_string())
    };
    let Some(c) = chars.next() else {
        return Err("\\ at end of string".to_string());
    };
    let simple = match c {
        '\n' => return Ok(None),
        '\\' | '\'' | '"' => c,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        'x' => return hex(chars, 2).map(Some),
        'u' => return hex(chars, 4).map(Some),
        'U' => return hex(chars, 8).map(Some),
        'N' => return Err("names of characters (\\N) are not supported".to_string()),
        '0'..='7' => {
            let mut code = c.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                let Some(digit) = chars.as_str().chars().next().and_then(|c| c.to_digit(8)) else {
                    break;
                };
                chars.next();
                code = (code << 3) | digit;
            }
            return Ok(Some(code));
        }
        // jinja2 writes such a character as an escape first, which the backslash in front then undoes.
        c if !c.is_ascii() => {
            out.push('\\');
            out.push_str(&match c as u32 {
                code @ ..=0xff => format!("x{code:02x}"),
                code @ ..=0xffff => format!("u{code:04x}"),
                code => format!("U{code:08x}"),
            });
            return Ok(None);
        }
        c => {
            out.push('\\');
            c
        }
    };
    Ok(Some(simple as u32))
}
