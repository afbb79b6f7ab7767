//! The grammar of expressions, by precedence: if-else, or, and, not, comparisons, `+ -`, `~`,
//! `* / // %`, `**`, signs, then attributes, calls, filters and tests.

use num_bigint::BigInt;

use super::ast::*;
use super::error::{brief, Fault, Result};
use super::filters::Filter;
use super::lexer::{unescape, Token};
use super::methods::Method;
use super::parser::{syntax, Parser};
use super::predicates::Predicate;
use super::string::{Origin, Str};
use super::value::V;

/// Precedence of a binary operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Or,
    And,
    Not,
    Sum,
    Concat,
    Product,
    Power,
    Unary,
}

impl Level {
    fn above(self) -> Level {
        match self {
            Level::Or => Level::And,
            Level::And => Level::Not,
            Level::Not => Level::Sum,
            Level::Sum => Level::Concat,
            Level::Concat => Level::Product,
            Level::Product => Level::Power,
            Level::Power | Level::Unary => Level::Unary,
        }
    }
}

fn math_op(op: &str) -> Option<(Level, MathOp)> {
    Some(match op {
        "+" => (Level::Sum, MathOp::Add),
        "-" => (Level::Sum, MathOp::Sub),
        "*" => (Level::Product, MathOp::Mul),
        "/" => (Level::Product, MathOp::Div),
        "//" => (Level::Product, MathOp::FloorDiv),
        "%" => (Level::Product, MathOp::Mod),
        "**" => (Level::Power, MathOp::Pow),
        _ => return None,
    })
}

