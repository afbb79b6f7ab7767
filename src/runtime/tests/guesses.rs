//! Tokens that are guessed: they change how fast an answer comes, and nothing of it.

mod prompts;
mod spoilt;

use super::many::{same_as_alone, several, tokens};
use super::session_files::{place, restore_with, save};
use super::*;
use crate::grammar::Kind;
use crate::mlx::Device;
use crate::runtime::options::Drafts;
use crate::runtime::worker::lookup::tests::{self as lookup, Tell};
use crate::runtime::worker::Worker;

/// A text in which much comes twice.
pub(super) fn repetitive(number: usize) -> Input {
    let part = tokens(number, 12);
    Input::Tokens([&part[..], &part, &tokens(number + 50, 5), &part].concat())
}

pub(super) fn with(drafts: Drafts, options: &GenerateOptions) -> GenerateOptions {
    GenerateOptions {
        drafts,
        ..options.clone()
    }
}

/// Tokens and log-probabilities of an answer.
type Said = (Vec<i32>, Vec<u32>);
/// And what is told of it.
type Answer = (Said, Report);

fn said(session: &Session, input: &Input, options: &GenerateOptions) -> Answer {
    let mut given = Said::default();
    let (report, result) = generate(session, input, options, &mut |event| {
        if let Event::Text(chunk) = event {
            given.0.extend_from_slice(&chunk.tokens);
            // On a GPU MLX rounds otherwise with other numbers of rows.
            if crate::mlx::tested() == Device::Cpu {
                let logprobs = chunk.logprobs.iter();
                given.1.extend(logprobs.map(|value| value.to_bits()));
            }
        }
        true
    });
    result.unwrap();
    (given, report)
}

fn answer(
    model: &Arc<Model>,
    session: SessionOptions,
    input: &Input,
    options: &GenerateOptions,
    drafts: Drafts,
) -> Answer {
    let session = Session::new(model.clone(), session).unwrap();
    let answer = said(&session, input, &with(drafts, options));
    // What is left of guesses that were wrong is not in the session.
    let kv = session.info().kv_tokens;
    assert!(
        kv <= session.tokens().unwrap().len() as u64,
        "{kv} tokens are held"
    );
    answer
}

/// With guesses and without: the same tokens and log-probabilities. How many were guessed and right.
pub(super) fn same(
    model: &Arc<Model>,
    session: SessionOptions,
    input: &Input,
    options: &GenerateOptions,
) -> [u64; 2] {
    let wanted = answer(model, session, input, options, Drafts::Off);
    let ways = [Drafts::Usual, Drafts::Most(3), Drafts::Most(1000)];
    same_as(&wanted, &ways, model, session, input, options)
}

fn same_as(
    (wanted, plain): &Answer,
    ways: &[Drafts],
    model: &Arc<Model>,
    session: SessionOptions,
    input: &Input,
    options: &GenerateOptions,
) -> [u64; 2] {
    assert_eq!((plain.drafted, plain.accepted), (0, 0));
    let mut counts = [0; 2];
    for &drafts in ways {
        let (given, report) = answer(model, session, input, options, drafts);
        assert_eq!(given, *wanted, "{drafts:?}");
        assert_eq!(report.stop, plain.stop);
        assert!(report.accepted <= report.drafted);
        counts[0] += report.drafted;
        counts[1] += report.accepted;
    }
    counts
}

#[test]
fn answers_are_those_without_guesses() {
    let _lock = engine_lock();
    let mut all = [0; 2];
    for name in [
        "qwen3-4bit",
        "llama-f32",
        "gemma2-bf16",
        "deepseek_v3-f32",
        "gpt_oss-f32",
        "phi3-f32-longrope",
    ] {
        let model = load(name);
        for number in 0..6 {
            let options = GenerateOptions {
                greedy: number % 2 == 0,
                // Small models say anything; so what was said comes again.
                temperature: Some(0.05),
                seed: number as u64 + 1,
                logprobs: (number == 2).then_some(2),
                presence_penalty: if number == 3 { 0.4 } else { 0.0 },
                ..computed_anew(if number == 4 { 7 } else { 60 })
            };
            let counts = same(
                &model,
                SessionOptions::default(),
                &repetitive(number),
                &options,
            );
            all[0] += counts[0];
            all[1] += counts[1];
        }
    }
    assert!(all[1] > 500, "{} of {} guesses were right", all[1], all[0]);
}

