//! What a template does with a content's parts and with reasoning: found out by rendering conversations that have some.

use super::conversation::{Conversation, ROLES};
use super::messages::Message;
use crate::template::{Limits, Now, Template};

/// The texts of two parts, which are in the prompt if they were read, and what is in it only if a part was printed whole.
const TEXTS: [&str; 2] = ["qpartone", "qparttwo"];
const REST: &str = "qpartrest";

/// A render of three short messages takes less than a thousandth of what a conversation may.
const LIMITS: Limits = Limits {
    source: 1 << 20,
    steps: 1_000_000,
    bytes: 4 << 20,
    depth: 200,
};

/// A template, and for which of the known roles it reads parts; others get the joined text.
#[derive(Debug)]
pub(super) struct Format {
    pub template: Template,
    takes_parts: Vec<&'static str>,
}

impl Format {
    pub fn new(template: Template) -> Format {
        let mut format = Format {
            template,
            takes_parts: ROLES.to_vec(),
        };
        let takes = |role: &&&'static str| format.reads_parts(role);
        format.takes_parts = ROLES.iter().filter(takes).copied().collect();
        format
    }

    /// Roles that nobody knows are taken as a user's.
    pub fn takes_parts(&self, role: &str) -> bool {
        let role = match ROLES.contains(&role) {
            true => role,
            false => "user",
        };
        self.takes_parts.contains(&role)
    }

    /// Whether the template speaks of parts of that type.
    pub fn names_part(&self, kind: &str) -> bool {
        let source = self.template.source();
        ["'", "\""]
            .iter()
            .any(|quote| source.contains(&format!("{quote}{kind}{quote}")))
    }

    /// What it writes between an answer's reasoning and its text.
    pub fn end_of_thinking<'t>(
        &self,
        special_tokens: impl Iterator<Item = (&'t str, &'t str)>,
    ) -> Option<String> {
        let [reasoning, answer] = TEXTS;
        let json = format!(
            r#"[{{"role":"user","content":"a"}},{{"role":"assistant","reasoning_content":"{reasoning}","content":"{answer}"}}]"#
        );
        let conversation = Conversation {
            messages: &Message::parse_list(json.as_bytes()).ok()?,
            tools: None,
            args: None,
            add_generation_prompt: false,
            end_mark: "",
        };
        let variables = conversation.variables(self, special_tokens).ok()?;
        let clock = || Now::from_unix(0, 0);
        let shown = self.template.render(&variables, &clock, &LIMITS).ok()?;
        let (_, behind) = shown.text.split_once(reasoning)?;
        let (between, _) = behind.split_once(answer)?;
        Some(between.to_owned())
    }

    fn reads_parts(&self, role: &str) -> bool {
        let parts =
            TEXTS.map(|text| format!(r#"{{"type":"text","text":"{text}","more":"{REST}"}}"#));
        let said = format!(r#"{{"role":"{role}","content":[{}]"#, parts.join(","));
        let ask = r#"{"role":"user","content":"a"}"#;
        let json = match role {
            "system" | "developer" => format!("[{said}}},{ask}]"),
            "user" => format!("[{said}}}]"),
            "assistant" => format!("[{ask},{said}}},{ask}]"),
            _ => {
                let call = r#"{"id":"abcdefghi","type":"function","function":{"name":"f","arguments":{}}}"#;
                let calls = format!(r#"{{"role":"assistant","content":"","tool_calls":[{call}]}}"#);
                format!(r#"[{ask},{calls},{said},"name":"f","tool_call_id":"abcdefghi"}}]"#)
            }
        };
        let render = || {
            let conversation = Conversation {
                messages: &Message::parse_list(json.as_bytes()).ok()?,
                tools: None,
                args: None,
                add_generation_prompt: true,
                end_mark: "",
            };
            let tokens = ["bos_token", "eos_token", "unk_token", "pad_token"];
            let tokens = tokens.into_iter().map(|name| (name, "<s>"));
            let variables = conversation.variables(self, tokens).ok()?;
            let clock = || Now::from_unix(0, 0);
            self.template.render(&variables, &clock, &LIMITS).ok()
        };
        render().is_some_and(|shown| {
            TEXTS.iter().all(|text| shown.text.contains(text)) && !shown.text.contains(REST)
        })
    }
}
