//! The published templates, mlxrt's engine and minijinja in turns.

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::Environment;
use serde_json::{json, Map, Value};

use crate::template::{Json, Now};
use crate::text::{ChatTemplate, Message, TemplateFiles, TemplateOptions};
use crate::{peer, read_json, timed, Failure};

/// Of the long conversation.
const MESSAGES: usize = 1000;
const LONG_CHAT: [&str; 3] = ["qwen3-0.6b", "llama-3.1-8b-instruct", "gemma-4"];

pub struct Published {
    templates: Vec<PathBuf>,
    renders: PathBuf,
    /// The variables of every case, as `tokenizer_config.json` would hold them.
    variables: Map<String, Value>,
    cases: Map<String, Value>,
}

impl Published {
    pub fn read(data: &Path) -> Result<Published, Failure> {
        let renders = data.join("renders");
        let inputs = read_json(&renders.join("_inputs.json"))?;
        let object = |key: &str| inputs.get(key).and_then(Value::as_object).cloned();
        let mut templates: Vec<PathBuf> = std::fs::read_dir(data.join("templates"))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "jinja"))
            .collect();
        templates.sort();
        Ok(Published {
            templates,
            renders,
            variables: object("vars").ok_or("_inputs.json: no vars")?,
            cases: object("cases").ok_or("_inputs.json: no cases")?,
        })
    }
}

/// The clock of the published renders.
fn now() -> Now {
    Now::from_unix(1_751_371_200, 0)
}

/// A conversation as each side takes it: parsed JSON, before it becomes values of the engine.
struct Conversation {
    messages: Vec<Message>,
    tools: Option<Json>,
    /// The variables of the whole.
    context: Value,
}

impl Conversation {
    fn new(case: &Value, variables: &Map<String, Value>) -> Result<Conversation, Failure> {
        let messages = case.get("messages").ok_or("a case without messages")?;
        let tools = case.get("tools").cloned();
        let mut context = variables.clone();
        context.insert("messages".into(), messages.clone());
        context.insert("add_generation_prompt".into(), true.into());
        if let Some(tools) = &tools {
            context.insert("tools".into(), tools.clone());
        }
        let tools = tools.map(|tools| Json::parse(tools.to_string().as_bytes()));
        Ok(Conversation {
            messages: Message::parse_list(messages.to_string().as_bytes())?,
            tools: tools.transpose()?,
            context: context.into(),
        })
    }

    fn options(&self) -> TemplateOptions<'_> {
        TemplateOptions {
            tools: self.tools.as_ref(),
            add_generation_prompt: true,
            ..Default::default()
        }
    }
}

/// Seconds of a side.
#[derive(Default)]
struct Spent {
    parse: f64,
    render: f64,
}

fn ours(
    source: &str,
    conversation: &Conversation,
    variables: &Map<String, Value>,
    spent: &mut Spent,
) -> Result<String, String> {
    let special: Vec<_> = variables
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let (parse, template) = timed(|| {
        let files = TemplateFiles {
            jinja: Some(Ok(source.as_bytes().to_vec())),
            ..TemplateFiles::default()
        };
        ChatTemplate::find(files, &special)
    });
    spent.parse += parse;
    let template = template.ok_or("no template was found")?;
    let (render, pieces) =
        timed(|| template.render(&conversation.messages, conversation.options(), &now));
    spent.render += render;
    let pieces = pieces.map_err(|e| e.message)?;
    Ok(pieces.iter().map(|piece| piece.text.as_str()).collect())
}

fn minijinja(
    environment: &Environment,
    source: &str,
    conversation: &Conversation,
    spent: &mut Spent,
) -> Result<String, String> {
    let (parse, template) = timed(|| environment.template_from_str(source));
    spent.parse += parse;
    let template = template.map_err(|e| e.to_string())?;
    let (render, text) =
        timed(|| template.render(minijinja::Value::from(Serde(&conversation.context))));
    spent.render += render;
    text.map_err(|e| e.to_string())
}

