//! The folder's own chat template: found and parsed at load, rendered into pieces that know who wrote them.

use super::continuation;
use super::conversation::Conversation;
use super::messages::{odd_role, Message};
use super::parts::Format;
use super::template_files::{Source, Sources, TemplateFiles};
use super::tokenizer::Piece;
use crate::error::{Error, Result};
use crate::template::{ErrorKind, Json, Limits, Now, Object, Template};

/// `Send + Sync`; renders any number of conversations.
#[derive(Debug)]
pub struct ChatTemplate {
    /// A folder is loaded whatever its templates are; what is wrong shows when a conversation needs one.
    default: Result<Format>,
    /// Used when there are tools, where the folder has one.
    tool_use: Option<Result<Format>>,
    /// Name and text.
    special_tokens: Vec<(String, String)>,
}

/// What goes into a prompt beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateOptions<'a> {
    pub tools: Option<&'a Json>,
    pub args: Option<&'a Object>,
    pub add_generation_prompt: bool,
    /// The last message is an assistant's and stays open: its text, unchanged, ends the prompt.
    pub continue_last: bool,
}

impl ChatTemplate {
    /// The templates of a folder; None where it has none. `special_tokens`: name and text of what templates know by name.
    pub fn find(files: TemplateFiles, special_tokens: &[(String, String)]) -> Option<Self> {
        let mut found = Sources::find(files)?;
        let default = found.default.take().map(parse);
        Some(ChatTemplate {
            default: default.unwrap_or_else(|| Err(found.no_default())),
            tool_use: found.tool_use.map(parse),
            special_tokens: special_tokens.to_vec(),
        })
    }

    /// Why some conversations cannot be rendered, if so.
    pub fn problems(&self) -> impl Iterator<Item = &Error> {
        let all = [Some(&self.default), self.tool_use.as_ref()];
        all.into_iter()
            .flatten()
            .filter_map(|one| one.as_ref().err())
    }

    fn all(&self) -> impl Iterator<Item = &Format> {
        let all = [Some(&self.default), self.tool_use.as_ref()];
        all.into_iter()
            .flatten()
            .filter_map(|one| one.as_ref().ok())
    }

    /// The text of the templates.
    pub fn source(&self) -> String {
        let all: Vec<&str> = self.all().map(|one| one.template.source()).collect();
        all.join("\n")
    }

    /// What the template writes between an answer's reasoning and its text; None where it leaves reasoning out.
    pub fn end_of_thinking(&self) -> Option<String> {
        let special_tokens = self.special_tokens.iter();
        let special_tokens = special_tokens.map(|(name, text)| (name.as_str(), text.as_str()));
        self.default.as_ref().ok()?.end_of_thinking(special_tokens)
    }

    /// The template for a conversation with or without tools.
    fn format(&self, tools: bool) -> Result<&Format> {
        let one = match &self.tool_use {
            Some(tool_use) if tools => tool_use,
            _ => &self.default,
        };
        one.as_ref().map_err(Error::clone)
    }

    /// Renders a conversation; `clock` is local time, read where the template asks for it.
    ///
    /// Errors: `InvalidArgument` with what the template raised and where, `Unsupported` past its limits or where there is none
    /// for this conversation, `BadModel` with file, line and column where it does not parse.
    pub fn render(
        &self,
        messages: &[Message],
        options: TemplateOptions,
        clock: &dyn Fn() -> Now,
    ) -> Result<Vec<Piece>> {
        let tools = options.tools.filter(|tools| **tools != Json::Null);
        if tools.is_some_and(|tools| !matches!(tools, Json::List(_))) {
            return Err(Error::invalid("tools must be a list"));
        }
        let format = self.format(tools.is_some())?;
        let mut end_mark = String::new();
        if options.continue_last {
            continuation::check(messages)?;
            end_mark = continuation::end_mark();
        }
        let conversation = Conversation {
            messages,
            tools,
            args: options.args,
            add_generation_prompt: options.add_generation_prompt,
            end_mark: &end_mark,
        };
        let special_tokens = self.special_tokens.iter();
        let special_tokens = special_tokens.map(|(name, text)| (name.as_str(), text.as_str()));
        let variables = conversation.variables(format, special_tokens)?;
        let rendered = format
            .template
            .render(&variables, clock, &Limits::default());
        let rendered = rendered.map_err(|error| {
            let hint = match error.kind {
                ErrorKind::Limit | ErrorKind::Unsupported | ErrorKind::Stopped(_) => None,
                _ => odd_role(messages),
            };
            let mut error = Error::from(error);
            error.message.extend(hint.map(|hint| format!(" ({hint})")));
            error
        })?;
        let mut pieces: Vec<Piece> = rendered
            .pieces()
            .map(|(text, origin)| Piece::new(text, origin))
            .collect();
        if let (true, Some(last)) = (options.continue_last, messages.last()) {
            continuation::cut(&mut pieces, last, &end_mark)?;
        }
        Ok(pieces)
    }
}

/// What each byte of a template comes to at most while it is parsed: one of many short expressions or tags.
const PARSED_BYTES: usize = 512;

fn parse(source: Source) -> Result<Format> {
    let Source { file, text } = source;
    let text = text?;
    let _room = crate::room::hold(text.len(), PARSED_BYTES, &file)?;
    Template::parse(&text, &Limits::default())
        .map(Format::new)
        .map_err(|error| Error::from(error).within(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What makes most of its length.
    #[test]
    fn parsing_takes_no_more_than_it_says() {
        let n = 4_000;
        for one in [
            "{{x}}",
            "{{ x }}a",
            "{%if x%}{%endif%}",
            "{%set x=1%}",
            "{%for x in y%}{%endfor%}",
            "{{x.a.b.c.d.e}}",
            "{{1}}",
            "{{[1,2,3,4,5]}}",
            "{{a|b|c|d}}",
            "{{f(a,b=c)}}",
            "{#x#}a",
            "{{{1:2}}}",
            "{{-x}}",
            "{{a+a+a+a+a}}",
        ] {
            measured(&one.repeat(n));
        }
        measured(&format!("{{{{[{}1]}}}}", "1,".repeat(n)));
        measured(&format!("{{{{[{}1]}}}}", "[],".repeat(n)));
        measured(&format!("{{{{{{{}1:1}}}}}}", "1:1,".repeat(n)));
        measured(&format!("{{{{a{}}}}}", "~a".repeat(n)));
    }

    fn measured(source: &str) {
        let (peak, _parsed) =
            crate::reserve::peak_of(|| Template::parse(source, &Limits::default()));
        let most = source.len().saturating_mul(PARSED_BYTES);
        let each = peak.checked_div(source.len());
        assert!(
            peak <= most,
            "{:?}: {each:?} bytes for each",
            source.get(..30)
        );
    }
}
