//! `mlxrt score`: how likely a model finds a text.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::handles::{Input, Model, Session};
use crate::interrupt::{self, Work};
use crate::options::{
    interrupted_or, load_model, read_stdin, read_text, AdapterArgs, Common, ModelArgs, SessionArgs,
};
use crate::ui::{printable, Ui};

/// Without --prefix or --messages, the text's first token (the BOS where the model has one) is not scored: nothing comes
/// before it.
#[derive(Args)]
pub struct ScoreCommand {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; "-" or nothing reads standard input
    #[arg(id = "second_text", value_name = "TEXT")]
    second: Option<String>,
    /// Read the text from a file, as it is
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What comes before the text, and is not scored
    #[arg(long, value_name = "TEXT", conflicts_with = "messages")]
    prefix: Option<String>,
    /// A conversation that comes before the text, from a JSON file: the text is scored as its answer
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Score the text in pieces of so many tokens, each by itself, and leave out what is over: as mlx_lm.perplexity
    #[arg(long, value_name = "TOKENS", value_parser = sequence, conflicts_with_all = ["prefix", "messages"])]
    sequence_length: Option<usize>,
    /// Only what all tokens come to
    #[arg(long)]
    summary: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = crate::options::timeout)]
    timeout: Option<u32>,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// One token comes before the others.
fn sequence(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value @ 2..) => Ok(value),
        _ => Err("it must be a whole number, 2 or greater".to_owned()),
    }
}

/// A piece that is scored by itself.
struct Piece {
    before: Input,
    tokens: Vec<i32>,
}

pub fn run(command: &ScoreCommand, common: &Common, ui: &Ui) -> Outcome<()> {
    let next = command.second.as_deref();
    let (name, argument) = command.model.name_and_next(next, "the text")?;
    let text = command.text(argument)?;
    let messages = command.messages.as_ref().map(read_text).transpose()?;
    command.adapters.list()?;

    let _library = common.start()?;
    let model = load_model(&name, command.model.load_options(), ui)?;
    let session = model.session(&command.session.raw(command.model.context))?;
    command.adapters.apply(&model, &session, ui)?;
    let pieces = command.pieces(&model, text, messages)?;
    let logprobs = command.score(&session, &pieces, ui)?;
    let tokens: Vec<i32> = pieces.into_iter().flat_map(|piece| piece.tokens).collect();
    let summary = Summary::of(&logprobs);
    if ui.json {
        let texts = tokens.iter().map(|&id| model.detokenize(&[id]));
        let mut event = json!({
            "event": "score", "path": name, "count": tokens.len(), "logprob": summary.sum,
            "perplexity": summary.perplexity, "standard_error": summary.error,
        });
        if !command.summary {
            event["tokens"] = json!(tokens);
            event["token_texts"] = json!(texts.collect::<Outcome<Vec<_>>>()?);
            event["logprobs"] = json!(logprobs);
        }
        return ui.json_line(&event);
    }
    if !command.summary {
        for (&id, logprob) in tokens.iter().zip(&logprobs) {
            let text = printable(&model.detokenize(&[id])?);
            ui.line(&format!("{logprob:>10.4}  {text:?}"))?;
        }
    }
    let spread = summary
        .error
        .map_or(String::new(), |error| format!(" ± {error:.3}"));
    ui.line(&format!(
        "Perplexity: {:.3}{spread} (tokens: {}, log-probability: {:.3})",
        summary.perplexity,
        tokens.len(),
        summary.sum
    ))
}

impl ScoreCommand {
    fn text(&self, argument: Option<String>) -> Outcome<String> {
        let text = match (argument, &self.file) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    "two texts: one as an argument, and one with --file",
                ))
            }
            (Some(text), None) if text != "-" => text,
            (None, Some(path)) => read_text(path)?,
            (None, None) if io::stdin().is_terminal() => {
                return Err(Failure::usage(
                    "no text: give one behind the model, with --file, or on standard input",
                ))
            }
            _ => read_stdin()?,
        };
        match text.is_empty() {
            true => Err(Failure::usage("the text is empty")),
            false => Ok(text),
        }
    }

    fn pieces(&self, model: &Model, text: String, messages: Option<String>) -> Outcome<Vec<Piece>> {
        if self.prefix.is_some() || messages.is_some() {
            let before = Input {
                text: self.prefix.clone(),
                messages,
                ..Input::default()
            };
            let tokens = model.tokenize(&text)?;
            return Ok(vec![Piece { before, tokens }]);
        }
        let text = Input {
            text: Some(text),
            ..Input::default()
        };
        // With its BOS.
        let all = model.prompt_tokens(&text)?;
        let length = self.sequence_length.unwrap_or(all.len());
        let pieces = all.chunks_exact(length).filter_map(|tokens| {
            let (first, tokens) = tokens.split_first().filter(|(_, rest)| !rest.is_empty())?;
            let before = Input {
                tokens: Some(vec![*first]),
                ..Input::default()
            };
            let tokens = tokens.to_vec();
            Some(Piece { before, tokens })
        });
        let pieces: Vec<Piece> = pieces.collect();
        if pieces.is_empty() {
            return Err(Failure::usage(match self.sequence_length {
                Some(length) => format!(
                    "the text has {} tokens, and --sequence-length is {length}",
                    all.len()
                ),
                None => {
                    "the text is one token, which nothing comes before: give a --prefix".to_owned()
                }
            }));
        }
        Ok(pieces)
    }

    /// Of all pieces' tokens.
    fn score(&self, session: &Session, pieces: &[Piece], ui: &Ui) -> Outcome<Vec<f32>> {
        let _work = Work::on_session(session.id());
        let tokens = |pieces: &[Piece]| -> u64 {
            pieces.iter().map(|piece| piece.tokens.len() as u64).sum()
        };
        let bar = ui.bar(tokens(pieces), "Scoring {bar:30} {pos} of {len} tokens");
        let mut logprobs = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let before: u64 = tokens(&pieces[..i]);
            let given = session.score(
                &piece.before,
                &piece.tokens,
                self.timeout.unwrap_or(0),
                &mut |done, _| {
                    bar.set_position(before + done);
                    interrupt::signal().is_none()
                },
            );
            logprobs.extend(interrupted_or(given)?);
        }
        bar.finish_and_clear();
        Ok(logprobs)
    }
}

struct Summary {
    sum: f64,
    perplexity: f64,
    /// Of the perplexity; none for one token.
    error: Option<f64>,
}

impl Summary {
    /// As mlx_lm.perplexity computes it.
    fn of(logprobs: &[f32]) -> Summary {
        let values = || logprobs.iter().map(|&logprob| f64::from(logprob));
        let (n, sum) = (logprobs.len() as f64, values().sum::<f64>());
        let mean = sum / n;
        let perplexity = (-mean).exp();
        let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = perplexity * (variance / n).sqrt();
        Summary {
            sum,
            perplexity,
            error: (logprobs.len() > 1).then_some(error),
        }
    }
}
