//! Sessions that are forked, cut and freed in any order never give another token than a fresh session with the same ledger.

use super::*;
use crate::error::Code;
use crate::mlx::fault;
use crate::model::cache::CacheSpec;
use crate::runtime::adapter::Adapter;
use crate::runtime::engine::{set_limits, trim, MemoryLimits, Trim};

/// One of each kind of cache, and what its sessions are made with.
fn cases() -> Vec<(&'static str, SessionOptions)> {
    let all = SessionOptions::default();
    let window = SessionOptions {
        window: 16,
        keep: -1,
        ..all
    };
    let bits = |kv_bits, of: SessionOptions| SessionOptions { kv_bits, ..of };
    vec![
        ("qwen3-4bit", bits(8, all)),
        ("qwen3-4bit", bits(4, window)),
        ("gemma3n-4bit", bits(8, all)),
        ("qwen3_next-4bit", bits(4, all)),
        ("qwen3-f32", all),
        ("qwen3-f32", window),
        ("gemma3-text-f32", all),
        ("gpt_oss-f32", all),
        ("gpt_oss-4bit", bits(8, all)),
        ("lfm2-f32", all),
        ("qwen3_5-f32", all),
        ("nemotron_h-f32", all),
        ("deepseek_v3-f32", all),
        ("gemma3n-f32", all),
    ]
}

/// Numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % most
    }

    fn tokens(&mut self) -> Vec<i32> {
        (0..1 + self.below(12))
            .map(|_| self.below(110) as i32)
            .collect()
    }
}

/// One request, stopped by its reader after so many tokens, against a fresh session that had them as a prompt.
fn goes_on_as_a_fresh_one(session: &Session, options: SessionOptions, random: &mut Random) -> u64 {
    let input = random.tokens();
    let before = session.tokens().unwrap();
    let (n, most) = (1 + random.below(5) as u64, random.below(8));
    let mut tokens = Vec::new();
    let (report, result) = generate(
        session,
        &Input::Tokens(input.clone()),
        &exactly(n),
        &mut |event| {
            if let Event::Text(chunk) = event {
                tokens.extend_from_slice(&chunk.tokens);
            }
            tokens.len() < most.max(1)
        },
    );
    result.unwrap();
    let fresh = Session::new(session.model.clone(), options).unwrap();
    fresh.apply(session.adapters().to_vec()).unwrap();
    let whole = [before.as_slice(), &input].concat();
    let wanted = run(&fresh, &Input::Tokens(whole.clone()), &computed_anew(n));
    wanted.result.unwrap();
    assert_eq!(
        tokens,
        wanted.tokens[..tokens.len()],
        "after {before:?} and {input:?}"
    );
    assert_eq!(session.tokens().unwrap(), [whole, tokens].concat());
    report.cached_tokens
}

/// With what sessions leave behind kept.
fn keeping_lock() -> MutexGuard<'static, ()> {
    let lock = engine_lock();
    prefixes_for_tests::set_limit(None);
    lock
}

/// To a file and back.
fn through_a_file(session: &Session, adapters: &[Arc<Adapter>]) -> Session {
    let (_folder, path) = session_files::place("any-order");
    session_files::save(session, &path).unwrap();
    session_files::restore_with(&session.model, &path, adapters).unwrap()
}

/// A request that is cancelled at some place of it, or before it begins.
fn begin_and_cancel(session: Session, random: &mut Random) -> Session {
    let session = Arc::new(session);
    let input = Input::Tokens(random.tokens());
    let request = submit(session.clone(), &input, &exactly(6), None).unwrap();
    for _ in 0..random.below(4) {
        let _ = request.next(None);
    }
    request.cancel();
    request.result(None).unwrap().1.unwrap();
    drop(request);
    Arc::into_inner(session).expect("nobody else has it")
}

