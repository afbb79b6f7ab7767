//! From an input to the tokens of a request.

use std::sync::Arc;

use super::clock;
use super::model::{Chat, Model};
use super::options::Thinking;
use crate::aside::aside;
use crate::error::{Code, Error, Result};
use crate::grammar::calls::{Calls, Choice};
use crate::room::{self, Room};
use crate::template::{Json, Object};
use crate::text::{
    continued_text, left_out, Channels, ChatTemplate, Message, Origin, Piece, RenderOptions,
    Specials, TemplateOptions, Tools, MAX_BYTES, MAX_TEXT,
};
use crate::words::quoted;

/// Bytes of a conversation's tools, and of its template arguments.
const MOST_JSON: usize = 64 << 20;
/// Bytes of a choice of tools.
const MOST_CHOICE: usize = 64 << 10;
/// Bytes of JSON from which on it is long: shorter ones take some ten milliseconds.
const LONG: usize = 1 << 20;

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
    Messages(Arc<Conversation>),
}

impl Input {
    pub fn messages(conversation: Conversation) -> Self {
        Input::Messages(Arc::new(conversation))
    }

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
    /// JSON: which of the tools the answer may or must call.
    pub tool_choice: Option<String>,
    pub trust_content: bool,
    pub no_generation_prompt: bool,
    pub continue_last: bool,
}

impl Conversation {
    /// Whether the work on it may take longer than a moment, whatever its JSON is made of: parsing, and freeing what was parsed,
    /// which nothing can interrupt.
    fn is_long(&self) -> bool {
        let others = [&self.tools, &self.template_args, &self.tool_choice];
        let others = others.map(|json| json.as_ref().map_or(0, String::len));
        let all = others.iter().sum::<usize>();
        self.messages.len().saturating_add(all) >= LONG
    }
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
    /// Of a whole history: its end, behind the last content that is not the model's own.
    opening: Option<Vec<i32>>,
    pub tools: Tools,
    /// Which of them are called; the tools as JSON, where there are some.
    pub choice: Choice,
    pub tools_json: Option<String>,
    /// How calls are written, where the input says it.
    pub parser: Option<String>,
    /// What binds the answer's calls.
    pub calls: Option<Arc<Calls>>,
}

impl Prompt {
    /// A text with more tokens than the session's `context` is not tokenised to its end.
    pub fn new(model: &Arc<Model>, input: &Input, context: usize) -> Result<Self> {
        Prompt::with(model, input, Thinking::Free, context)
    }

    /// The template is told how much the model is to think.
    pub fn with(
        model: &Arc<Model>,
        input: &Input,
        thinking: Thinking,
        context: usize,
    ) -> Result<Self> {
        let prompt = match input {
            Input::Text {
                text,
                no_bos,
                special_as_text,
            } => {
                // Words between this and the tokenizer are none.
                let _room = room::hold(0, 0, "input.text")?;
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
                    ..Prompt::default()
                }
            }
            Input::Tokens(tokens) if tokens.len() > context => {
                return Err(Error::new(
                    Code::ContextFull,
                    format!(
                        "the prompt has {} tokens, and the session's context is {context}",
                        tokens.len()
                    ),
                ))
            }
            Input::Tokens(tokens) => {
                let _room = room::hold(tokens.len(), 2 * size_of::<i32>(), "input.tokens")?;
                model.check_ids(tokens, "input.tokens")?;
                Prompt {
                    tokens: tokens.clone(),
                    continues: true,
                    ..Prompt::default()
                }
            }
            Input::Messages(conversation) => of_conversation(model, conversation, {
                move |model, conversation| {
                    Prompt::of_messages(model, conversation, thinking, context)
                }
            })?,
        };
        // A tokenizer may have ids that the model has no row for.
        model.check_ids(&prompt.tokens, "the prompt's tokens")?;
        model.check_ids(&prompt.prefix, "the prompt's first tokens")?;
        Ok(prompt)
    }

    fn of_messages(
        model: &Model,
        conversation: &Conversation,
        thinking: Thinking,
        context: usize,
    ) -> Result<Self> {
        let Rendered {
            _room,
            messages,
            choice,
            tools,
            parser,
            pieces,
        } = Rendered::new(model, conversation, thinking)?;
        let own = pieces
            .iter()
            .rposition(|piece| piece.origin == Origin::Content);
        let own = pieces.get(own.map_or(0, |at| at + 1)..).unwrap_or(&[]);
        let trust = conversation.trust_content;
        let tokenizer = &model.tokenizer;
        Ok(Prompt {
            tokens: tokenizer.encode_pieces(&pieces, conversation.trust_content, context)?,
            opening: match model.channels {
                Some(_) => Some(tokenizer.encode_pieces(own, trust, usize::MAX)?),
                None => None,
            },
            tools: match choice {
                Choice::Nothing => Tools::forbidden(),
                _ => Tools::new(tools.as_ref()),
            },
            tools_json: tools.and_then(|_| conversation.tools.clone()),
            choice,
            parser,
            continued: match conversation.continue_last {
                true => continued_text(&messages, &pieces),
                false => String::new(),
            },
            ..Prompt::default()
        })
    }

    pub fn opening(&self) -> Option<&[i32]> {
        self.opening.as_deref()
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
    let Input::Messages(conversation) = input else {
        return Err(Error::invalid(
            "input.messages is missing: only messages can be rendered",
        ));
    };
    model.watched(|| of_conversation(model, conversation, render_messages))
}

