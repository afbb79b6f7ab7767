//! Jinja's tests: what follows `is`.

use super::ast::CompareOp;
use super::error::{Fault, Result};
use super::eval::Eval;
use super::expression::{required, Arguments};
use super::filters::Filter;
use super::loops::Cursor;
use super::operators;
use super::provenance::Carries;
use super::string::Origin;
use super::value::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predicate {
    Odd,
    Even,
    DivisibleBy,
    Defined,
    Undefined,
    Filter,
    Test,
    None,
    Boolean,
    False,
    True,
    Integer,
    Float,
    Lower,
    Upper,
    String,
    Mapping,
    Number,
    Sequence,
    Iterable,
    Callable,
    SameAs,
    Escaped,
    In,
    Compare(CompareOp),
}

macro_rules! names {
    ($($($name:literal)|+ => $predicate:expr),* $(,)?) => {
        impl Predicate {
            #[cfg(test)]
            pub const ALL: &[(&str, Predicate)] = &[$($(($name, $predicate)),+),*];

            pub fn from_name(name: &str) -> Option<Predicate> {
                match name { $($($name)|+ => Some($predicate),)* _ => None }
            }
        }
    };
}

names! {
    "odd" => Predicate::Odd, "even" => Predicate::Even, "divisibleby" => Predicate::DivisibleBy,
    "defined" => Predicate::Defined, "undefined" => Predicate::Undefined,
    "filter" => Predicate::Filter, "test" => Predicate::Test, "none" => Predicate::None,
    "boolean" => Predicate::Boolean, "false" => Predicate::False, "true" => Predicate::True,
    "integer" => Predicate::Integer, "float" => Predicate::Float, "lower" => Predicate::Lower,
    "upper" => Predicate::Upper, "string" => Predicate::String, "mapping" => Predicate::Mapping,
    "number" => Predicate::Number, "sequence" => Predicate::Sequence,
    "iterable" => Predicate::Iterable, "callable" => Predicate::Callable,
    "sameas" => Predicate::SameAs, "escaped" => Predicate::Escaped, "in" => Predicate::In,
    "==" | "eq" | "equalto" => Predicate::Compare(CompareOp::Eq),
    "!=" | "ne" => Predicate::Compare(CompareOp::Ne),
    ">" | "gt" | "greaterthan" => Predicate::Compare(CompareOp::Gt),
    ">=" | "ge" => Predicate::Compare(CompareOp::Ge),
    "<" | "lt" | "lessthan" => Predicate::Compare(CompareOp::Lt),
    "<=" | "le" => Predicate::Compare(CompareOp::Le),
}

/// The answer, and the least trusted origin of what it was found out from.
pub(super) fn test(
    eval: &mut Eval,
    predicate: Predicate,
    value: V,
    args: Arguments,
) -> Result<(bool, Origin)> {
    let origin = value.least_trusted().max(args.choosers(Carries::Nothing));
    Ok((holds(eval, predicate, value, args)?, origin))
}

fn holds(eval: &mut Eval, predicate: Predicate, value: V, args: Arguments) -> Result<bool> {
    eval.budget.step()?;
    match predicate {
        Predicate::DivisibleBy => {
            let [by] = args.bind("divisibleby", ["num"])?;
            let by = required(by, "divisibleby", "num")?;
            let rest = eval.math(super::ast::MathOp::Mod, value, by)?;
            return operators::equal(&rest, &V::int(0), &mut eval.budget);
        }
        Predicate::SameAs => {
            let [other] = args.bind("sameas", ["other"])?;
            return Ok(operators::identical(
                &value,
                &required(other, "sameas", "other")?,
            ));
        }
        Predicate::In => {
            let [seq] = args.bind("in", ["seq"])?;
            let seq = required(seq, "in", "seq")?;
            return operators::contains(&seq, &value, &mut eval.budget);
        }
        Predicate::Compare(op) => {
            let [other] = args.bind("comparison", [""])?;
            let other = required(other, "comparison", "other")?;
            return eval.compare_two(op, &value, &other);
        }
        _ => {}
    }
    if !args.positional.is_empty() || !args.named.is_empty() {
        return Fault::type_error("the test takes no arguments");
    }
    Ok(match predicate {
        Predicate::Odd | Predicate::Even => {
            let rest = eval.math(super::ast::MathOp::Mod, value, V::int(2))?;
            let wanted = V::int(i64::from(predicate == Predicate::Odd));
            operators::equal(&rest, &wanted, &mut eval.budget)?
        }
        Predicate::Defined => !value.is_undefined(),
        Predicate::Undefined => value.is_undefined(),
        Predicate::Filter => match &value {
            V::Str(name) => Filter::from_name(name.as_str()).is_some(),
            _ => false,
        },
        Predicate::Test => match &value {
            V::Str(name) => Predicate::from_name(name.as_str()).is_some(),
            _ => false,
        },
        Predicate::None => matches!(value, V::None(_)),
        Predicate::Boolean => matches!(value, V::Bool(..)),
        Predicate::False => matches!(value, V::Bool(false, _)),
        Predicate::True => matches!(value, V::Bool(true, _)),
        Predicate::Integer => matches!(value, V::Int(..) | V::Big(..)),
        Predicate::Float => matches!(value, V::Float(..)),
        Predicate::Lower | Predicate::Upper => {
            let text = eval.str_of(&value)?;
            let is_case = match predicate {
                Predicate::Lower => super::methods::is_lower,
                _ => super::methods::is_upper,
            };
            is_case(text.as_str(), &mut eval.budget)?
        }
        Predicate::String => matches!(value, V::Str(_)),
        Predicate::Mapping => matches!(value, V::Dict(..)),
        Predicate::Number => operators::number(&value).is_some(),
        Predicate::Sequence => matches!(
            value,
            V::Str(_)
                | V::List(..)
                | V::Tuple(..)
                | V::Dict(..)
                | V::Range(..)
                | V::Undefined { .. }
        ),
        Predicate::Iterable => {
            Cursor::new(&value).is_ok() || matches!(value, V::Object(Object::Loop { .. }))
        }
        // An undefined value has the method that makes Python call it so.
        Predicate::Callable => matches!(
            value,
            V::Undefined { .. }
                | V::Method(_)
                | V::Object(
                    Object::Macro(_)
                        | Object::Function(_)
                        | Object::Joiner(_)
                        | Object::Loop { .. }
                )
        ),
        Predicate::Escaped => matches!(&value, V::Str(text) if text.markup()),
        _ => false,
    })
}