/// States, windows that models have, and windows of sessions: with first tokens that are kept and without, and packed.
const TURNING: [(&str, u32, i32, u32); 17] = [
    ("qwen3_5-f32", 0, 0, 0),
    ("qwen3_5-4bit", 0, 0, 0),
    ("qwen3_next-bf16", 0, 0, 0),
    ("lfm2-f32", 0, 0, 0),
    ("nemotron_h-4bit", 0, 0, 0),
    ("granitemoehybrid-bf16", 0, 0, 0),
    ("kimi_linear-f32", 0, 0, 0),
    ("gemma3-text-f32", 0, 0, 0),
    ("gemma3-text-bf16", 0, 0, 0),
    ("gpt_oss-4bit", 0, 0, 0),
    ("gemma4_text-f32", 0, 0, 0),
    ("laguna-f32", 0, 0, 0),
    ("qwen3-4bit", 24, -1, 0),
    ("qwen3-4bit", 40, -1, 8),
    ("llama-f32", 24, 4, 0),
    ("deepseek_v3-f32", 24, 3, 0),
    ("qwen3_5-f32", 24, 2, 0),
];

fn turning(window: u32, keep: i32, kv_bits: u32) -> SessionOptions {
    SessionOptions {
        window,
        keep,
        kv_bits,
        kv_group_size: if kv_bits > 0 { 32 } else { 0 },
        ..SessionOptions::default()
    }
}

pub(super) fn told(model: &Model, told: Option<Tell>) {
    let tell = move |_: &mut Worker| {
        lookup::TELL.replace(told);
        Ok(())
    };
    model.engine.call(tell).unwrap();
}

/// What is guessed from now on: the answers, but for every so many tokens.
fn tell(model: &Model, answers: &[Answered], wrong: usize) {
    let tell = Tell {
        answers: answers.to_vec(),
        wrong,
        always: true,
    };
    told(model, Some(tell));
}

fn tell_nothing(model: &Model) {
    told(model, None);
}

fn go_plainly(model: &Model, plainly: bool) {
    let set = move |_: &mut Worker| {
        crate::model::fused::COUNT.set((!plainly).then_some(0));
        Ok(())
    };
    model.engine.call(set).unwrap();
}

#[test]
fn states_and_windows_take_guesses_back() {
    let _lock = engine_lock();
    for (name, window, keep, bits) in TURNING {
        let model = load(name);
        let kind = turning(window, keep, bits);
        for plainly in [false, true] {
            go_plainly(&model, plainly);
            let (mut own, mut all) = ([0; 2], [0; 2]);
            let numbers = if plainly { 3..5 } else { 0..5 };
            for number in numbers.clone() {
                let input = repetitive(number);
                let options = GenerateOptions {
                    greedy: number % 2 == 0,
                    temperature: Some(0.05),
                    seed: number as u64 + 1,
                    logprobs: (number != 4).then_some(2),
                    presence_penalty: if number == 3 { 0.4 } else { 0.0 },
                    ..computed_anew(if number == 4 { 7 } else { 70 })
                };
                let wanted = answer(&model, kind, &input, &options, Drafts::Off);
                let same = |ways: &[Drafts]| same_as(&wanted, ways, &model, kind, &input, &options);
                let counts = same(&[Drafts::Usual, Drafts::Most(3), Drafts::Most(1000)]);
                own = [own[0] + counts[0], own[1] + counts[1]];
                let Input::Tokens(prompt) = &input else {
                    unreachable!()
                };
                for wrong in [1, 2, 9] {
                    tell(&model, &[(prompt.clone(), wanted.0 .0.clone())], wrong);
                    // (What is told is as many as may be.)
                    let counts = same(match wrong {
                        2 => &[Drafts::Usual, Drafts::Most(3)],
                        _ => &[Drafts::Usual],
                    });
                    all = [all[0] + counts[0], all[1] + counts[1]];
                    assert!(counts[1] == 0 || wrong > 1, "{name}: {wrong}");
                }
                tell_nothing(&model);
            }
            println!("{name} {window} {keep} {bits}, plainly: {plainly}: {own:?} {all:?}");
            match name {
                // Blocks look at other blocks' windows: none is guessed beyond.
                "gemma4_text-f32" => assert_eq!((own, all), ([0; 2], [0; 2])),
                _ => {
                    let least = 15 * numbers.len() as u64;
                    assert!(all[1] > least && all[0] > 2 * all[1], "{name}: {all:?}");
                }
            }
        }
        go_plainly(&model, false);
    }
}

/// A prompt and its answer.
type Answered = (Vec<i32>, Vec<i32>);

