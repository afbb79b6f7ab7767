//! From an input to the tokens of a request.

use std::sync::Arc;

use super::clock;
use super::model::{Chat, Model};
use crate::error::{Error, Result};
use crate::room::{self, Room};
use crate::template::Json;
use crate::text::{
    continued_text, left_out, Message, Piece, RenderOptions, Specials, TemplateOptions, MAX_BYTES,
};
use crate::words::quoted;

/// Bytes of a conversation's tools, and of its template arguments.
const MOST_JSON: usize = 64 << 20;

/// Exactly one of the three, copied from the caller.
#[derive(Clone, Debug)]
pub enum Input {
    /// Continues the session.
    Text {
        text: String,
        no_bos: bool,
        special_as_text: bool,
    },
    /// Continues the session.
    Tokens(Vec<i32>),
    /// The whole history.
    Messages(Conversation),
}

impl Input {
    /// Goes on from the session as it is.
    pub fn nothing() -> Self {
        Input::Text {
            text: String::new(),
            no_bos: false,
            special_as_text: false,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// JSON: a list of messages.
    pub messages: String,
    /// JSON: a list of tools.
    pub tools: Option<String>,
    /// JSON: an object of variables for the template.
    pub template_args: Option<String>,
    pub trust_content: bool,
    pub no_generation_prompt: bool,
    pub continue_last: bool,
}

/// An input as tokens, before it is known what the session will hold when its turn comes.
#[derive(Default)]
pub struct Prompt {
    tokens: Vec<i32>,
    /// They go on from the session's. (Else they are the whole history.)
    continues: bool,
    /// The tokenizer's prefix, which text at token 0 gets.
    prefix: Vec<i32>,
    /// The start of the answer, where the input wants one continued: the end of the prompt.
    pub continued: String,
}

impl Prompt {
    /// A text with more tokens than the session's `context` is not tokenised to its end.
    pub fn new(model: &Model, input: &Input, context: usize) -> Result<Self> {
        let _room = room_for(input)?;
        let prompt = match input {
            Input::Text {
                text,
                no_bos,
                special_as_text,
            } => {
                let specials = if *special_as_text {
                    Specials::AsText
                } else {
                    Specials::Recognise
                };
                let tokens = model.tokenizer.encode_within(text, specials, context)?;
                let bos = model.tokenizer.bos_prefix();
                let wanted = !no_bos && !tokens.starts_with(&bos);
                Prompt {
                    prefix: if wanted { bos } else { Vec::new() },
                    tokens,
                    continues: true,
                    continued: String::new(),
                }
            }
            Input::Tokens(tokens) => {
                model.check_ids(tokens, "input.tokens")?;
                Prompt {
                    tokens: tokens.clone(),
                    continues: true,
                    prefix: Vec::new(),
                    continued: String::new(),
                }
            }
            Input::Messages(conversation) => {
                let messages = Message::parse_list(conversation.messages.as_bytes())?;
                let pieces = pieces(model, &messages, conversation)?;
                let tokenizer = &model.tokenizer;
                Prompt {
                    tokens: tokenizer.encode_pieces(
                        &pieces,
                        conversation.trust_content,
                        context,
                    )?,
                    continues: false,
                    prefix: Vec::new(),
                    continued: match conversation.continue_last {
                        true => continued_text(&messages, &pieces),
                        false => String::new(),
                    },
                }
            }
        };
        // A tokenizer may have ids that the model has no row for.
        model.check_ids(&prompt.tokens, "the prompt's tokens")?;
        model.check_ids(&prompt.prefix, "the prompt's first tokens")?;
        Ok(prompt)
    }

    /// Its own tokens, whatever comes before them.
    pub fn into_tokens(self) -> Vec<i32> {
        self.tokens
    }

    /// The sequence that a request starts from, when the session holds `ledger`.
    pub fn after(&self, ledger: &[i32]) -> Result<Vec<i32>> {
        let before = match (self.continues, ledger) {
            (false, _) => &[],
            (true, []) => self.prefix.as_slice(),
            (true, ledger) => ledger,
        };
        let tokens = before.len().saturating_add(self.tokens.len());
        // Of this and its copies until the request is under way.
        room::ask(tokens, 4 * size_of::<i32>(), "the prompt")?;
        let sequence = [before, &self.tokens].concat();
        if sequence.is_empty() {
            return Err(Error::invalid(
                "the input has no tokens and the session is empty: there is nothing to go on from",
            ));
        }
        Ok(sequence)
    }
}

/// The tokens that a request of a fresh session starts from.
pub fn tokens(model: &Arc<Model>, input: &Input) -> Result<Vec<i32>> {
    model
        .watched(|| Prompt::new(model, input, usize::MAX))?
        .after(&[])
}

/// The prompt as text, for `mlxrt_render`.
pub fn render(model: &Arc<Model>, input: &Input) -> Result<String> {
    match input {
        Input::Messages(conversation) => model.watched(|| {
            let _room = room_for(input)?;
            let messages = Message::parse_list(conversation.messages.as_bytes())?;
            let pieces = pieces(model, &messages, conversation)?;
            let bytes = pieces.iter().map(|piece| piece.text.len()).sum();
            room::ask(bytes, 2, "the prompt")?;
            Ok(pieces.into_iter().map(|piece| piece.text).collect())
        }),
        _ => Err(Error::invalid(
            "input.messages is missing: only messages can be rendered",
        )),
    }
}

/// What an input comes to until it is tokens; what the template makes, and the tokenizer's work, are asked for there.
///
/// Errors: `InvalidArgument` for JSON that is too long, `OutOfMemory`.
fn room_for(input: &Input) -> Result<Room> {
    let conversation = match input {
        Input::Messages(conversation) => conversation,
        Input::Tokens(tokens) => {
            return room::hold(tokens.len(), 2 * size_of::<i32>(), "input.tokens")
        }
        // Words between this and the tokenizer are none.
        Input::Text { .. } => return room::hold(0, 0, "input.text"),
    };
    let of = |name: &str, json: &Option<String>, most: usize| match json.as_deref() {
        Some(json) if json.len() > most => Err(Error::invalid(format!(
            "input.{name} has {} bytes, at most {most} are allowed",
            json.len()
        ))),
        json => Ok(json.map_or(0, |json| Json::cost(json.as_bytes()))),
    };
    let Conversation {
        messages,
        tools,
        template_args,
        ..
    } = conversation;
    if messages.len() > MAX_BYTES {
        return Err(Error::invalid(format!(
            "messages has {} bytes, at most {MAX_BYTES} are allowed",
            messages.len()
        )));
    }
    // A message's reasoning is there by three names.
    let messages = Json::cost(messages.as_bytes()).saturating_mul(3);
    let tools = of("tools", tools, MOST_JSON)?;
    let args = of("template_args", template_args, MOST_JSON)?;
    let all = messages.saturating_add(tools).saturating_add(args);
    room::hold_for(all, "the conversation")
}

fn pieces(model: &Model, messages: &[Message], conversation: &Conversation) -> Result<Vec<Piece>> {
    let parse = |name: &str, json: &Option<String>| -> Result<Option<Json>> {
        let parsed = json
            .as_ref()
            .map(|json| Json::parse(json.as_bytes()))
            .transpose();
        parsed.map_err(|error| Error::invalid(format!("input.{name} is not valid JSON: {error}")))
    };
    let tools = parse("tools", &conversation.tools)?;
    let args = match parse("template_args", &conversation.template_args)? {
        None | Some(Json::Null) => None,
        Some(Json::Object(args)) => Some(args),
        Some(_) => return Err(Error::invalid("input.template_args must be a JSON object")),
    };
    let add_generation_prompt = !conversation.no_generation_prompt && !conversation.continue_last;
    match &model.chat {
        Chat::Template(template) => {
            let options = TemplateOptions {
                tools: tools.as_ref(),
                args: args.as_ref(),
                add_generation_prompt,
                continue_last: conversation.continue_last,
            };
            let pieces = template.render(messages, options, &clock::now)?;
            if let Some(why) = left_out(messages, &pieces) {
                crate::log::warn!("the chat template leaves a message out: {why}");
            }
            Ok(pieces)
        }
        Chat::Unknown => Err(Error::unsupported(
            "the model has no chat template, and none is built in for its family; give the prompt as text or tokens",
        )),
        Chat::BuiltIn(format) => {
            if let Some((name, _)) = args.as_ref().and_then(|args| args.iter().next()) {
                return Err(Error::unsupported(format!(
                    "input.template_args: the model has no template of its own, and the built-in chat format no \
                     variable {}",
                    quoted(name, 80)
                )));
            }
            format.render(
                messages,
                RenderOptions {
                    bos: model.tokenizer.bos_token(),
                    eos: model.tokenizer.eos_token(),
                    tools: tools.as_ref(),
                    add_generation_prompt,
                    continue_last: conversation.continue_last,
                },
            )
        }
    }
}
