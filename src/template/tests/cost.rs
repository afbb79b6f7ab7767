//! What every built-in takes is paid for, whatever stands in its places: each filter, test, method, function and operator
//! is given its longest inputs, one place after the other, and must take no longer than its steps say, nor go on for long
//! without a look at the watch. The tables of the engine say what there is: what is new is covered.
//!
//! Times are those of the thread on its processor, and the best of some tries, so that a busy machine is no failure. They
//! are what a release build takes.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::template::budget::Budget;
use crate::template::eval::Eval;
use crate::template::filters::Filter;
use crate::template::methods::Method;
use crate::template::predicates::Predicate;
use crate::template::string::Builder;
use crate::template::value::{Function, V};
use crate::watch::{self, Watch};

/// Nanoseconds of a step, at most: 20 million are two seconds.
const STEP: f64 = 100.0;
/// Milliseconds that cost nothing: the noise of a measurement.
const FREE: f64 = 1.5;
/// Milliseconds between two looks.
const GAP: f64 = 50.0;
/// Bytes of a long text.
const LONG: usize = 1 << 20;

/// Machines are slow in different ways, and what is not paid for takes a hundred times as long: the bounds are held to the letter
/// with MLXRT_COST_STRICT only, on a quiet machine.
fn slack() -> f64 {
    match std::env::var_os("MLXRT_COST_STRICT") {
        Some(_) => 1.0,
        None => 4.0,
    }
}

/// Milliseconds that this thread was on a processor.
#[allow(unsafe_code)]
fn processor() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call fills the struct that it is given, which lives as long as it.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

struct Cost {
    took: f64,
    steps: f64,
    gap: f64,
    failed: Option<ErrorKind>,
}

fn cost(template: &Template, context: &Value, limits: &Limits) -> Cost {
    let V::Dict(context, _) = &context.0 else {
        panic!("a dict");
    };
    let begun = processor();
    let (last, gap) = (Rc::new(Cell::new(begun)), Rc::new(Cell::new(0.0f64)));
    let look = {
        let (last, gap) = (last.clone(), gap.clone());
        move || {
            let now = processor();
            gap.set(gap.get().max(now - last.replace(now)));
        }
    };
    let stopped = look.clone();
    let watch = Watch {
        stopped: Some(Box::new(move || {
            stopped();
            Ok(())
        })),
        ..Watch::default()
    };
    let (steps, failed) = watch::during(watch, || {
        let clock = || NOON;
        let mut eval =
            Eval::new(&template.source, &template.parsed, context, &clock, limits).unwrap();
        let failed = eval.body(&template.parsed.body).err();
        let failed = failed.map(|fault| fault.kind);
        look();
        (eval.budget.used_steps() as f64, failed)
    });
    Cost {
        took: last.get() - begun,
        steps,
        gap: gap.get(),
        failed,
    }
}

/// Renders until it is quick enough, some times, and says what it was otherwise.
fn dear(template: &Template, context: &Value, limits: &Limits) -> Option<String> {
    let mut worst = None;
    for _ in 0..4 {
        let cost = cost(template, context, limits);
        let slack = slack();
        let paid = (FREE + cost.steps * STEP / 1e6) * slack;
        if cost.took <= paid && cost.gap <= GAP * slack {
            return None;
        }
        worst = Some(format!(
            "{:.1} ms for {} steps ({:.0} ns each), {:.1} ms without a look, {:?}",
            cost.took,
            cost.steps,
            (cost.took - FREE) * 1e6 / cost.steps,
            cost.gap,
            cost.failed,
        ));
    }
    worst
}

