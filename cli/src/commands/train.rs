//! `mlxrt train`: makes an adapter out of examples.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::curve::{self, Losses};
use crate::failure::{quoted, Failure, Outcome};
use crate::ffi::*;
use crate::handles::{sized, Adapter, Model, TrainFiles};
use crate::interrupt::{self, Work};
use crate::options::{
    above_zero, load_adapter, load_model, not_negative, positive, seed, share, Common, ModelArgs,
};
use crate::plot;
use crate::ui::{self, Style, Ui};

#[derive(Args)]
pub struct TrainCommand {
    #[command(flatten)]
    model: ModelArgs,
    /// JSONL with a "messages", "prompt" and "completion", or "text" on each line; or a folder with train.jsonl and
    /// perhaps valid.jsonl
    #[arg(short, long, value_name = "FILE|FOLDER")]
    data: PathBuf,
    /// JSONL to measure the loss on, which is not trained
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,
    /// The folder to write the adapter to
    #[arg(short, long, alias = "adapter-path", value_name = "FOLDER")]
    out: PathBuf,
    /// Replace an adapter that is in that folder
    #[arg(long)]
    overwrite: bool,
    /// Draw the loss as a picture, .svg or .png
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    adapter: NewAdapterArgs,
    #[command(flatten)]
    training: TrainingArgs,
}

#[derive(Args)]
#[command(next_help_heading = "The adapter")]
struct NewAdapterArgs {
    /// Go on with this adapter instead of a new one
    #[arg(long, alias = "resume-adapter-file", value_name = "PATH", conflicts_with_all = ["rank", "scale", "dropout", "layers", "keys", "kind", "dtype"])]
    adapter: Option<String>,
    /// LoRA, or DoRA
    #[arg(long, alias = "fine-tune-type", value_enum, default_value_t = Kind::Lora)]
    kind: Kind,
    /// How many columns and rows its matrices have [default: 8]
    #[arg(long, value_parser = positive)]
    rank: Option<u32>,
    /// What its change is multiplied by [default: 20]
    #[arg(long, value_parser = above_zero)]
    scale: Option<f32>,
    /// The share of inputs that training leaves out, below 1 [default: 0]
    #[arg(long, value_name = "P", value_parser = share)]
    dropout: Option<f32>,
    /// Only the last so many layers [default: all]
    #[arg(long, alias = "num-layers", value_parser = positive)]
    layers: Option<u32>,
    /// Which modules, with commas between [default: q_proj,v_proj]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    keys: Vec<String>,
    /// The type of its numbers [default: f32]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
}

