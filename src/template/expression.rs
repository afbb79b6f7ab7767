//! Runs expressions.

use std::cmp::Ordering;

use super::ast::*;
use super::budget::Charge;
use super::dict::Dict;
use super::error::{brief, ErrorKind, Fault, Result};
use super::eval::Eval;
use super::loops::collect;
use super::methods::{self, Found};
use super::operators;
use super::provenance::control;
use super::string::{Builder, Str};
use super::value::*;

/// The arguments of a call, evaluated.
#[derive(Debug, Default)]
pub(super) struct CallArgsValues {
    pub positional: Vec<V>,
    pub named: Vec<(Str, V)>,
    /// Pays for those that come out of a list or a dict.
    pub charge: Charge,
}

pub(super) use CallArgsValues as Arguments;

impl Arguments {
    /// Sorts the arguments into parameters, in their order.
    ///
    /// Errors: too many, or a name that is no parameter or is given twice.
    pub fn bind<const N: usize>(self, what: &str, params: [&str; N]) -> Result<[Option<V>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Fault::type_error(format!(
                "{what}() takes at most {N} arguments ({} given)",
                self.positional.len()
            ));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let at = params.iter().position(|param| *param == name.as_str());
            match at.and_then(|at| bound.get_mut(at)) {
                Some(slot @ None) => *slot = Some(value),
                Some(Some(_)) => {
                    return Fault::type_error(format!(
                        "{what}() got multiple values for argument '{}'",
                        brief(name.as_str())
                    ))
                }
                None => {
                    return Fault::type_error(format!(
                        "{what}() got an unexpected keyword argument '{}'",
                        brief(name.as_str())
                    ))
                }
            }
        }
        Ok(bound)
    }
}

pub(super) fn required(value: Option<V>, what: &str, name: &str) -> Result<V> {
    match value {
        Some(value) => Ok(value),
        None => Fault::type_error(format!("{what}() missing a required argument: '{name}'")),
    }
}

impl<'t> Eval<'t> {
    pub fn eval(&mut self, expr: &'t Expr) -> Result<V> {
        self.budget.step()?;
        match &expr.kind {
            ExprKind::Const(value) => Ok(value.clone()),
            ExprKind::Name(id) => self.lookup(*id),
            _ => {
                self.recursion.enter().map_err(|f| f.placed(expr.at))?;
                let value = self.compound(expr).map_err(|f| f.placed(expr.at))?;
                self.recursion.leave();
                Ok(value)
            }
        }
    }

    fn compound(&mut self, expr: &'t Expr) -> Result<V> {
        match &expr.kind {
            ExprKind::Const(value) => Ok(value.clone()),
            ExprKind::Name(id) => self.lookup(*id),
            ExprKind::Postfix(postfix) => self.postfix(postfix),
            ExprKind::Math(math) => self.math_chain(math),
            ExprKind::Compare(compare) => self.compare(compare),
            ExprKind::And(parts) => self.junction(parts, false),
            ExprKind::Or(parts) => self.junction(parts, true),
            ExprKind::Not(value) => {
                let value = self.eval(value)?;
                Ok(V::Bool(!value.truth(), value.shape()))
            }
            ExprKind::Concat(parts) => self.concat(parts),
            ExprKind::Cond(cond) => self.conditional(cond),
            ExprKind::List(items) => {
                let items = self.eval_all(items)?;
                V::list(items, &mut self.budget)
            }
            ExprKind::Tuple(items) => {
                let items = self.eval_all(items)?;
                V::tuple(items, &mut self.budget)
            }
            ExprKind::Dict(entries) => self.dict(entries),
            ExprKind::Negative(value) => {
                let value = self.eval(value)?;
                self.checked(&value)?;
                operators::negative(&value, &mut self.budget)
            }
            ExprKind::Positive(value) => {
                let value = self.eval(value)?;
                self.checked(&value)?;
                operators::positive(&value)
            }
        }
    }

    fn eval_all(&mut self, exprs: &'t [Expr]) -> Result<Vec<V>> {
        let mut values = Vec::with_capacity(exprs.len());
        for expr in exprs {
            values.push(self.eval(expr)?);
        }
        Ok(values)
    }

