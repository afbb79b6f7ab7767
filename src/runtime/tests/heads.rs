//! Heads that predict further tokens: what they say is what a reference says, and they change how fast an answer comes, and nothing of
//! it. tests/fixtures/mtp.py makes them, for folders of other fixtures.

use safetensors::SafeTensors;

use super::drafts::survives_faults;
use super::guesses::{repetitive, same, told, with};
use super::many::{same_as_alone, several, tokens};
use super::parity::{argmax, bound, f32s, farthest, fixtures, i32s, json};
use super::saving::{load_from, tensors, Folder};
use super::session_files::{place, restore_with, save};
use super::*;
use crate::grammar::Kind;
use crate::kernels::Kernels;
use crate::mlx::{self, ops, Array};
use crate::model::{AdapterSet, Cache, Decoder, Rows, Segment};
use crate::runtime::model::decoder_for_tests;
use crate::runtime::model_save;
use crate::runtime::options::Drafts;
use crate::runtime::worker::lookup::tests::Tell;

/// A fixture's folder with a head beside it: a file of mtp/.
fn folder(case: &str, head: &str) -> Folder {
    let folder = Folder::new(&format!("head-{head}"));
    std::fs::create_dir(&folder.0).unwrap();
    for entry in std::fs::read_dir(fixtures().join("models").join(case)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // It does not know of the head.
        if !name.starts_with("expected") && !name.ends_with(".index.json") {
            std::fs::copy(&path, folder.0.join(name)).unwrap();
        }
    }
    let head = fixtures().join("mtp").join(format!("{head}.safetensors"));
    std::fs::copy(head, folder.0.join("model-mtp.safetensors")).unwrap();
    folder
}

/// A model whose blocks add nothing, so that a token says what comes next, and a head that is right about it, or at times.
fn knowing(case: &str, often: &str) -> Arc<Model> {
    load_from(&knowing_folder(case, often).0)
}

fn knowing_folder(case: &str, often: &str) -> Folder {
    let folder = folder(case, &format!("{case}-{often}"));
    let path = folder.0.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    for (name, info) in metadata.tensors() {
        if ["o_proj", "out_proj", "down_proj"]
            .iter()
            .any(|part| name.ends_with(&format!("{part}.weight")))
        {
            let (start, end) = info.data_offsets;
            bytes[8 + header + start..8 + header + end].fill(0);
        }
    }
    std::fs::write(&path, bytes).unwrap();
    folder
}

fn with_head(case: &str) -> Arc<Model> {
    load_from(&folder(case, case).0)
}

fn to_f32(x: &Array) -> Vec<f32> {
    let wide = ops::astype(x, crate::dtype::Dtype::F32).unwrap();
    wide.to_f32().unwrap()
}

/// Logits of the tokens behind the first, `[n - 1, vocab]`: of those behind `prompt` by what came out of the head itself.
fn head_logits(decoder: &mut Decoder, tokens: &[i32], prompt: usize) -> Vec<f32> {
    let head = decoder.take_ahead().unwrap();
    let none = AdapterSet::default();
    let mut caches = decoder.make_caches(None, 0);
    let first = Array::from_i32(&tokens[..prompt]).unwrap();
    let mut hidden = decoder
        .forward(&first, &mut caches, Rows::All, &none)
        .unwrap();
    let mut own: Vec<Cache> = head.make_caches(None, 0);
    let (mut all, mut at) = (Vec::new(), 1);
    while at < tokens.len() {
        let n = if at == 1 { prompt } else { 1 };
        let some = Array::from_i32(&tokens[at..at + n]).unwrap();
        let n = i32::try_from(n).unwrap();
        let mut segments = [Segment {
            rows: n,
            wanted: n,
            caches: &mut own,
            adapters: &none,
        }];
        let next = head
            .next_rows_ahead(&some, (&hidden, at > 1), &mut segments)
            .unwrap();
        let (logits, next) = (&next.logits.all, next.hidden.unwrap());
        mlx::eval(&[logits, &next]).unwrap();
        all.extend(to_f32(logits));
        let width = next.dim(2);
        hidden = ops::slice(&next, &[0, n - 1, 0], &[1, n, width]).unwrap();
        at += usize::try_from(n).unwrap();
    }
    all
}