type Inputs = Vec<(&'static str, Value)>;

/// A text of which each writer wrote every other character.
fn woven(count: usize) -> Value {
    let limits = Limits {
        steps: u64::MAX,
        bytes: usize::MAX,
        ..Limits::default()
    };
    let budget = &mut Budget::new(&limits, 0);
    let mut out = Builder::new(budget).unwrap();
    for _ in 0..count {
        out.push("a", Origin::Template, budget).unwrap();
        out.push("é", Origin::Content, budget).unwrap();
    }
    Value(V::Str(out.finish()))
}

fn text(text: String) -> Value {
    Value::str(text, Origin::Content)
}

fn list(item: Value, count: usize) -> Value {
    Value::list(vec![item; count]).unwrap()
}

fn dict(count: usize, key: impl Fn(usize) -> String) -> Value {
    let entries = (0..count).map(|i| (Str::new(key(i), Origin::Content), text(key(i))));
    Value::dict(entries.collect()).unwrap()
}

/// What a template makes.
fn made(source: &str) -> Value {
    let template =
        Template::parse(&format!("{{% set r = {source} %}}"), &Limits::default()).unwrap();
    let empty = Value::dict(vec![]).unwrap();
    let V::Dict(context, _) = &empty.0 else {
        panic!("a dict");
    };
    let limits = Limits::default();
    let clock = || NOON;
    let mut eval = Eval::new(&template.source, &template.parsed, context, &clock, &limits).unwrap();
    eval.body(&template.parsed.body).unwrap();
    let id = eval.id("r").unwrap();
    Value(eval.lookup(id).unwrap())
}

/// As large as they get.
fn long_inputs() -> Inputs {
    let times = |part: &str| text(part.repeat(LONG / part.len()));
    let mut shared = made("(1, 'a')");
    let mut deep = shared.clone();
    for _ in 0..16 {
        shared = list(shared, 2);
    }
    for _ in 0..120 {
        deep = list(deep, 1);
    }
    vec![
        ("letters", times("a")),
        ("letters of two bytes", times("é")),
        ("words", times("Ab ")),
        ("spaces", times(" ")),
        ("lines", times("a\r\n")),
        ("digits", times("1")),
        ("digits in groups", times("1_")),
        ("what is escaped", times("<\"'&\u{1}")),
        ("symbols", times("→\u{301}😀")),
        ("sigmas", times("Σ'")),
        ("formats", times("%s{0}")),
        ("flags", text("%".to_string() + &"-".repeat(LONG))),
        ("fields", text("{".repeat(LONG))),
        ("paths", text("a.".repeat(LONG / 64))),
        ("two writers", woven(100_000)),
        ("many numbers", list(made("7"), 100_000)),
        ("many texts", list(text("Aé".repeat(40)), 100_000)),
        ("many pairs", list(made("(1, 2)"), 200_000)),
        ("many dicts", list(dict(3, |i| format!("k{i}")), 100_000)),
        ("few long texts", list(times("a"), 8)),
        ("shared", shared),
        ("deep", deep),
        ("entries", dict(100_000, |i| format!("key {i}"))),
        (
            "entries of long keys",
            dict(40, |i| "k".repeat(60_000) + &i.to_string()),
        ),
        ("range", made("range(100000)")),
        ("big number", made("3 ** 32000")),
    ]
}

/// Small, and each slow to read or to write for its size.
fn short_inputs() -> Inputs {
    vec![
        ("text", text("Ab".into())),
        ("number in a text", text("1e308".into())),
        ("long number in a text", text("9".repeat(4300))),
        ("symbols", text("→\u{301}\u{1}Σ".repeat(16))),
        ("format", text("%5s|{0:>5}".into())),
        ("name", text("upper".into())),
        ("hidden name", text("__clas__".into())),
        ("date", text("%c".into())),
        ("number", made("3")),
        ("small number", made("-2")),
        ("largest float", made("1.7976931348623157e308")),
        ("smallest float", made("5e-324")),
        ("long float", made("0.1 + 0.2")),
        ("digits", made("10 ** 4290")),
        ("big number", made("3 ** 32000")),
        ("none", made("none")),
        ("list", made("[3, 1, 2]")),
        ("texts", made("['b', 'A']")),
        ("dict", made("{'a': 1, 'b': 2}")),
        ("dicts", made("[{'a': 'x'}, {'a': 'y'}]")),
        ("numbered", made("dict([[1, 2], [3, 4]])")),
        ("nested", made("[[[[1, (2, 3)], {'a': [1]}]]]")),
        ("range", made("range(3)")),
    ]
}

/// What is called, and a call for each number of arguments: `x`, then `y`, `z` and `w`.
fn calls() -> Vec<(String, Vec<String>)> {
    let args = ["", "y", "y, z", "y, z, w"];
    let mut calls = vec![];
    let mut add = |name: String, all: Vec<String>| calls.push((name, all));
    for filter in Filter::ALL {
        let name = filter.name();
        let mut all: Vec<_> = args.map(|args| format!("x|{name}({args})")).into();
        if matches!(
            filter,
            Filter::Map | Filter::Sort | Filter::Join | Filter::Sum
        ) {
            all.push(format!("x|{name}(attribute=y)"));
        }
        if *filter == Filter::ToJson {
            all.push("x|tojson(indent=y, separators=(z, z), sort_keys=true)".into());
            all.push("x|tojson(ensure_ascii=true)".into());
        }
        add(format!("filter {name}"), all);
    }
    for (name, _) in Predicate::ALL {
        let all = ["", ", y"].map(|args| format!("[x]|select('{name}'{args})|list"));
        add(format!("test {name}"), all.into());
    }
    for method in Method::ALL {
        let name = method.name();
        let mut all: Vec<_> = args.map(|args| format!("x.{name}({args})")).into();
        if *method == Method::Format {
            all.push("x.format(*y)".into());
            all.push("'{:{}}{:.{}}'.format(x, y, x, y)".into());
            all.push("'{0!r}{0!a}{0[a]}{0.a}'.format(x)".into());
        }
        add(format!("method {name}"), all);
    }
    for (name, function) in Function::ALL {
        let args = ["x", "x, y", "x, y, z", "*x", "**x", "a=x"];
        let mut all: Vec<_> = args.map(|args| format!("{name}({args})")).into();
        if function == Function::Joiner {
            all.push("joiner(x)() ~ joiner(x).sep".into());
        }
        if function == Function::Cycler {
            all.push("cycler(*x).next()".into());
            all.push("cycler(x, y).items".into());
        }
        add(format!("function {name}"), all);
    }
    let operators = "x + y|x - y|x * y|x / y|x // y|x % y|x ** y|-x|+x|not x|x ~ y|x == y|x != y|x < y|x <= y|x > y|x >= y\
        |x in y|x not in y|x[y]|x[y:z]|x[::y]|x[:-1]|x[-2]|x.a|x.a.b|x._a|x|string|[x, y]|{x: y}|{'a': x}[y]|(x, y)|x if y else z\
        |x and y|x or y|x is sameas(y)|'%s' % x|'%(a)s' % x|'%r%5.3s' % (x, y)|'%*.*d' % (y, z, x)|'%.*f' % (y, x)|'%c' % x\
        |'%08.3f' % x|'%g%e' % (x, x)|'%x' % x|x % (y, z)|x() |x(y)|x is x|(x ~ y) == (y ~ x)|loop.index|dict(x) == dict(y)";
    for operator in operators
        .split('|')
        .filter(|o| !matches!(*o, "string" | "x"))
    {
        add(format!("operator {operator}"), vec![operator.to_string()]);
    }
    let statements = [
        ("for", "{% for i in x %}{% break %}{% endfor %}"),
        ("for in full", "{% for i in x %}{{ loop.last }}{{ loop.previtem }}{% endfor %}"),
        ("for with a test", "{% for i in x if i %}{{ loop.length }}{% endfor %}"),
        ("unpack", "{% for a, b in x %}{{ a }}{% endfor %}"),
        ("changed", "{% for i in [1, 2] %}{{ loop.changed(x, *y) }}{{ loop.cycle(*x) }}{% endfor %}"),
        ("print", "{{ x }}{{ y }}"),
        ("capture", "{% set c %}{{ x }}{% endset %}{% set c = c ~ x %}{% set c = c ~ y %}"),
        ("namespace", "{% set n = namespace(a=x) %}{% set n.a = n.a ~ y %}{{ n[y] }}{{ n }}"),
        ("macro", "{% macro m(a, b='z') %}{{ a }}{{ kwargs }}{{ varargs }}{% endmacro %}{{ m(x, y, *x, **y) }}"),
        ("filter block", "{% filter upper %}{{ x }}{% endfilter %}"),
        ("with", "{% with a = x %}{{ a }}{% endwith %}"),
    ];
    for (name, source) in statements {
        add(format!("statement {name}"), vec![source.to_string()]);
    }
    calls
}

fn template(call: &str, often: bool) -> Option<Template> {
    let body = match call.contains("{%") || call.contains("{{") {
        true => call.to_string(),
        false => format!("{{% set r = {call} %}}"),
    };
    let source = match often {
        true => format!("{{% for _ in range(100000) %}}{body}{{% endfor %}}"),
        false => body,
    };
    // Some are no call of that name: a test that is written as a sign, an argument too many.
    Template::parse(&source, &Limits::default()).ok()
}

fn context(x: &Value, y: &Value, z: &Value) -> Value {
    let w = Value::str("a", Origin::Content);
    let all = [("x", x), ("y", y), ("z", z), ("w", &w)];
    let all = all.map(|(name, value)| (Str::new(name, Origin::Template), value.clone()));
    Value::dict(all.into()).unwrap()
}

fn named<'a>(inputs: &'a Inputs, name: &str) -> &'a Value {
    &inputs.iter().find(|(have, _)| *have == name).unwrap().1
}