#[derive(Args)]
#[command(next_help_heading = "Training")]
struct TrainingArgs {
    /// How many batches to train [default: 1000]
    #[arg(long, visible_alias = "iters", value_parser = positive)]
    steps: Option<u32>,
    /// Samples in a batch [default: 4]
    #[arg(long, value_name = "SAMPLES", value_parser = positive)]
    batch_size: Option<u32>,
    /// The most tokens of a sample; the rest is cut [default: 2048]
    #[arg(long, alias = "max-seq-length", value_name = "TOKENS", value_parser = positive)]
    max_tokens: Option<u32>,
    /// Batches whose gradients make one update [default: 1]
    #[arg(long, alias = "grad-accumulation-steps", value_name = "BATCHES", value_parser = positive)]
    accumulate: Option<u32>,
    /// The highest learning rate [default: 1e-5]
    #[arg(long, value_name = "RATE", value_parser = above_zero)]
    learning_rate: Option<f32>,
    /// How the learning rate goes on
    #[arg(long, value_enum, default_value_t = Schedule::Constant)]
    schedule: Schedule,
    /// Updates over which the learning rate rises from 0 [default: 0]
    #[arg(long, value_name = "UPDATES", value_parser = positive)]
    warmup: Option<u32>,
    /// What moves the weights
    #[arg(long, value_enum, default_value_t = Optimizer::Adamw)]
    optimizer: Optimizer,
    /// How weights are drawn to 0 [default: 0.01 for AdamW, else none]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    weight_decay: Option<f32>,
    /// Train answers only, not prompts
    #[arg(long)]
    mask_prompt: bool,
    /// Less memory, more computing: gradient checkpointing
    #[arg(long, alias = "grad-checkpoint")]
    checkpoint: bool,
    /// Steps between lines of the report
    #[arg(long, alias = "steps-per-report", value_name = "STEPS", default_value_t = 10, value_parser = positive)]
    report_every: u32,
    /// Steps between measurements on --valid [default: 200]
    #[arg(long, alias = "steps-per-eval", value_name = "STEPS", value_parser = positive)]
    validate_every: Option<u32>,
    /// Steps between saves, besides the one at the end [default: 100]
    #[arg(long, value_name = "STEPS", value_parser = positive)]
    save_every: Option<u32>,
    /// The same seed gives the same training; 1 or greater [default: 0, also always the same]
    #[arg(long, value_parser = seed)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Lora,
    Dora,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Schedule {
    Constant,
    Cosine,
    Linear,
}

#[derive(Clone, Copy, ValueEnum)]
enum Optimizer {
    Adamw,
    Adam,
    Sgd,
}

pub fn run(command: &TrainCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let name = command.model.name()?;
    let files = command.files()?;
    if let Some(path) = &command.plot {
        plot::check_name(path)?;
        writable(path.parent().unwrap_or(Path::new("")))?;
    }
    let _library = common.start()?;
    let model = load_model(&name, command.model.load_options(), ui)?;
    let adapter = command.adapter.open(&model, ui)?;
    let info = adapter.info()?;
    let parameters = info["parameters"].as_u64().unwrap_or(0);
    ui.note(&format!(
        "Training {} parameters of an adapter ({}, rank {}); Ctrl-C stops and keeps what there is.",
        ui::count(parameters),
        info["kind"].as_str().unwrap_or("lora"),
        info["rank"]
    ));
    let mut watch = Watch::new(command, ui);
    let done = {
        let _work = if ui.quiet {
            Work::begin()
        } else {
            Work::with_notice("Stopping after this step; the adapter is saved. Once more ends at once, without that.")
        };
        let raw = command.training.raw();
        let done = model.train(&adapter, &raw, &files, &mut |event| watch.event(event));
        watch.bar.finish_and_clear();
        done
    };
    let signal = interrupt::signal();
    let steps = watch.step;
    let (losses, failed) = watch.end();
    let saved = done.is_ok();
    if !losses.train.is_empty() {
        if let Some(path) = &command.plot {
            let title = format!("{name}: loss of {steps} steps");
            plot::write(&losses, &title, path)?;
        }
    }
    done.map_err(|failure| naming(failure, &files))?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    if ui.json {
        let mean = |points: &[curve::Point]| points.last().map(|point| point.1);
        ui.json_line(&json!({
            "event": "end", "steps": steps, "stopped": signal.is_some(), "saved": saved, "adapter": files.save,
            "parameters": parameters, "loss": mean(&losses.train), "validation_loss": mean(&losses.valid),
            "plot": command.plot,
        }))?;
    } else {
        if let Some(text) = (losses.train.len() > 1)
            .then(|| curve::draw(&losses, 60, 12))
            .flatten()
        {
            ui.line("")?;
            ui.styled(Style::Cyan, &text)?;
        }
        ui.line(&format!(
            "{} {steps} steps; the adapter is in {}",
            if signal.is_some() {
                "Stopped after"
            } else {
                "Trained"
            },
            files.save
        ))?;
        if let Some(path) = &command.plot {
            ui.line(&format!("The curve is in {}", path.display()))?;
        }
    }
    signal.map_or(Ok(()), |signal| Err(Failure::signal(signal)))
}

impl TrainCommand {
    /// Finds the data, and refuses now what would fail after hours.
    fn files(&self) -> Outcome<TrainFiles> {
        let exists = |path: &Path| match fs::metadata(path) {
            Ok(found) => Ok(found.is_dir()),
            Err(error) => Err(Failure::file(path, "read", &error)),
        };
        let (train, beside) = if exists(&self.data)? {
            let train = self.data.join("train.jsonl");
            exists(&train)?;
            (
                train,
                Some(self.data.join("valid.jsonl")).filter(|path| path.is_file()),
            )
        } else {
            (self.data.clone(), None)
        };
        if let Some(valid) = &self.valid {
            exists(valid)?;
        }
        let valid = self.valid.clone().or(beside);
        let there = self.out.join("adapters.safetensors").exists();
        if there && !self.overwrite {
            return Err(Failure::usage(format!(
                "the folder \"{0}\" has an adapter already; --overwrite replaces it, and --adapter \"{0}\" --overwrite \
                 goes on with it",
                self.out.display()
            )));
        }
        if self.out.is_file() {
            let message = format!(
                "--out: \"{}\" is a file; it must be a folder",
                self.out.display()
            );
            return Err(Failure::usage(message));
        }
        let parent = self.out.parent().unwrap_or(Path::new(""));
        writable(if self.out.is_dir() { &self.out } else { parent })?;
        Ok(TrainFiles {
            train: text_of(&train)?,
            valid: valid.as_deref().map(text_of).transpose()?,
            save: text_of(&self.out)?,
        })
    }
}

/// The library calls the two texts "train" and "valid"; people know their files.
fn naming(mut failure: Failure, files: &TrainFiles) -> Failure {
    let valid = files.valid.as_deref().unwrap_or_default();
    for (name, file) in [("train", files.train.as_str()), ("valid", valid)] {
        if let Some(rest) = failure.message.strip_prefix(name) {
            if rest.starts_with([',', ':', ' ']) {
                failure.message = format!("{}{rest}", quoted(file));
                break;
            }
        }
    }
    failure
}

/// Makes a folder if need be, and a file in it that goes away again.
pub fn writable(folder: &Path) -> Outcome<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let probe = folder.join(format!(".mlxrt-{}", std::process::id()));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::File::create(&probe))
        .and_then(|_| fs::remove_file(&probe));
    written.map_err(|error: io::Error| Failure::file(folder, "written to", &error))
}