/// What a session says, its fork, and what is made of its file; and each prompt with its answer.
fn story(
    model: &Arc<Model>,
    kind: SessionOptions,
    drafts: Drafts,
    file: &std::path::Path,
) -> (Vec<Said>, Vec<Answered>) {
    let (mut all, mut answers) = (Vec::new(), Vec::new());
    let mut ask = |session: &Session, input: Input, n: u64| {
        let options = GenerateOptions {
            logprobs: Some(1),
            drafts,
            ..exactly(n)
        };
        let (given, _) = said(session, &input, &options);
        let mut prompt = session.tokens().unwrap();
        prompt.truncate(prompt.len() - given.0.len());
        answers.push((prompt, given.0.clone()));
        all.push(given);
    };
    let session = Session::new(model.clone(), kind).unwrap();
    ask(&session, repetitive(1), 33);
    let fork = session.fork().unwrap();
    ask(&session, Input::Tokens(tokens(2, 4)), 21);
    ask(&fork, Input::Tokens(tokens(5, 3)), 18);
    save(&session, file).unwrap();
    ask(&session, Input::Tokens(tokens(3, 30)), 12);
    let length = session.tokens().unwrap().len();
    session.truncate(length - 9).unwrap();
    ask(&session, Input::Tokens(tokens(4, 2)), 20);
    let again = restore_with(model, file, &[]).unwrap();
    ask(&again, Input::Tokens(tokens(6, 2)), 20);
    (all, answers)
}

#[test]
fn sessions_go_on_as_without_guesses() {
    let _lock = engine_lock();
    let (_folder, file) = place("guesses");
    for (name, window, keep, bits) in TURNING {
        let model = load(name);
        let kind = turning(window, keep, bits);
        let (wanted, answers) = story(&model, kind, Drafts::Off, &file);
        for wrong in [2, 5, 9] {
            tell(&model, &answers, wrong);
            let (said, _) = story(&model, kind, Drafts::Usual, &file);
            tell_nothing(&model);
            for (at, (said, wanted)) in said.iter().zip(&wanted).enumerate() {
                assert_eq!(
                    said, wanted,
                    "{name} {window} {keep} {bits}: {wrong}, answer {at}"
                );
            }
        }
    }
}

#[test]
fn states_and_windows_guess_in_passes_of_several() {
    let _lock = engine_lock();
    for (name, window, keep, bits) in TURNING {
        let model = load(name);
        let mut asked = several(&[5, 9, 30, 4], 50);
        let mut answers = Vec::new();
        for (number, asked) in asked.iter_mut().enumerate() {
            asked.input = repetitive(number);
            asked.session = match number {
                3 => SessionOptions::default(),
                _ => turning(window, keep, bits),
            };
            let Input::Tokens(prompt) = &asked.input else {
                unreachable!()
            };
            let plain = with(Drafts::Off, &asked.options);
            let answer = run(&asked.session(&model), &asked.input, &plain);
            answers.push((prompt.clone(), answer.tokens));
        }
        for wrong in [2, 7] {
            tell(&model, &answers, wrong);
            let pass = same_as_alone(&model, &asked, name);
            tell_nothing(&model);
            assert!(pass >= 3, "{name}: {pass} shared a pass");
        }
    }
}

/// Answers end where they would, in the middle of what was guessed right.
#[test]
fn ends_are_found_among_guesses() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let wanted = run(
        &session(&model),
        &repetitive(2),
        &with(Drafts::Off, &computed_anew(60)),
    )
    .tokens;
    for at in 1..40 {
        let most = computed_anew(at);
        same(&model, SessionOptions::default(), &repetitive(2), &most);
        let stop = GenerateOptions {
            stop_tokens: vec![wanted[at as usize]],
            ..computed_anew(60)
        };
        same(&model, SessionOptions::default(), &repetitive(2), &stop);
    }
    // And the next request of the session goes on from what was said.
    let going_on = |drafts| {
        let session = session(&model);
        let mut all = run(&session, &repetitive(2), &with(drafts, &exactly(33))).tokens;
        let more = Input::Tokens(tokens(2, 4));
        all.extend(run(&session, &more, &with(drafts, &exactly(20))).tokens);
        all
    };
    assert_eq!(going_on(Drafts::Usual), going_on(Drafts::Off));
}

#[test]
fn guesses_share_passes() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let mut asked = several(&[5, 9, 30, 4], 60);
    for (number, asked) in asked.iter_mut().enumerate() {
        asked.input = repetitive(number);
        asked.options.temperature = Some(0.05);
    }
    assert!(same_as_alone(&model, &asked, "guesses") >= 3);
}

