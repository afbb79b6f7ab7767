//! Guesses whose numbers are not finite: 0 by NaN is NaN, so they could reach what stands before them.

use super::super::odd_weights::{load_with, with_tensors};
use super::*;

/// A fixture in which the input of these tokens is NaN, and of all others as before.
fn with_nan(name: &str, ids: &[i32]) -> Arc<Model> {
    let folder = with_tensors(name, |tensors| {
        let embedding = tensors
            .iter_mut()
            .find(|(name, _)| name.contains("embed_tokens.") || name.contains("embeddings."));
        let (_, embedding) = embedding.unwrap();
        let row = embedding.data.len() / embedding.shape[0];
        for &id in ids {
            let at = id as usize * row;
            embedding.data[at..at + row].fill(0xff);
        }
    });
    load_with(&folder, false).unwrap()
}

#[test]
fn wrong_guesses_spoil_nothing() {
    let _lock = engine_lock();
    for name in [
        "llama-f32-untied-bias",
        "deepseek_v3-f32",
        "gpt_oss-f32",
        "qwen3_next-f32",
        "nemotron_h-f32",
        "kimi_linear-f32",
    ] {
        let model = load(name);
        for number in 0..3 {
            let input = repetitive(number);
            let options = GenerateOptions {
                greedy: number != 1,
                temperature: Some(0.3),
                seed: 3,
                logprobs: Some(1),
                ..computed_anew(30)
            };
            let said = run(&session(&model), &input, &with(Drafts::Off, &options)).tokens;
            let Input::Tokens(prompt) = &input else {
                unreachable!()
            };
            let unsaid = |id: &i32| !prompt.contains(id) && !said.contains(id);
            let unsaid: Vec<i32> = (3..120).filter(unsaid).take(2).collect();
            let spoilt = with_nan(name, &unsaid);
            let (mut first, mut later) = (said.clone(), said.clone());
            // As the only one, and behind others that are right and in front of them.
            first[1] = unsaid[0];
            (later[13], later[20], later[21]) = (unsaid[1], unsaid[0], unsaid[1]);
            for plainly in [false, true] {
                go_plainly(&spoilt, plainly);
                let wanted = answer(
                    &spoilt,
                    SessionOptions::default(),
                    &input,
                    &options,
                    Drafts::Off,
                );
                for told in [&first, &later] {
                    tell(&spoilt, &[(prompt.clone(), told.clone())], usize::MAX);
                    let given = answer(
                        &spoilt,
                        SessionOptions::default(),
                        &input,
                        &options,
                        Drafts::Usual,
                    );
                    assert_eq!(given.0 .0, wanted.0 .0, "{name}, plainly: {plainly}");
                    // Operation by operation, states that are computed again have other last bits than a prompt's.
                    let logprobs = given.0 .1.iter().zip(&wanted.0 .1);
                    for (one, other) in
                        logprobs.map(|(a, b)| (f32::from_bits(*a), f32::from_bits(*b)))
                    {
                        let close = if plainly { 1e-3 } else { 0.0 };
                        assert!(
                            (one - other).abs() <= close,
                            "{name}, plainly: {plainly}: {one} and {other}"
                        );
                    }
                    // The first one may be the last.
                    let few = *told == first;
                    let Report {
                        drafted, accepted, ..
                    } = given.1;
                    assert!(
                        few || 0 < accepted && accepted < drafted,
                        "{name}: {accepted} of {drafted}"
                    );
                }
                tell_nothing(&spoilt);
                go_plainly(&spoilt, false);
            }
        }
    }
}