fn render_messages(model: &Model, conversation: &Conversation) -> Result<String> {
    let rendered = Rendered::new(model, conversation, Thinking::Free)?;
    let bytes = rendered.pieces.iter().map(|piece| piece.text.len()).sum();
    room::ask(bytes, 2, "the prompt")?;
    let pieces = rendered.pieces.into_iter();
    Ok(pieces.map(|piece| piece.text).collect())
}

/// A conversation, read and rendered.
struct Rendered {
    /// For as long as the rest is there.
    _room: Room,
    messages: Vec<Message>,
    choice: Choice,
    tools: Option<Json>,
    parser: Option<String>,
    pieces: Vec<Piece>,
}

impl Rendered {
    fn new(model: &Model, conversation: &Conversation, thinking: Thinking) -> Result<Self> {
        let room = room_for(conversation)?;
        let messages = Message::parse_list(conversation.messages.as_bytes())?;
        let (choice, tools) = choice_and_tools(conversation)?;
        let mut args = arguments(conversation)?;
        let parser = take_parser(&mut args)?;
        let shown = tools.as_ref();
        let pieces = pieces(model, &messages, shown, args, conversation, thinking)?;
        Ok(Rendered {
            _room: room,
            messages,
            choice,
            tools,
            parser,
            pieces,
        })
    }
}

/// Does `work` on a conversation: on a thread of its own where it is long, so that whoever waits can turn away from it.
fn of_conversation<T: Send + 'static>(
    model: &Arc<Model>,
    conversation: &Arc<Conversation>,
    work: impl FnOnce(&Model, &Conversation) -> Result<T> + Send + 'static,
) -> Result<T> {
    if !conversation.is_long() {
        return work(model, conversation);
    }
    let (model, conversation) = (model.clone(), conversation.clone());
    aside("the work on the input", &mut || Ok(()), move || {
        work(&model, &conversation)
    })
}

/// Errors: `InvalidArgument` for what is too long for `input.NAME`.
pub fn check_length(name: &str, bytes: usize) -> Result<()> {
    let most = match name {
        "text" => MAX_TEXT,
        "messages" => MAX_BYTES,
        "tool_choice" => MOST_CHOICE,
        _ => MOST_JSON,
    };
    match bytes <= most {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "input.{name} has {bytes} bytes, at most {most} are allowed"
        ))),
    }
}

