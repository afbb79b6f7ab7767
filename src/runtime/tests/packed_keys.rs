//! Quantised keys and values: mlx-lm's numbers, what they cost, and what is refused.

use safetensors::SafeTensors;

use super::parity::{bound, f32s, farthest, fixtures, i32s, json};
use super::*;
use crate::dtype::Scheme;
use crate::error::Code;
use crate::kernels::{Kernels, Path};
use crate::mlx::fault;
use crate::mlx::stored::token_scheme;
use crate::mlx::{self, fast, Array, Device};
use crate::model::fused::COUNT;
use crate::model::{AdapterSet, Cache, Decoder, Rows};
use crate::runtime::generate::Conversation;
use crate::runtime::model::decoder_for_tests;
use crate::runtime::worker::Worker;

fn packed(kv_bits: u32) -> SessionOptions {
    SessionOptions {
        kv_bits,
        ..SessionOptions::default()
    }
}

fn decoder(case: &str) -> Decoder {
    let folder = fixtures().join("models").join(case);
    decoder_for_tests(folder.to_str().unwrap(), false)
        .unwrap()
        .0
}

fn caches(decoder: &Decoder, scheme: Option<Scheme>, window: Option<i32>) -> Vec<Cache> {
    let mut caches = decoder.make_caches(window, 0);
    caches.iter_mut().for_each(|cache| cache.pack_in(scheme));
    caches
}

/// Logits of all rows.
fn feed(decoder: &Decoder, caches: &mut [Cache], tokens: &[i32]) -> Vec<f32> {
    let none = AdapterSet::default();
    let tokens = Array::from_i32(tokens).unwrap();
    let hidden = decoder.forward(&tokens, caches, Rows::All, &none);
    let logits = decoder.logits(&hidden.unwrap(), &none).unwrap();
    logits.to_f32().unwrap()
}

struct Expected {
    name: String,
    model: String,
    scheme: Scheme,
    prompt: Vec<i32>,
    /// The last rows.
    prompt_logits: Vec<f32>,
    tokens: Vec<i32>,
    step_logits: Vec<f32>,
}

