//! What happens to requests when MLX fails under them.

use std::sync::Arc;

use super::*;
use crate::error::Code;
use crate::mlx::fault::{self, Kind, Lasting};
use crate::runtime::report::Stop;
use crate::runtime::request::Request;
use crate::runtime::worker::{Trace, Worker};

fn prompt() -> Input {
    Input::Tokens(vec![52, 106, 110, 78, 83, 87, 109, 0, 126])
}

pub(super) fn inject(model: &Model, fault: fn(u64), n: u64) {
    model
        .engine
        .call(move |_| {
            fault(n);
            Ok(())
        })
        .unwrap();
}

/// Lets every `step`th call of MLX fail that `run` makes, one in each run, until it makes no more: it gives what is wanted all the same.
/// How many failed.
pub(super) fn survived(
    model: &Model,
    step: usize,
    wanted: &[i32],
    run: impl Fn() -> Given,
) -> usize {
    let inject = |n: u64| {
        let inject = move |_: &mut crate::runtime::worker::Worker| {
            fault::fail_at(n);
            Ok(())
        };
        model.engine.call(inject).unwrap();
    };
    for (survived, n) in (1..).step_by(step).enumerate() {
        inject(n);
        let given = run();
        let struck = model.engine.call(|_| Ok(!fault::pending())).unwrap();
        inject(0);
        given.result.unwrap();
        assert_eq!(given.tokens, wanted, "fault at call {n}");
        if !struck {
            return survived;
        }
    }
    unreachable!("calls without end")
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
            assert!(
                session.tokens().unwrap().ends_with(wanted),
                "fault at call {n}"
            );
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
        let poison = |_: &mut Worker| {
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
        assert!(session.tokens().unwrap().ends_with(&wanted));
    }
}