pub fn text_of(path: &Path) -> Outcome<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("the name \"{}\" is not UTF-8", path.display())))
}

impl NewAdapterArgs {
    fn open(&self, model: &Model, ui: &Ui) -> Outcome<Adapter> {
        if let Some(path) = &self.adapter {
            return load_adapter(model, path, ui);
        }
        let layers = i32::try_from(self.layers.unwrap_or(0)).unwrap_or(i32::MAX);
        let options = sized!(mlxrt_adapter_options {
            kind: if self.kind == Kind::Dora {
                MLXRT_DORA
            } else {
                MLXRT_LORA
            },
            rank: self.rank.unwrap_or(0),
            scale: self.scale.unwrap_or(0.0),
            dropout: self.dropout.unwrap_or(0.0),
            layers: layers,
            dtype: self.dtype.map_or(0, |dtype| match dtype {
                Dtype::F32 => MLXRT_DTYPE_F32,
                Dtype::F16 => MLXRT_DTYPE_F16,
                Dtype::Bf16 => MLXRT_DTYPE_BF16,
            }),
        });
        model.create_adapter(&options, &self.keys)
    }
}

impl TrainingArgs {
    fn raw(&self) -> mlxrt_train_options {
        let mut flags = 0;
        if self.mask_prompt {
            flags |= MLXRT_TRAIN_MASK_PROMPT;
        }
        if self.checkpoint {
            flags |= MLXRT_TRAIN_CHECKPOINT;
        }
        sized!(mlxrt_train_options {
            flags: flags,
            steps: self.steps(),
            batch_size: self.batch_size.unwrap_or(0),
            max_tokens: self.max_tokens.unwrap_or(0),
            accumulate: self.accumulate.unwrap_or(0),
            // Each step, so that the bar moves and Ctrl-C is heard; --report-every is kept here.
            report_every: 1,
            validate_every: self.validate_every.unwrap_or(0),
            save_every: self.save_every.unwrap_or(0),
            warmup: self.warmup.unwrap_or(0),
            learning_rate: self.learning_rate.unwrap_or(0.0),
            // In the C struct 0 means the default, and -1 none.
            weight_decay: self.weight_decay.map_or(0.0, |decay| if decay == 0.0 {
                -1.0
            } else {
                decay
            }),
            optimizer: match self.optimizer {
                Optimizer::Adamw => MLXRT_OPTIMIZER_ADAMW,
                Optimizer::Adam => MLXRT_OPTIMIZER_ADAM,
                Optimizer::Sgd => MLXRT_OPTIMIZER_SGD,
            },
            schedule: match self.schedule {
                Schedule::Constant => MLXRT_SCHEDULE_CONSTANT,
                Schedule::Cosine => MLXRT_SCHEDULE_COSINE,
                Schedule::Linear => MLXRT_SCHEDULE_LINEAR,
            },
            seed: self.seed.unwrap_or(0),
        })
    }

