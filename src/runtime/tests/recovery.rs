//! What happens to requests when MLX fails under them.

use std::sync::Arc;

use super::*;
use crate::error::Code;
use crate::mlx::fault;

fn prompt() -> Input {
    Input::Tokens(vec![52, 106, 110, 78, 83, 87, 109, 0, 126])
}

fn inject(model: &Model, fault: fn(u64), n: u64) {
    model
        .engine
        .call(move |_| {
            fault(n);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_fault_at_any_call_is_survived_with_the_same_tokens() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let wanted = run(&session(&model), &prompt(), &exactly(6)).tokens;
    assert_eq!(wanted.len(), 6);
    let mut survived = 0;
    for n in 1.. {
        // The session has a past, so that there is something to rebuild.
        let session = session(&model);
        let options = GenerateOptions {
            prefill_only: true,
            ..exactly(1)
        };
        run(&session, &prompt(), &options).result.unwrap();
        let again = Input::Tokens(vec![]);
        inject(&model, fault::fail_at, n);
        let given = run(&session, &again, &exactly(6));
        let struck = model.engine.call(|_| Ok(!fault::pending())).unwrap();
        inject(&model, fault::fail_at, 0);
        given.result.unwrap();
        assert_eq!(given.tokens, wanted, "fault at call {n}");
        if !struck {
            break;
        }
        survived += 1;
    }
    assert!(survived > 60, "only {survived} calls were tried");
}

#[test]
fn a_fault_at_any_call_harms_no_request_in_flight() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let prompts = [prompt(), Input::Tokens(vec![3, 4, 5])];
    let options = exactly(5);
    let wanted = prompts
        .each_ref()
        .map(|prompt| run(&session(&model), prompt, &options).tokens);
    let mut survived = 0;
    for n in (1..).step_by(4) {
        inject(&model, fault::fail_at, n);
        let requests = prompts.each_ref().map(|prompt| {
            let session = Arc::new(session(&model));
            let request = submit(session.clone(), prompt, &options, None).unwrap();
            (session, request)
        });
        for ((session, request), wanted) in requests.iter().zip(&wanted) {
            let (_, outcome) = request.result(None).unwrap();
            outcome.unwrap();
            assert!(session.tokens().ends_with(wanted), "fault at call {n}");
        }
        let struck = model.engine.call(|_| Ok(!fault::pending())).unwrap();
        inject(&model, fault::fail_at, 0);
        if !struck {
            break;
        }
        survived += 1;
    }
    assert!(survived > 30, "only {survived} calls were tried");
}

#[test]
fn a_parked_request_that_is_alone_is_not_blamed_for_others() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let options = exactly(200);
    let wanted = run(&session(&model), &prompt(), &options).tokens;
    // Far ahead of its reader, then struck: it is to run alone, and is parked.
    let slow = Arc::new(session(&model));
    let parked = submit(slow.clone(), &prompt(), &options, None).unwrap();
    let poison = || {
        let poison = |_: &mut super::super::worker::Worker| {
            fault::poison_stream();
            Ok(())
        };
        model.engine.call(poison).unwrap();
    };
    while !model.engine.call(|worker| Ok(worker.is_idle())).unwrap() {}
    poison();
    let other = Arc::new(session(&model));
    let beside = submit(other.clone(), &prompt(), &options, None).unwrap();
    assert!(matches!(beside.next(None), Next::Event(_)));
    // The other one's work fails as the parked one goes on.
    poison();
    for (request, session) in [(parked, slow), (beside, other)] {
        request.result(None).unwrap().1.unwrap();
        assert!(session.tokens().ends_with(&wanted));
    }
}

#[test]
fn a_lasting_fault_fails_the_request_and_leaves_the_session_usable() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let wanted = run(&session, &prompt(), &exactly(4)).tokens;
    let before = session.tokens();
    inject(&model, fault::fail_from, 1);
    let given = run(&session, &Input::Tokens(vec![1]), &exactly(4));
    inject(&model, fault::fail_at, 0);
    assert_eq!(given.result.unwrap_err().code, Code::Device);
    assert_eq!(given.report.error_code, Code::Device as i32);
    assert_eq!(
        session.tokens(),
        before,
        "a failed request leaves the ledger alone"
    );

    let fresh = super::session(&model);
    assert_eq!(run(&fresh, &prompt(), &exactly(4)).tokens, wanted);
    assert_eq!(
        run(&session, &Input::Tokens(vec![1]), &exactly(4))
            .tokens
            .len(),
        4
    );
}

#[test]
fn an_error_of_mlx_itself_in_the_middle_harms_nobody() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let wanted = run(&session(&model), &prompt(), &exactly(40)).tokens;
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let model = Arc::clone(&model);
            std::thread::spawn(move || {
                (0..4)
                    .map(|_| {
                        let session = session(&model);
                        let mut tokens = Vec::new();
                        let (_, result) =
                            generate(&session, &prompt(), &exactly(40), &mut |event| {
                                let Event::Text(chunk) = event else {
                                    return true;
                                };
                                // While all three decode.
                                if tokens.is_empty() {
                                    let poison = |_: &mut super::super::worker::Worker| {
                                        fault::poison_stream();
                                        Ok(())
                                    };
                                    model.engine.call(poison).unwrap();
                                }
                                tokens.extend_from_slice(&chunk.tokens);
                                true
                            });
                        result.unwrap();
                        tokens
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    for thread in threads {
        for tokens in thread.join().unwrap() {
            assert_eq!(tokens, wanted);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn errors_leave_no_threads_behind() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    if model.engine.device() != crate::mlx::Device::Cpu {
        println!("skipped: only a stream of the CPU is a thread");
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for _ in 0..30 {
        inject(&model, fault::fail_at, 30);
        run(&session(&model), &prompt(), &exactly(4))
            .result
            .unwrap();
        model
            .engine
            .call(|_| {
                fault::poison_stream();
                Ok(())
            })
            .unwrap();
        run(&session(&model), &prompt(), &exactly(4))
            .result
            .unwrap();
    }
    // The test harness has threads of its own that come and go.
    assert!(threads() < before + 20, "{before} -> {}", threads());
}

#[test]
fn a_bug_in_a_step_is_an_error_of_that_request() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    // A model that is not there is the worker's own bug to find.
    let id = model.id;
    model
        .engine
        .call(move |worker| {
            worker.drop_model(id);
            Ok(())
        })
        .unwrap();
    let given = run(&session, &prompt(), &exactly(4));
    assert_eq!(given.result.unwrap_err().code, Code::Internal);
    let other = load("llama-f32");
    assert_eq!(
        run(&super::session(&other), &prompt(), &exactly(4))
            .tokens
            .len(),
        4
    );
}