/// What a conversation comes to until it is tokens; what the template makes, and the tokenizer's work, are asked for there.
///
/// Errors: `InvalidArgument` for JSON that is too long, `OutOfMemory`.
fn room_for(conversation: &Conversation) -> Result<Room> {
    let of = |name: &str, json: &Option<String>| -> Result<usize> {
        let json = json.as_deref().unwrap_or_default();
        check_length(name, json.len())?;
        Ok(Json::cost(json.as_bytes()))
    };
    let Conversation {
        messages,
        tools,
        template_args,
        ..
    } = conversation;
    check_length("messages", messages.len())?;
    // A message's reasoning is there by three names.
    let messages = Json::cost(messages.as_bytes()).saturating_mul(3);
    let tools = of("tools", tools)?;
    let args = of("template_args", template_args)?;
    let all = messages.saturating_add(tools).saturating_add(args);
    room::hold_for(all, "the conversation")
}

fn parse(name: &str, json: &Option<String>) -> Result<Option<Json>> {
    let name = format!("input.{name}");
    let parsed = json.as_ref();
    parsed
        .map(|json| Json::parse_argument(&name, json.as_bytes()))
        .transpose()
}

/// Which tools are called, and those that the template is shown: none, where none may be called.
fn choice_and_tools(conversation: &Conversation) -> Result<(Choice, Option<Json>)> {
    let choice = conversation.tool_choice.as_deref().map(Choice::read);
    let choice = choice.transpose()?.unwrap_or_default();
    let tools = parse("tools", &conversation.tools)?.filter(|tools| *tools != Json::Null);
    match choice {
        Choice::Nothing => Ok((choice, None)),
        Choice::Required | Choice::Named(_) if tools.is_none() => Err(Error::invalid(
            "input.tool_choice asks for a call, and input.tools is missing",
        )),
        choice => Ok((choice, tools)),
    }
}

/// Tells the template how much the model is to think, by the variables that it knows and the caller did not set.
fn tell(template: &ChatTemplate, thinking: Thinking, args: &mut Option<Object>) {
    let source = template.source();
    let Some(tokens) = thinking.tokens() else {
        return;
    };
    let off = thinking == Thinking::Off;
    let asks = |name: &str| {
        ["is defined", "is not defined", "%}", "-%}", "and", "or"]
            .iter()
            .any(|after| source.contains(&format!(" {name} {after}")))
    };
    let mut set = |name: &str, value: Json| {
        let args = args.get_or_insert_with(Object::default);
        if args.get(name).is_none() {
            args.set(name, value);
        }
    };
    if off && source.contains("enable_thinking") {
        set("enable_thinking", Json::Bool(false));
    } else if off && asks("thinking") {
        set("thinking", Json::Bool(false));
    }
    if source.contains("thinking_budget") {
        set(
            "thinking_budget",
            Json::Int(i64::try_from(tokens).unwrap_or(i64::MAX)),
        );
    }
}

/// The variables for the template that the input has.
fn arguments(conversation: &Conversation) -> Result<Option<Object>> {
    match parse("template_args", &conversation.template_args)? {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(args)) => Ok(Some(args)),
        Some(_) => Err(Error::invalid("input.template_args must be a JSON object")),
    }
}

/// How calls are written, which is for mlxrt and not for the template.
fn take_parser(args: &mut Option<Object>) -> Result<Option<String>> {
    let parser = args.as_mut().and_then(|args| args.take("tool_parser_type"));
    match parser {
        None => Ok(None),
        Some(Json::Text(name)) if Channels::knows(&name) => Ok(Some(name)),
        Some(Json::Text(name)) => Err(Error::unsupported(format!(
            "input.template_args: no format of calls is named {}, as tool_parser_type says",
            quoted(&name, 80)
        ))),
        Some(other) => Err(Error::invalid(format!(
            "input.template_args: tool_parser_type must be a string, not {}",
            other.kind()
        ))),
    }
}

fn pieces(
    model: &Model,
    messages: &[Message],
    tools: Option<&Json>,
    mut args: Option<Object>,
    conversation: &Conversation,
    thinking: Thinking,
) -> Result<Vec<Piece>> {
    let add_generation_prompt = !conversation.no_generation_prompt && !conversation.continue_last;
    match &model.chat {
        Chat::Template(template) => {
            tell(template, thinking, &mut args);
            let options = TemplateOptions {
                tools,
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
                    tools,
                    add_generation_prompt,
                    continue_last: conversation.continue_last,
                },
            )
        }
    }
}
