//! Row 34: models whose numbers are not finite. A token is never drawn from NaN or infinity, in whatever way it is drawn; the
//! request ends with a named error, and neither its session nor any other notices.

use serde_json::{Map, Value};

use crate::abi::*;
use crate::child::{alive, ask, exactly, ledger, qwen, PROMPT, RIGHT};
use crate::common::{c_path, fixtures, load, outcome, Prompt, Session};
use crate::folder::Folder;
use crate::runner::case;
use crate::verdict::*;
use crate::{ensure, Class};

pub const CLASS: Class = Class {
    row: "34",
    name: "models whose numbers are not finite",
    generators: &[
        of_every_kind,
        drawn_in_every_way,
        of_every_value,
        in_the_middle,
        by_adapters,
    ],
    programs: &[
        ("finite", child),
        ("finite-later", later),
        ("finite-adapter", adapter),
    ],
};

/// Of each way that numbers take: types, packings, mixtures, linear attention, convolutions, windows, sinks.
const FIXTURES: &[&str] = &[
    "qwen3-f32",
    "qwen3-bf16",
    "qwen3-f16",
    "qwen3-2bit",
    "qwen3-4bit",
    "qwen3-4bit-bf16",
    "qwen3-4bit-f16",
    "qwen3-8bit",
    "qwen3-mxfp4-bf16",
    "qwen3-mxfp8-bf16",
    "qwen3-nvfp4-bf16",
    "llama-f32",
    "llama-bf16-v-f32",
    "gemma2-f32",
    "gemma3-text-bf16",
    "gemma3n-f32",
    "gemma4_text-f32",
    "phi3-f32",
    "olmo2-bf16",
    "qwen3_moe-f32",
    "qwen3_moe-4bit",
    "gpt_oss-f32",
    "deepseek_v3-f32",
    "kimi_linear-f32",
    "qwen3_next-f32",
    "lfm2-f32",
    "nemotron_h-f32",
    "granitemoehybrid-f32",
];

const WAYS: &[&str] = &[
    "greedy",
    "sampled",
    "filtered",
    "xtc",
    "logprobs",
    "penalties",
    "bias",
    "long",
];

/// The tensors that a name ends with are all of one value from now on, from the first of them on `most`.
fn fill(folder: &Folder, ends: &str, value: f32, most: usize) -> usize {
    let mut filled = 0;
    folder.edit_header(|header: &mut Map<String, Value>, data: &mut Vec<u8>| {
        for (_, entry) in header
            .iter()
            .filter(|(name, _)| name.ends_with(ends))
            .take(most)
        {
            let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let bits = value.to_bits();
            let bytes: Vec<u8> = match entry["dtype"].as_str().unwrap() {
                "F32" => value.to_le_bytes().to_vec(),
                "BF16" => ((bits >> 16) as u16).to_le_bytes().to_vec(),
                // Infinity, or NaN, or what is more than it holds.
                "F16" => (((bits >> 16) & 0x8000) as u16
                    | if value.is_nan() { 0x7e00 } else { 0x7c00 })
                .to_le_bytes()
                .to_vec(),
                // Packed words have no such numbers; their scales do.
                _ => continue,
            };
            let place = &mut data[at(0)..at(1)];
            place
                .chunks_exact_mut(bytes.len())
                .for_each(|element| element.copy_from_slice(&bytes));
            filled += 1;
        }
    });
    filled
}

/// NaN at the end of every architecture, and in the middle of it.
fn of_every_kind() {
    for fixture in FIXTURES {
        for (what, ends) in [
            ("the last norm", "norm.weight"),
            ("a projection", "o_proj.weight"),
            ("a projection's scales", "o_proj.scales"),
            ("a way up", "up_proj.weight"),
            ("a way up's scales", "up_proj.scales"),
        ] {
            let folder = Folder::copy_of(fixture);
            let ends = match what {
                // Which of the model and not of a block; its name differs.
                "the last norm" => match fixture.split('-').next() {
                    Some("lfm2") => "embedding_norm.weight",
                    Some("nemotron_h") => "norm_f.weight",
                    Some("gemma3n") => "language_model.norm.weight",
                    _ => "model.norm.weight",
                },
                _ => ends,
            };
            if fill(&folder, ends, f32::NAN, usize::MAX) > 0 {
                run(&format!("{fixture}: NaN in {what}"), &folder, "greedy");
            }
        }
    }
}

