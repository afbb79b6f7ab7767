//! Row 16: each allocation of a size that input decides fails in turn: OUT_OF_MEMORY or success, and never an abort.

use crate::child::{alive, ask, exactly};
use crate::common::{fixtures, load, Failure, Model, Prompt};
use crate::faults::{arm, count, disarm, faulty, Kind};
use crate::verdict::*;
use crate::Class;

pub const CLASS: Class = Class {
    row: "16",
    name: "allocations that fail",
    generators: &[|| sweep("load"), || sweep("generate"), || sweep("render")],
    programs: &[("allocations", child)],
};

/// Bytes from which on an allocation may fail: what is smaller is of a fixed size, or one of very many.
const LEAST: i64 = 64 << 10;

fn sweep(work: &str) {
    for lasting in ["0", "1"] {
        let calls = count(&["allocations", work, "0", lasting]);
        for at in 1..=calls {
            let what = format!("{work}: allocation {at} fails, lasting {lasting}");
            faulty(&what, &["allocations", work, &at.to_string(), lasting]);
        }
    }
}

/// `allocations WORK AT LASTING`; AT 0 counts them.
fn child(args: &[&str]) -> Outcome {
    let [work, at, lasting] = args else {
        panic!("allocations WORK AT LASTING")
    };
    let at: usize = at.parse().unwrap();
    let folder = fixtures().join("../../demo/model");
    let model = load(&folder).unwrap();
    let text = "once upon a time ".repeat(20_000);
    let messages = format!(r#"[{{"role":"user","content":"{text}"}}]"#);
    arm(Kind::Allocations, at, *lasting == "1", LEAST, None);
    let result: Result<(), Failure> = match *work {
        "load" => load(&folder).map(drop),
        "render" => model.render(&messages).map(drop),
        _ => generate(&model, &text),
    };
    let calls = disarm(Kind::Allocations);
    if at == 0 {
        return Ok(Fine(calls.to_string()));
    }
    let codes = &["OUT_OF_MEMORY", "DEVICE", "CONTEXT_FULL", "IO"];
    let verdict = fine_or_named(result, codes, &[])?;
    alive()?;
    Ok(verdict)
}

fn generate(model: &Model, text: &str) -> Result<(), Failure> {
    let session = model.session(0);
    // Too long by far, then one that fits.
    for prompt in [Prompt::Text(text), Prompt::Text(&text[..34])] {
        let told = ask(session.0, &prompt, &exactly(2), |_| true);
        match told.failure {
            Some(failure) if failure.code != "CONTEXT_FULL" => return Err(failure),
            _ => {}
        }
    }
    Ok(())
}