/// Parse and render each template with each conversation that transformers renders with it.
pub fn published(published: &Published, rounds: usize) -> Result<Value, Failure> {
    let environment = peer::environment(now())?;
    let mut all = Map::new();
    for path in &published.templates {
        let name = stem(path)?;
        let source = std::fs::read_to_string(path)?;
        let for_minijinja = peer::rewritten(&source);
        let expected = read_json(&published.renders.join(format!("{name}.json")))?;
        let mut cases = Vec::new();
        let mut wrong = Vec::new();
        for (case, value) in &published.cases {
            let conversation = Conversation::new(value, &published.variables)?;
            let Some(text) = expected.get(case).and_then(|e| e.get("text")) else {
                continue;
            };
            let mut uncounted = Spent::default();
            let sides = [
                (
                    "mlxrt",
                    ours(&source, &conversation, &published.variables, &mut uncounted),
                ),
                (
                    "minijinja",
                    minijinja(&environment, &for_minijinja, &conversation, &mut uncounted),
                ),
            ];
            for (side, got) in sides {
                if got.as_ref().ok().map(String::as_str) != text.as_str() {
                    wrong.push(format!("{side}, {case}: {}", got.err().unwrap_or_default()));
                }
            }
            cases.push((case.clone(), conversation));
        }
        let mut figures = Figures::default();
        for round in 0..rounds {
            let mut sides = [Spent::default(), Spent::default()];
            for turn in 0..2 {
                let side = (round + turn) % 2;
                for (_, conversation) in &cases {
                    let spent = &mut sides[side];
                    let result = match side {
                        0 => ours(&source, conversation, &published.variables, spent),
                        _ => minijinja(&environment, &for_minijinja, conversation, spent),
                    };
                    drop(result);
                }
            }
            figures.add(&sides);
        }
        let names: Vec<&String> = cases.iter().map(|(case, _)| case).collect();
        let mut entry = figures.into_json();
        entry["cases"] = json!(names);
        entry["wrong"] = json!(wrong);
        all.insert(name, entry);
    }
    Ok(all.into())
}

/// Seconds of each round.
#[derive(Default)]
struct Figures {
    parse: [Vec<f64>; 2],
    render: [Vec<f64>; 2],
}

impl Figures {
    fn add(&mut self, sides: &[Spent; 2]) {
        for (side, spent) in sides.iter().enumerate() {
            self.parse[side].push(spent.parse);
            self.render[side].push(spent.render);
        }
    }

    fn into_json(self) -> Value {
        let ([our_parse, parse], [our_render, render]) = (self.parse, self.render);
        json!({
            "mlxrt": {"parse_s": our_parse, "render_s": our_render},
            "minijinja": {"parse_s": parse, "render_s": render},
        })
    }
}

/// The conversation of 1,000 messages of 100 to 300 characters, with the tools of the published ones.
pub fn long_case(published: &Published) -> Value {
    let words: Vec<&str> = "the model reads every message of a conversation and \
        answers in \"plain\" words, naïve or not, with code like `x < y && z` where it helps:\n"
        .split_inclusive(' ')
        .collect();
    let mut messages = vec![json!({"role": "system", "content": "You are terse."})];
    for index in 1..MESSAGES {
        let role = if index % 2 == 1 { "user" } else { "assistant" };
        let count = 18 + index % 37;
        let content: String = words
            .iter()
            .cycle()
            .skip(index)
            .take(count)
            .copied()
            .collect();
        messages.push(json!({"role": role, "content": content}));
    }
    let tools = published
        .cases
        .get("tools")
        .and_then(|case| case.get("tools"));
    json!({"messages": messages, "tools": tools})
}

pub fn long_chat(published: &Published, rounds: usize) -> Result<Value, Failure> {
    let case = long_case(published);
    let conversation = Conversation::new(&case, &published.variables)?;
    let json = case["messages"].to_string();
    let environment = peer::environment(now())?;
    let mut all = Map::new();
    for path in &published.templates {
        let name = stem(path)?;
        if !LONG_CHAT.contains(&name.as_str()) {
            continue;
        }
        let source = std::fs::read_to_string(path)?;
        let for_minijinja = peer::rewritten(&source);
        let mut figures = Figures::default();
        let mut read = Vec::new();
        let mut same = true;
        let mut bytes = 0;
        // The first round is not counted.
        for round in 0..=rounds {
            let mut sides = [Spent::default(), Spent::default()];
            let our_text = ours(&source, &conversation, &published.variables, &mut sides[0])?;
            let text = minijinja(&environment, &for_minijinja, &conversation, &mut sides[1])?;
            same &= our_text == text;
            bytes = text.len();
            let (seconds, messages) = timed(|| Message::parse_list(json.as_bytes()));
            messages?;
            if round > 0 {
                figures.add(&sides);
                read.push(seconds);
            }
        }
        let mut entry = figures.into_json();
        entry["read_messages_s"] = json!(read);
        entry["same"] = json!(same);
        entry["bytes"] = json!(bytes);
        all.insert(name, entry);
    }
    Ok(json!({"case": case, "templates": all}))
}

fn stem(path: &Path) -> Result<String, Failure> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    Ok(stem.ok_or("a template's name is not UTF-8")?.to_string())
}