fn drawn_in_every_way() {
    for fixture in [
        "qwen3-f32",
        "qwen3-bf16",
        "qwen3-f16",
        "qwen3-4bit",
        "llama-bf16-v-f32",
        "gemma2-f32",
    ] {
        let folder = Folder::copy_of(fixture);
        fill(&folder, "model.norm.weight", f32::NAN, 1);
        for way in WAYS {
            run(&format!("{fixture}: NaN, {way}"), &folder, way);
        }
    }
}

fn of_every_value() {
    for fixture in ["qwen3-f32", "qwen3-bf16", "qwen3-f16", "llama-f32"] {
        for value in [
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            3e38,
            -3e38,
        ] {
            let folder = Folder::copy_of(fixture);
            fill(&folder, "model.norm.weight", value, 1);
            for way in ["greedy", "sampled", "xtc"] {
                run(&format!("{fixture}: {value:e}, {way}"), &folder, way);
            }
        }
    }
}

fn run(what: &str, folder: &Folder, way: &str) {
    case(what, &["finite", folder.path().to_str().unwrap(), way]);
}

fn options(way: &str) -> mlxrt_generate_options {
    static TOKENS: [i32; 2] = [5, 6];
    static VALUES: [f32; 2] = [f32::NEG_INFINITY, 1.0];
    let mut options = exactly(6);
    let mut sampled = || {
        options.flags = MLXRT_GEN_IGNORE_EOS | MLXRT_GEN_NO_MODEL_DEFAULTS;
        options.temperature = 0.8;
        options.seed = 3;
    };
    match way {
        "greedy" | "long" => {}
        "sampled" => sampled(),
        "filtered" => {
            sampled();
            (options.top_p, options.top_k, options.min_p) = (0.9, 20, 0.01);
        }
        "xtc" => {
            sampled();
            options.xtc_probability = 0.5;
        }
        "logprobs" => {
            options.flags |= MLXRT_GEN_LOGPROBS;
            options.top_logprobs = 3;
        }
        "penalties" => {
            options.repetition_penalty = 1.3;
            (options.presence_penalty, options.frequency_penalty) = (0.5, 0.5);
        }
        "bias" => {
            (options.bias_tokens, options.bias_values) = (TOKENS.as_ptr(), VALUES.as_ptr());
            options.bias_count = 2;
        }
        other => panic!("no way {other}"),
    }
    options
}

/// Twice the error, nothing delivered, the ledger as it was; a session of another model in the same engine goes on.
fn child(args: &[&str]) -> Outcome {
    let good = load(&qwen()).unwrap();
    let other = good.session(0);
    let right = |session: &Session| {
        let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
        ensure!(
            told.tokens == RIGHT,
            "beside it: {:?} {:?}",
            told.tokens,
            told.failure
        );
        Ok(())
    };
    right(&good.session(0))?;
    let model = load(args[0].as_ref()).map_err(|failure| Wrong(format!("{failure:?}")))?;
    let (session, options) = (model.session(0), options(args[1]));
    let ids: Vec<i32> = match args[1] {
        "long" => (0..400).map(|i| 3 + i % 40).collect(),
        _ => vec![5, 6, 7],
    };
    let mut verdict = fine();
    for _ in 0..2 {
        let told = ask(session.0, &Prompt::Tokens(&ids), &options, |_| true);
        let Some(failure) = &told.failure else {
            return Err(Wrong(format!("it says {:?}", told.tokens)));
        };
        verdict = named(failure, &["BAD_MODEL", "DEVICE"], &["not finite at token"]);
        ensure!(told.tokens.is_empty(), "{:?} came before it", told.tokens);
        ensure!(
            told.result.stop == MLXRT_STOPPED_ERROR,
            "stop {}",
            told.result.stop
        );
        ensure!(ledger(session.0).is_empty(), "{:?}", ledger(session.0));
    }
    right(&other)?;
    drop((session, model));
    alive()?;
    verdict
}

/// A row of an embedding that only the answer comes to.
fn in_the_middle() {
    for fixture in ["llama-f32-untied-bias", "llama-bf16-v-f32"] {
        for later in [1, 2, 3] {
            let args = ["finite-later", fixture, &later.to_string()];
            case(
                &format!("{fixture}: NaN behind token {later} of an answer"),
                &args,
            );
        }
    }
}