#[test]
fn heads_say_what_the_reference_says() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    let cases = json("mtp.json");
    for (case, kernels) in cases
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|case| [(case, false), (case, true)])
    {
        let name = case["folder"].as_str().unwrap();
        let prompt = case["prompt"].as_u64().unwrap() as usize;
        let file = fixtures().join(format!("mtp/{name}-expected.safetensors"));
        let bytes = std::fs::read(file).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (tokens, wanted) = (i32s(&expected, "tokens"), f32s(&expected, "logits"));
        let folder = folder(name, name);
        let path = folder.0.to_str().unwrap();
        mlx::enter(mlx::Device::Cpu).unwrap();
        if kernels {
            mlx::fast::start(Kernels::new(2));
        }
        let (mut decoder, _) = decoder_for_tests(path, false).unwrap();
        let given = head_logits(&mut decoder, &tokens, prompt);
        drop(decoder);
        mlx::leave();
        let far = farthest(&given, &wanted);
        // In 16 bits the kernels round less often than the reference.
        let most = match (name.contains("f32"), kernels) {
            (true, _) => bound("f32"),
            (false, kernels) => bound("bf16") * if kernels { 2.0 } else { 1.0 },
        };
        assert!(far <= most, "{name}, kernels: {kernels}: {far}");
    }
}

fn options(number: usize, n: u64) -> GenerateOptions {
    GenerateOptions {
        greedy: number.is_multiple_of(2),
        temperature: Some(0.8),
        seed: number as u64 + 1,
        logprobs: (number == 2).then_some(2),
        presence_penalty: if number == 3 { 0.4 } else { 0.0 },
        bias: match number {
            5 => vec![(3, 0.5), (90, -2.0)],
            _ => Vec::new(),
        },
        ..computed_anew(n)
    }
}

#[test]
fn answers_are_those_without_a_head() {
    let _lock = engine_lock();
    for name in [
        "qwen3_5-f32",
        "qwen3_5-f32-text",
        "qwen3_5-4bit",
        "qwen3_5_moe-f32",
        "qwen3_next-f32",
        "qwen3_next-4bit",
        "deepseek_v3-f32",
        "deepseek_v3-4bit",
        "glm4_moe-f32",
        "glm4_moe_lite-f32",
    ] {
        let model = with_head(name);
        let mut guessed = 0;
        for number in 0..6 {
            let options = options(number, if number == 4 { 7 } else { 60 });
            let input = match number {
                0 | 1 => Input::Tokens(tokens(number, 40)),
                // Several chunks.
                2 => Input::Tokens(tokens(number, 300)),
                _ => repetitive(number),
            };
            let [drafted, _] = same(&model, SessionOptions::default(), &input, &options);
            guessed += drafted;
        }
        println!("{name}: {guessed} were guessed");
        assert!(guessed > 1000, "{name}: {guessed} were guessed");
    }
}

/// How many of its guesses were right, and how many there were.
fn right(session: &Session, input: &Input, options: &GenerateOptions) -> [u64; 2] {
    let given = run(session, input, options);
    given.result.unwrap();
    [given.report.accepted, given.report.drafted]
}

/// Nothing is guessed by what stood before, in answers to this.
fn nothing_behind(prompt: Vec<i32>) -> Tell {
    Tell {
        answers: vec![(prompt, Vec::new())],
        wrong: 1,
        always: true,
    }
}

const KNOWING: [&str; 3] = ["qwen3_5-f32", "deepseek_v3-f32", "glm4_moe-f32"];