#[test]
fn any_order_of_what_sessions_do_equals_fresh_sessions() {
    let _lock = keeping_lock();
    for (case, options) in cases() {
        let model = load(case);
        let adapters: Vec<Arc<Adapter>> = match case.starts_with("qwen3-") {
            true => (1..3)
                .map(|seed| adapters::adapter(&model, seed, false))
                .collect(),
            false => Vec::new(),
        };
        let mut cached = 0;
        for seed in 0..20 {
            let mut random = Random(seed);
            let mut sessions = vec![Session::new(model.clone(), options).unwrap()];
            for _ in 0..16 {
                let index = random.below(sessions.len());
                match random.below(12) {
                    0 if sessions.len() < 5 => {
                        let fork = sessions[index].fork().unwrap();
                        assert_eq!(fork.tokens(), sessions[index].tokens());
                        sessions.push(fork);
                    }
                    1 => {
                        let held = sessions[index].tokens().unwrap();
                        let keep = random.below(held.len() + 1);
                        sessions[index].truncate(keep).unwrap();
                        assert_eq!(sessions[index].tokens().unwrap(), held[..keep]);
                    }
                    2 if sessions.len() > 1 => drop(sessions.swap_remove(index)),
                    3 => sessions[index] = through_a_file(&sessions[index], &adapters),
                    4 => trim([Trim::Prefixes, Trim::IdleSessions][random.below(2)]).unwrap(),
                    5 => {
                        let strength = [0.5, 1.0][random.below(2)];
                        let applied = adapters.get(random.below(3));
                        let applied = applied.map(|adapter| (adapter.clone(), strength));
                        sessions[index]
                            .apply(applied.into_iter().collect())
                            .unwrap();
                    }
                    6 => {
                        let session = sessions.swap_remove(index);
                        sessions.push(begin_and_cancel(session, &mut random));
                    }
                    7 => {
                        recovery::inject(&model, fault::fail_at, 1 + random.below(40) as u64);
                        goes_on_as_a_fresh_one(&sessions[index], options, &mut random);
                        recovery::inject(&model, fault::fail_at, 0);
                    }
                    _ => cached += goes_on_as_a_fresh_one(&sessions[index], options, &mut random),
                }
            }
        }
        assert!(cached > 100, "{case}: {cached} tokens were reused");
    }
}

#[test]
fn a_prompt_that_another_session_has_is_not_computed_again() {
    let _lock = keeping_lock();
    for (case, options) in cases() {
        let model = load(case);
        let new = || Session::new(model.clone(), options).unwrap();
        let system: Vec<i32> = (0..10).map(|i| 3 + i * 5).collect();
        let ask = |session: &Session, last: i32, options: &GenerateOptions| {
            let input = Input::Tokens([system.as_slice(), &[last, last + 1]].concat());
            let given = run(session, &input, options);
            given.result.unwrap();
            (given.tokens, given.report.cached_tokens)
        };
        let (first, second, third) = (new(), new(), new());
        ask(&first, 7, &exactly(1));
        // A state, and a window that has turned, go back to where they were: the end of the prompt but one token.
        let (tokens, cached) = ask(&second, 7, &exactly(1));
        assert!(cached >= 8, "{case}: {cached} tokens of another session");
        assert_eq!((tokens, 0), ask(&third, 7, &computed_anew(1)), "{case}");
    }
}

#[test]
fn what_is_busy_is_neither_forked_nor_cut() {
    let _lock = keeping_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let mut tried = Vec::new();
    let (_, result) = generate(
        &session,
        &Input::Tokens(vec![1, 2, 3]),
        &exactly(3),
        &mut |_| {
            tried.push(session.fork().err().map(|error| error.code));
            tried.push(session.truncate(0).err().map(|error| error.code));
            true
        },
    );
    result.unwrap();
    assert!(tried.len() >= 4 && tried.iter().all(|code| *code == Some(Code::Busy)));
    let error = session.truncate(7).unwrap_err();
    assert_eq!(error.message, "tokens is 7, and the session holds 6");
    session.message().unwrap();
    session.truncate(6).unwrap();
    session.message().unwrap();
    let fork = session.fork().unwrap();
    assert_eq!(fork.message().unwrap(), session.message().unwrap());
    // The engine comes to it.
    model.engine.call(|_| Ok(())).unwrap();
    assert_eq!(fork.info().kv_tokens, session.info().kv_tokens);
    session.truncate(2).unwrap();
    assert_eq!(session.message().unwrap_err().code, Code::NotFound);
    let held = [&session, &fork].map(|of| of.tokens().unwrap().len());
    assert_eq!(held, [2, 6]);
    // A request that was queued while the fork had the session for a moment begins.
    let session = Arc::new(session);
    let request = submit(session.clone(), &Input::Tokens(vec![5]), &exactly(2), None).unwrap();
    request.result(None).unwrap().1.unwrap();
    session.fork().unwrap();
}