impl<'s> Parser<'s> {
    /// One expression, or several with commas between: a tuple.
    pub(super) fn tuple(&mut self, with_cond: bool, ends: &[&str]) -> Result<Expr> {
        let at = self.at;
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = matches!(self.token, Token::BlockEnd | Token::VariableEnd)
                || self.is_op(")")
                || matches!(self.token, Token::Name(name) if ends.contains(&name));
            if ended {
                break;
            }
            items.push(match with_cond {
                true => self.expression()?,
                false => self.binary(Level::Or)?,
            });
            if !self.skip_op(",")? {
                break;
            }
            is_tuple = true;
        }
        if is_tuple {
            return Ok(Expr {
                at,
                kind: ExprKind::Tuple(items),
            });
        }
        match items.pop() {
            Some(single) => Ok(single),
            None => syntax(format!(
                "Expected an expression, got '{}'",
                brief(self.token.describe())
            )),
        }
    }

    /// `value if test else value if test else value`.
    pub(super) fn expression(&mut self) -> Result<Expr> {
        let at = self.at;
        let unknown = self.unknown.len();
        let mut value = self.binary(Level::Or)?;
        if !self.is_name("if") {
            return Ok(value);
        }
        let mut arms = Vec::new();
        let mut wrapped = 0u32;
        loop {
            if !self.skip_name("if")? {
                break;
            }
            let test = self.binary(Level::Or)?;
            if self.skip_name("else")? {
                arms.push((test, value));
                value = self.binary(Level::Or)?;
            } else {
                // `a if b if c`: the first is the value of the second.
                wrapped = wrapped.saturating_add(1);
                if wrapped > self.depth {
                    return Fault::limit("the template nests too deeply");
                }
                value = Expr {
                    at,
                    kind: ExprKind::Cond(Box::new(Cond {
                        arms: vec![(test, value)],
                        otherwise: None,
                    })),
                };
            }
        }
        // What a condition may skip is an error only where it is reached.
        self.unknown.truncate(unknown);
        if arms.is_empty() {
            return Ok(value);
        }
        Ok(Expr {
            at,
            kind: ExprKind::Cond(Box::new(Cond {
                arms,
                otherwise: Some(value),
            })),
        })
    }

    /// Operators of at least a level. Those of one level make one flat node.
    fn binary(&mut self, lowest: Level) -> Result<Expr> {
        self.recursion.enter()?;
        let at = self.at;
        let mut left = match lowest <= Level::Not && self.is_name("not") {
            true => self.negation()?,
            false => self.unary()?,
        };
        while let Some(level) = self.operator_level()? {
            if level < lowest {
                break;
            }
            let kind = match level {
                Level::Or | Level::And => self.junction(level, left)?,
                Level::Not => self.comparison(left)?,
                Level::Concat => {
                    let mut parts = vec![left];
                    while self.skip_op("~")? {
                        parts.push(self.binary(Level::Product)?);
                    }
                    ExprKind::Concat(parts)
                }
                level => self.math(level, left)?,
            };
            left = Expr { at, kind };
        }
        self.recursion.leave();
        Ok(left)
    }

    fn operator_level(&mut self) -> Result<Option<Level>> {
        let token = self.token;
        Ok(match token {
            Token::Name("or") => Some(Level::Or),
            Token::Name("and") => Some(Level::And),
            Token::Name("in") => Some(Level::Not),
            Token::Name("not") if self.peek()? == Token::Name("in") => Some(Level::Not),
            Token::Op("==" | "!=" | "<" | "<=" | ">" | ">=") => Some(Level::Not),
            Token::Op("~") => Some(Level::Concat),
            Token::Op(op) => math_op(op).map(|(level, _)| level),
            _ => None,
        })
    }

    fn junction(&mut self, level: Level, left: Expr) -> Result<ExprKind> {
        let word = if level == Level::Or { "or" } else { "and" };
        let mut parts = vec![left];
        while self.skip_name(word)? {
            self.node()?;
            parts.push(self.binary(level.above())?);
        }
        Ok(match level {
            Level::Or => ExprKind::Or(parts),
            _ => ExprKind::And(parts),
        })
    }

    fn comparison(&mut self, first: Expr) -> Result<ExprKind> {
        let mut rest = Vec::new();
        loop {
            let token = self.token;
            let op = match token {
                Token::Op("==") => CompareOp::Eq,
                Token::Op("!=") => CompareOp::Ne,
                Token::Op("<") => CompareOp::Lt,
                Token::Op("<=") => CompareOp::Le,
                Token::Op(">") => CompareOp::Gt,
                Token::Op(">=") => CompareOp::Ge,
                Token::Name("in") => CompareOp::In,
                Token::Name("not") if self.peek()? == Token::Name("in") => {
                    self.advance()?;
                    CompareOp::NotIn
                }
                _ => break,
            };
            self.advance()?;
            rest.push((op, self.binary(Level::Sum)?));
        }
        Ok(ExprKind::Compare(Box::new(Compare { first, rest })))
    }

    fn math(&mut self, level: Level, first: Expr) -> Result<ExprKind> {
        let mut rest = Vec::new();
        while let Token::Op(op) = self.token {
            match math_op(op) {
                Some((have, op)) if have == level => {
                    self.advance()?;
                    rest.push((op, self.binary(level.above())?));
                }
                _ => break,
            }
        }
        Ok(ExprKind::Math(Box::new(Math { first, rest })))
    }

    /// `not not … x`: an even count only makes a bool of it.
    fn negation(&mut self) -> Result<Expr> {
        let at = self.at;
        let mut odd = false;
        while self.skip_name("not")? {
            self.node()?;
            odd = !odd;
        }
        let mut value = self.binary(Level::Not.above())?;
        if self.operator_level()? == Some(Level::Not) {
            let at = value.at;
            let kind = self.comparison(value)?;
            value = Expr { at, kind };
        }
        let not = |value| Expr {
            at,
            kind: ExprKind::Not(Box::new(value)),
        };
        Ok(if odd { not(value) } else { not(not(value)) })
    }

    /// Signs, a primary with what follows it, then filters and tests of the whole.
    fn unary(&mut self) -> Result<Expr> {
        let at = self.at;
        let mut signs = Signs::default();
        while self.is_op("-") || self.is_op("+") {
            self.node()?;
            signs.add(self.is_op("-"));
            self.advance()?;
        }
        let mut value = self.primary()?;
        let mut ops = Vec::new();
        self.postfix(&mut ops)?;
        if signs != Signs::default() {
            value = signs.apply(with_ops(value, std::mem::take(&mut ops)), at);
        }
        self.filter_chain(&mut ops)?;
        Ok(with_ops(value, ops))
    }

    fn primary(&mut self) -> Result<Expr> {
        self.node()?;
        let at = self.at;
        let kind = match self.token {
            Token::Name(name) => {
                self.advance()?;
                match name {
                    "true" | "True" => ExprKind::Const(V::bool(true)),
                    "false" | "False" => ExprKind::Const(V::bool(false)),
                    "none" | "None" => ExprKind::Const(V::none()),
                    name => self.variable(name),
                }
            }
            Token::Str(_) => self.string()?,
            Token::Int(digits) => {
                self.advance()?;
                ExprKind::Const(integer(digits)?)
            }
            Token::Float(digits) => {
                self.advance()?;
                let value: f64 = digits.replace('_', "").parse().unwrap_or(f64::NAN);
                ExprKind::Const(V::float(value))
            }
            Token::Op("(") => {
                self.advance()?;
                let inner = match self.is_op(")") {
                    true => Expr {
                        at,
                        kind: ExprKind::Tuple(Vec::new()),
                    },
                    false => self.tuple(true, &[])?,
                };
                self.expect_op(")")?;
                return Ok(inner);
            }
            Token::Op("[") => {
                self.advance()?;
                ExprKind::List(self.items("]", Self::expression)?)
            }
            Token::Op("{") => {
                self.advance()?;
                ExprKind::Dict(self.items("}", |p| {
                    let key = p.expression()?;
                    p.expect_op(":")?;
                    Ok((key, p.expression()?))
                })?)
            }
            token => return syntax(format!("unexpected '{}'", brief(token.describe()))),
        };
        Ok(Expr { at, kind })
    }

    fn variable(&mut self, name: &'s str) -> ExprKind {
        let marks = |p: &mut Self, mark: fn(&mut super::parser::MacroUse)| {
            p.macros.iter_mut().for_each(mark);
        };
        match name {
            "loop" => self.loop_uses = self.loop_uses.saturating_add(1),
            "caller" => marks(self, |uses| uses.caller = true),
            "kwargs" => marks(self, |uses| uses.kwargs = true),
            "varargs" => marks(self, |uses| uses.varargs = true),
            _ => {}
        }
        ExprKind::Name(self.intern(name))
    }

    /// Literals side by side are one.
    fn string(&mut self) -> Result<ExprKind> {
        let mut text = String::new();
        while let Token::Str(raw) = self.token {
            if let Err(message) = unescape(raw, &mut text) {
                return syntax(message);
            }
            self.advance()?;
        }
        Ok(ExprKind::Const(V::Str(Str::new(text, Origin::Template))))
    }

    /// Items with commas between, a last comma allowed, up to a bracket.
    fn items<T>(
        &mut self,
        end: &'static str,
        item: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.is_op(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect_op(end)?;
        Ok(items)
    }

    /// Attributes, subscripts and calls.
    fn postfix(&mut self, ops: &mut Vec<PostOp>) -> Result<()> {
        loop {
            let at = self.at;
            let kind = match self.token {
                Token::Op(".") => self.attribute()?,
                Token::Op("[") => self.subscript()?,
                Token::Op("(") => PostKind::Call(self.call_args()?),
                _ => return Ok(()),
            };
            self.node()?;
            ops.push(PostOp { at, kind });
        }
    }

    fn filter_chain(&mut self, ops: &mut Vec<PostOp>) -> Result<()> {
        loop {
            let at = self.at;
            let kind = match self.token {
                Token::Op("|") => {
                    self.advance()?;
                    PostKind::Filter(self.filter_call()?)
                }
                Token::Name("is") => PostKind::Test(self.test_call()?),
                Token::Op("(") => PostKind::Call(self.call_args()?),
                _ => return Ok(()),
            };
            self.node()?;
            ops.push(PostOp { at, kind });
        }
    }

    fn attribute(&mut self) -> Result<PostKind> {
        self.advance()?;
        match self.advance()? {
            Token::Name(name) => {
                let method = Method::from_name(name);
                Ok(PostKind::Attribute(self.intern(name), method))
            }
            Token::Int(digits) => Ok(PostKind::Item(Box::new(Expr {
                at: self.at,
                kind: ExprKind::Const(integer(digits)?),
            }))),
            _ => syntax("expected name or number"),
        }
    }

    fn subscript(&mut self) -> Result<PostKind> {
        let at = self.at;
        self.advance()?;
        let mut items = Vec::new();
        let mut slice = None;
        while !self.is_op("]") {
            if !items.is_empty() || slice.is_some() {
                self.expect_op(",")?;
            }
            if slice.is_some() {
                return Fault::unsupported("slices in a tuple are not supported");
            }
            let start = match self.is_op(":") {
                true => None,
                false => Some(self.expression()?),
            };
            if self.is_op(":") {
                if !items.is_empty() {
                    return Fault::unsupported("slices in a tuple are not supported");
                }
                slice = Some(self.slice(start)?);
            } else if let Some(item) = start {
                items.push(item);
            }
        }
        self.advance()?;
        if let Some(slice) = slice {
            return Ok(PostKind::Slice(Box::new(slice)));
        }
        let single = items.len() == 1;
        let item = match items.pop() {
            Some(item) if single => item,
            last => {
                items.extend(last);
                Expr {
                    at,
                    kind: ExprKind::Tuple(items),
                }
            }
        };
        Ok(PostKind::Item(Box::new(item)))
    }

    /// From the first colon.
    fn slice(&mut self, start: Option<Expr>) -> Result<[Option<Expr>; 3]> {
        let part = |p: &mut Self| match p.is_op(":") || p.is_op("]") || p.is_op(",") {
            true => Ok(None),
            false => p.expression().map(Some),
        };
        self.advance()?;
        let stop = part(self)?;
        let step = match self.skip_op(":")? {
            true => part(self)?,
            false => None,
        };
        Ok([start, stop, step])
    }

    fn call_args(&mut self) -> Result<CallArgs> {
        let invalid = |ok: bool| match ok {
            true => Ok(()),
            false => syntax("invalid syntax for function call expression"),
        };
        self.advance()?;
        let mut args = Args::default();
        let mut first = true;
        while !self.is_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("*")? {
                invalid(args.star.is_none() && args.double_star.is_none())?;
                args.star = Some(self.expression()?);
            } else if self.skip_op("**")? {
                invalid(args.double_star.is_none())?;
                args.double_star = Some(self.expression()?);
            } else if let (Token::Name(name), Token::Op("=")) = (self.token, self.peek()?) {
                invalid(args.double_star.is_none())?;
                self.advance()?;
                self.advance()?;
                let name = self.intern(name);
                args.named.push((name, self.expression()?));
            } else {
                let plain = args.star.is_none() && args.double_star.is_none();
                invalid(plain && args.named.is_empty())?;
                args.positional.push(self.expression()?);
            }
        }
        self.advance()?;
        let mut names: Vec<u32> = args.named.iter().map(|(name, _)| name.0).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return syntax("a keyword argument is repeated");
        }
        Ok((!first).then(|| Box::new(args)))
    }

    /// A name with dots.
    fn dotted(&mut self) -> Result<&'s str> {
        let start = self.at as usize;
        let mut name = self.any_name()?;
        while self.skip_op(".")? {
            let at = self.at as usize;
            let end = at.saturating_add(self.any_name()?.len());
            name = self.source().get(start..end).unwrap_or(name);
        }
        Ok(name)
    }

    pub(super) fn filter_call(&mut self) -> Result<FilterCall> {
        let at = self.at;
        let name = self.dotted()?;
        let args = match self.is_op("(") {
            true => self.call_args()?,
            false => None,
        };
        let filter = Filter::from_name(name);
        if filter.is_none() {
            self.unknown
                .push((at, format!("No filter named '{}'.", brief(name))));
        }
        Ok(FilterCall {
            filter,
            name: self.intern(name),
            args,
        })
    }

    fn test_call(&mut self) -> Result<TestCall> {
        self.advance()?;
        let negated = self.skip_name("not")?;
        let at = self.at;
        let name = self.dotted()?;
        let args = match self.token {
            Token::Op("(") => self.call_args()?,
            Token::Name("else" | "or" | "and") => None,
            Token::Name("is") => return syntax("You cannot chain multiple tests with is"),
            Token::Name(_)
            | Token::Str(_)
            | Token::Int(_)
            | Token::Float(_)
            | Token::Op("[" | "{") => {
                // Counted: `x is a(y is b …` nests through here.
                self.recursion.enter()?;
                let value = self.primary()?;
                let mut ops = Vec::new();
                self.postfix(&mut ops)?;
                self.recursion.leave();
                Some(Box::new(Args {
                    positional: vec![with_ops(value, ops)],
                    ..Args::default()
                }))
            }
            _ => None,
        };
        let test = Predicate::from_name(name);
        if test.is_none() {
            self.unknown
                .push((at, format!("No test named '{}'.", brief(name))));
        }
        Ok(TestCall {
            test,
            name: self.intern(name),
            negated,
            args,
        })
    }
}

