//! Sessions that are forked, cut and freed in any order never give another token than a fresh session with the same ledger.

use super::*;
use crate::error::Code;

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

#[test]
fn any_order_of_requests_forks_and_cuts_equals_fresh_sessions() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let model = load(case);
        let mut cached = 0;
        for seed in 0..12 {
            let mut random = Random(seed);
            let mut sessions = vec![Session::new(model.clone(), options).unwrap()];
            for _ in 0..12 {
                let index = random.below(sessions.len());
                match random.below(6) {
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
                    _ => cached += goes_on_as_a_fresh_one(&sessions[index], options, &mut random),
                }
            }
        }
        assert!(cached > 100, "{case}: {cached} tokens were reused");
    }
}

#[test]
fn a_prompt_that_another_session_has_is_not_computed_again() {
    let _lock = engine_lock();
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
        // A state goes back to where it was: the end of the prompt but one token.
        let (tokens, cached) = ask(&second, 7, &exactly(1));
        // A window of 8 has dropped some of them.
        let lost = case.starts_with("gemma3n") && cached == 0;
        assert!(
            cached >= 8 || lost,
            "{case}: {cached} tokens of another session"
        );
        assert_eq!((tokens, 0), ask(&third, 7, &computed_anew(1)), "{case}");
    }
}

#[test]
fn what_is_busy_is_neither_forked_nor_cut() {
    let _lock = engine_lock();
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
    let _lock = engine_lock();
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
    model.engine.call(|_| Ok(())).unwrap();
    assert!(active() <= before - kv);
}