/// It draws as the request does: where it is right about what comes, all of its guesses are, at any temperature.
#[test]
fn a_head_that_knows_is_right() {
    let _lock = engine_lock();
    for name in KNOWING {
        let model = knowing(name, "right");
        for temperature in [0.0, 0.7, 1.5] {
            let options = GenerateOptions {
                greedy: temperature == 0.0,
                temperature: Some(temperature),
                seed: 5,
                frequency_penalty: 0.3,
                ..with(Drafts::Most(4), &computed_anew(80))
            };
            let prompt = tokens(3, 9);
            let input = Input::Tokens(prompt.clone());
            told(&model, Some(nothing_behind(prompt)));
            let [right, guessed] = right(&session(&model), &input, &options);
            told(&model, None);
            assert!(
                guessed > 50 && 10 * right > 8 * guessed,
                "{name} at {temperature}: {right} of {guessed}"
            );
            let off = with(Drafts::Off, &options);
            assert_eq!(super::heads::right(&session(&model), &input, &off), [0, 0]);
        }
    }
}

#[test]
fn some_of_what_it_says_is_right() {
    let _lock = engine_lock();
    let model = knowing("qwen3_5-f32", "at-times");
    let mut all = [0; 2];
    for number in 0..8 {
        let input = Input::Tokens(tokens(number, 20 + 9 * number));
        let counts = same(
            &model,
            SessionOptions::default(),
            &input,
            &options(number, 60),
        );
        all = [all[0] + counts[0], all[1] + counts[1]];
    }
    let [guessed, right] = all;
    assert!(
        right > 100 && guessed > right + 100,
        "{right} of {guessed} were right"
    );
}

/// In answers that go on from prompts of every kind it has for each token what the model made of the one before: as many guesses are
/// right as when all of it is computed at once.
#[test]
fn it_sees_what_the_model_made_of_each_token() {
    let _lock = engine_lock();
    let mut all = [0; 2];
    for name in KNOWING {
        let folder = knowing_folder(name, "at-times");
        let model = load_from(&folder.0);
        for (number, length) in [(1, 3), (2, 30), (3, 100), (4, 301)] {
            let prompt = tokens(number, length);
            told(&model, Some(nothing_behind(prompt.clone())));
            let wanted = 60;
            let options = with(Drafts::Most(1), &computed_anew(wanted as u64));
            let given = run(&session(&model), &Input::Tokens(prompt.clone()), &options);
            given.result.unwrap();
            told(&model, None);
            mlx::install_error_handler();
            let path = folder.0.to_str().unwrap();
            let sequence = [prompt.as_slice(), &given.tokens].concat();
            let said = std::thread::scope(|scope| {
                let own = || {
                    mlx::enter(mlx::Device::Cpu).unwrap();
                    let (mut decoder, vocab) = decoder_for_tests(path, false).unwrap();
                    let rows = head_logits(&mut decoder, &sequence, sequence.len() - 1);
                    drop(decoder);
                    mlx::leave();
                    rows.chunks_exact(vocab).map(argmax).collect::<Vec<i32>>()
                };
                scope.spawn(own).join().unwrap()
            });
            let (mut end, mut counts) = (prompt.len() + 1, [0; 2]);
            // (The last token takes no guess.)
            while sequence.len() - end > 1 {
                counts[1] += 1;
                let right = said[end - 2] == sequence[end];
                counts[0] += u64::from(right);
                end += 1 + usize::from(right);
            }
            let report = given.report;
            assert_eq!(
                [report.accepted, report.drafted],
                counts,
                "{name} behind {length} tokens"
            );
            all = [all[0] + counts[0], all[1] + counts[1]];
        }
    }
    let [right, guessed] = all;
    assert!(
        right > 50 && guessed > right + 50,
        "{right} of {guessed} were right"
    );
}