#[test]
fn a_fork_takes_no_memory_before_it_goes_on() {
    let _lock = keeping_lock();
    let model = load("qwen3-f32");
    let session = session(&model);
    let prompt: Vec<i32> = (0..400).map(|i| i % 110).collect();
    let options = GenerateOptions {
        prefill_only: true,
        ..exactly(1)
    };
    run(&session, &Input::Tokens(prompt), &options)
        .result
        .unwrap();
    let active = || crate::mlx::memory::active();
    let before = active();
    let forks: Vec<Session> = (0..8).map(|_| session.fork().unwrap()).collect();
    // Behind what was sent before.
    model.engine.call(|_| Ok(())).unwrap();
    assert_eq!(active(), before);
    let kv = session.info().kv_bytes;
    assert_eq!(forks[7].info().kv_bytes, kv);
    run(&forks[0], &Input::Tokens(vec![1]), &exactly(1))
        .result
        .unwrap();
    assert!(
        active() <= before + kv + kv / 4,
        "one fork took {}",
        active() - before
    );
    drop((session, forks));
    trim(Trim::Prefixes).unwrap();
    assert!(active() <= before - kv);
}

/// How many of a request's tokens were not computed, and its first token.
fn ask(session: &Session, prompt: &[i32]) -> (u64, Vec<i32>) {
    let history = Input::Tokens(prompt.to_vec());
    session.truncate(0).unwrap();
    let given = run(session, &history, &exactly(2));
    given.result.unwrap();
    (given.report.cached_tokens, given.tokens)
}

/// Two histories that have their first ten tokens in common.
fn histories() -> [Vec<i32>; 2] {
    let tail = |from: i32| (0..10).chain((0..30).map(move |i| (from + 3 * i) % 110));
    [tail(11).collect(), tail(50).collect()]
}

#[test]
fn what_a_freed_session_computed_is_used_again() {
    let _lock = keeping_lock();
    for (case, options) in cases() {
        let model = load(case);
        let new = || Session::new(model.clone(), options).unwrap();
        let [one, other] = histories();
        let (cached, tokens) = ask(&new(), &one);
        assert_eq!(cached, 0, "{case}");
        let (cached, again) = ask(&new(), &one);
        assert_eq!((cached, again), (39, tokens), "{case}");
        // A window of 8 or 16 that has dropped tokens and a state go back to marks: where another prompt parted from it.
        let marks = model.kept.iter().any(|(spec, _)| match spec {
            CacheSpec::Tokens(spec) => spec.window.is_some() || options.window > 0,
            CacheSpec::State(_) => true,
        });
        let (cached, _) = ask(&new(), &other);
        assert_eq!(cached, if marks { 0 } else { 10 }, "{case}");
        let third: Vec<i32> = (0..10).chain(80..110).collect();
        assert_eq!(ask(&new(), &third).0, 10, "{case}");
    }
}

#[test]
fn histories_that_take_turns_in_a_session_find_their_tokens() {
    let _lock = keeping_lock();
    for case in ["qwen3-f32", "qwen3_5-f32"] {
        let model = load(case);
        let session = session(&model);
        let [one, other] = histories();
        let first = ask(&session, &one).1;
        let second = ask(&session, &other).1;
        for _ in 0..3 {
            assert_eq!(ask(&session, &one), (39, first.clone()), "{case}");
            assert_eq!(ask(&session, &other), (39, second.clone()), "{case}");
        }
    }
}