fn later(args: &[&str]) -> Outcome {
    let folder = Folder::copy_of(args[0]);
    let prompt = [5, 6, 7];
    let healthy = load(folder.path()).unwrap();
    let answer = ask(
        healthy.session(0).0,
        &Prompt::Tokens(&prompt),
        &exactly(8),
        |_| true,
    );
    let at: usize = args[1].parse().unwrap();
    let token = answer.tokens[at - 1];
    ensure!(
        !answer.tokens[..at - 1].contains(&token) && !prompt.contains(&token),
        "the fixture says {:?}",
        answer.tokens
    );
    drop(healthy);
    let tied = folder.json("config.json")["tie_word_embeddings"] == true;
    folder.edit_header(|header, data| {
        let entry = &header["model.embed_tokens.weight"];
        let from = entry["data_offsets"][0].as_u64().unwrap() as usize;
        let size = if entry["dtype"] == "F32" { 4 } else { 2 };
        let row = entry["shape"][1].as_u64().unwrap() as usize * size;
        data[from + token as usize * row..][..row].fill(0xff);
    });
    let model = load(folder.path()).unwrap();
    let session = model.session(0);
    let told = ask(session.0, &Prompt::Tokens(&prompt), &exactly(8), |_| true);
    let Some(failure) = &told.failure else {
        return Err(Wrong(format!("it says {:?}", told.tokens)));
    };
    // Where the output layer is the embedding, it is there at once.
    let wanted = if tied { &[][..] } else { &answer.tokens[..at] };
    ensure!(
        told.tokens == wanted,
        "{:?}, of {:?}",
        told.tokens,
        answer.tokens
    );
    let held = ledger(session.0);
    let whole = if tied {
        vec![]
    } else {
        [&prompt[..], wanted].concat()
    };
    ensure!(held == whole, "the ledger is {held:?}");
    let verdict = named(
        failure,
        &["BAD_MODEL"],
        &["not finite at token", &(3 + wanted.len()).to_string()],
    );
    alive()?;
    verdict
}

fn by_adapters() {
    for (model, adapter) in [
        ("qwen3-f32", "mlx-lora-qwen3-last-embed"),
        ("qwen3-4bit", "mlx-lora-qwen3-4bit"),
        ("qwen3-4bit-f16", "mlx-lora-qwen3-4bit-f16"),
        ("qwen3-bf16", "mlx-lora-qwen3-bf16"),
        ("llama-f32", "mlx-lora-llama"),
    ] {
        for scale in ["1e15", "1e20", "1e25", "-1e28", "1e30", "3e38", "-3e38"] {
            let args = ["finite-adapter", model, adapter, scale];
            case(&format!("{model}: {adapter} at {scale}"), &args);
        }
    }
}

/// A scale that is legal and takes the model out of what floats hold, or is refused; without the adapter all is as before.
fn adapter(args: &[&str]) -> Outcome {
    let folder = fixtures();
    let model = load(&folder.join("models").join(args[0])).unwrap();
    let session = model.session(0);
    let ids = [5, 6, 7];
    let before = ask(
        model.session(0).0,
        &Prompt::Tokens(&ids),
        &exactly(4),
        |_| true,
    )
    .tokens;
    let mut adapter = std::ptr::null_mut();
    let path = c_path(&folder.join("adapters").join(args[1]));
    let scale: f32 = args[2].parse().unwrap();
    // SAFETY: live handles, a path with a NUL, writable outputs.
    let applied = unsafe {
        outcome(mlxrt_adapter_load(
            model.0,
            path.as_ptr(),
            std::ptr::null(),
            &mut adapter,
        ))
        .unwrap();
        outcome(mlxrt_apply_adapter(session.0, &adapter, &scale, 1))
    };
    let verdict = match applied {
        Err(failure) => named(&failure, &["INVALID_ARGUMENT"], &["scales[0]"]),
        Ok(()) => {
            let told = ask(session.0, &Prompt::Tokens(&ids), &exactly(4), |_| true);
            match &told.failure {
                Some(failure) => named(
                    failure,
                    &["BAD_MODEL"],
                    &["not finite at token", "adapters"],
                ),
                // Norms may take it back to what floats hold.
                None => fine(),
            }
        }
    };
    // SAFETY: as above; no adapters at all.
    outcome(unsafe { mlxrt_apply_adapter(session.0, std::ptr::null(), std::ptr::null(), 0) })
        .unwrap();
    let after = ask(session.0, &Prompt::Tokens(&ids), &exactly(4), |_| true);
    let whole = ledger(session.0);
    ensure!(
        after.failure.is_none() && (whole.len() > 7 || after.tokens == before),
        "afterwards {:?} {:?}, not {before:?}",
        after.failure,
        after.tokens
    );
    // SAFETY: a live handle.
    unsafe { mlxrt_adapter_free(adapter) };
    alive()?;
    verdict
}