#[test]
fn heads_share_passes() {
    let _lock = engine_lock();
    for model in [
        knowing("qwen3_5-f32", "at-times"),
        with_head("qwen3_next-f32"),
        with_head("deepseek_v3-4bit"),
    ] {
        let mut asked = several(&[5, 9, 30, 4], 60);
        assert!(same_as_alone(&model, &asked, "heads") >= 3);
        for asked in &mut asked {
            asked.options.drafts = Drafts::Most(3);
        }
        assert!(same_as_alone(&model, &asked, "heads") >= 3);
    }
}

#[test]
fn a_grammar_is_followed() {
    let _lock = engine_lock();
    for model in [
        knowing("qwen3_5-f32", "at-times"),
        with_head("glm4_moe-f32"),
    ] {
        let source = "start: (\"abcabc\" | \"ab\" | /[a-c]{3}/)+";
        let grammar = Arc::new(model.compile_grammar(Kind::Lark, source, None).unwrap());
        let mut guessed = 0;
        for number in 0..4 {
            let options = GenerateOptions {
                grammar: Some(grammar.clone()),
                ignore_eos: false,
                ..options(number, 50)
            };
            let input = Input::Tokens(tokens(number, 12));
            let counts = same(&model, SessionOptions::default(), &input, &options);
            guessed += counts[0];
        }
        assert!(guessed > 20, "{guessed} were guessed");
    }
}

/// What a session says, its fork, what is left of it behind a cut, and what is made of its file; and how many guesses were right.
fn story(model: &Arc<Model>, drafts: Drafts) -> (Vec<Vec<i32>>, Vec<[u64; 2]>) {
    let (_folder, file) = place("heads");
    let (mut said, mut counts) = (Vec::new(), Vec::new());
    let mut ask = |session: &Session, input: Input, n: u64| {
        let given = run(session, &input, &with(drafts, &exactly(n)));
        given.result.unwrap();
        said.push(given.tokens);
        counts.push([given.report.accepted, given.report.drafted]);
    };
    let first = session(model);
    ask(&first, Input::Tokens(tokens(1, 70)), 33);
    let fork = first.fork().unwrap();
    ask(&first, Input::Tokens(tokens(2, 4)), 21);
    ask(&fork, Input::Tokens(tokens(5, 3)), 18);
    save(&first, &file).unwrap();
    ask(&first, Input::Tokens(tokens(3, 30)), 12);
    let length = first.tokens().unwrap().len();
    first.truncate(length - 9).unwrap();
    ask(&first, Input::Tokens(tokens(4, 2)), 20);
    let again = restore_with(model, &file, &[]).unwrap();
    ask(&again, Input::Tokens(tokens(6, 2)), 20);
    // Of a session that was computed without guesses the head knows nothing.
    let plain = session(model);
    run(&plain, &repetitive(2), &with(Drafts::Off, &exactly(20)))
        .result
        .unwrap();
    ask(&plain, Input::Tokens(tokens(8, 2)), 20);
    (said, counts)
}

#[test]
fn heads_follow_sessions() {
    let _lock = engine_lock();
    for name in KNOWING {
        let model = knowing(name, "right");
        let (wanted, _) = story(&model, Drafts::Off);
        for drafts in [Drafts::Usual, Drafts::Most(3)] {
            let (said, counts) = story(&model, drafts);
            assert_eq!(said, wanted, "{name}");
            // Whatever it lost, it guesses on.
            let most = matches!(drafts, Drafts::Most(_));
            let well = |[right, guessed]: &[u64; 2]| *guessed > 4 && 10 * right > 7 * guessed;
            assert!(!most || counts.iter().all(well), "{name}: {counts:?}");
        }
        let model = with_head(name);
        let (wanted, _) = story(&model, Drafts::Off);
        assert_eq!(story(&model, Drafts::Most(3)).0, wanted, "{name}");
    }
}

/// What fails in a step of the head is tried again, and the answer is the same.
#[test]
fn a_fault_at_any_call_is_survived_with_the_same_answer() {
    let _lock = engine_lock();
    let model = knowing("qwen3_5-f32", "at-times");
    survives_faults(&model, 40);
}

