//! Training adapters.

use std::ffi::{c_char, c_void};
use std::io::Read;
use std::mem::size_of;
use std::path::{Path, PathBuf};

use super::boundary::{call, with_callback_mark, Callback, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::handle::table;
use super::structs::read_options;
use super::text::{bytes_arg, opt_path_arg, NTS};
use super::types::{
    mlxrt_adapter, mlxrt_model, mlxrt_train_event, mlxrt_train_fn, mlxrt_train_options,
};
use crate::error::{Code, Error, Result};
use crate::files::{self, Opened};
use crate::runtime::adapter::Adapter;
use crate::runtime::model::Model;
use crate::runtime::staging::{SaveOptions, Staging};
use crate::runtime::train::{train, Observer, TrainEvent, TrainOptions};
use crate::train::{data, Optimizer, Shape};
use crate::words::cut;

/// Trains an adapter in place, as mlx-lm's trainer does: the same batches in the same order for the same seed, the same
/// loss, optimisers and schedules. Only the adapter's LoRA or DoRA weights change; the model's stay as they are, in
/// whatever type; those of an adapter in F16 are trained in F32, and rounded for every use. Sessions that have the adapter use its new weights from their next request on, and go on in between.
/// Saves go to the folder save_path every save_every steps, then also as 0000100_adapters.safetensors and so on, and at the
/// end, also when fn stopped the training. A save that fails ends it, and leaves the files of the one before.
///
/// Threads: any; fn runs on this one.
/// Blocks: until the last step is done or fn stops it. While the library is suspended it waits.
/// Errors: INVALID_ARGUMENT names the option, or the line of train or valid; or tells that the loss or the weights are no
/// numbers any more; INCOMPATIBLE for an adapter of another model; UNSUPPORTED for one that replaces whole weights;
/// NOT_FOUND and IO name the file (of the data only a regular one is opened; a save fails as mlxrt_adapter_save does);
/// OUT_OF_MEMORY before a step that does not fit into the limit; DEVICE. After each of them
/// the adapter has the weights of the last good step.
/// Owns: nothing; the options are copied.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_train(
    model: *mut mlxrt_model,
    adapter: *mut mlxrt_adapter,
    options: *const mlxrt_train_options,
    r#fn: mlxrt_train_fn,
    user_data: *mut c_void,
) -> *mut mlxrt_error {
    call("mlxrt_train", Use::Blocking, || {
        let model = table().get::<Model>(model, "model")?;
        let adapter = table().get::<Adapter>(adapter, "adapter")?;
        // SAFETY: the caller's options are NULL or as large as their struct_size says, their fields as the header wants.
        let (options, save_path) = unsafe { read_train_options(options, adapter.dropout())? };
        if !adapter.is_of(&model) {
            return Err(Error::new(
                Code::Incompatible,
                "the adapter belongs to another model",
            ));
        }
        // Better now than when the training is done.
        save_path.as_deref().map(Staging::check).transpose()?;
        let mut host = Host {
            function: r#fn,
            user_data,
            adapter: &adapter,
            save_path,
        };
        train(&model, adapter.id(), &options, &mut host)
    })
}

struct Host<'a> {
    function: mlxrt_train_fn,
    user_data: *mut c_void,
    adapter: &'a Adapter,
    save_path: Option<PathBuf>,
}

impl Observer for Host<'_> {
    fn event(&mut self, event: &TrainEvent) -> bool {
        let Some(function) = self.function else {
            return true;
        };
        let event = mlxrt_train_event {
            struct_size: size_of::<mlxrt_train_event>() as u32,
            flags: 0,
            step: event.step,
            steps: event.steps,
            trained_tokens: event.trained_tokens,
            truncated_samples: event.truncated_samples,
            peak_bytes: event.peak_bytes,
            loss: event.loss,
            validation_loss: event.validation_loss.unwrap_or(f64::NAN),
            tokens_per_second: event.tokens_per_second,
            learning_rate: event.learning_rate,
        };
        // SAFETY: the host gave the function for calls with this user_data during this call; the event lives through it.
        let answer = with_callback_mark(Callback::Event, || unsafe {
            function(self.user_data, &event)
        });
        answer != MLXRT_RETURN_STOP
    }

    fn save(&mut self, step: u64, checkpoint: bool) -> Result<()> {
        let Some(path) = &self.save_path else {
            return Ok(());
        };
        let watch = SaveOptions {
            deadline: None,
            progress: &mut |_, _| true,
        };
        self.adapter.save(path, checkpoint.then_some(step), watch)
    }
}