    #[inline(never)]
    fn dict(&mut self, entries: &'t [(Expr, Expr)]) -> Result<V> {
        let mut dict = Dict::new(&mut self.budget)?;
        for (key, value) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            dict.insert(key, value, &mut self.budget)?;
        }
        Ok(V::dict(dict))
    }

    /// The first part that decides, or the last.
    #[inline(never)]
    fn junction(&mut self, parts: &'t [Expr], decides: bool) -> Result<V> {
        let mut value = V::none();
        for (at, part) in parts.iter().enumerate() {
            value = self.eval(part)?;
            if value.truth() == decides {
                control::took(at);
                break;
            }
        }
        Ok(value)
    }

    #[inline(never)]
    fn conditional(&mut self, cond: &'t Cond) -> Result<V> {
        for (arm, (test, value)) in cond.arms.iter().enumerate() {
            if self.eval(test)?.truth() {
                control::took(arm);
                return self.eval(value);
            }
        }
        match &cond.otherwise {
            Some(value) => self.eval(value),
            None => {
                let message =
                    "the inline if-expression evaluated to false and no else section was defined.";
                V::hint(ErrorKind::Undefined, message, &mut self.budget)
            }
        }
    }

    #[inline(never)]
    fn concat(&mut self, parts: &'t [Expr]) -> Result<V> {
        // All parts are evaluated before any is written: a part may be a call that prints.
        let mut texts = Vec::with_capacity(parts.len());
        let mut len = 0usize;
        for part in parts {
            let part = self.eval(part)?;
            let text = self.str_of(&part)?;
            len = len.saturating_add(text.len());
            texts.push(text);
        }
        let mut out = Builder::new(&mut self.budget)?;
        out.reserve(len, &mut self.budget)?;
        for text in texts {
            out.push_text(text.text(), &mut self.budget)?;
        }
        Ok(V::Str(out.finish()))
    }

    #[inline(never)]
    fn compare(&mut self, compare: &'t Compare) -> Result<V> {
        let mut left = self.eval(&compare.first)?;
        let mut origin = left.least_trusted();
        for (op, right) in &compare.rest {
            let right = self.eval(right)?;
            origin = origin.max(right.least_trusted());
            if !self.compare_two(*op, &left, &right)? {
                return Ok(V::Bool(false, origin));
            }
            left = right;
        }
        Ok(V::Bool(true, origin))
    }

    pub fn compare_two(&mut self, op: CompareOp, left: &V, right: &V) -> Result<bool> {
        let ordered = |eval: &mut Self, symbol, holds: fn(Ordering) -> bool| {
            eval.checked(left)?;
            eval.checked(right)?;
            let order = operators::order(left, right, symbol, &mut eval.budget)?;
            Ok(order.is_some_and(holds))
        };
        match op {
            CompareOp::Eq => operators::equal(left, right, &mut self.budget),
            CompareOp::Ne => Ok(!operators::equal(left, right, &mut self.budget)?),
            CompareOp::Lt => ordered(self, "<", Ordering::is_lt),
            CompareOp::Le => ordered(self, "<=", Ordering::is_le),
            CompareOp::Gt => ordered(self, ">", Ordering::is_gt),
            CompareOp::Ge => ordered(self, ">=", Ordering::is_ge),
            CompareOp::In => operators::contains(right, left, &mut self.budget),
            CompareOp::NotIn => Ok(!operators::contains(right, left, &mut self.budget)?),
        }
    }

    /// A row of strings added up is written once.
    #[inline(never)]
    fn math_chain(&mut self, math: &'t Math) -> Result<V> {
        let mut left = self.eval(&math.first)?;
        let mut text: Option<Builder> = None;
        for (op, right) in &math.rest {
            let right = self.eval(right)?;
            if let (MathOp::Add, V::Str(more)) = (op, &right) {
                if !more.markup() {
                    if let Some(text) = &mut text {
                        text.push_text(more.text(), &mut self.budget)?;
                        continue;
                    }
                    if let V::Str(first) = &left {
                        if !first.markup() {
                            let mut begun = Builder::new(&mut self.budget)?;
                            begun.push_text(first.text(), &mut self.budget)?;
                            begun.push_text(more.text(), &mut self.budget)?;
                            text = Some(begun);
                            continue;
                        }
                    }
                }
            }
            if let Some(text) = text.take() {
                left = V::Str(text.finish());
            }
            left = self.math(*op, left, right)?;
        }
        Ok(match text {
            Some(text) => V::Str(text.finish()),
            None => left,
        })
    }

    pub fn math(&mut self, op: MathOp, left: V, right: V) -> Result<V> {
        if let (V::Int(a, by), V::Int(b, and_by)) = (&left, &right) {
            let quick = match op {
                MathOp::Add => a.checked_add(*b),
                MathOp::Sub => a.checked_sub(*b),
                MathOp::Mul => a.checked_mul(*b),
                _ => None,
            };
            if let Some(value) = quick {
                return Ok(V::Int(value, *by.max(and_by)));
            }
        }
        if let (MathOp::Mod, V::Str(format)) = (op, &left) {
            return super::percent::format(self, format, right);
        }
        self.checked(&left)?;
        self.checked(&right)?;
        operators::math(op, &left, &right, &mut self.budget)
    }

    // What follows a value.

    #[inline(never)]
    fn postfix(&mut self, postfix: &'t Postfix) -> Result<V> {
        let mut value = self.eval(&postfix.base)?;
        let mut ops = postfix.ops.iter().peekable();
        while let Some(op) = ops.next() {
            self.budget.step()?;
            let called = match (&op.kind, ops.peek().map(|next| &next.kind)) {
                (PostKind::Attribute(_, Some(method)), Some(PostKind::Call(args)))
                    if methods::find(&value, *method) == Found::Yes =>
                {
                    Some((*method, args))
                }
                _ => None,
            };
            if let Some((method, args)) = called {
                ops.next();
                value = self
                    .method_call(value, method, args)
                    .map_err(|f| f.placed(op.at))?;
                continue;
            }
            value = self.post_op(value, op).map_err(|f| f.placed(op.at))?;
        }
        Ok(value)
    }

    fn method_call(&mut self, value: V, method: methods::Method, args: &'t CallArgs) -> Result<V> {
        let args = self.args(args)?;
        methods::call(self, value, method, args)
    }

    fn post_op(&mut self, value: V, op: &'t PostOp) -> Result<V> {
        match &op.kind {
            PostKind::Attribute(name, method) => {
                let text = self.name(*name);
                // What the sandbox hides comes before a dict's own.
                if let (V::Dict(dict, shape), None, false) = (&value, method, text.starts_with('_'))
                {
                    if let Some(found) = dict.get_str(text, &mut self.budget)? {
                        return found.clone().painted(*shape, &mut self.budget);
                    }
                }
                self.attribute(&value, *name, *method)
            }
            PostKind::Item(key) => {
                let key = self.eval(key)?;
                self.item(&value, &key)
            }
            PostKind::Slice(parts) => {
                let [start, stop, step] = &**parts;
                let mut part = |expr: &'t Option<Expr>| match expr {
                    Some(expr) => self.eval(expr),
                    None => Ok(V::none()),
                };
                let bounds = [part(start)?, part(stop)?, part(step)?];
                self.slice(&value, bounds)
            }
            PostKind::Call(args) => {
                let args = self.args(args)?;
                self.call(value, args)
            }
            PostKind::Filter(call) => self.filter_op(value, call),
            PostKind::Test(call) => {
                let Some(test) = call.test else {
                    return Fault::new(
                        ErrorKind::Runtime,
                        format!("No test named '{}' found.", brief(self.name(call.name))),
                    );
                };
                let args = self.args(&call.args)?;
                let (holds, origin) = super::predicates::test(self, test, value, args)?;
                Ok(V::Bool(holds != call.negated, origin))
            }
        }
    }

    pub fn filter_op(&mut self, value: V, call: &'t FilterCall) -> Result<V> {
        let Some(filter) = call.filter else {
            return Fault::new(
                ErrorKind::Runtime,
                format!("No filter named '{}' found.", brief(self.name(call.name))),
            );
        };
        let args = self.args(&call.args)?;
        super::filters::apply(self, filter, value, args)
    }

    #[inline(never)]
    pub fn args(&mut self, args: &'t CallArgs) -> Result<Arguments> {
        let Some(args) = args else {
            return Ok(Arguments::default());
        };
        let positional = self.eval_all(&args.positional)?;
        let mut values = Arguments {
            positional,
            named: Vec::new(),
            charge: self.budget.charge(0)?,
        };
        for (name, value) in &args.named {
            let value = self.eval(value)?;
            values.named.push((self.name_str(*name), value));
        }
        if let Some(star) = &args.star {
            let star = self.eval(star)?;
            let more = collect(&star, &mut self.budget)?;
            values.charge.grow(more.len().saturating_mul(ITEM_BYTES))?;
            values.positional.extend_from_slice(more.as_slice());
        }
        if let Some(double_star) = &args.double_star {
            match self.eval(double_star)? {
                V::Dict(dict, shape) => {
                    let count = dict.entries.len();
                    self.budget.steps(count.saturating_mul(count >> 3))?;
                    self.budget.steps(count)?;
                    values.charge.grow(count.saturating_mul(2 * ITEM_BYTES))?;
                    for (key, value) in &dict.entries {
                        let V::Str(key) = key else {
                            return Fault::type_error("keywords must be strings");
                        };
                        let alike = values
                            .named
                            .iter()
                            .filter(|(have, _)| have.len() == key.len());
                        let alike = alike.count();
                        self.budget.bytes(key.len().saturating_mul(alike))?;
                        if values.named.iter().any(|(have, _)| have == key) {
                            return Fault::type_error(format!(
                                "got multiple values for keyword argument '{}'",
                                brief(key.as_str())
                            ));
                        }
                        let value = value.clone().painted(shape, &mut self.budget)?;
                        values.named.push((key.clone(), value));
                    }
                }
                other => {
                    return Fault::type_error(format!(
                        "argument after ** must be a mapping, not {}",
                        other.type_name()
                    ))
                }
            }
        }
        Ok(values)
    }
}