/// What a session is that has a beginning of its own, a fork's, a cut one's, or another session's, and what it holds.
fn beginnings(parent: &Session, options: SessionOptions) -> [(&'static str, Session); 3] {
    let held = parent.tokens().unwrap().len();
    let cut = parent.fork().unwrap();
    cut.truncate(held - 3).unwrap();
    let borrows = Session::new(parent.model.clone(), options).unwrap();
    [
        ("fork", parent.fork().unwrap()),
        ("cut", cut),
        ("borrowed", borrows),
    ]
}

#[test]
fn a_prompt_alone_and_its_progress_are_told_whatever_a_session_begins_with() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let model = load(case);
        let parent = Session::new(model.clone(), options).unwrap();
        let start: Vec<i32> = (0..14).map(|i| 3 + i * 7).collect();
        run(&parent, &Input::Tokens(start), &exactly(4))
            .result
            .unwrap();
        let held = parent.tokens().unwrap();
        for (name, session) in beginnings(&parent, options) {
            let before = session.tokens().unwrap();
            let more: Vec<i32> = (0..9).map(|i| 5 + i * 11).collect();
            let input = match before.is_empty() {
                true => [held.as_slice(), &more].concat(),
                false => more,
            };
            let whole = [before.as_slice(), &input].concat();
            let asked = GenerateOptions {
                prefill_only: true,
                progress_tokens: 4,
                ..exactly(1)
            };
            let (mut told, mut others) = (Vec::new(), 0);
            let (report, result) =
                generate(&session, &Input::Tokens(input), &asked, &mut |event| {
                    match event {
                        Event::Progress { done, total } => told.push((done, total)),
                        Event::Text(_) => others += 1,
                    }
                    true
                });
            result.unwrap();
            let computed = report.prompt_tokens - report.cached_tokens;
            assert_eq!(report.prompt_tokens as usize, whole.len(), "{case} {name}");
            assert_eq!((report.generated_tokens, others), (0, 0), "{case} {name}");
            assert_eq!(told.last(), Some(&(computed, computed)), "{case} {name}");
            let steps = told
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[1].0 - pair[0].0 < 8);
            assert!(
                steps && told.iter().all(|&(_, total)| total == computed),
                "{told:?}"
            );
            assert_eq!(session.tokens().unwrap(), whole, "{case} {name}");
            // The same as if it had come at once.
            let given = run(&session, &Input::Tokens(Vec::new()), &exactly(5));
            let fresh = Session::new(model.clone(), options).unwrap();
            let wanted = run(&fresh, &Input::Tokens(whole), &computed_anew(5));
            assert_eq!(given.tokens, wanted.tokens, "{case} {name}");
        }
    }
}

#[test]
fn what_is_kept_counts_and_can_be_let_go() {
    let _lock = keeping_lock();
    let model = load("qwen3-f32");
    let kv = || model.counters.snapshot().kv_bytes;
    let left = || {
        // Behind what was sent before.
        model.engine.call(|_| Ok(())).unwrap();
        kv()
    };
    let [one, other] = histories();
    ask(&session(&model), &one);
    let held = left();
    assert!(held > 0);
    // The same again is kept once.
    ask(&session(&model), &one);
    assert_eq!(left(), held);
    ask(&session(&model), &other);
    assert_eq!(left(), 2 * held);
    trim(Trim::Prefixes).unwrap();
    assert_eq!(kv(), 0);
    assert_eq!(ask(&session(&model), &one).0, 0);
    trim(Trim::Buffers).unwrap();
    assert_eq!(left(), held);

    // A limit lets the oldest go first, and none keeps nothing.
    prefixes_for_tests::set_limit(Some(2 * held));
    ask(&session(&model), &other);
    ask(&session(&model), &one);
    let third: Vec<i32> = (60..100).collect();
    ask(&session(&model), &third);
    assert_eq!(left(), 2 * held);
    assert_eq!(ask(&session(&model), &one).0, 39);
    left();
    assert!(ask(&session(&model), &other).0 <= 10);
    trim(Trim::Prefixes).unwrap();
    prefixes_for_tests::set_limit(Some(0));
    ask(&session(&model), &one);
    assert_eq!(left(), 0);
}

