//! The built-in chat formats, for models that bring no template of their own.

use std::borrow::Cow;

use super::messages::{unsupported_part, Message, ToolCall};
use super::pyjson;
use super::tokenizer::{Origin, Piece};
use crate::error::{Error, Result};
use crate::template::Json;

/// How a family writes a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatFormat {
    /// ChatML with Qwen's layout of tools: `<|im_start|>user\n…<|im_end|>\n`. No default system prompt.
    Qwen,
    /// `<start_of_turn>user\n…<end_of_turn>\n`; the system message opens the first user turn.
    Gemma,
    /// Llama 3: `<|start_header_id|>user<|end_header_id|>\n\n…<|eot_id|>`.
    Llama,
    /// Mistral v0.3: `[INST] …[/INST] …</s>`; the system message opens the last user turn.
    Mistral,
    /// Llama 2: `<s>[INST] <<SYS>>\n…\n<</SYS>>\n\n… [/INST] … </s>`.
    Llama2,
}

/// What goes into a prompt beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// The tokenizer's own tokens; where absent, the format's usual ones.
    pub bos: Option<&'a str>,
    pub eos: Option<&'a str>,
    /// A list of tools in OpenAI's form.
    pub tools: Option<&'a Json>,
    /// Ends with the opening of an assistant turn.
    pub add_generation_prompt: bool,
    /// The last message is an assistant's and stays open: its text, unchanged, ends the prompt.
    pub continue_last: bool,
}

const TOOLS_HEAD: &str =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
    You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const TOOLS_TAIL: &str =
    "\n</tools>\n\nFor each function call, return a json object with function name and \
    arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n\
    {\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

impl ChatFormat {
    fn name(self) -> &'static str {
        match self {
            ChatFormat::Qwen => "ChatML",
            ChatFormat::Gemma => "Gemma",
            ChatFormat::Llama => "Llama 3",
            ChatFormat::Mistral => "Mistral",
            ChatFormat::Llama2 => "Llama 2",
        }
    }

    /// Writes the conversation as pieces that know who wrote them.
    ///
    /// Errors: `InvalidArgument` naming the message whose role does not fit; `Unsupported` for tools in a
    /// format that has none.
    pub fn render(self, messages: &[Message], options: RenderOptions) -> Result<Vec<Piece>> {
        let messages: Vec<Turn> = messages.iter().map(Turn::of).collect();
        if options.continue_last {
            check_continued(&messages)?;
        }
        let tools = match options.tools {
            None | Some(Json::Null) => None,
            Some(Json::List(list)) if list.is_empty() => None,
            Some(Json::List(list)) => Some(list.as_slice()),
            Some(_) => return Err(Error::invalid("tools must be a list")),
        };
        if self != ChatFormat::Qwen {
            let calls = messages
                .iter()
                .position(|m| !m.calls.is_empty() || m.role == "tool");
            if tools.is_some() || calls.is_some() {
                let place = calls.map_or("tools".to_string(), |i| format!("messages[{i}]: tools"));
                return Err(Error::unsupported(format!(
                    "{place}: the {} chat format has none",
                    self.name()
                )));
            }
        }
        for (index, message) in messages.iter().enumerate() {
            if let Some((part, kind)) = message.whole.other_parts().next() {
                let place = format!("messages[{index}].content[{part}]");
                return Err(unsupported_part(&place, kind));
            }
        }
        let mut out = Pieces::default();
        let render = Render {
            format: self,
            messages: &messages,
            options,
            tools,
        };
        match self {
            ChatFormat::Qwen => render.qwen(&mut out)?,
            ChatFormat::Gemma => render.gemma(&mut out)?,
            ChatFormat::Llama => render.llama(&mut out)?,
            ChatFormat::Mistral => render.mistral(&mut out)?,
            ChatFormat::Llama2 => render.llama2(&mut out)?,
        }
        Ok(out.0)
    }
}

/// A message as these formats read it.
struct Turn<'a> {
    role: &'a str,
    content: Cow<'a, str>,
    calls: Vec<ToolCall<'a>>,
    whole: &'a Message,
}