/// What mlx-lm's `QuantizedKVCache` gave.
fn expected() -> Vec<Expected> {
    let bytes = std::fs::read(fixtures().join("quantized_kv.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let listed = json("quantized_kv.json");
    let of = |(number, case): (usize, &serde_json::Value)| {
        let name = |array: &str| format!("{number}.{array}");
        let size = |key: &str| case[key].as_i64().unwrap() as i32;
        let model = case["model"].as_str().unwrap().to_owned();
        Expected {
            name: format!("{model}, {} bits by {}", case["bits"], case["group"]),
            model,
            scheme: token_scheme(size("bits"), size("group")),
            prompt: i32s(&file, &name("prompt")),
            prompt_logits: f32s(&file, &name("prompt_logits")),
            tokens: i32s(&file, &name("tokens")),
            step_logits: f32s(&file, &name("step_logits")),
        }
    };
    listed
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(of)
        .collect()
}

impl Expected {
    /// How far our logits are from mlx-lm's at most.
    fn farthest(&self) -> f32 {
        let decoder = decoder(&self.model);
        let mut caches = caches(&decoder, Some(self.scheme), None);
        let rows = feed(&decoder, &mut caches, &self.prompt);
        let last = &rows[rows.len() - self.prompt_logits.len()..];
        let steps = self.tokens.iter();
        let steps: Vec<f32> = steps
            .flat_map(|&token| feed(&decoder, &mut caches, &[token]))
            .collect();
        farthest(last, &self.prompt_logits).max(farthest(&steps, &self.step_logits))
    }
}

#[test]
fn logits_are_mlx_lms_over_its_quantised_cache() {
    // What others measure of MLX's memory is the process's.
    let _lock = engine_lock();
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    for case in expected() {
        let worst = case.farthest();
        assert!(worst <= bound("f32"), "{}: off by {worst}", case.name);
    }
    mlx::leave();
}

/// The kernels sum in another order, so that a number now and then gets the code beside mlx-lm's, a whole step of its group away.
#[test]
fn logits_on_the_kernels_are_mlx_lms_but_for_single_codes() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    for path in Path::available() {
        mlx::enter(Device::Cpu).unwrap();
        fast::start(Kernels::with_path(path, 2));
        for case in expected() {
            let worst = case.farthest();
            eprintln!("{} {}: {worst}", path.name(), case.name);
            let step = if case.scheme.bits == 8 { 0.01 } else { 0.2 };
            assert!(
                worst <= step,
                "{} on {}: off by {worst}",
                case.name,
                path.name()
            );
        }
        mlx::leave();
    }
}

/// Growing, rotating, with sinks, bounded scores, shared keys, states and latents beside them: as one operation where there is
/// one, the bits of the parts; and what MLX's own operations give but for single codes.
#[test]
fn every_kind_of_attention_reads_packed_keys() {
    let _lock = engine_lock();
    mlx::install_error_handler();
    let cases = [
        ("qwen3-4bit", None),
        ("qwen3-4bit", Some(16)),
        ("gpt_oss-4bit", None),
        ("gemma2-4bit", None),
        ("gemma3n-4bit", None),
        ("qwen3_next-4bit", None),
        ("laguna-4bit", Some(20)),
        ("exaone4-4bit", None),
    ];
    let tokens: Vec<i32> = (0..70).map(|i| (i * 37 + 11) % 110).collect();
    for (case, window) in cases {
        let fed = |bits| {
            let decoder = decoder(case);
            let scheme = Some(token_scheme(bits, 32));
            let mut caches = caches(&decoder, scheme, window);
            let mut rows = feed(&decoder, &mut caches, &tokens[..40]);
            for token in &tokens[40..] {
                rows.extend(feed(&decoder, &mut caches, &[*token]));
            }
            rows
        };
        for bits in [8, 4] {
            mlx::enter(Device::Cpu).unwrap();
            let plain = fed(bits);
            fast::start(Kernels::new(3));
            COUNT.set(Some(0));
            let together = fed(bits);
            COUNT.set(None);
            let apart = fed(bits);
            COUNT.set(Some(0));
            mlx::leave();
            assert!(
                together == apart,
                "{case}, {bits} bits: other bits of its parts"
            );
            let worst = farthest(&together, &plain);
            eprintln!("{case} {window:?} {bits}: {worst}");
            let step = if bits == 8 { 0.05 } else { 1.0 };
            assert!(worst <= step, "{case}, {bits} bits: {worst} from MLX's");
        }
    }
}

fn asked(question: &str) -> Input {
    let messages = serde_json::json!([{ "role": "user", "content": question }]);
    Input::messages(Conversation {
        messages: messages.to_string(),
        ..Conversation::default()
    })
}

/// What the demo model says greedily, and at each token what else was likely.
fn said(model: &Arc<Model>, kv_bits: u32, question: &str) -> (Vec<i32>, Vec<Vec<(i32, f32)>>) {
    let session = Session::new(model.clone(), packed(kv_bits)).unwrap();
    let options = GenerateOptions {
        greedy: true,
        max_tokens: Some(48),
        logprobs: Some(8),
        ..GenerateOptions::default()
    };
    let (mut tokens, mut tops) = (Vec::new(), Vec::new());
    let (_, result) = generate(&session, &asked(question), &options, &mut |event| {
        if let Event::Text(chunk) = event {
            tokens.extend_from_slice(&chunk.tokens);
            tops.extend_from_slice(&chunk.tops);
        }
        true
    });
    result.unwrap();
    (tokens, tops)
}

/// With 8 bits the words are the same, but where two tokens are nearer to each other than bf16 tells logits apart: there mlx-lm's
/// quantised cache takes others, too. With 4 bits the first other token is one of the likely ones.
#[test]
fn packed_keys_change_words_only_where_two_are_as_likely() {
    let _lock = engine_lock();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let model = Arc::new(load_folder(&path, None).unwrap());
    // Of demo/check.py.
    let questions = [
        "Hello!",
        "Who are you?",
        "What is mlxrt?",
        "Tell me a short story about a fox.",
        "What is the capital of France?",
        "What is 7 + 5?",
        "Why is the sky blue?",
        "Give me a list of five animals.",
        "Write a Python function that adds two numbers.",
        "Count from 1 to 10.",
    ];
    for (bits, tie, enough) in [(8, 0.25, 7), (4, 2.0, 3)] {
        let mut same = 0;
        for question in questions {
            let (wanted, tops) = said(&model, 0, question);
            let (own, _) = said(&model, bits, question);
            let Some(first) = wanted.iter().zip(&own).position(|(a, b)| a != b) else {
                assert_eq!(wanted, own);
                same += 1;
                continue;
            };
            let likely = |id: i32| tops[first].iter().find(|top| top.0 == id);
            let [best, other] = [wanted[first], own[first]].map(likely);
            let lead = best.unwrap().1 - other.map_or(f32::NEG_INFINITY, |top| top.1);
            eprintln!("{bits} bits, {question}: token {first}, {lead} behind");
            assert!(
                lead <= tie,
                "{bits} bits, {question}: token {first} is {lead} behind"
            );
        }
        assert!(same >= enough, "{bits} bits: {same} answers are the same");
    }
}

#[test]
fn what_cannot_be_packed_so_is_refused_by_name() {
    let _lock = engine_lock();
    let refused = |case: &str, kv_bits, kv_group_size| {
        let options = SessionOptions {
            kv_bits,
            kv_group_size,
            ..SessionOptions::default()
        };
        let error = Session::new(load(case), options).err().unwrap();
        let folder = fixtures().join("models").join(case);
        let folder = folder.to_str().unwrap();
        let inspected = model::inspect(folder, 0, false, None, &options).unwrap_err();
        assert_eq!(
            (&inspected.message, inspected.code),
            (&error.message, error.code)
        );
        (error.code, error.message)
    };
    let is = |(code, message): (Code, String), wanted: Code, text: &str| {
        assert_eq!((code, message.as_str()), (wanted, text));
    };
    is(
        refused("qwen3-4bit", 3, 0),
        Code::InvalidArgument,
        "options.kv_bits must be 0, 4 or 8, is 3",
    );
    is(
        refused("qwen3-4bit", 8, 48),
        Code::InvalidArgument,
        "options.kv_group_size must be 0, 32, 64 or 128, is 48",
    );
    is(
        refused("qwen3-4bit", 0, 64),
        Code::InvalidArgument,
        "options.kv_group_size is set, and options.kv_bits is not",
    );
    is(
        refused("qwen3-4bit", 8, 64),
        Code::Incompatible,
        "options.kv_group_size is 64, and the model has heads of 32 numbers, which are no multiple of it",
    );
    is(
        refused("qwen3-f32", 8, 0),
        Code::Unsupported,
        "options.kv_bits: the model has heads of 16 numbers, and groups of 32, 64 or 128 do not fill them",
    );
    // Of each token a latent of 32 numbers and a turned key of 16.
    is(
        refused("deepseek_v3-4bit", 8, 0),
        Code::Unsupported,
        "options.kv_bits: the model has heads of 16 numbers, and groups of 32, 64 or 128 do not fill them",
    );
}

/// Where 64 does not fit, the default is 32.
#[test]
fn what_they_take_is_counted_as_packed() {
    let _lock = engine_lock();
    let tokens: Vec<i32> = (0..40).map(|i| i % 110).collect();
    // f32: 2 layers' heads, numbers of a head, and the default's group.
    for (case, group) in [("qwen3-4bit", 32), ("qwen3-4bit-g128", 64)] {
        let model = load(case);
        let bytes = |kv_bits| {
            let session = Session::new(model.clone(), packed(kv_bits)).unwrap();
            let given = run(&session, &Input::Tokens(tokens.clone()), &exactly(4));
            given.result.unwrap();
            let folder = fixtures().join("models").join(case);
            let options = SessionOptions {
                context: 256,
                ..packed(kv_bits)
            };
            let json = model::inspect(folder.to_str().unwrap(), 0, false, None, &options).unwrap();
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            // Room for 256 tokens in both.
            assert_eq!(json["kv_bytes"].as_u64(), Some(session.info().kv_bytes));
            (session.info().kv_bytes, json)
        };
        let (plain, json) = bytes(0);
        assert!(json["kv_quantization"].is_null());
        for bits in [4, 8] {
            let (packed, json) = bytes(bits);
            // Of each number `bits`, and of each group two f32.
            let wanted = plain / 32 * u64::from(bits) + plain / 4 / group * 8;
            assert_eq!(packed, wanted, "{case}, {bits} bits");
            assert_eq!(json["kv_quantization"]["bits"], bits);
            assert_eq!(json["kv_quantization"]["group_size"], group);
        }
        // A limit that holds no fourth of them as floats is enough.
        let options = SessionOptions {
            kv_limit: bytes(8).0,
            ..packed(8)
        };
        let session = Session::new(model.clone(), options).unwrap();
        run(&session, &Input::Tokens(tokens.clone()), &exactly(4))
            .result
            .unwrap();
        let options = SessionOptions {
            kv_limit: options.kv_limit / 16,
            ..options
        };
        let session = Session::new(model.clone(), options).unwrap();
        let error = run(&session, &Input::Tokens(tokens.clone()), &exactly(4)).result;
        assert_eq!(error.unwrap_err().code, Code::OutOfMemory);
    }
}

#[test]
fn sessions_share_only_what_is_packed_alike() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit-g128");
    let tokens: Vec<i32> = (0..40).map(|i| i % 110).collect();
    let options = [0, 4, 8].map(packed);
    let groups = [32, 64].map(|kv_group_size| SessionOptions {
        kv_group_size,
        ..packed(8)
    });
    let mut sessions = Vec::new();
    for (index, options) in options.into_iter().chain(groups).enumerate() {
        let session = Session::new(model.clone(), options).unwrap();
        let given = run(&session, &Input::Tokens(tokens.clone()), &exactly(1));
        given.result.unwrap();
        // The last one's group is the default.
        let cached = if index == 4 { 39 } else { 0 };
        assert_eq!(given.report.cached_tokens, cached, "session {index}");
        sessions.push(session);
    }
}

#[test]
fn errors_at_any_call_leave_packed_keys_right() {
    let _lock = engine_lock();
    let inject = |model: &Model, n: u64| {
        let work = move |_: &mut Worker| {
            fault::fail_at(n);
            Ok(())
        };
        model.engine.call(work).unwrap();
    };
    let model = load("qwen3-4bit");
    let prompt = Input::Tokens(vec![52, 106, 110, 78, 83, 87, 109, 0, 126]);
    let new = || Session::new(model.clone(), packed(8)).unwrap();
    let wanted = run(&new(), &prompt, &exactly(6)).tokens;
    let mut survived = 0;
    for n in 1.. {
        let session = new();
        let first = GenerateOptions {
            prefill_only: true,
            ..exactly(1)
        };
        run(&session, &prompt, &first).result.unwrap();
        inject(&model, n);
        let given = run(&session, &Input::Tokens(vec![]), &exactly(6));
        let struck = model.engine.call(|_| Ok(!fault::pending())).unwrap();
        inject(&model, 0);
        given.result.unwrap();
        assert_eq!(given.tokens, wanted, "fault at call {n}");
        if !struck {
            break;
        }
        survived += 1;
    }
    assert!(survived > 60, "only {survived} calls were tried");
}
