//! Sessions on models whose layers have windows: once these have turned they go back to marks only, and never give another token
//! for it.

use super::sessions::{messages, second, FIRST};
use super::*;
use crate::mlx::memory;
use crate::runtime::engine::{trim, Trim};

/// Sliding layers beside full ones, and a session's own window over all; plain and packed.
fn cases() -> Vec<(&'static str, SessionOptions)> {
    let all = SessionOptions::default();
    let window = SessionOptions {
        window: 16,
        keep: -1,
        ..all
    };
    let packed = SessionOptions { kv_bits: 8, ..all };
    vec![
        ("gemma3-text-f32", all),
        ("gpt_oss-f32", all),
        ("gpt_oss-4bit", packed),
        ("exaone4-f32", all),
        ("qwen3-f32", window),
    ]
}

/// What ends a turn.
const END: i32 = 99;

fn turn(n: i32, seed: i32) -> Vec<i32> {
    let tokens = (0..n).map(|i| 3 + (seed * 31 + i * 7) % 90);
    tokens.chain([END]).collect()
}

/// Tokens that a history is answered with, and how many of it were not computed; compared with a session of its own.
fn answer(session: &Session, options: SessionOptions, turns: &[&[i32]]) -> (Vec<i32>, usize) {
    let history = [&turns.concat(), [2, 1].as_slice()].concat();
    let with = |options: GenerateOptions| GenerateOptions {
        stop_tokens: vec![END],
        ..options
    };
    session.truncate(0).unwrap();
    let input = Input::Tokens(history);
    let given = run(session, &input, &with(exactly(12)));
    given.result.unwrap();
    let fresh = Session::new(session.model.clone(), options).unwrap();
    let wanted = run(&fresh, &input, &with(computed_anew(12)));
    wanted.result.unwrap();
    assert_eq!(given.tokens, wanted.tokens);
    (given.tokens, given.report.cached_tokens as usize)
}

fn of_case(case: &str, options: SessionOptions) -> impl Fn() -> Session {
    let model = load(case);
    move || Session::new(model.clone(), options).unwrap()
}

#[test]
fn sessions_share_instructions_that_turned_the_window() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let new = of_case(case, options);
        let system = turn(40, 1);
        let ask = |session: &Session, question: i32| {
            answer(session, options, &[&system, &turn(9, question)]).1
        };
        let (first, second) = (new(), new());
        assert_eq!(ask(&first, 2), 0, "{case}");
        assert_eq!(ask(&second, 3), system.len(), "{case}");
        assert_eq!(ask(&new(), 4), system.len(), "{case}");
        // One's answer made again, and its question asked by another.
        let whole = system.len() + 10 + 1;
        assert_eq!(ask(&first, 2), whole, "{case}");
        assert_eq!(ask(&second, 2), whole, "{case}");
    }
}

/// Where nothing tells the turns apart: the second session that leaves the first one's tokens remembers where.
#[test]
fn where_two_prompts_part_a_third_goes_on() {
    let _lock = engine_lock();
    for case in ["gemma3-text-f32", "gpt_oss-f32", "qwen3_5-f32"] {
        let options = SessionOptions::default();
        let new = of_case(case, options);
        let system = turn(40, 1);
        let system = &system[..40];
        let ask = |session: &Session, question: i32| {
            answer(session, options, &[system, &[question], &turn(9, 5)[..9]]).1
        };
        let sessions = [new(), new(), new()];
        assert_eq!(ask(&sessions[0], 11), 0, "{case}");
        assert_eq!(ask(&sessions[1], 12), 0, "{case}");
        assert_eq!(ask(&sessions[2], 13), 40, "{case}");
        assert_eq!(ask(&sessions[2], 11), 51, "{case}");
        assert_eq!(ask(&new(), 14), 40, "{case}");
    }
}

#[test]
fn a_turn_is_taken_back_and_another_one_asked() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let session = of_case(case, options)();
        let (system, question) = (turn(30, 1), turn(12, 2));
        let first = answer(&session, options, &[&system, &question]).0;
        let reply = [&first, [END].as_slice()].concat();
        let turns = [&system, &question, &reply];
        let before = turns.map(|turn| turn.len()).iter().sum::<usize>();
        let ask = |last: i32, n: i32| {
            let last = turn(n, last);
            let all = [&turns[..], &[&last]].concat();
            let all: Vec<&[i32]> = all.iter().map(|turn| turn.as_slice()).collect();
            answer(&session, options, &all).1
        };
        // The history leaves out what the answer was asked for with: so from where the turn before began.
        assert_eq!(ask(3, 9), system.len(), "{case}");
        // The last message is edited, again and again; then asked again.
        assert_eq!(ask(4, 20), before, "{case}");
        assert_eq!(ask(5, 33), before, "{case}");
        assert_eq!(ask(5, 33), before + 35, "{case}");
        // A fork has the marks, and leaves the other's alone.
        let fork = session.fork().unwrap();
        let asked = |session: &Session, last: i32| {
            let all = [&system[..], &question, &reply, &turn(7, last)];
            answer(session, options, &all).1
        };
        assert_eq!(asked(&fork, 6), before, "{case}");
        assert_eq!(asked(&session, 7), before, "{case}");
        // Taken back by hand.
        session.truncate(before + 3).unwrap();
        let whole = session.tokens().unwrap();
        let more = Input::Tokens(turn(6, 8));
        let given = run(&session, &more, &exactly(8));
        given.result.unwrap();
        assert_eq!(given.report.cached_tokens as usize, before, "{case}");
        let fresh = Session::new(session.model.clone(), options).unwrap();
        let input = Input::Tokens([whole, turn(6, 8)].concat());
        assert_eq!(given.tokens, run(&fresh, &input, &computed_anew(8)).tokens);
    }
}