/// The options, and where the adapter is saved.
///
/// # Safety
/// `options` is NULL or as large as its struct_size says, and its fields are as the header wants them.
unsafe fn read_train_options(
    options: *const mlxrt_train_options,
    dropout: f32,
) -> Result<(TrainOptions, Option<PathBuf>)> {
    // SAFETY: as this function's own contract.
    let o: mlxrt_train_options = unsafe { read_options(options, "options")? };
    let paths = o.flags & MLXRT_TRAIN_PATHS != 0;
    // SAFETY: as this function's own contract.
    let (train, valid, save_path) = unsafe {
        (
            read_data(o.train, o.train_len, paths, "options.train")?,
            read_data(o.valid, o.valid_len, paths, "options.valid")?,
            opt_path_arg(o.save_path, "options.save_path")?,
        )
    };
    let train = train.ok_or_else(|| Error::invalid("options.train is NULL"))?;
    let default = TrainOptions::default();
    let or = |given: u32, default: u32| if given == 0 { default } else { given };
    let weight_decay = |default: f32| match o.weight_decay {
        0.0 => default,
        -1.0 => 0.0,
        given => given,
    };
    let options = TrainOptions {
        train,
        valid,
        mask_prompt: o.flags & MLXRT_TRAIN_MASK_PROMPT != 0,
        steps: match o.steps {
            0 => default.steps,
            steps => steps.into(),
        },
        batch_size: or(o.batch_size, default.batch_size),
        max_tokens: or(o.max_tokens, default.max_tokens),
        accumulate: or(o.accumulate, default.accumulate),
        report_every: or(o.report_every, default.report_every),
        validate_every: or(o.validate_every, default.validate_every),
        save_every: or(o.save_every, default.save_every),
        optimizer: match o.optimizer {
            MLXRT_OPTIMIZER_ADAMW => Optimizer::AdamW {
                weight_decay: weight_decay(0.01),
            },
            MLXRT_OPTIMIZER_ADAM if weight_decay(0.0) != 0.0 => {
                return Err(Error::invalid(
                    "options.weight_decay is given, and Adam has none: AdamW has",
                ))
            }
            MLXRT_OPTIMIZER_ADAM => Optimizer::Adam,
            MLXRT_OPTIMIZER_SGD => Optimizer::Sgd {
                weight_decay: weight_decay(0.0),
            },
            other => return Err(unknown("options.optimizer", other)),
        },
        schedule: match o.schedule {
            MLXRT_SCHEDULE_CONSTANT => Shape::Constant,
            MLXRT_SCHEDULE_COSINE => Shape::Cosine,
            MLXRT_SCHEDULE_LINEAR => Shape::Linear,
            other => return Err(unknown("options.schedule", other)),
        },
        learning_rate: match o.learning_rate {
            0.0 => default.learning_rate,
            given => given,
        },
        warmup: o.warmup,
        dropout,
        checkpoint: o.flags & MLXRT_TRAIN_CHECKPOINT != 0,
        seed: o.seed,
    };
    Ok((options, save_path))
}

fn unknown(name: &str, code: i32) -> Error {
    Error::unsupported(format!("{name} is {code}, which is not known"))
}

/// JSONL as it is given, or of a file.
///
/// # Safety
/// As `bytes_arg`.
unsafe fn read_data(
    text: *const c_char,
    len: usize,
    is_path: bool,
    name: &str,
) -> Result<Option<Vec<u8>>> {
    if text.is_null() && (len == 0 || len == NTS) {
        return Ok(None);
    }
    // SAFETY: as this function's own contract.
    let bytes = unsafe { bytes_arg(text, len, name)? };
    if !is_path {
        return Ok(Some(bytes));
    }
    let path = String::from_utf8(bytes)
        .ok()
        .filter(|path| !path.is_empty() && !path.contains('\0'))
        .ok_or_else(|| Error::invalid(format!("{name} is no path in UTF-8")))?;
    let shown = cut(&path, 400);
    let failed = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            std::io::ErrorKind::OutOfMemory => Code::OutOfMemory,
            _ => Code::Io,
        };
        Error::new(code, format!("{shown} cannot be read: {error}"))
    };
    let file = match files::open(Path::new(&path)).map_err(failed)? {
        Opened::File(file) => file,
        Opened::Other(kind) => {
            let kind = kind.words();
            let message = format!("{shown} is {kind}, not a regular file");
            return Err(Error::new(Code::Io, message));
        }
    };
    let mut bytes = Vec::new();
    // One byte more than may be: whoever parses it refuses it.
    // (An end of memory is an error of `read_to_end`, too.)
    file.take(data::MOST_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}