/// All that is dear, of the calls that one part of the names has.
fn all_dear(kinds: &[&str], often: bool, check: impl Fn(&Template, &str, &mut Vec<String>)) {
    if cfg!(debug_assertions) {
        eprintln!("skipped: a debug build takes longer");
        return;
    }
    let only = std::env::var("MLXRT_COST_OF").unwrap_or_default();
    let mut dear = vec![];
    for (name, all) in calls() {
        if !kinds.iter().any(|kind| name.starts_with(kind)) || !name.contains(&only) {
            continue;
        }
        for call in all {
            if let Some(template) = template(&call, often) {
                let before = dear.len();
                check(&template, &call, &mut dear);
                dear[before..].iter().for_each(|dear| eprintln!("{dear}"));
            }
        }
    }
    assert!(dear.is_empty(), "{}:\n{}", dear.len(), dear.join("\n"));
}

/// Each place has each long input, beside short ones.
fn long(kinds: &[&str]) {
    let (longs, shorts) = (long_inputs(), short_inputs());
    let beside = ["text", "number"].map(|name| named(&shorts, name));
    let second = ["letters", "two writers"];
    // What one call takes, and not all that a render may.
    let limits = Limits {
        steps: 3_000_000,
        ..Limits::default()
    };
    all_dear(kinds, false, |template, call, all| {
        let mut check = |what: String, x, y, z| {
            if let Some(cost) = dear(template, &context(x, y, z), &limits) {
                all.push(format!("{call}, {what}: {cost}"));
            }
        };
        for (name, value) in &longs {
            let takes = |name: &str| call.contains(name);
            if !takes("y") {
                check(format!("x is {name}"), value, value, value);
                continue;
            }
            let beside = match takes("z") {
                true => &beside[1..],
                false => &beside[..],
            };
            for other in beside {
                check(format!("x is {name}"), value, other, other);
                check(format!("y is {name}"), other, value, other);
                if takes("z") {
                    check(format!("z is {name}"), other, other, value);
                }
            }
            for also in second.iter().filter(|_| !takes("z")) {
                check(
                    format!("x is {also}, y is {name}"),
                    named(&longs, also),
                    value,
                    value,
                );
            }
        }
    });
}

/// Each place has each short input, again and again.
fn short(kinds: &[&str]) {
    let shorts = short_inputs();
    let limits = Limits {
        steps: 50_000,
        ..Limits::default()
    };
    all_dear(kinds, true, |template, call, all| {
        let beside = ["text", "name", "number", "digits", "list"];
        let beside = if call.contains('y') {
            &beside[..]
        } else {
            &beside[..1]
        };
        for (name, x) in &shorts {
            for other in beside {
                let y = named(&shorts, other);
                if let Some(cost) = dear(template, &context(x, y, y), &limits) {
                    all.push(format!("{call}, x is {name}, y is {other}: {cost}"));
                }
            }
        }
    });
}

#[test]
fn long_inputs_of_filters_are_paid_for() {
    long(&["filter"]);
}

#[test]
fn long_inputs_of_methods_are_paid_for() {
    long(&["method"]);
}

#[test]
fn long_inputs_of_all_else_are_paid_for() {
    long(&["test", "function", "operator", "statement"]);
}

#[test]
fn many_calls_are_paid_for() {
    short(&[
        "filter",
        "test",
        "method",
        "function",
        "operator",
        "statement",
    ]);
}
