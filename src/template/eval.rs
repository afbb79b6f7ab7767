//! Runs statements: scopes, captures, assignments. Expressions are in `expression.rs`, loops in `loops.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::*;
use super::budget::{Budget, Charge, Limits, Recursion};
use super::clock::Now;
use super::dict::Dict;
use super::error::{brief, ErrorKind, Fault, Result};
use super::loops::{Cursor, LoopState};
use super::parser::Parsed;
use super::provenance::control;
use super::string::{Builder, Origin, Str};
use super::value::*;

/// What is left to do in the loop around a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

#[derive(Debug, Default)]
pub(super) struct Scope {
    vars: Vec<(NameId, V)>,
    parent: ScopeId,
    /// A macro was defined in it, which may outlive it.
    captured: bool,
}

/// An index into the scopes; `None` is the outermost one.
pub(super) type ScopeId = Option<usize>;

/// A macro with the scope that it was defined in.
#[derive(Clone, Copy)]
pub(super) struct MacroValue<'t> {
    pub def: &'t Macro,
    pub scope: ScopeId,
}

#[derive(Debug)]
pub(super) struct NamespaceData {
    pub attributes: Vec<(Str, V)>,
    /// Who decided which attributes it began with.
    pub shape: Origin,
    charge: Charge,
}

impl NamespaceData {
    /// Where an attribute is.
    pub fn place(&self, name: &str, budget: &mut Budget) -> Result<Option<usize>> {
        let attributes = self.attributes.iter();
        budget.steps((self.attributes.len() >> 3).saturating_add(1))?;
        let alike = attributes
            .clone()
            .filter(|(have, _)| have.len() == name.len());
        budget.bytes(name.len().saturating_mul(alike.count()))?;
        Ok(attributes
            .map(|(have, _)| have.as_str())
            .position(|have| have == name))
    }
}

/// `cycler(…)` and `joiner(…)`: what they give, and how often they were asked.
#[derive(Debug)]
pub(super) struct Counter {
    pub items: Arc<List>,
    pub used: usize,
}

pub(super) struct Eval<'t> {
    source: &'t str,
    pub names: &'t [Str],
    ids: &'t HashMap<Str, NameId>,
    pub loop_name: Option<NameId>,
    pub budget: Budget,
    pub recursion: Recursion,
    /// The outermost variables, by name: the caller's, then what is set.
    root: Vec<Option<V>>,
    scopes: Vec<Scope>,
    free: Vec<usize>,
    pub scope: ScopeId,
    pub out: Builder,
    pub namespaces: Vec<NamespaceData>,
    pub macros: Vec<MacroValue<'t>>,
    pub loops: Vec<LoopState<'t>>,
    pub generation: u32,
    pub counters: Vec<Counter>,
    pub clock: &'t dyn Fn() -> Now,
    /// Pays for the tables above.
    tables: Charge,
}

/// A level of source is a few levels of evaluation, and macros call each other.
const LEVELS: u32 = 8;