/// Nothing of a head is needed: its keys and values are within the session's limit, or it says nothing.
#[test]
fn a_head_keeps_to_the_limit_of_its_session() {
    let _lock = engine_lock();
    for name in ["qwen3_5-f32", "deepseek_v3-f32"] {
        let model = knowing(name, "right");
        let input = Input::Tokens(tokens(3, 90));
        let options = with(Drafts::Most(3), &computed_anew(60));
        let free = session(&model);
        let wanted = run(&free, &input, &options);
        let all = free.info().kv_bytes;
        let alone = session(&model);
        run(&alone, &input, &with(Drafts::Off, &options));
        let plain = alone.info().kv_bytes;
        assert!(plain < all, "{plain} of {all} bytes without the head");
        let mut drafted = Vec::new();
        for limit in [all * 2, plain + (all - plain) / 4] {
            let kind = SessionOptions {
                kv_limit: limit,
                ..SessionOptions::default()
            };
            let tight = Session::new(model.clone(), kind).unwrap();
            let given = run(&tight, &input, &options);
            given.result.unwrap();
            assert_eq!(given.tokens, wanted.tokens, "{limit} of {all} bytes");
            let held = tight.info().kv_bytes;
            assert!(held <= limit, "{held} bytes are held, of {limit}");
            drafted.push(given.report.drafted);
        }
        assert!(drafted[0] > drafted[1], "{name}: {drafted:?}");
    }
}

/// A saved model has its head, in a file that mlx-lm does not read.
#[test]
fn heads_are_saved() {
    let _lock = engine_lock();
    for name in ["qwen3_5-f32-text", "qwen3_next-4bit", "deepseek_v3-f32"] {
        let folder = folder(name, name);
        let model = load_from(&folder.0);
        let saved = Folder::new(&format!("saved-head-{name}"));
        let saving = crate::runtime::staging::SaveOptions {
            deadline: None,
            progress: &mut |_, _| true,
        };
        model_save::save(&model, &Vec::new(), &saved.0, saving).unwrap();
        assert!(!tensors(&saved.0)
            .keys()
            .any(|name| name.contains("mtp") || name.contains("hnorm")));
        let again = load_from(&saved.0);
        assert!(saved.0.join("mtp.safetensors").exists());
        let options = with(Drafts::Most(3), &options(1, 30));
        let input = Input::Tokens(tokens(3, 40));
        let [first, second] = [&model, &again].map(|model| {
            let given = run(&session(model), &input, &options);
            given.result.unwrap();
            let Report {
                drafted, accepted, ..
            } = given.report;
            (given.tokens, drafted, accepted)
        });
        assert!(first.1 > 20, "{name}: {} were guessed", first.1);
        assert_eq!(first, second, "{name}");
    }
}

/// A part of a head is none, and no reason to refuse the model.
#[test]
fn what_is_wrong_with_a_head_is_a_warning() {
    let _lock = engine_lock();
    let name = "qwen3_5-f32";
    let folder = folder(name, name);
    let path = folder.0.join("model-mtp.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let head = SafeTensors::deserialize(&bytes).unwrap();
    let left: Vec<_> = head
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.contains("k_norm"))
        .collect();
    std::fs::write(&path, safetensors::serialize(left, None).unwrap()).unwrap();
    let model = load_from(&folder.0);
    let info: serde_json::Value = serde_json::from_str(model.info()).unwrap();
    let warnings = info["warnings"].to_string();
    assert!(
        warnings.contains("the head that predicts further tokens: ")
            && warnings.contains("k_norm.weight"),
        "{warnings}"
    );
    let options = with(Drafts::Most(3), &computed_anew(40));
    let input = Input::Tokens(tokens(1, 30));
    let with_part = run(&session(&model), &input, &options);
    let without = run(&session(&load(name)), &input, &options);
    assert_eq!(
        (with_part.tokens, with_part.report.drafted),
        (without.tokens, without.report.drafted)
    );
}

