//! What is told of a call while it comes: the pieces of its arguments' JSON.

use super::call::{new_id, Call, Tools};
use crate::template::{Json, Object};

/// Bytes in front of a call's arguments that are looked through.
const MOST_HEAD: usize = 4096;

/// How a family's calls come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Comes {
    /// Nothing is known of a call before its end.
    Whole,
    /// The arguments are an object of JSON behind a head.
    Json { head: fn(&str) -> Option<Head> },
    /// Each argument ends with this.
    Tagged {
        head: fn(&str) -> Option<Head>,
        close: &'static str,
        /// One argument, without its end.
        read: fn(&str, &str, &Tools) -> Option<(String, Json)>,
    },
}

/// What stands in front of a call's arguments.
#[derive(Debug)]
pub(super) struct Head {
    pub name: String,
    pub id: Option<String>,
    /// Bytes up to the arguments.
    pub length: usize,
}

impl Head {
    /// None where there is no name, or nothing but white space and `{` may come next and something else does.
    pub fn before_object(text: &str, name: &str, id: Option<&str>, length: usize) -> Option<Head> {
        let behind = text.get(length..)?;
        let space = behind.len().saturating_sub(behind.trim_start().len());
        (behind.trim_start().starts_with('{') && !name.is_empty()).then(|| Head {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            length: length.saturating_add(space),
        })
    }
}

/// How far the calls between two markers have been told.
#[derive(Clone, Debug, Default)]
pub(super) struct Deltas {
    /// The ids of those that were begun.
    ids: Vec<String>,
    /// Bytes of the body that were looked at.
    at: usize,
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    /// For the next call's head.
    #[default]
    Looking,
    /// In an object of JSON.
    Json {
        depth: usize,
        text: Option<Escape>,
    },
    /// Among tagged arguments.
    Tagged {
        tool: String,
        arguments: Object,
        /// Of the text of their JSON.
        told: usize,
        /// Up to where no end of one was found.
        searched: usize,
    },
    Lost,
}

/// Whether the next character of a string is escaped.
type Escape = bool;

