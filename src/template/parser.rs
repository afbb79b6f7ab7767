//! Tokens to statements. Nesting is counted; chains are loops, so that long ones cost no stack.

use std::collections::HashMap;

use super::ast::*;
use super::budget::{looked, Limits, Recursion};
use super::error::{brief, ErrorKind, Fault, Result};
use super::lexer::{Lexer, Token};
use super::string::{Origin, Str};
use super::value::{Function, NameId};

/// More parts than this are refused: a parsed template stays within a few times its limit of source.
const MAX_NODES: usize = 250_000;

/// Whether the template is still wanted is asked every 4,096 tokens: a millisecond.
const LOOK: u32 = 4095;

pub(super) struct Parser<'s> {
    source: &'s str,
    lexer: Lexer<'s>,
    pub(super) token: Token<'s>,
    pub(super) at: u32,
    ahead: Option<(u32, Token<'s>)>,
    pub(super) recursion: Recursion,
    nodes: usize,
    tokens: u32,
    names: Vec<Str>,
    ids: HashMap<&'s str, NameId>,
    /// The tags whose bodies are open, for messages.
    tags: Vec<&'s str>,
    /// Loops around this place that `break` and `continue` can leave.
    loops: usize,
    /// What the macros around this place use.
    pub(super) macros: Vec<MacroUse>,
    /// How often `loop` was named.
    pub(super) loop_uses: usize,
    /// Unknown filters and tests: an error, unless a condition may skip them.
    pub(super) unknown: Vec<(u32, String)>,
    unknown_for_sure: Option<(u32, String)>,
    pub(super) depth: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MacroUse {
    pub caller: bool,
    pub kwargs: bool,
    pub varargs: bool,
}

/// What a parse gives: statements, and the names they refer to.
#[derive(Debug)]
pub(super) struct Parsed {
    pub body: Body,
    pub names: Vec<Str>,
    /// Where each name is.
    pub ids: HashMap<Str, NameId>,
    /// The function that a name stands for, unless the caller or the template gives it another value.
    pub globals: Vec<Option<Function>>,
    /// The name `loop`, if it occurs.
    pub loop_name: Option<NameId>,
}

/// Parses a source whose line breaks are all `\n`.
pub(super) fn parse(source: &str, limits: &Limits) -> Result<Parsed> {
    let mut parser = Parser {
        source,
        lexer: Lexer::new(source),
        token: Token::End,
        at: 0,
        ahead: None,
        // Each level of nesting takes a few calls.
        recursion: Recursion::new(limits.depth.saturating_mul(8)),
        nodes: 0,
        tokens: 0,
        names: Vec::new(),
        ids: HashMap::new(),
        tags: Vec::new(),
        loops: 0,
        macros: Vec::new(),
        loop_uses: 0,
        unknown: Vec::new(),
        unknown_for_sure: None,
        depth: limits.depth,
    };
    let parsed = parser.template();
    let at = parser.at;
    parsed.map_err(|fault| fault.placed(at))
}

pub(super) fn syntax<T>(message: impl Into<String>) -> Result<T> {
    Fault::new(ErrorKind::Syntax, message)
}

impl<'s> Parser<'s> {
    fn template(&mut self) -> Result<Parsed> {
        self.advance()?;
        let body = self.body(&[])?;
        let unknown = self.unknown_for_sure.take().or(self.unknown.pop());
        if let Some((at, message)) = unknown {
            return syntax(message).map_err(|fault: Box<Fault>| fault.placed(at));
        }
        let function = |name: &Str| {
            let mut all = Function::ALL.iter();
            let found = all.find(|(have, _)| *have == name.as_str());
            found.map(|(_, function)| *function)
        };
        Ok(Parsed {
            body,
            globals: self.names.iter().map(function).collect(),
            loop_name: self.ids.get("loop").copied(),
            ids: self
                .names
                .iter()
                .zip(0..)
                .map(|(name, at)| (name.clone(), NameId(at)))
                .collect(),
            names: std::mem::take(&mut self.names),
        })
    }

    pub(super) fn advance(&mut self) -> Result<Token<'s>> {
        self.tokens = self.tokens.wrapping_add(1);
        if self.tokens & LOOK == 0 {
            looked()?;
        }
        let (at, token) = match self.ahead.take() {
            Some(next) => next,
            None => self.lexer.next()?,
        };
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    /// The token behind the current one.
    pub(super) fn peek(&mut self) -> Result<Token<'s>> {
        if self.ahead.is_none() {
            self.ahead = Some(self.lexer.next()?);
        }
        Ok(self.ahead.map_or(Token::End, |(_, token)| token))
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.token, Token::Op(have) if have == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.token, Token::Name(have) if have == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> Result<bool> {
        let found = self.is_op(op);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn skip_name(&mut self, name: &str) -> Result<bool> {
        let found = self.is_name(name);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
        if self.token == Token::End {
            return syntax(format!("unexpected end of template, expected '{what}'."));
        }
        syntax(format!(
            "expected token '{what}', got '{}'",
            brief(self.token.describe())
        ))
    }

    pub(super) fn expect_op(&mut self, op: &'static str) -> Result<()> {
        if self.skip_op(op)? {
            return Ok(());
        }
        self.expected(op)
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name)? {
            return Ok(());
        }
        self.expected(name)
    }

    pub(super) fn any_name(&mut self) -> Result<&'s str> {
        match self.token {
            Token::Name(name) => {
                self.advance()?;
                Ok(name)
            }
            _ => self.expected("name"),
        }
    }

    fn expect_block_end(&mut self) -> Result<()> {
        if self.token == Token::BlockEnd {
            self.advance()?;
            return Ok(());
        }
        self.expected("end of statement block")
    }

    pub(super) fn node(&mut self) -> Result<()> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            return Fault::limit(format!("the template has more than {MAX_NODES} parts"));
        }
        Ok(())
    }

    pub(super) fn intern(&mut self, name: &'s str) -> NameId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = NameId(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        self.names.push(Str::new(name, Origin::Template));
        self.ids.insert(name, id);
        id
    }

    /// Statements up to one of the tags in `ends`, which stays the current token.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        self.recursion.enter()?;
        if self.tags.len() > self.depth as usize {
            return Fault::limit("the template nests too deeply");
        }
        let mut body = Vec::new();
        loop {
            match self.token {
                Token::Data(text) => {
                    self.node()?;
                    // The text is a part of the source: where it starts is known.
                    let start = self.at as usize;
                    body.push(Stmt::Text(start..start.saturating_add(text.len())));
                    self.advance()?;
                }
                Token::VariableBegin => {
                    self.advance()?;
                    let value = self.tuple(true, &[])?;
                    if self.token != Token::VariableEnd {
                        return self.expected("end of print statement");
                    }
                    self.advance()?;
                    body.push(Stmt::Print(value));
                }
                Token::BlockBegin => {
                    self.advance()?;
                    if let Token::Name(name) = self.token {
                        if ends.contains(&name) {
                            break;
                        }
                    }
                    self.node()?;
                    self.statement(ends, &mut body)?;
                    self.expect_block_end()?;
                }
                _ if ends.is_empty() => break,
                _ => {
                    return syntax(format!(
                        "Unexpected end of template. Jinja was looking for the following tags: \
                         '{}'. The innermost block that needs to be closed is '{}'.",
                        ends.join("' or '"),
                        brief(self.tags.last().unwrap_or(&""))
                    ))
                }
            }
        }
        self.recursion.leave();
        Ok(body)
    }

    /// The body of a tag, from the end of its first tag to one of `ends`.
    fn block(&mut self, ends: &[&str]) -> Result<Body> {
        self.skip_op(":")?;
        self.expect_block_end()?;
        self.body(ends)
    }

    /// A body that ends with the one tag, which is passed.
    fn block_to(&mut self, end: &str) -> Result<Body> {
        let body = self.block(&[end])?;
        self.advance()?;
        Ok(body)
    }

    /// A body with its own scope: what is unknown in it counts, whatever condition is around.
    fn scoped<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.unknown.len();
        let parsed = parse(self)?;
        let inside = self.unknown.drain(before.min(self.unknown.len())..).next();
        if self.unknown_for_sure.is_none() {
            self.unknown_for_sure = inside;
        }
        Ok(parsed)
    }

    fn statement(&mut self, ends: &[&str], body: &mut Body) -> Result<()> {
        let Token::Name(tag) = self.token else {
            return syntax("tag name expected");
        };
        let at = self.at;
        self.advance()?;
        self.tags.push(tag);
        let statement = match tag {
            "if" => self.parse_if()?,
            "for" => self.scoped(|p| p.parse_for(at))?,
            "set" => self.parse_set()?,
            "macro" => self.parse_macro()?,
            "call" => self.parse_call(at)?,
            "filter" => self.scoped(Self::parse_filter_block)?,
            "with" => self.parse_with()?,
            "block" => self.parse_block()?,
            "generation" => {
                let body = self.scoped(|p| p.function_body("endgeneration"))?;
                Stmt::Scope(Box::new(Scope {
                    detached: false,
                    body,
                }))
            }
            "autoescape" => {
                let off = self.is_name("false") || self.is_name("False");
                self.expression()?;
                if !off {
                    return Fault::unsupported("autoescape is not supported");
                }
                let body = self.scoped(|p| p.block_to("endautoescape"))?;
                Stmt::Scope(Box::new(Scope {
                    detached: false,
                    body,
                }))
            }
            "print" => {
                while self.token != Token::BlockEnd {
                    let value = self.expression()?;
                    body.push(Stmt::Print(value));
                    if self.token != Token::BlockEnd {
                        self.expect_op(",")?;
                    }
                }
                self.tags.pop();
                return Ok(());
            }
            "break" | "continue" if self.loops == 0 => {
                return syntax(format!("'{tag}' outside of a loop"))
                    .map_err(|fault: Box<Fault>| fault.placed(at))
            }
            "break" => Stmt::Break,
            "continue" => Stmt::Continue,
            "include" | "import" | "extends" | "from" => {
                return Fault::unsupported(format!("'{tag}' is refused: a template stands alone"))
                    .map_err(|fault: Box<Fault>| fault.placed(at))
            }
            _ => {
                return self
                    .unknown_tag(tag, ends)
                    .map_err(|fault: Box<Fault>| fault.placed(at))
            }
        };
        body.push(statement);
        self.tags.pop();
        Ok(())
    }

    fn unknown_tag<T>(&self, tag: &str, ends: &[&str]) -> Result<T> {
        let mut message = format!("Encountered unknown tag '{}'.", brief(tag));
        if !ends.is_empty() {
            message.push_str(&format!(
                " Jinja was looking for the following tags: '{}'.",
                ends.join("' or '")
            ));
        }
        syntax(message)
    }

    fn parse_if(&mut self) -> Result<Stmt> {
        let mut arms = Vec::new();
        let unknown = self.unknown.len();
        loop {
            let test = self.tuple(false, &[])?;
            let body = self.block(&["elif", "else", "endif"])?;
            arms.push((test, body));
            match self.advance()? {
                Token::Name("elif") => self.node()?,
                Token::Name("else") => {
                    let otherwise = self.block_to("endif")?;
                    self.unknown.truncate(unknown);
                    return Ok(Stmt::If(Box::new(If { arms, otherwise })));
                }
                _ => break,
            }
        }
        self.unknown.truncate(unknown);
        Ok(Stmt::If(Box::new(If {
            arms,
            otherwise: Vec::new(),
        })))
    }

    fn parse_for(&mut self, at: u32) -> Result<Stmt> {
        let target = self.target(&["in"], false)?;
        self.expect_name("in")?;
        let iter = self.tuple(false, &["recursive"])?;
        let test = match self.skip_name("if")? {
            true => Some(self.expression()?),
            false => None,
        };
        let recursive = self.skip_name("recursive")?;
        let uses = self.loop_uses;
        self.loops = self.loops.saturating_add(1);
        let body = self.block(&["endfor", "else"])?;
        self.loops = self.loops.saturating_sub(1);
        let uses_loop = self.loop_uses > uses;
        let otherwise = match self.advance()? {
            Token::Name("else") => self.block_to("endfor")?,
            _ => Vec::new(),
        };
        Ok(Stmt::For(Box::new(For {
            at,
            guarded: test.is_none() && !uses_loop && For::is_guarded(&target, &body),
            target,
            iter,
            test,
            recursive,
            uses_loop,
            body,
            otherwise,
        })))
    }

    fn parse_set(&mut self) -> Result<Stmt> {
        let target = self.target(&[], true)?;
        if self.skip_op("=")? {
            let value = self.tuple(true, &[])?;
            return Ok(Stmt::Set(Box::new((target, value))));
        }
        let filters = self.filters()?;
        let body = self.scoped(|p| p.block_to("endset"))?;
        Ok(Stmt::SetBlock(Box::new(SetBlock {
            target,
            filters,
            body,
        })))
    }

    /// `|filter|filter`, of a block.
    fn filters(&mut self) -> Result<Vec<(u32, FilterCall)>> {
        let mut filters = Vec::new();
        while self.skip_op("|")? {
            let at = self.at;
            filters.push((at, self.filter_call()?));
        }
        Ok(filters)
    }

    fn parse_filter_block(&mut self) -> Result<Stmt> {
        let at = self.at;
        let mut filters = vec![(at, self.filter_call()?)];
        filters.append(&mut self.filters()?);
        let body = self.block_to("endfilter")?;
        Ok(Stmt::Filter(Box::new(FilterBlock { filters, body })))
    }

    fn parse_with(&mut self) -> Result<Stmt> {
        let mut bindings = Vec::new();
        while self.token != Token::BlockEnd {
            if !bindings.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(&[], false)?;
            self.expect_op("=")?;
            bindings.push((target, self.expression()?));
        }
        let body = self.scoped(|p| p.block_to("endwith"))?;
        Ok(Stmt::With(Box::new(With { bindings, body })))
    }

    fn parse_block(&mut self) -> Result<Stmt> {
        let name = self.any_name()?;
        let scoped = self.skip_name("scoped")?;
        if self.skip_name("required")? {
            return Fault::unsupported("required blocks are not supported");
        }
        let body = self.scoped(|p| p.function_body("endblock"))?;
        self.skip_name(name)?;
        Ok(Stmt::Scope(Box::new(Scope {
            detached: !scoped,
            body,
        })))
    }

    /// The body of what is a function in Python: loops around it cannot be left from within.
    fn function_body(&mut self, end: &str) -> Result<Body> {
        let loops = std::mem::replace(&mut self.loops, 0);
        let body = self.block_to(end)?;
        self.loops = loops;
        Ok(body)
    }

    fn parse_macro(&mut self) -> Result<Stmt> {
        let name = self.any_name()?;
        let name = self.intern(name);
        let (params, defaults) = self.signature()?;
        let parsed = self.macro_body(Some(name), params, defaults, "endmacro")?;
        Ok(Stmt::Macro(Box::new(parsed)))
    }

    fn macro_body(
        &mut self,
        name: Option<NameId>,
        params: Vec<NameId>,
        defaults: Vec<Expr>,
        end: &'static str,
    ) -> Result<Macro> {
        self.macros.push(MacroUse::default());
        let body = self.scoped(|p| p.function_body(end))?;
        let uses = self.macros.pop().unwrap_or_default();
        Ok(Macro {
            name,
            params,
            defaults,
            body,
            uses_caller: uses.caller,
            uses_kwargs: uses.kwargs,
            uses_varargs: uses.varargs,
        })
    }

    fn signature(&mut self) -> Result<(Vec<NameId>, Vec<Expr>)> {
        let mut params = Vec::new();
        let mut defaults = Vec::new();
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.any_name()?;
            let name = self.intern(name);
            self.node()?;
            params.push(name);
            if self.skip_op("=")? {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return syntax("non-default argument follows default argument");
            }
        }
        self.advance()?;
        Ok((params, defaults))
    }

    fn parse_call(&mut self, at: u32) -> Result<Stmt> {
        let (params, defaults) = match self.is_op("(") {
            true => self.signature()?,
            false => (Vec::new(), Vec::new()),
        };
        let call = self.expression()?;
        let not_a_call = || syntax("expected call").map_err(|f: Box<Fault>| f.placed(at));
        let ExprKind::Postfix(mut postfix) = call.kind else {
            return not_a_call();
        };
        let Some(PostOp {
            kind: PostKind::Call(args),
            ..
        }) = postfix.ops.pop()
        else {
            return not_a_call();
        };
        let callee = Expr {
            at: call.at,
            kind: ExprKind::Postfix(postfix),
        };
        let caller = self.macro_body(None, params, defaults, "endcall")?;
        Ok(Stmt::Call(Box::new(CallBlock {
            at,
            callee,
            args,
            caller,
        })))
    }

    /// What is assigned to: a name, `namespace.attribute`, or several.
    fn target(&mut self, ends: &[&str], with_namespace: bool) -> Result<Target> {
        self.recursion.enter()?;
        let at = self.at;
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = matches!(self.token, Token::BlockEnd | Token::VariableEnd)
                || self.is_op(")")
                || matches!(self.token, Token::Name(name) if ends.contains(&name));
            if ended {
                break;
            }
            targets.push(self.single_target(with_namespace)?);
            if !self.skip_op(",")? {
                break;
            }
            is_tuple = true;
        }
        self.recursion.leave();
        if is_tuple {
            return Ok(Target::Tuple { at, targets });
        }
        match targets.pop() {
            Some(target) => Ok(target),
            None => syntax(format!(
                "Expected an expression, got '{}'",
                brief(self.token.describe())
            )),
        }
    }

    fn single_target(&mut self, with_namespace: bool) -> Result<Target> {
        self.node()?;
        let at = self.at;
        if self.skip_op("(")? {
            let target = self.target(&[], with_namespace)?;
            self.expect_op(")")?;
            return Ok(target);
        }
        let Token::Name(name) = self.token else {
            return syntax(format!(
                "can't assign to '{}'",
                brief(self.token.describe())
            ));
        };
        if matches!(name, "true" | "false" | "none" | "True" | "False" | "None") {
            return syntax("can't assign to 'const'");
        }
        self.advance()?;
        let name = self.intern(name);
        if with_namespace && self.skip_op(".")? {
            let attribute = self.any_name()?;
            let attribute = self.intern(attribute);
            return Ok(Target::Namespace {
                at,
                name,
                attribute,
            });
        }
        Ok(Target::Name(name))
    }

    pub(super) fn source(&self) -> &'s str {
        self.source
    }
}