/// Adapters, what is trained and what files say of sessions do not know of it.
#[test]
fn a_head_is_no_part_of_what_adapters_reach() {
    let _lock = engine_lock();
    for name in ["qwen3_5-f32", "glm4_moe-f32"] {
        let (with, without) = (with_head(name), load(name));
        let names = |model: &Model| -> Vec<String> {
            let modules = model.modules.iter();
            modules.map(|module| module.name.clone()).collect()
        };
        assert_eq!(names(&with), names(&without));
        assert_eq!(with.identity.weights, without.identity.weights);
    }
}

/// What it keeps and computes is in what is said of a model beforehand.
#[test]
fn heads_are_in_the_estimate() {
    let _lock = engine_lock();
    for name in ["qwen3_5-f32", "qwen3_next-4bit", "deepseek_v3-f32"] {
        let kind = SessionOptions {
            context: 400,
            ..SessionOptions::default()
        };
        let inspected = |path: &Path| -> [u64; 3] {
            let json = model::inspect(path.to_str().unwrap(), 0, false, None, &kind).unwrap();
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            ["weight_bytes", "kv_bytes", "estimated_bytes"].map(|key| json[key].as_u64().unwrap())
        };
        let plain = inspected(&fixtures().join("models").join(name));
        let folder = folder(name, name);
        let all = inspected(&folder.0);
        assert!(plain.iter().zip(&all).all(|(plain, all)| plain < all));
        // (An engine that runs has arrays of its own.)
        let other = load("llama-f32");
        other.engine.call(|_| Ok(())).unwrap();
        mlx::memory::clear_cache();
        let before = mlx::memory::active();
        mlx::memory::reset_peak();
        let model = load_from(&folder.0);
        let mut peak = mlx::memory::peak();
        for (prompt, answer) in [(300, 100), (20, 380)] {
            let session = Session::new(model.clone(), kind).unwrap();
            let options = with(Drafts::Most(3), &computed_anew(answer));
            let given = run(&session, &Input::Tokens(tokens(2, prompt)), &options);
            given.result.unwrap();
            assert!(given.report.drafted > 20);
            // (A request begins to count anew.)
            peak = peak.max(mlx::memory::peak());
        }
        let took = peak - before;
        assert!(
            took <= all[2],
            "{name}: {took} bytes, and {} were said",
            all[2]
        );
    }
}

/// With adapters a head sees what the model makes with them, and says no more than a guess.
#[test]
fn heads_guess_beside_adapters() {
    let _lock = engine_lock();
    for name in ["qwen3_5-f32", "glm4_moe-f32"] {
        let model = with_head(name);
        let (one, two) = (
            adapters::adapter(&model, 1, false),
            // (Experts have no DoRA.)
            adapters::adapter(&model, 2, name.starts_with("qwen")),
        );
        let sets = [
            vec![],
            vec![(one.clone(), 1.0)],
            vec![(two.clone(), 1.0)],
            vec![(one, 0.5), (two, 1.0)],
            vec![],
        ];
        // One session through all of them.
        let story = |drafts| {
            let session = session(&model);
            let mut guessed = Vec::new();
            let answers = sets.clone().map(|set| {
                session.apply(set).unwrap();
                let options = with(drafts, &exactly(25));
                let given = run(&session, &Input::Tokens(tokens(4, 30)), &options);
                given.result.unwrap();
                guessed.push(given.report.drafted);
                given.tokens
            });
            (answers, guessed)
        };
        let (wanted, _) = story(Drafts::Off);
        let (answers, guessed) = story(Drafts::Most(3));
        assert_eq!(answers, wanted, "{name}");
        assert!(guessed.iter().all(|&n| n > 20), "{name}: {guessed:?}");
    }
}