fn with_ops(base: Expr, ops: Vec<PostOp>) -> Expr {
    if ops.is_empty() {
        return base;
    }
    Expr {
        at: base.at,
        kind: ExprKind::Postfix(Box::new(Postfix { base, ops })),
    }
}

/// A row of signs comes to at most two: `--x` is not `x` where `x` is true.
#[derive(Default, PartialEq)]
struct Signs {
    any: bool,
    odd: bool,
    minus: bool,
}

impl Signs {
    fn add(&mut self, minus: bool) {
        self.any = true;
        self.minus |= minus;
        self.odd ^= minus;
    }

    fn apply(self, value: Expr, at: u32) -> Expr {
        let negative = |value| Expr {
            at,
            kind: ExprKind::Negative(Box::new(value)),
        };
        if self.odd {
            negative(value)
        } else if self.minus {
            negative(negative(value))
        } else {
            Expr {
                at,
                kind: ExprKind::Positive(Box::new(value)),
            }
        }
    }
}

fn integer(digits: &str) -> Result<V> {
    let plain = digits.replace('_', "").to_ascii_lowercase();
    let (text, radix) = match plain.get(..2) {
        Some("0b") => (plain.get(2..), 2),
        Some("0o") => (plain.get(2..), 8),
        Some("0x") => (plain.get(2..), 16),
        _ => (Some(plain.as_str()), 10),
    };
    if plain.len() > 4300 {
        return syntax("Exceeds the limit (4300 digits) for integer string conversion");
    }
    match BigInt::parse_bytes(text.unwrap_or("").as_bytes(), radix) {
        Some(value) => Ok(V::given_big(value)),
        None => syntax(format!("not a number: {}", brief(digits))),
    }
}