#[test]
fn a_chat_goes_on_from_the_prompt_before() {
    let _lock = engine_lock();
    for (case, options) in cases() {
        let session = of_case(case, options)();
        let ask = |json: &str| {
            let given = run(&session, &messages(json), &exactly(12));
            given.result.unwrap();
            let fresh = Session::new(session.model.clone(), options).unwrap();
            let wanted = run(&fresh, &messages(json), &computed_anew(12));
            assert_eq!(given.tokens, wanted.tokens, "{case}: {json}");
            let prompt = session.tokens().unwrap().len() as u64 - 12;
            (given.report.cached_tokens, prompt)
        };
        let (cached, first) = ask(FIRST);
        assert_eq!(cached, 0, "{case}");
        assert_eq!(ask(FIRST).0, first - 1, "{case}");
        let history = second(&session);
        let (cached, _) = ask(&history);
        assert!(cached >= first - 1, "{case}: {cached} of {first}");
        let (again, prompt) = ask(&history);
        assert_eq!(again, prompt - 1, "{case}");
        let edited = ask(&history.replace("Why?", "And what is twice that?")).0;
        assert!(edited >= first - 1, "{case}: {edited} of {first}");
    }
}

/// Of a window that keeps its first tokens, which depend on how they were filled once it has turned: what was before that.
#[test]
fn first_tokens_that_are_kept_leave_the_marks_before_the_turn() {
    let _lock = engine_lock();
    let options = SessionOptions {
        window: 100,
        keep: 4,
        ..SessionOptions::default()
    };
    let model = load("qwen3-f32");
    let session = Session::new(model.clone(), options).unwrap();
    let ask = |session: &Session, json: &str, n: u64| {
        let given = run(session, &messages(json), &exactly(n));
        given.result.unwrap();
        let fresh = Session::new(model.clone(), options).unwrap();
        let wanted = run(&fresh, &messages(json), &computed_anew(n));
        assert_eq!(given.tokens, wanted.tokens, "{json}");
        let prompt = session.tokens().unwrap().len() as u64 - n;
        (given.report.cached_tokens, prompt)
    };
    let (cached, prompt) = ask(&session, FIRST, 120);
    assert!(cached == 0 && prompt < 90, "{prompt}");
    assert_eq!(ask(&session, FIRST, 120), (prompt - 1, prompt));
    let other = Session::new(model.clone(), options).unwrap();
    assert_eq!(ask(&other, FIRST, 4), (prompt - 1, prompt));
    let history = second(&session);
    assert_eq!(ask(&session, &history, 3).0, prompt - 1);
    // In a full window nothing is marked.
    let (cached, whole) = ask(&session, &history, 3);
    assert!(whole > 100 && cached < prompt);
}

/// A mark costs nothing before the window turns, a window then, and goes before anything that is in use.
#[test]
fn marks_count_and_go_first() {
    let _lock = engine_lock();
    let options = SessionOptions {
        window: 200,
        keep: -1,
        ..SessionOptions::default()
    };
    let model = load("qwen3-f32");
    let new = || Session::new(model.clone(), options).unwrap();
    let ask = |session: &Session, turns: &[&[i32]]| answer(session, options, turns).1;
    let session = new();
    ask(&session, &[&turn(60, 1), &turn(60, 2)]);
    let full = session.info().kv_bytes;
    ask(&session, &[&turn(60, 1), &turn(60, 2), &turn(20, 3)]);
    assert_eq!(session.info().kv_bytes, full);
    let token = full / 200;
    // Two marks, which are no more than a window each.
    let turns = [&turn(60, 1)[..], &turn(60, 2), &turn(160, 3), &turn(100, 4)];
    ask(&session, &turns);
    let bytes = session.info().kv_bytes;
    assert_eq!(bytes, 3 * 200 * token);
    let active = || {
        // Behind what was sent before.
        model.engine.call(|_| Ok(())).unwrap();
        memory::active()
    };
    assert!(active() >= bytes);
    // Another session takes the memory of marks, and not of what they are marks of.
    trim(Trim::Prefixes).unwrap();
    let limit = memory::limit();
    memory::set_limit(active() + 150 * token).unwrap();
    let other = new();
    let given = run(&other, &Input::Tokens(turn(120, 7)), &exactly(2));
    memory::set_limit(limit).unwrap();
    given.result.unwrap();
    assert_eq!(session.info().kv_bytes, 200 * token);
    assert_eq!(session.info().kv_tokens, 397);
    assert_eq!(ask(&session, &turns), 0);
    drop((other, session));
    // And of a request its own go before it is refused.
    let tight = SessionOptions {
        kv_limit: 2 * 200 * token,
        ..options
    };
    let session = Session::new(model.clone(), tight).unwrap();
    for _ in 0..2 {
        answer(&session, tight, &turns);
        assert!(session.info().kv_bytes <= tight.kv_limit);
    }
}