impl<'t> Eval<'t> {
    pub fn new(
        source: &'t str,
        parsed: &'t Parsed,
        context: &Dict,
        clock: &'t dyn Fn() -> Now,
        limits: &Limits,
    ) -> Result<Eval<'t>> {
        let mut budget = Budget::new(limits, context.size);
        let mut root: Vec<Option<V>> = parsed
            .globals
            .iter()
            .map(|global| global.map(|function| V::Object(Object::Function(function))))
            .collect();
        for (key, value) in &context.entries {
            let V::Str(key) = key else {
                continue;
            };
            let slot = parsed
                .ids
                .get(key)
                .and_then(|id| root.get_mut(id.0 as usize));
            if let Some(slot) = slot {
                *slot = Some(value.clone());
            }
        }
        let mut out = Builder::new(&mut budget)?;
        out.reserve(1024, &mut budget)?;
        Ok(Eval {
            source,
            names: &parsed.names,
            ids: &parsed.ids,
            loop_name: parsed.loop_name,
            recursion: Recursion::new(limits.depth.saturating_mul(LEVELS)),
            root,
            scopes: Vec::new(),
            free: Vec::new(),
            scope: None,
            out,
            namespaces: Vec::new(),
            macros: Vec::new(),
            loops: Vec::new(),
            generation: 0,
            counters: Vec::new(),
            clock,
            tables: budget.charge(0)?,
            budget,
        })
    }

    pub fn name(&self, id: NameId) -> &'t str {
        self.names.get(id.0 as usize).map_or("", Str::as_str)
    }

    /// The place of a name that the template writes.
    pub fn id(&self, name: &str) -> Option<NameId> {
        self.ids.get(name).copied()
    }

    pub fn name_str(&self, id: NameId) -> Str {
        let name = self.names.get(id.0 as usize);
        name.cloned()
            .unwrap_or_else(|| Str::new("", Origin::Template))
    }

    /// An entry in one of the evaluator's tables.
    pub fn pay_for_entry(&mut self) -> Result<()> {
        self.tables.grow(128)
    }

    // Scopes.

    pub fn push_scope(&mut self, parent: ScopeId) -> Result<usize> {
        self.budget.step()?;
        if let Some(id) = self.free.pop() {
            if let Some(scope) = self.scopes.get_mut(id) {
                scope.parent = parent;
                return Ok(id);
            }
        }
        self.pay_for_entry()?;
        self.scopes.push(Scope {
            parent,
            ..Scope::default()
        });
        Ok(self.scopes.len().saturating_sub(1))
    }

    /// Ends a scope; its place is used again, unless a macro still looks into it.
    pub fn drop_scope(&mut self, id: usize) {
        if let Some(scope) = self.scopes.get_mut(id) {
            if !scope.captured {
                scope.vars.clear();
                self.free.push(id);
            }
        }
    }

    /// Runs something in a new scope inside the current one.
    pub fn in_scope<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = self.scope;
        let id = self.push_scope(outer)?;
        self.scope = Some(id);
        let value = run(self)?;
        self.scope = outer;
        self.drop_scope(id);
        Ok(value)
    }

    /// A macro was defined here: the scopes that it sees stay.
    pub fn capture_scopes(&mut self) {
        let mut scope = self.scope;
        while let Some(data) = scope.and_then(|id| self.scopes.get_mut(id)) {
            if data.captured {
                break;
            }
            data.captured = true;
            scope = data.parent;
        }
    }

    pub fn lookup(&mut self, id: NameId) -> Result<V> {
        let mut scope = self.scope;
        let mut passed = 0usize;
        while let Some(data) = scope.and_then(|id| self.scopes.get(id)) {
            passed = passed.saturating_add(1);
            self.budget.steps(data.vars.len() >> 3)?;
            if passed & 7 == 0 {
                self.budget.step()?;
            }
            if let Some((_, value)) = data.vars.iter().find(|(have, _)| *have == id) {
                return Ok(value.clone());
            }
            scope = data.parent;
        }
        Ok(match self.root.get(id.0 as usize) {
            Some(Some(value)) => value.clone(),
            _ => V::missing(None, id),
        })
    }

    pub fn assign(&mut self, id: NameId, value: V) -> Result<()> {
        let Some(scope) = self.scope.and_then(|id| self.scopes.get_mut(id)) else {
            if let Some(slot) = self.root.get_mut(id.0 as usize) {
                *slot = Some(value);
            }
            return Ok(());
        };
        match scope.vars.iter_mut().find(|(have, _)| *have == id) {
            Some((_, slot)) => *slot = value,
            None => {
                let known = scope.vars.len();
                self.budget.steps((known >> 3).saturating_add(1))?;
                if known == scope.vars.capacity() {
                    // The place stays when the scope is used again.
                    let more = known.max(4);
                    let bytes = std::mem::size_of::<(NameId, V)>();
                    self.tables.grow(more.saturating_mul(bytes))?;
                    scope.vars.reserve_exact(more);
                }
                scope.vars.push((id, value));
            }
        }
        Ok(())
    }

    fn slot(&mut self, target: &Target) -> Option<&mut V> {
        match target {
            Target::Name(id) => match self.scope {
                Some(scope) => {
                    let vars = &mut self.scopes.get_mut(scope)?.vars;
                    let found = vars.iter_mut().find(|(have, _)| have == id);
                    found.map(|(_, value)| value)
                }
                None => self.root.get_mut(id.0 as usize)?.as_mut(),
            },
            Target::Namespace {
                name, attribute, ..
            } => {
                let V::Object(Object::Namespace(id)) = self.lookup(*name).ok()? else {
                    return None;
                };
                let attribute = self.name(*attribute);
                let data = self.namespaces.get_mut(id as usize)?;
                let at = data.place(attribute, &mut self.budget).ok()??;
                data.attributes.get_mut(at).map(|(_, value)| value)
            }
            Target::Tuple { .. } => None,
        }
    }

    // Namespaces.

    pub fn new_namespace(&mut self, attributes: Vec<(Str, V)>, shape: Origin) -> Result<V> {
        self.pay_for_entry()?;
        let id = u32::try_from(self.namespaces.len()).unwrap_or(u32::MAX);
        self.namespaces.push(NamespaceData {
            attributes: Vec::new(),
            shape,
            charge: self.budget.charge(0)?,
        });
        for (name, value) in attributes {
            self.set_attribute(id, name, value)?;
        }
        Ok(V::Object(Object::Namespace(id)))
    }

    fn set_attribute(&mut self, id: u32, name: Str, value: V) -> Result<()> {
        if name.as_str().starts_with('_') {
            return Fault::new(
                ErrorKind::Security,
                format!(
                    "Chat templates cannot store underscore-prefixed attributes on a namespace, \
                     but got '{}'. Please rename the attribute.",
                    brief(name.as_str())
                ),
            );
        }
        let Some(data) = self.namespaces.get_mut(id as usize) else {
            return Ok(());
        };
        let found = data.place(name.as_str(), &mut self.budget)?;
        match found.and_then(|at| data.attributes.get_mut(at)) {
            Some((_, slot)) => *slot = value,
            None => {
                // The list grows by doubling.
                data.charge.grow(5 * ITEM_BYTES)?;
                data.attributes.push((name, value));
            }
        }
        Ok(())
    }

    // Statements.

    /// Renders a body into a string of its own.
    pub fn capture<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<(Str, T)> {
        let fresh = Builder::new(&mut self.budget)?;
        let outer = std::mem::replace(&mut self.out, fresh);
        let value = run(self)?;
        let captured = std::mem::replace(&mut self.out, outer);
        Ok((captured.finish(), value))
    }

    pub fn body(&mut self, body: &'t [Stmt]) -> Result<Flow> {
        self.recursion.enter()?;
        for statement in body {
            let flow = self.statement(statement)?;
            if flow != Flow::Next {
                self.recursion.leave();
                return Ok(flow);
            }
        }
        self.recursion.leave();
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &'t Stmt) -> Result<Flow> {
        self.budget.step()?;
        match statement {
            Stmt::Text(range) => {
                let text = self.source.get(range.clone()).unwrap_or("");
                self.out.push(text, Origin::Template, &mut self.budget)?;
            }
            Stmt::Print(value) => self.print(value)?,
            Stmt::If(node) => return self.if_statement(node),
            Stmt::For(node) => return self.for_statement(node).map(|()| Flow::Next),
            Stmt::Set(node) => self.set(&node.0, &node.1)?,
            Stmt::SetBlock(node) => return self.set_block(node),
            Stmt::Macro(def) => {
                let value = self.new_macro(def)?;
                if let Some(name) = def.name {
                    self.assign(name, value)?;
                }
            }
            Stmt::Call(node) => self.call_block(node)?,
            Stmt::Filter(node) => {
                let (text, flow) =
                    self.in_scope(|eval| eval.capture(|eval| eval.body(&node.body)))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                match self.apply_filters(V::Str(text), &node.filters)? {
                    text @ V::Str(_) => self.write(&text)?,
                    other => {
                        return Fault::type_error(format!(
                            "sequence item: expected str instance, {} found",
                            other.type_name()
                        ))
                    }
                }
            }
            Stmt::With(node) => return self.with(node),
            Stmt::Scope(node) => {
                let outer = self.scope;
                if node.detached {
                    self.scope = None;
                }
                self.in_scope(|eval| eval.body(&node.body))?;
                self.scope = outer;
            }
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, value: &'t Expr) -> Result<()> {
        if let ExprKind::Concat(parts) = &value.kind {
            for part in parts {
                let part = self.eval(part)?;
                self.write(&part)?;
            }
            return Ok(());
        }
        let value = self.eval(value)?;
        self.write(&value)
    }

    /// Prints a value to the output.
    pub fn write(&mut self, value: &V) -> Result<()> {
        match value {
            V::Str(text) => self.out.push_text(text.text(), &mut self.budget),
            V::Undefined { .. } => Ok(()),
            value => {
                let text = self.str_of(value)?;
                self.out.push_text(text.text(), &mut self.budget)
            }
        }
    }

    fn if_statement(&mut self, node: &'t If) -> Result<Flow> {
        for (arm, (test, body)) in node.arms.iter().enumerate() {
            if self.eval(test)?.truth() {
                control::took(arm);
                return self.body(body);
            }
        }
        control::took(node.arms.len());
        self.body(&node.otherwise)
    }

    fn with(&mut self, node: &'t With) -> Result<Flow> {
        let mut values = Vec::new();
        for (_, value) in &node.bindings {
            values.push(self.eval(value)?);
        }
        self.in_scope(|eval| {
            for ((target, _), value) in node.bindings.iter().zip(values) {
                eval.bind(target, value)?;
            }
            eval.body(&node.body)
        })
    }

    fn set_block(&mut self, node: &'t SetBlock) -> Result<Flow> {
        let (text, flow) = self.in_scope(|eval| eval.capture(|eval| eval.body(&node.body)))?;
        if flow != Flow::Next {
            return Ok(flow);
        }
        let value = self.apply_filters(V::Str(text), &node.filters)?;
        self.bind(&node.target, value)?;
        Ok(Flow::Next)
    }

    fn apply_filters(&mut self, value: V, filters: &'t [(u32, FilterCall)]) -> Result<V> {
        let mut value = value;
        for (at, call) in filters {
            value = self
                .filter_op(value, call)
                .map_err(|fault| fault.placed(*at))?;
        }
        Ok(value)
    }

    fn call_block(&mut self, node: &'t CallBlock) -> Result<()> {
        let callee = self.eval(&node.callee)?;
        let mut args = self.args(&node.args)?;
        let caller = self.new_macro(&node.caller)?;
        args.named
            .push((Str::new("caller", Origin::Template), caller));
        let value = self
            .call(callee, args)
            .map_err(|fault| fault.placed(node.at))?;
        self.write(&value)
    }

    pub fn new_macro(&mut self, def: &'t Macro) -> Result<V> {
        self.pay_for_entry()?;
        self.capture_scopes();
        let id = u32::try_from(self.macros.len()).unwrap_or(u32::MAX);
        self.macros.push(MacroValue {
            def,
            scope: self.scope,
        });
        Ok(V::Object(Object::Macro(id)))
    }

    fn set(&mut self, target: &'t Target, value: &'t Expr) -> Result<()> {
        if let Some(value) = self.append(target, value)? {
            return self.bind(target, value);
        }
        let value = self.eval(value)?;
        self.bind(target, value)
    }

    /// `x = x + …` and `x = x ~ …`, with the old text or list grown in place where only `x` holds it.
    fn append(&mut self, target: &'t Target, value: &'t Expr) -> Result<Option<V>> {
        let (first, rest): (_, Vec<&Expr>) = match &value.kind {
            ExprKind::Concat(parts) => match parts.split_first() {
                Some((first, rest)) => (first, rest.iter().collect()),
                None => return Ok(None),
            },
            ExprKind::Math(math) if math.rest.iter().all(|(op, _)| *op == MathOp::Add) => {
                (&math.first, math.rest.iter().map(|(_, e)| e).collect())
            }
            _ => return Ok(None),
        };
        if !is_target(first, target) {
            return Ok(None);
        }
        let concat = matches!(value.kind, ExprKind::Concat(_));
        let left = self.eval(first)?;
        let mut parts = Vec::with_capacity(rest.len());
        for part in rest {
            let part = self.eval(part)?;
            parts.push(match concat {
                true => V::Str(self.str_of(&part)?),
                false => part,
            });
        }
        let grown = match left {
            V::Str(text) if !text.markup() => {
                let plain = |part: &V| match part {
                    V::Str(part) if concat || !part.markup() => Some(part.clone()),
                    _ => None,
                };
                match parts.iter().map(plain).collect::<Option<Vec<Str>>>() {
                    None => Err(V::Str(text)),
                    Some(texts) => {
                        // The name gives its share up, and gets the longer text in a moment.
                        if let Some(slot) = self.slot(target) {
                            if matches!(slot, V::Str(held) if held.same(&text)) {
                                *slot = V::none();
                            }
                        }
                        text.append(&texts, &mut self.budget)?
                            .map(V::Str)
                            .map_err(V::Str)
                    }
                }
            }
            left => Err(left),
        };
        match grown {
            Ok(value) => Ok(Some(value)),
            Err(left) if concat => {
                let mut out = Builder::new(&mut self.budget)?;
                let left = self.str_of(&left)?;
                out.push_text(left.text(), &mut self.budget)?;
                for part in &parts {
                    if let V::Str(part) = part {
                        out.push_text(part.text(), &mut self.budget)?;
                    }
                }
                Ok(Some(V::Str(out.finish())))
            }
            Err(mut left) => {
                for part in parts {
                    left = self
                        .math(MathOp::Add, left, part)
                        .map_err(|fault| fault.placed(value.at))?;
                }
                Ok(Some(left))
            }
        }
    }

    /// Gives a target its value.
    pub fn bind(&mut self, target: &'t Target, value: V) -> Result<()> {
        match target {
            Target::Name(id) => self.assign(*id, value),
            Target::Namespace {
                at,
                name,
                attribute,
            } => match self.lookup(*name)? {
                V::Object(Object::Namespace(id)) => {
                    let attribute = self.name_str(*attribute);
                    self.set_attribute(id, attribute, value)
                }
                _ => Fault::new(
                    ErrorKind::Runtime,
                    "cannot assign attribute on non-namespace object",
                ),
            }
            .map_err(|fault: Box<Fault>| fault.placed(*at)),
            Target::Tuple { at, targets } => self
                .unpack(targets, &value)
                .map_err(|fault| fault.placed(*at)),
        }
    }

    fn unpack(&mut self, targets: &'t [Target], value: &V) -> Result<()> {
        self.recursion.enter()?;
        let Ok(mut cursor) = Cursor::new(value) else {
            return Fault::type_error(format!(
                "cannot unpack non-iterable {} object",
                value.type_name()
            ));
        };
        let mut values = Vec::new();
        while values.len() < targets.len() {
            match cursor.next(&mut self.budget)? {
                Some(value) => values.push(value),
                None => {
                    return Fault::value_error(format!(
                        "not enough values to unpack (expected {}, got {})",
                        targets.len(),
                        values.len()
                    ))
                }
            }
        }
        if cursor.next(&mut self.budget)?.is_some() {
            return Fault::value_error(format!(
                "too many values to unpack (expected {})",
                targets.len()
            ));
        }
        for (target, value) in targets.iter().zip(values) {
            self.bind(target, value)?;
        }
        self.recursion.leave();
        Ok(())
    }

    /// Errors: the value is not there, and is used for more than printing.
    #[inline]
    pub fn checked(&self, value: &V) -> Result<()> {
        match value {
            V::Undefined {
                owner, name, hint, ..
            } => self.undefined(*owner, *name, hint.as_deref()),
            _ => Ok(()),
        }
    }

    /// What using something that is not there says.
    fn undefined(&self, owner: Option<Type>, name: NameId, hint: Option<&Hint>) -> Result<()> {
        let name = self.name(name);
        match (hint, owner) {
            (Some(hint), _) => Fault::new(hint.kind, hint.message.clone()),
            (None, None) => Fault::new(
                ErrorKind::Undefined,
                format!("'{}' is undefined", brief(name)),
            ),
            (None, Some(owner)) => {
                let owner = object_type(owner.name());
                let message = format!("'{owner}' has no attribute '{}'", brief(name));
                Fault::new(ErrorKind::Undefined, message)
            }
        }
    }
}

/// jinja2's name for a value of a type.
pub(super) fn object_type(name: &str) -> String {
    match name {
        "NoneType" => "None".to_string(),
        name => format!("{name} object"),
    }
}

/// Whether an expression reads just what the target is.
fn is_target(expr: &Expr, target: &Target) -> bool {
    match (&expr.kind, target) {
        (ExprKind::Name(have), Target::Name(id)) => have == id,
        (
            ExprKind::Postfix(postfix),
            Target::Namespace {
                name, attribute, ..
            },
        ) => match (&postfix.base.kind, postfix.ops.as_slice()) {
            (ExprKind::Name(have), [op]) => {
                have == name && matches!(op.kind, PostKind::Attribute(id, _) if id == *attribute)
            }
            _ => false,
        },
        _ => false,
    }
}
