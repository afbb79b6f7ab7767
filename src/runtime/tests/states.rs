//! Sessions on models that keep states: they go back to marks only, and never give another token for it.

use super::sessions::{messages, second, FIRST};
use super::*;
use crate::mlx::{self, Array, Device};
use crate::model::{AdapterSet, Cache, Decoder, Rows};
use crate::runtime::model::decoder_for_tests;

/// One of each mechanism.
const CASES: [&str; 5] = [
    "lfm2-f32",
    "qwen3_5-f32",
    "nemotron_h-f32",
    "granitemoehybrid-f32",
    "kimi_linear-f32",
];

fn other_question(history: &str) -> String {
    history.replace("Why?", "And what is twice that?")
}

#[test]
fn a_chat_goes_on_from_its_marks_and_equals_a_fresh_session() {
    let _lock = engine_lock();
    for case in CASES {
        let model = load(case);
        let session = session(&model);
        let anew = |json: &str| {
            let fresh = super::session(&model);
            run(&fresh, &messages(json), &computed_anew(12)).tokens
        };
        let ask = |json: &str| {
            let given = run(&session, &messages(json), &exactly(12));
            given.result.unwrap();
            assert_eq!(given.tokens, anew(json), "{case}: {json}");
            let prompt = session.tokens().unwrap().len() as u64 - 12;
            (given.report.cached_tokens, prompt)
        };
        let (cached, first_prompt) = ask(FIRST);
        assert_eq!(cached, 0, "{case}");
        // The same again: all but the token whose logits are wanted.
        let (cached, prompt) = ask(FIRST);
        assert_eq!(cached, prompt - 1, "{case}: an answer made again");
        let history = second(&session);
        let (cached, prompt) = ask(&history);
        assert!(cached > 0 && cached < prompt, "{case}: the next turn");
        let (again, prompt) = ask(&history);
        assert_eq!(again, prompt - 1, "{case}: the last answer made again");
        // Another last turn: from where the answer before ended, what the user said first, or where the turns before parted.
        let (edited, _) = ask(&other_question(&history));
        assert!(
            edited >= cached.min(first_prompt - 1) && edited < prompt - 1,
            "{case}: {edited} of a last turn that was edited, {cached} before"
        );
    }
}

#[test]
fn marks_are_few_and_count() {
    let _lock = engine_lock();
    let model = load("qwen3_5-f32");
    let session = session(&model);
    let mut most = 0;
    for turn in 0..12 {
        let prompt: Vec<i32> = (0..9).map(|i| (turn * 31 + i * 7) % 120).collect();
        run(&session, &Input::Tokens(prompt), &exactly(3))
            .result
            .unwrap();
        let bytes = session.info().kv_bytes;
        most = bytes.max(most);
        if turn > 4 {
            // Only keys and values grow: of one layer, 24 numbers each.
            let tokens = session.info().kv_tokens.div_ceil(256) * 256;
            assert!(bytes <= most && bytes >= tokens.min(32) * 24 * 4 * 2);
        }
    }
    let states = 3 * (3 * 68 + 6 * 6 * 8) * 4;
    let keys = session.info().kv_tokens.div_ceil(256) * 256 * 24 * 4 * 2;
    assert!(
        most <= keys + 5 * states,
        "{most} bytes, {keys} of keys and values and {states} of a state"
    );
}

/// Where there is little room, marks go before a request does.
#[test]
fn a_limit_is_kept_and_marks_go_first() {
    let _lock = engine_lock();
    let model = load("qwen3_5-f32");
    // The keys and values of 256 tokens are 49,152 bytes, a state 5,904.
    let options = SessionOptions {
        kv_limit: 64_000,
        ..SessionOptions::default()
    };
    let session = Session::new(model, options).unwrap();
    for turn in 0..8 {
        let prompt: Vec<i32> = (0..20).map(|i| (turn * 31 + i * 7) % 120).collect();
        let given = run(&session, &Input::Tokens(prompt), &exactly(6));
        given.result.unwrap();
        assert_eq!(given.tokens.len(), 6);
        let bytes = session.info().kv_bytes;
        assert!(bytes <= 64_000, "{bytes} in turn {turn}");
    }
}

/// The last rows of logits, f32 `[vocab]`, after feeding each part.
fn feed(decoder: &Decoder, caches: &mut [Cache], parts: &[&[i32]]) -> Vec<f32> {
    let adapters = AdapterSet::default();
    let mut logits = Vec::new();
    for part in parts {
        let tokens = Array::from_i32(part).unwrap();
        let hidden = decoder
            .forward(&tokens, caches, Rows::Last, &adapters)
            .unwrap();
        let all: Vec<&Array> = caches.iter().flat_map(Cache::arrays).collect();
        mlx::eval(&all).unwrap();
        logits = decoder
            .logits(&hidden, &adapters)
            .unwrap()
            .to_f32()
            .unwrap();
    }
    logits
}

fn assert_near(case: &str, ours: &[f32], wanted: &[f32], what: &str) {
    let far = ours.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    let far = far.fold(0.0, f32::max);
    assert!(far <= 1e-4, "{case}: {what}: logits differ by {far}");
}

/// However a prompt is cut, and whatever a state went back from.
#[test]
fn prompts_may_be_cut_anywhere() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    for kernels in [false, true] {
        if kernels {
            mlx::fast::start(crate::kernels::Kernels::new(2));
        }
        for case in CASES {
            let folder = parity::fixtures().join("models").join(case);
            let (decoder, _) = decoder_for_tests(folder.to_str().unwrap(), false).unwrap();
            let tokens: Vec<i32> = (0..130).map(|i| (i * 37 + 5) % 120).collect();
            let fresh = |parts: &[&[i32]]| {
                let mut caches = decoder.make_caches(None, 0);
                feed(&decoder, &mut caches, parts)
            };
            let whole = fresh(&[&tokens]);
            let ones: Vec<&[i32]> = tokens.chunks(1).collect();
            assert_near(case, &fresh(&ones), &whole, "one by one");
            for size in [
                1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129,
            ] {
                let (before, after) = tokens.split_at(size);
                let what = format!("cut at {size}");
                assert_near(case, &fresh(&[before, after]), &whole, &what);
            }
            for size in [1, 2, 7, 63, 64, 65] {
                let mut caches = decoder.make_caches(None, 0);
                let (before, after) = tokens.split_at(size);
                feed(&decoder, &mut caches, &[before]);
                caches.iter_mut().for_each(|cache| cache.mark(size as i32));
                feed(&decoder, &mut caches, &[&[9, 8, 7, 6, 5, 4, 3, 2, 1]]);
                let reach = caches
                    .iter()
                    .map(|cache| cache.reach(size as i32 + 3))
                    .min();
                assert_eq!(reach, Some(size as i32), "{case}");
                caches
                    .iter_mut()
                    .for_each(|cache| cache.cut(size as i32).unwrap());
                let again = feed(&decoder, &mut caches, &[after]);
                assert_near(case, &again, &whole, &format!("back at {size}"));
            }
        }
    }
    mlx::leave();
}