/// What is drawn is what the grammar allows there, also behind guesses, and what it forces comes as it does without.
#[test]
fn grammars_hold_behind_guesses() {
    let _lock = engine_lock();
    let mut all = [0; 2];
    for (model, logprobs) in [
        (load("qwen3-4bit"), None),
        (load_with_draft("qwen3-4bit", Some("qwen3-f32")), Some(1)),
    ] {
        let schema = r#"{"type": "array", "minItems": 6, "maxItems": 9, "items": {"enum": ["abcab", "abc", 12, 121212, true]}}"#;
        let lark = "start: (\"abcabc\" | \"ab\" | /[a-c]{3}/)+";
        for (kind, source) in [(Kind::JsonSchema, schema), (Kind::Lark, lark)] {
            let grammar = Arc::new(model.compile_grammar(kind, source, None).unwrap());
            for number in 0..4 {
                let options = GenerateOptions {
                    greedy: number % 2 == 0,
                    temperature: Some(0.4),
                    seed: number as u64 + 1,
                    grammar: Some(grammar.clone()),
                    ignore_eos: false,
                    presence_penalty: if number == 3 { 0.4 } else { 0.0 },
                    logprobs,
                    ..computed_anew(60)
                };
                let text = Input::Text {
                    text: "[\"abcab\", \"abcab\", 121212, \"abc\", \"abcab\", ".into(),
                    no_bos: false,
                    special_as_text: false,
                };
                for input in [text, repetitive(number)] {
                    let counts = same(&model, SessionOptions::default(), &input, &options);
                    all[0] += counts[0];
                    all[1] += counts[1];
                }
            }
        }
    }
    assert!(all[1] > 100, "{} of {} guesses were right", all[1], all[0]);
}

/// Seconds of CPU time of this process.
fn cpu_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours to be filled.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(outcome, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds of CPU time of a token without guesses, with such as are never right, with the answer guessed but for every fourth token, and
/// without fault: as lines of JSON. MLXRT_BENCH_MODEL names the folder. (On one core, where nobody waits for anybody: `taskset`.)
#[test]
#[ignore = "a measurement"]
fn what_guesses_cost() {
    let _lock = engine_lock();
    let number = |name: &str, usual: usize| -> usize {
        let given = std::env::var(name).ok();
        given.map_or(usual, |given| given.parse().unwrap())
    };
    let (length, count) = (
        number("MLXRT_BENCH_PROMPT", 600),
        number("MLXRT_BENCH_TOKENS", 256),
    );
    let rounds = number("MLXRT_BENCH_ROUNDS", 3);
    let folder = std::env::var("MLXRT_BENCH_MODEL").unwrap();
    let model = Arc::new(load_folder(folder.as_ref(), None).unwrap());
    let prompt: Vec<i32> = (0..length).map(|at| (at * 7919 % 50_000) as i32).collect();
    let options = with(Drafts::Off, &exactly(count as u64));
    // The prompt is taken in once, but for its last token.
    let (begun, last) = (
        session(&model),
        Input::Tokens(prompt[length - 1..].to_vec()),
    );
    let most = Input::Tokens(prompt[..length - 1].to_vec());
    let prefill = GenerateOptions {
        prefill_only: true,
        ..exactly(1)
    };
    run(&begun, &most, &prefill).result.unwrap();
    let answer = run(&begun.fork().unwrap(), &last, &options).tokens;
    let names = ["off", "wrong", "one of four wrong", "right"];
    let kinds = names
        .into_iter()
        .zip([None, Some(1), Some(4), Some(usize::MAX)]);
    let mut best = [(f64::INFINITY, 0, 0); 4];
    for _ in 0..rounds {
        for ((_, wrong), best) in kinds.clone().zip(&mut best) {
            let tell = Tell {
                answers: vec![(prompt.clone(), answer.clone())],
                wrong: wrong.unwrap_or(1),
                always: false,
            };
            told(&model, Some(tell));
            let drafts = wrong.map_or(Drafts::Off, |_| Drafts::Usual);
            let (fork, before) = (begun.fork().unwrap(), cpu_time());
            let given = run(&fork, &last, &with(drafts, &options));
            let time = (cpu_time() - before) / count as f64;
            given.result.unwrap();
            assert_eq!(given.tokens, answer);
            if time < best.0 {
                *best = (time, given.report.drafted, given.report.accepted);
            }
        }
    }
    told(&model, None);
    let off = best[0].0;
    for ((name, _), (time, drafted, accepted)) in kinds.zip(best) {
        let row = serde_json::json!({ "guesses": name, "s": time, "by_off": time / off, "drafted": drafted, "accepted": accepted });
        println!("{row}");
    }
}