#[test]
fn a_lasting_fault_fails_the_request_and_leaves_the_session_usable() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let wanted = run(&session, &prompt(), &exactly(4)).tokens;
    let before = session.tokens().unwrap();
    inject(&model, fault::fail_from, 1);
    let given = run(&session, &Input::Tokens(vec![1]), &exactly(4));
    inject(&model, fault::fail_at, 0);
    assert_eq!(given.result.unwrap_err().code, Code::Device);
    assert_eq!(given.report.error_code, Code::Device as i32);
    assert_eq!(
        session.tokens().unwrap(),
        before,
        "a failed request leaves the ledger alone"
    );

    let fresh = super::session(&model);
    assert_eq!(run(&fresh, &prompt(), &computed_anew(4)).tokens, wanted);
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
                                    let poison = |_: &mut Worker| {
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

pub(super) fn fail_turns(model: &Model, lasting: Option<Lasting>) -> u64 {
    let set = move |_: &mut Worker| Ok(fault::fail_turns(lasting));
    model.engine.call(set).unwrap()
}

#[test]
fn an_operation_that_always_fails_ends_its_request_and_lets_others_go_on() {
    let _lock = engine_lock();
    let (broken, healthy) = (load("qwen3-4bit"), load("llama-f32"));
    let (bad, good) = (broken.id, healthy.id);
    let wanted = run(&session(&broken), &prompt(), &exactly(4)).tokens;
    let undisturbed = run(&session(&healthy), &prompt(), &exactly(60)).tokens;
    let mut together = 0;
    for kind in [Kind::Call, Kind::Evaluation] {
        let mut struck = 0;
        for number in 1.. {
            let lasting = Lasting {
                model: bad,
                session: None,
                kind,
                number,
            };
            let trace = || {
                let take = |worker: &mut Worker| Ok(std::mem::take(&mut worker.trace));
                healthy.engine.call(take).unwrap()
            };
            fail_turns(&broken, Some(lasting));
            trace();
            let beside = Arc::new(session(&healthy));
            let steady = submit(beside.clone(), &prompt(), &exactly(60), None).unwrap();
            let given = run(&session(&broken), &prompt(), &exactly(4));
            let (_, outcome) = steady.result(None).unwrap();
            let times = fail_turns(&broken, None);
            let Trace {
                turns, failures, ..
            } = trace();

            outcome.unwrap();
            assert!(
                beside.tokens().unwrap().ends_with(&undisturbed),
                "{kind:?} {number}: the healthy model's tokens changed"
            );
            let last = turns.iter().rposition(|&model| model == good).unwrap();
            let waits = turns[..last].split(|&model| model == good);
            let longest = waits.map(<[u64]>::len).max().unwrap();
            assert!(longest <= 2, "{kind:?} {number}: waited {longest} turns");
            together += usize::from(turns[..last].contains(&bad));
            if times == 0 {
                break;
            }
            if failures.is_empty() {
                // What is only looked up may fail without harm.
                assert_eq!(given.tokens, wanted);
                continue;
            }
            let error = given.result.unwrap_err();
            assert_eq!(error.code, Code::Device, "{kind:?} {number}: {error}");
            let tries = failures.iter().filter(|&&model| model == Some(bad));
            assert!(tries.count() <= 2, "{kind:?} {number}: {failures:?}");
            assert!(failures.len() <= 3, "{kind:?} {number}: {failures:?}");
            struck += 1;
        }
        // A step has an operation for each block, one for the embedding, and few around them.
        let enough = if kind == Kind::Call { 10 } else { 4 };
        assert!(struck >= enough, "{kind:?}: only {struck} were tried");
    }
    assert!(together > 10, "only {together} ran beside each other");
}

/// Calls `then` at the first warning that a step failed, while `work` runs.
fn at_first_failure<T>(then: impl Fn() + Send + Sync + 'static, work: impl FnOnce() -> T) -> T {
    use crate::log::{self, Level};
    let first = std::sync::atomic::AtomicBool::new(true);
    let sink = move |_: Level, line: &str| {
        if line.contains("a step failed") && first.swap(false, std::sync::atomic::Ordering::Relaxed)
        {
            then();
        }
    };
    log::set(Level::Warn, Some(Box::new(sink))).unwrap();
    let outcome = work();
    log::set(Level::Warn, None).unwrap();
    outcome
}

#[test]
fn cancels_and_deadlines_are_looked_at_between_two_tries() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let lasting = Lasting {
        model: model.id,
        session: None,
        kind: Kind::Evaluation,
        number: 2,
    };
    let request = |timeout| {
        let options = GenerateOptions {
            timeout,
            ..exactly(4)
        };
        submit(Arc::new(session(&model)), &prompt(), &options, None).unwrap()
    };
    let stop_of = |request: &Request| {
        let (report, outcome) = request.result(None).unwrap();
        outcome.map(|()| report.stop)
    };

    fail_turns(&model, Some(lasting));
    // Held until the log function knows the request.
    let known = Arc::new(Mutex::new(None::<Arc<Request>>));
    let held = known.lock().unwrap();
    let late = Arc::clone(&known);
    let cancel = move || late.lock().unwrap().as_ref().unwrap().cancel();
    let stop = at_first_failure(cancel, || {
        let mut held = held;
        let request = Arc::new(request(None));
        *held = Some(request.clone());
        drop(held);
        stop_of(&request)
    });
    assert_eq!(stop.unwrap(), Stop::Cancelled);

    let wait = || std::thread::sleep(std::time::Duration::from_millis(300));
    let soon = std::time::Duration::from_millis(250);
    let stop = at_first_failure(wait, || stop_of(&request(Some(soon))));
    assert_eq!(stop.unwrap(), Stop::Timeout);
    fail_turns(&model, None);
}

#[test]
fn a_failure_that_repeats_is_told_once() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let lines = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let lasting = Lasting {
        model: model.id,
        session: None,
        kind: Kind::Evaluation,
        number: 2,
    };
    fail_turns(&model, Some(lasting));
    let counted = lines.clone();
    let sink = move |_: crate::log::Level, line: &str| {
        let told = line.contains("a step failed");
        counted.fetch_add(usize::from(told), std::sync::atomic::Ordering::Relaxed);
    };
    crate::log::set(crate::log::Level::Warn, Some(Box::new(sink))).unwrap();
    for _ in 0..5 {
        let given = run(&session(&model), &prompt(), &exactly(4));
        given.result.unwrap_err();
    }
    crate::log::set(crate::log::Level::Warn, None).unwrap();
    fail_turns(&model, None);
    assert_eq!(lines.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn failures_without_number_are_survived() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let wanted = run(&session(&model), &prompt(), &exactly(4)).tokens;
    // MLX counts some tasks that failed for ever, and waits for them once there are eleven.
    for number in (1..=6).cycle().take(300) {
        let lasting = Lasting {
            model: model.id,
            session: None,
            kind: Kind::Evaluation,
            number,
        };
        fail_turns(&model, Some(lasting));
        run(&session(&model), &prompt(), &exactly(2));
    }
    fail_turns(&model, None);
    assert_eq!(run(&session(&model), &prompt(), &exactly(4)).tokens, wanted);
}
