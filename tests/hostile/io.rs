//! Row 15: every system call on the model's files fails in turn: EIO, EACCES and others; or is interrupted, short, or at
//! the end too early.

use std::path::Path;

use crate::child::{alive, ask, exactly, PROMPT, RIGHT};
use crate::common::{fixtures, load, Prompt};
use crate::faults::{arm, count, disarm, faulty, Kind};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "15",
    name: "files that cannot be read",
    generators: &[one_file, shards],
    programs: &[("io", child)],
};

const ERRORS: [(&str, i64); 8] = [
    ("EIO", libc::EIO as i64),
    ("EACCES", libc::EACCES as i64),
    ("ENOMEM", libc::ENOMEM as i64),
    ("EMFILE", libc::EMFILE as i64),
    ("ESTALE", libc::ESTALE as i64),
    ("EINTR", libc::EINTR as i64),
    ("an early end", -1),
    ("one byte", -2),
];

fn one_file() {
    sweep("qwen3-f32");
}

fn shards() {
    sweep("qwen3-f32-shards");
}

fn sweep(fixture: &str) {
    for (name, number) in ERRORS {
        let error = number.to_string();
        for lasting in ["0", "1"] {
            let calls = count(&["io", fixture, &error, "0", lasting]);
            // With a lasting fault the first calls say it all.
            let calls = if lasting == "1" { calls.min(4) } else { calls };
            for at in 1..=calls {
                let what = format!("{fixture}: call {at} gives {name}, lasting {lasting}");
                faulty(&what, &["io", fixture, &error, &at.to_string(), lasting]);
            }
        }
    }
}

/// `io FIXTURE ERROR AT LASTING`; AT 0 counts the calls.
fn child(args: &[&str]) -> Outcome {
    let [fixture, error, at, lasting] = args else {
        panic!("io FIXTURE ERROR AT LASTING")
    };
    let (error, at): (i64, usize) = (error.parse().unwrap(), at.parse().unwrap());
    let folder = fixtures().join("models").join(fixture);
    let folder = std::fs::canonicalize(folder).unwrap();
    alive()?;
    // An interrupt that never ends would be tried for ever, by right.
    let lasting = *lasting == "1" && error != i64::from(libc::EINTR);
    arm(Kind::Files, at, lasting, error, Some(&folder));
    let loaded = load(&folder);
    let calls = disarm(Kind::Files);
    let verdict = match loaded {
        Ok(model) => {
            let session = model.session(0);
            let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
            ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
            fine()
        }
        Err(failure) => {
            let harmless = error == i64::from(libc::EINTR) || error == -2;
            ensure!(!harmless, "{failure:?}");
            let name = Path::new(fixture).file_name().unwrap().to_str().unwrap();
            let says = [".json", ".safetensors", ".jinja", name];
            ensure!(
                says.iter().any(|word| failure.message.contains(word)),
                "{failure:?} names no file"
            );
            named(
                &failure,
                &["IO", "BAD_MODEL", "NOT_FOUND", "OUT_OF_MEMORY"],
                &[],
            )
        }
    };
    alive()?;
    match at {
        0 => Ok(Fine(calls.to_string())),
        _ => verdict,
    }
}