impl<'a> Turn<'a> {
    fn of(message: &'a Message) -> Turn<'a> {
        Turn {
            role: &message.role,
            content: message.text(),
            calls: message.tool_calls().collect(),
            whole: message,
        }
    }
}

fn check_continued(messages: &[Turn]) -> Result<()> {
    let Some(last) = messages.last() else {
        return Err(Error::invalid("messages must not be empty"));
    };
    let index = messages.len().saturating_sub(1);
    if last.role != "assistant" {
        return Err(Error::invalid(format!(
            "messages[{index}].role must be \"assistant\" for its text to be continued, not {:?}",
            short(last.role)
        )));
    }
    if !last.calls.is_empty() {
        return Err(Error::invalid(format!(
            "messages[{index}].tool_calls: a message with tool calls cannot be continued"
        )));
    }
    Ok(())
}

fn short(role: &str) -> String {
    role.chars().take(40).collect()
}

/// Adjacent text of one origin becomes one piece.
#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn add(&mut self, text: &str, origin: Origin) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.origin == origin => last.text.push_str(text),
            _ => self.0.push(Piece::new(text, origin)),
        }
    }

    fn template(&mut self, text: &str) {
        self.add(text, Origin::Template);
    }

    fn content(&mut self, text: &str) {
        self.add(text, Origin::Content);
    }

    fn assistant(&mut self, text: &str) {
        self.add(text, Origin::Assistant);
    }
}

struct Render<'a> {
    format: ChatFormat,
    messages: &'a [Turn<'a>],
    options: RenderOptions<'a>,
    tools: Option<&'a [Json]>,
}

impl<'a> Render<'a> {
    fn unknown_role(&self, index: usize, message: &Turn) -> Error {
        let known = match self.format {
            ChatFormat::Qwen => "\"system\", \"user\", \"assistant\" and \"tool\"",
            ChatFormat::Llama => "\"system\", \"user\" and \"assistant\"",
            _ => "\"user\" and \"assistant\" by turns, after one \"system\" or none",
        };
        Error::invalid(format!(
            "messages[{index}].role is {:?}, which the {} chat format does not know here: it takes {known}",
            short(message.role),
            self.format.name()
        ))
    }

    /// The message is the last one and stays open.
    fn is_open(&self, index: usize) -> bool {
        self.options.continue_last && index.saturating_add(1) == self.messages.len()
    }

    fn opens_answer(&self) -> bool {
        self.options.add_generation_prompt && !self.options.continue_last
    }