#[test]
fn what_is_kept_goes_first_when_memory_is_short() {
    let _lock = keeping_lock();
    let model = load("qwen3-f32");
    let idle = session(&model);
    let [one, other] = histories();
    ask(&idle, &one);
    ask(&session(&model), &other);
    let used = model
        .engine
        .call(|worker| {
            worker.ready_for(0)?;
            Ok(crate::mlx::memory::active())
        })
        .unwrap();
    let old = crate::mlx::memory::limit();
    let limit = |memory| {
        let limits = MemoryLimits {
            memory: Some(memory),
            ..Default::default()
        };
        set_limits(limits).unwrap();
    };
    limit(used + 1000);
    let kept = |session: &Session| session.info().kv_bytes;
    let before = kept(&idle);
    let short: Vec<i32> = (0..20).map(|i| i * 5 + 5).collect();
    let given = run(&session(&model), &Input::Tokens(short), &exactly(1));
    limit(old);
    given.result.unwrap();
    assert_eq!(kept(&idle), before, "an idle session lost its own");
    assert_eq!(ask(&session(&model), &other).0, 10);
}

#[test]
fn what_an_adapter_computed_goes_with_it() {
    let _lock = keeping_lock();
    let model = load("qwen3-f32");
    let adapter = adapters::adapter(&model, 3, false);
    let with = |adapter: &Arc<Adapter>| {
        let session = session(&model);
        session.apply(vec![(adapter.clone(), 1.0)]).unwrap();
        session
    };
    let [one, _] = histories();
    assert_eq!(ask(&session(&model), &one).0, 0);
    assert_eq!(ask(&with(&adapter), &one).0, 0);
    assert_eq!(ask(&with(&adapter), &one).0, 39);
    model.engine.call(|_| Ok(())).unwrap();
    let held = model.counters.snapshot().kv_bytes;
    drop(adapter);
    model.engine.call(|_| Ok(())).unwrap();
    assert!(model.counters.snapshot().kv_bytes < held);
    assert_eq!(ask(&session(&model), &one).0, 39);
}

#[test]
fn an_answer_is_continued_whatever_a_session_begins_with() {
    let _lock = engine_lock();
    for case in ["qwen3-f32", "llama-f32", "gemma3-text-f32"] {
        let model = load(case);
        let chat = |messages: &str, continue_last| {
            Input::messages(crate::runtime::generate::Conversation {
                messages: messages.to_owned(),
                continue_last,
                ..Default::default()
            })
        };
        let user = r#"{"role":"user","content":"The answer is 17"}"#;
        let parent = session(&model);
        run(&parent, &chat(&format!("[{user}]"), false), &exactly(6))
            .result
            .unwrap();
        let started = format!(r#"[{user},{{"role":"assistant","content":"It is"}}]"#);
        let fresh = session(&model);
        let wanted = run(&fresh, &chat(&started, true), &computed_anew(7));
        wanted.result.unwrap();
        let message = fresh.message().unwrap();
        assert!(message.contains("It is"), "{message}");
        for (name, session) in beginnings(&parent, SessionOptions::default()) {
            let asked = GenerateOptions {
                progress_tokens: 2,
                ..exactly(7)
            };
            let given = run(&session, &chat(&started, true), &asked);
            given.result.unwrap();
            assert_eq!(given.tokens, wanted.tokens, "{case} {name}");
            assert!(given.report.cached_tokens >= 8, "{case} {name}");
            assert_eq!(session.message().unwrap(), message, "{case} {name}");
            assert_eq!(session.tokens(), fresh.tokens(), "{case} {name}");
        }
        // None of it is the parent's.
        assert!(!parent.message().unwrap().contains("It is"));
    }
}