    fn steps(&self) -> u32 {
        self.steps.unwrap_or(1000)
    }
}

/// Shows a training while it goes.
struct Watch<'a> {
    ui: &'a Ui,
    bar: indicatif::ProgressBar,
    report_every: u64,
    losses: Losses,
    step: u64,
    /// Steps and tokens when the last line was written.
    reported: (u64, u64),
    /// The sum of the seconds since then.
    seconds: f64,
    /// The latest loss on --valid since then.
    validation: Option<f64>,
    tokens: u64,
    warned: bool,
    failed: Option<Failure>,
}

impl Watch<'_> {
    fn new<'a>(command: &TrainCommand, ui: &'a Ui) -> Watch<'a> {
        let bar = ui.bar(
            command.training.steps().into(),
            "Training {bar:30} {pos} of {len} steps, {eta} left{msg}",
        );
        bar.enable_steady_tick(Duration::from_secs(1));
        Watch {
            ui,
            bar,
            report_every: command.training.report_every.into(),
            losses: Losses {
                train: Vec::new(),
                valid: Vec::new(),
            },
            step: 0,
            reported: (0, 0),
            seconds: 0.0,
            validation: None,
            tokens: 0,
            warned: false,
            failed: None,
        }
    }

    fn event(&mut self, event: &mlxrt_train_event) -> bool {
        let step = event.step as f64;
        if event.step > self.step {
            self.losses.train.push((step, event.loss));
        }
        if event.validation_loss.is_finite() {
            self.losses.valid.push((step, event.validation_loss));
            self.validation = Some(event.validation_loss);
        }
        let tokens = event.trained_tokens.saturating_sub(self.tokens);
        if event.tokens_per_second > 0.0 {
            self.seconds += tokens as f64 / event.tokens_per_second;
        }
        (self.step, self.tokens) = (event.step, event.trained_tokens);
        self.bar.set_length(event.steps);
        self.bar.set_position(event.step);
        self.bar.set_message(format!(", loss {:.3}", event.loss));
        if event.truncated_samples > 0 && !self.warned {
            self.warned = true;
            self.ui.warn(&format!(
                "{} samples are longer than --max-tokens and are cut",
                event.truncated_samples
            ));
        }
        let due = event.step.is_multiple_of(self.report_every) || event.step == event.steps;
        let stop = interrupt::signal().is_some();
        if (due || stop) && event.step > self.reported.0 {
            self.failed = self.report(event).err();
        }
        !stop && self.failed.is_none()
    }

    fn report(&mut self, event: &mlxrt_train_event) -> Outcome<()> {
        let steps = (event.step - self.reported.0) as usize;
        let recent = &self.losses.train[self.losses.train.len().saturating_sub(steps)..];
        let loss = recent.iter().map(|point| point.1).sum::<f64>() / recent.len().max(1) as f64;
        let tokens = event.trained_tokens.saturating_sub(self.reported.1);
        let rate = if self.seconds > 0.0 {
            tokens as f64 / self.seconds
        } else {
            0.0
        };
        let validation = self.validation.take();
        self.reported = (event.step, event.trained_tokens);
        self.seconds = 0.0;
        if self.ui.json {
            return self.ui.json_line(&json!({
                "event": "step", "step": event.step, "steps": event.steps, "loss": loss,
                "validation_loss": validation, "learning_rate": event.learning_rate, "tokens_per_second": rate,
                "trained_tokens": event.trained_tokens, "truncated_samples": event.truncated_samples,
                "peak_bytes": event.peak_bytes,
            }));
        }
        let width = event.steps.to_string().len();
        let measured = validation.map_or(String::new(), |loss| format!("  on valid {loss:.3}"));
        let line = format!(
            "step {:>width$}  loss {loss:.3}{measured}  rate {:.2e}  {rate:.0} tok/s  peak {}",
            event.step,
            event.learning_rate,
            ui::bytes(event.peak_bytes)
        );
        ui::above_bars(|| self.ui.line(&line))
    }

    fn end(self) -> (Losses, Option<Failure>) {
        (self.losses, self.failed)
    }
}