    fn role(&self, index: usize) -> Option<&'a str> {
        self.messages.get(index).map(|m| m.role)
    }

    fn qwen(&self, out: &mut Pieces) -> Result<()> {
        let leading = self.messages.first().filter(|m| m.role == "system");
        if let Some(tools) = self.tools {
            out.template("<|im_start|>system\n");
            if let Some(system) = leading {
                out.content(&system.content);
                out.template("\n\n");
            }
            out.template(TOOLS_HEAD);
            for tool in tools {
                out.template("\n");
                out.content(&pyjson::to_string(tool));
            }
            out.template(TOOLS_TAIL);
            out.template("<|im_end|>\n");
        }
        let said = usize::from(self.tools.is_some() && leading.is_some());
        for (index, message) in self.messages.iter().enumerate().skip(said) {
            match message.role {
                role @ ("system" | "user") => {
                    out.template(&format!("<|im_start|>{role}\n"));
                    out.content(&message.content);
                    out.template("<|im_end|>\n");
                }
                "assistant" => {
                    out.template("<|im_start|>assistant\n");
                    out.assistant(&message.content);
                    for (nth, call) in message.calls.iter().enumerate() {
                        if nth > 0 || !message.content.is_empty() {
                            out.template("\n");
                        }
                        qwen_call(call, out).map_err(|error| {
                            error.within(&format!("messages[{index}].tool_calls[{nth}]"))
                        })?;
                    }
                    if !self.is_open(index) {
                        out.template("<|im_end|>\n");
                    }
                }
                "tool" => {
                    if index == 0 || self.role(index.saturating_sub(1)) != Some("tool") {
                        out.template("<|im_start|>user");
                    }
                    out.template("\n<tool_response>\n");
                    out.content(&message.content);
                    out.template("\n</tool_response>");
                    if self.role(index.saturating_add(1)) != Some("tool") {
                        out.template("<|im_end|>\n");
                    }
                }
                _ => return Err(self.unknown_role(index, message)),
            }
        }
        if self.opens_answer() {
            out.template("<|im_start|>assistant\n");
        }
        Ok(())
    }

    /// Turns of user and assistant in strict alternation, after an optional system message.
    fn turns(&self) -> Result<(Option<&'a str>, &'a [Turn<'a>], usize)> {
        let system = self.messages.first().filter(|m| m.role == "system");
        let first = usize::from(system.is_some());
        let turns = self.messages.get(first..).unwrap_or(&[]);
        for (nth, message) in turns.iter().enumerate() {
            let index = nth.saturating_add(first);
            let wanted = if nth % 2 == 0 { "user" } else { "assistant" };
            match message.role {
                role if role == wanted => {}
                "user" | "assistant" => {
                    return Err(Error::invalid(format!(
                        "messages[{index}].role must be {wanted:?}: in the {} chat format user and assistant alternate",
                        self.format.name()
                    )))
                }
                _ => return Err(self.unknown_role(index, message)),
            }
        }
        if turns.is_empty() {
            return Err(Error::invalid(format!(
                "messages: the {} chat format needs a user message",
                self.format.name()
            )));
        }
        Ok((system.map(|m| &*m.content), turns, first))
    }

    fn gemma(&self, out: &mut Pieces) -> Result<()> {
        let (system, turns, first) = self.turns()?;
        out.template(self.options.bos.unwrap_or("<bos>"));
        for (nth, message) in turns.iter().enumerate() {
            let open = self.is_open(nth.saturating_add(first));
            if message.role == "user" {
                out.template("<start_of_turn>user\n");
                if let (Some(system), 0) = (system, nth) {
                    out.content(system);
                    out.template("\n\n");
                }
                out.content(strip(&message.content));
            } else {
                out.template("<start_of_turn>model\n");
                out.assistant(answer(message, open));
            }
            if !open {
                out.template("<end_of_turn>\n");
            }
        }
        if self.opens_answer() {
            out.template("<start_of_turn>model\n");
        }
        Ok(())
    }

    fn llama(&self, out: &mut Pieces) -> Result<()> {
        out.template(self.options.bos.unwrap_or("<|begin_of_text|>"));
        for (index, message) in self.messages.iter().enumerate() {
            let role = message.role;
            if !matches!(role, "system" | "user" | "assistant") {
                return Err(self.unknown_role(index, message));
            }
            out.template(&format!("<|start_header_id|>{role}<|end_header_id|>\n\n"));
            let open = self.is_open(index);
            if role == "assistant" {
                out.assistant(answer(message, open));
            } else {
                out.content(strip(&message.content));
            }
            if !open {
                out.template("<|eot_id|>");
            }
        }
        if self.opens_answer() {
            out.template("<|start_header_id|>assistant<|end_header_id|>\n\n");
        }
        Ok(())
    }

    fn mistral(&self, out: &mut Pieces) -> Result<()> {
        let (system, turns, first) = self.turns()?;
        out.template(self.options.bos.unwrap_or("<s>"));
        let last_user = turns.iter().rposition(|m| m.role == "user");
        for (nth, message) in turns.iter().enumerate() {
            if message.role == "user" {
                out.template("[INST] ");
                if let Some(system) = system.filter(|_| Some(nth) == last_user) {
                    out.content(system);
                    out.template("\n\n");
                }
                out.content(&message.content);
                out.template("[/INST]");
            } else {
                let open = self.is_open(nth.saturating_add(first));
                out.template(" ");
                out.assistant(answer(message, open));
                if !open {
                    out.template(self.options.eos.unwrap_or("</s>"));
                }
            }
        }
        Ok(())
    }

    fn llama2(&self, out: &mut Pieces) -> Result<()> {
        let (system, turns, first) = self.turns()?;
        for (nth, message) in turns.iter().enumerate() {
            if message.role == "user" {
                out.template(self.options.bos.unwrap_or("<s>"));
                out.template("[INST] ");
                match system.filter(|_| nth == 0) {
                    Some(system) => {
                        out.template("<<SYS>>\n");
                        out.content(strip(system));
                        out.template("\n<</SYS>>\n\n");
                        out.content(strip_end(&message.content));
                    }
                    None => out.content(strip(&message.content)),
                }
                out.template(" [/INST]");
            } else {
                let open = self.is_open(nth.saturating_add(first));
                out.template(" ");
                out.assistant(answer(message, open));
                if !open {
                    out.template(" ");
                    out.template(self.options.eos.unwrap_or("</s>"));
                }
            }
        }
        Ok(())
    }
}

/// These formats trim an answer; one that goes on keeps its text to the character.
fn answer<'a>(message: &'a Turn, open: bool) -> &'a str {
    if open {
        &message.content
    } else {
        strip(&message.content)
    }
}

/// What Python's `str.strip` takes for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

fn qwen_call(call: &ToolCall, out: &mut Pieces) -> Result<()> {
    let Some(name) = call.name else {
        return Err(Error::unsupported(
            "the ChatML chat format knows calls of functions only",
        ));
    };
    out.template("<tool_call>\n{\"name\": \"");
    out.assistant(name);
    out.template("\", \"arguments\": ");
    match call.arguments {
        None => out.assistant("{}"),
        Some(Json::Text(text)) => out.assistant(text),
        Some(arguments) => out.assistant(&pyjson::to_string(arguments)),
    }
    out.template("}\n</tool_call>");
    Ok(())
}