impl Deltas {
    /// Takes what has come of the body; gives the events' texts. `first`: how many calls of the answer came before.
    pub fn take(
        &mut self,
        body: &str,
        tool: Option<&str>,
        comes: Comes,
        tools: &Tools,
        first: usize,
    ) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(rest) = body.get(self.at..).filter(|rest| !rest.is_empty()) {
            let before = self.at;
            match &mut self.state {
                State::Lost => break,
                State::Looking => self.look(rest, tool, comes, first, &mut out),
                State::Json { depth, text } => {
                    let (length, ended) = json_in(rest, depth, text);
                    let piece = rest.get(..length).unwrap_or("");
                    self.at = self.at.saturating_add(length);
                    if ended {
                        self.state = State::Looking;
                    }
                    self.add_piece(piece, first, &mut out);
                }
                State::Tagged { .. } => self.look_for_argument(rest, comes, tools, first, &mut out),
            }
            if self.at == before {
                break;
            }
        }
        out
    }

    fn look(
        &mut self,
        rest: &str,
        tool: Option<&str>,
        comes: Comes,
        first: usize,
        out: &mut Vec<String>,
    ) {
        let found = match (tool, comes) {
            (Some(tool), _) => Head::before_object(rest, tool, None, 0),
            (None, Comes::Whole) => None,
            (None, Comes::Json { head } | Comes::Tagged { head, .. }) => head(rest),
        };
        let Some(head) = found else {
            if rest.len() > MOST_HEAD {
                self.state = State::Lost;
            }
            return;
        };
        self.state = match comes {
            Comes::Tagged { .. } if tool.is_none() => State::Tagged {
                tool: head.name.clone(),
                arguments: Object::default(),
                told: 0,
                searched: 0,
            },
            _ => State::Json {
                depth: 0,
                text: None,
            },
        };
        self.at = self.at.saturating_add(head.length);
        let id = head.id.unwrap_or_else(new_id);
        out.push(first_delta(
            first.saturating_add(self.ids.len()),
            &id,
            &head.name,
            "",
        ));
        self.ids.push(id);
    }

    fn look_for_argument(
        &mut self,
        rest: &str,
        comes: Comes,
        tools: &Tools,
        first: usize,
        out: &mut Vec<String>,
    ) {
        let (
            Comes::Tagged { close, read, .. },
            State::Tagged {
                tool,
                arguments,
                told,
                searched,
            },
        ) = (comes, &mut self.state)
        else {
            return;
        };
        let unseen = rest.get(*searched..).unwrap_or("");
        let Some(found) = unseen.find(close) else {
            // The end may have begun.
            let seen = rest.len().saturating_sub(close.len());
            *searched = (0..=seen)
                .rev()
                .find(|&at| rest.is_char_boundary(at))
                .unwrap_or(0);
            return;
        };
        let end = searched.saturating_add(found);
        *searched = 0;
        self.at = self.at.saturating_add(end).saturating_add(close.len());
        let Some((name, value)) = rest.get(..end).and_then(|one| read(one, tool, tools)) else {
            self.state = State::Lost;
            return;
        };
        arguments.set(&name, value);
        let text = Json::Object(arguments.clone()).write();
        // Its last bracket comes with the call's end.
        let text = text.strip_suffix('}').unwrap_or(&text);
        let piece = text.get(*told..).unwrap_or("").to_owned();
        *told = text.len();
        self.add_piece(&piece, first, out);
    }

    /// A piece of the last call that was begun; together with its first event, where that has none.
    fn add_piece(&self, piece: &str, first: usize, out: &mut Vec<String>) {
        if piece.is_empty() {
            return;
        }
        let index = first.saturating_add(self.ids.len()).saturating_sub(1);
        let mut delta = Object::default();
        delta.set("index", Json::Int(i64::try_from(index).unwrap_or(i64::MAX)));
        delta.set("arguments", Json::Text(piece.to_owned()));
        out.push(Json::Object(delta).write());
    }

    /// The calls have come to their end: they get the ids that were told, and what was not told is.
    pub fn finish(&mut self, calls: &mut [Call], first: usize) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        let begun = self.ids.len();
        for (index, call) in calls.iter_mut().enumerate() {
            let mut out = Vec::new();
            let whole = || Json::Object(call.arguments.clone()).write();
            match self.ids.get(index) {
                Some(id) => {
                    if let (State::Tagged { told, .. }, true) =
                        (&self.state, index.saturating_add(1) == begun)
                    {
                        let rest = whole().get(*told..).unwrap_or("}").to_owned();
                        self.add_piece(&rest, first, &mut out);
                    }
                    call.id = Some(id.clone());
                }
                None => {
                    let id = call.id.take().unwrap_or_else(new_id);
                    let index = first.saturating_add(index);
                    out.push(first_delta(index, &id, &call.name, &whole()));
                    call.id = Some(id);
                }
            }
            all.push(out);
        }
        all
    }
}

fn first_delta(index: usize, id: &str, name: &str, arguments: &str) -> String {
    let text = |text: &str| Json::Text(text.to_owned());
    let mut delta = Object::default();
    delta.set("index", Json::Int(i64::try_from(index).unwrap_or(i64::MAX)));
    delta.set("id", text(id));
    delta.set("name", text(name));
    delta.set("arguments", text(arguments));
    Json::Object(delta).write()
}

/// How many bytes of the text are in the object, and whether it ends there.
fn json_in(text: &str, depth: &mut usize, string: &mut Option<Escape>) -> (usize, bool) {
    for (at, byte) in text.bytes().enumerate() {
        match (&mut *string, byte) {
            (Some(escaped @ true), _) => *escaped = false,
            (Some(escaped), b'\\') => *escaped = true,
            (Some(_), b'"') => *string = None,
            (Some(_), _) => {}
            (None, b'"') => *string = Some(false),
            (None, b'{' | b'[') => *depth = depth.saturating_add(1),
            (None, b'}' | b']') => {
                *depth = depth.saturating_sub(1);
                if *depth == 0 {
                    return (at.saturating_add(1), true);
                }
            }
            _ => {}
        }
    }
    (text.len(), false)
}
