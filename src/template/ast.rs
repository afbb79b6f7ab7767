//! The parsed template. Chains (`a.b.c`, `x|f|g`, `a + b + c`, `elif`) are flat: only real nesting nests.

use std::ops::Range;

use super::filters::Filter;
use super::methods::Method;
use super::predicates::Predicate;
use super::value::{NameId, V};

#[derive(Debug)]
pub(super) struct Expr {
    /// Byte offset into the source.
    pub at: u32,
    pub kind: ExprKind,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    Const(V),
    Name(NameId),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Postfix(Box<Postfix>),
    Math(Box<Math>),
    Concat(Vec<Expr>),
    Compare(Box<Compare>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Cond(Box<Cond>),
}

/// `first op rest op rest …`, from left to right, operators of one precedence.
#[derive(Debug)]
pub(super) struct Math {
    pub first: Expr,
    pub rest: Vec<(MathOp, Expr)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MathOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

/// `first < rest < rest …`: true where every neighbouring pair is.
#[derive(Debug)]
pub(super) struct Compare {
    pub first: Expr,
    pub rest: Vec<(CompareOp, Expr)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// `value if test else value if test else …`.
#[derive(Debug)]
pub(super) struct Cond {
    /// Test and value.
    pub arms: Vec<(Expr, Expr)>,
    pub otherwise: Option<Expr>,
}

#[derive(Debug)]
pub(super) struct Postfix {
    pub base: Expr,
    pub ops: Vec<PostOp>,
}

#[derive(Debug)]
pub(super) struct PostOp {
    pub at: u32,
    pub kind: PostKind,
}

#[derive(Debug)]
pub(super) enum PostKind {
    Attribute(NameId, Option<Method>),
    Item(Box<Expr>),
    Slice(Box<[Option<Expr>; 3]>),
    Call(CallArgs),
    Filter(FilterCall),
    Test(TestCall),
}

/// `None` where there are no arguments at all.
pub(super) type CallArgs = Option<Box<Args>>;

#[derive(Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<Expr>,
    pub named: Vec<(NameId, Expr)>,
    pub star: Option<Expr>,
    pub double_star: Option<Expr>,
}

#[derive(Debug)]
pub(super) struct FilterCall {
    /// `None`: no filter has that name; said when it is used.
    pub filter: Option<Filter>,
    pub name: NameId,
    pub args: CallArgs,
}

#[derive(Debug)]
pub(super) struct TestCall {
    pub test: Option<Predicate>,
    pub name: NameId,
    pub negated: bool,
    pub args: CallArgs,
}

pub(super) type Body = Vec<Stmt>;

#[derive(Debug)]
pub(super) enum Stmt {
    /// A range of the source.
    Text(Range<usize>),
    Print(Expr),
    If(Box<If>),
    For(Box<For>),
    Set(Box<(Target, Expr)>),
    SetBlock(Box<SetBlock>),
    Macro(Box<Macro>),
    Call(Box<CallBlock>),
    Filter(Box<FilterBlock>),
    With(Box<With>),
    /// `{% generation %}`, `{% block %}`: a scope of its own.
    Scope(Box<Scope>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct If {
    pub arms: Vec<(Expr, Body)>,
    pub otherwise: Body,
}

#[derive(Debug)]
pub(super) struct For {
    pub at: u32,
    pub target: Target,
    pub iter: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    /// Whether the body names `loop`.
    pub uses_loop: bool,
    /// The body is one `if` whose test no item changes: once it is false, it stays false.
    pub guarded: bool,
    pub body: Body,
    pub otherwise: Body,
}

impl For {
    /// The test and the body of a guarded loop.
    pub fn guard(&self) -> Option<(&Expr, &[Stmt])> {
        match self.body.as_slice() {
            [Stmt::If(node)] if self.guarded => node
                .arms
                .first()
                .map(|(test, body)| (test, body.as_slice())),
            _ => None,
        }
    }

    /// Whether only what the body does can change its one test. Templates that have no `break` search
    /// a list so: `{% for … %}{% if not ns.found %}`.
    pub fn is_guarded(target: &Target, body: &[Stmt]) -> bool {
        match (target, body) {
            (Target::Name(item), [Stmt::If(node)]) if node.otherwise.is_empty() => {
                matches!(node.arms.as_slice(), [(test, _)] if is_settled(test, *item))
            }
            _ => false,
        }
    }
}

/// Names other than the item, their attributes, and `not`: nothing that a look at it changes.
fn is_settled(test: &Expr, item: NameId) -> bool {
    let is_other = |e: &Expr| matches!(e.kind, ExprKind::Name(name) if name != item);
    let mut test = test;
    while let ExprKind::Not(inner) = &test.kind {
        test = inner;
    }
    match &test.kind {
        ExprKind::Postfix(node) => {
            let mut ops = node.ops.iter();
            is_other(&node.base) && ops.all(|op| matches!(op.kind, PostKind::Attribute(..)))
        }
        _ => is_other(test),
    }
}

#[derive(Debug)]
pub(super) enum Target {
    Name(NameId),
    Namespace {
        at: u32,
        name: NameId,
        attribute: NameId,
    },
    Tuple {
        at: u32,
        targets: Vec<Target>,
    },
}

#[derive(Debug)]
pub(super) struct SetBlock {
    pub target: Target,
    pub filters: Vec<(u32, FilterCall)>,
    pub body: Body,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: Option<NameId>,
    pub params: Vec<NameId>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Body,
    pub uses_caller: bool,
    pub uses_kwargs: bool,
    pub uses_varargs: bool,
}

#[derive(Debug)]
pub(super) struct CallBlock {
    pub at: u32,
    /// The call, less its last step.
    pub callee: Expr,
    pub args: CallArgs,
    pub caller: Macro,
}

#[derive(Debug)]
pub(super) struct FilterBlock {
    pub filters: Vec<(u32, FilterCall)>,
    pub body: Body,
}

#[derive(Debug)]
pub(super) struct With {
    pub bindings: Vec<(Target, Expr)>,
    pub body: Body,
}

#[derive(Debug)]
pub(super) struct Scope {
    /// Of a block: sees the outermost variables only.
    pub detached: bool,
    pub body: Body,
}
