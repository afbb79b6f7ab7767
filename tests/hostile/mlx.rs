//! Row 17: each call into MLX fails in turn, with two requests in work; both give the right tokens, and so does the next.
//! When it goes on failing, the requests fail by name.

use crate::child::{alive, ask, exactly, qwen, Shared, Told, PROMPT, RIGHT};
use crate::common::{load, Prompt};
use crate::faults::{arm, count, disarm, faulty, Kind};
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "17",
    name: "errors of MLX at each of its calls",
    generators: &[
        || sweep("generate", "0", 1),
        || sweep("generate", "1", 7),
        || sweep("load", "0", 1),
        || sweep("load", "1", 5),
    ],
    programs: &[("mlx", child)],
};

fn sweep(work: &str, lasting: &str, step: usize) {
    let calls = count(&["mlx", work, "0", lasting]);
    for at in (1..=calls).step_by(step) {
        let what = format!("{work}: call {at} fails, lasting {lasting}");
        faulty(&what, &["mlx", work, &at.to_string(), lasting]);
    }
}

/// `mlx WORK AT LASTING`; AT 0 counts the calls.
fn child(args: &[&str]) -> Outcome {
    let [work, at, lasting] = args else {
        panic!("mlx WORK AT LASTING")
    };
    let (at, lasting): (usize, _) = (at.parse().unwrap(), *lasting == "1");
    let verdict = match *work {
        "load" => {
            arm(Kind::Mlx, at, lasting, 0, None);
            let loaded = load(&qwen());
            let calls = disarm(Kind::Mlx);
            if at == 0 {
                return Ok(Fine(calls.to_string()));
            }
            fine_or_named(loaded, &["DEVICE", "OUT_OF_MEMORY"], &[])?
        }
        _ => {
            let model = load(&qwen()).unwrap();
            let sessions = [model.session(0), model.session(0)];
            let handles = [Shared(sessions[0].0), Shared(sessions[1].0)];
            arm(Kind::Mlx, at, lasting, 0, None);
            let threads = handles.map(|handle| {
                std::thread::spawn(move || {
                    ask(handle.get(), &Prompt::Text(PROMPT), &exactly(8), |_| true)
                })
            });
            let told = threads.map(|thread| thread.join().unwrap());
            let calls = disarm(Kind::Mlx);
            if at == 0 {
                return Ok(Fine(calls.to_string()));
            }
            let verdict = judge(&told, lasting)?;
            // The same sessions go on.
            for session in &sessions {
                let told = ask(session.0, &Prompt::Messages(HELLO), &exactly(3), |_| true);
                ensure!(told.failure.is_none(), "afterwards: {:?}", told.failure);
                ensure!(told.tokens.len() == 3, "afterwards: {:?}", told.tokens);
            }
            verdict
        }
    };
    alive()?;
    Ok(verdict)
}

const HELLO: &str = r#"[{"role":"user","content":"Hi"}]"#;

fn judge(told: &[Told; 2], lasting: bool) -> Outcome {
    let mut verdict = fine()?;
    for told in told {
        match &told.failure {
            None => ensure!(told.tokens == RIGHT, "{:?}", told.tokens),
            Some(failure) => {
                ensure!(lasting, "one fault is survived, not {failure:?}");
                verdict = named(failure, &["DEVICE", "OUT_OF_MEMORY"], &[])?;
            }
        }
    }
    Ok(verdict)
}
