//! Whole requests through the C ABI against what mlx-lm generates, token for token (tests/fixtures/README.md).

mod abi {
    pub use mlxrt::capi::constants::*;
    pub use mlxrt::capi::error::*;
    pub use mlxrt::capi::generate::mlxrt_generate;
    pub use mlxrt::capi::library::mlxrt_free;
    pub use mlxrt::capi::model::*;
    pub use mlxrt::capi::session::*;
    pub use mlxrt::capi::types::*;
}
mod common;

use std::fs;

use common::{fixtures, load, Model, Prompt};
use mlxrt::capi::constants::{
    MLXRT_GEN_GREEDY, MLXRT_GEN_IGNORE_EOS, MLXRT_GEN_LOGPROBS, MLXRT_STOPPED_EOS,
    MLXRT_STOPPED_LENGTH,
};
use mlxrt::capi::types::mlxrt_generate_options;
use safetensors::SafeTensors;
use serde_json::Value;

fn json(name: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<i32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap() as i32)
        .collect()
}

#[test]
fn text_in_and_text_out() {
    let cases = json("generate.json");
    assert!(cases.len() >= 6);
    for case in cases {
        let name = case["model"].as_str().unwrap();
        let model = load(&fixtures().join("models").join(name)).unwrap();
        let messages = case.get("messages").map(Value::to_string);
        let prompt = match (&messages, case["prompt"].as_str()) {
            (Some(messages), _) => {
                assert_eq!(
                    model.render(messages).unwrap(),
                    case["rendered"].as_str().unwrap(),
                    "{name}"
                );
                Prompt::Messages(messages)
            }
            (None, text) => Prompt::Text(text.unwrap()),
        };
        let max_tokens = case["max_tokens"].as_u64().unwrap() as u32;
        let answer = model.session(0).generate(prompt, max_tokens, true).unwrap();
        let mut tokens = ids(&case["tokens"]);
        let end = case["stop_token"].as_i64().map(|id| id as i32);
        tokens.extend(end);
        assert_eq!(answer.tokens, tokens, "{case}");
        assert_eq!(
            answer.prompt_tokens,
            case["prompt_tokens"].as_array().unwrap().len() as u64,
            "{name}"
        );
        assert_eq!(answer.text, case["decoded"].as_str().unwrap(), "{name}");
        let stop = if end.is_some() {
            MLXRT_STOPPED_EOS
        } else {
            MLXRT_STOPPED_LENGTH
        };
        assert_eq!(answer.stop, stop, "{name}");
    }
}

/// i32 values of one tensor.
fn tensor(file: &SafeTensors, name: &str) -> Vec<i32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4)
        .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// How far apart the log-probabilities of two tokens may be that 16 bits cannot tell apart: the errors of mlx-lm's logits and
/// of ours together, in the worst fixture. (`parity` measures them, run by run, and allows no more than they are.)
const TIE: f32 = 1.4;

/// From mlx-lm's tokens on, wherever one is not the same.
fn check_greedy(
    model: &Model,
    window: u32,
    prompt: &[i32],
    tokens: &[i32],
    exact: bool,
    what: &str,
) {
    let mut done = 0;
    while done < tokens.len() {
        let mut options = sized!(mlxrt_generate_options);
        options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_LOGPROBS;
        options.max_tokens = (tokens.len() - done) as u32;
        options.top_logprobs = 8;
        let history = [prompt, &tokens[..done]].concat();
        let answer = model
            .session(window)
            .generate_with(Prompt::Tokens(&history), &options)
            .unwrap();
        let wanted = &tokens[done..];
        let same = answer
            .tokens
            .iter()
            .zip(wanted)
            .take_while(|(a, b)| a == b)
            .count();
        if same < wanted.len() {
            assert!(!exact, "{what}: {:?} {wanted:?}", answer.tokens);
            let of = |token: i32| {
                let known = answer.likeliest[same].iter().find(|(id, _)| *id == token);
                known
                    .unwrap_or_else(|| panic!("{what}: token {token} is not among the likeliest"))
                    .1
            };
            let gap = of(answer.tokens[same]) - of(wanted[same]);
            assert!(gap <= TIE, "{what}: token {} by {gap}", done + same);
        }
        done += same + 1;
    }
}

#[test]
fn greedy_tokens_of_every_folder() {
    let mut runs = 0;
    for case in json("cases.json") {
        let name = case["name"].as_str().unwrap();
        let folder = fixtures().join("models").join(name);
        let model = load(&folder).unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
        for run in case["runs"].as_array().unwrap() {
            let bytes = fs::read(folder.join(run["file"].as_str().unwrap())).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let (prompt, tokens) = (tensor(&file, "prompt"), tensor(&file, "tokens"));
            // `RotatingKVCache(max_size, keep=4)`: the library's window with its default of tokens to keep.
            let window = run["cache"]["max_size"].as_u64().unwrap_or(0) as u32;
            assert_eq!(window > 0, run["cache"]["kind"] != "default", "{run}");
            let exact = case["dtype"] == "f32";
            check_greedy(
                &model,
                window,
                &prompt,
                &tokens,
                exact,
                &format!("{name}: {run}"),
            );
            runs += 1;
        }
    }
    assert!(runs >= 37, "{runs} runs");
}
