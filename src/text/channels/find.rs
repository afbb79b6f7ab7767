//! Which markers a model has: what its chat template writes, and what its vocabulary has as tokens.

use std::collections::HashMap;
use std::sync::Arc;

use super::call::{Format, Signs};
use super::formats::KIMI_K3;
use super::shape::Shape;
use super::thinking::{Thinking, THINKING};
use super::{harmony, xtml};
use crate::text::stop::StopStrings;

/// What a marker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    ThinkStart,
    ThinkEnd,
    CallOpen,
    CallClose,
    /// Stands inside of calls.
    CallPart,
    /// Stands around calls.
    CallSection,
    Harmony(harmony::Role),
    Xtml(xtml::Role),
}

#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub text: String,
    pub role: Role,
}

/// Which markers are looked for in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    Text,
    Thinking,
    Call,
}

/// Those of the markers that are no tokens.
#[derive(Debug)]
struct Scan {
    strings: StopStrings,
    roles: Vec<Role>,
}

/// The markers of a model. `Send + Sync`.
#[derive(Debug)]
pub struct Channels {
    tokens: HashMap<i32, Marker>,
    scans: [Scan; 3],
    thinking: Option<&'static Thinking>,
    format: Option<&'static Format>,
    pub(super) shape: Option<Shape>,
    harmony: bool,
    xtml: bool,
}

impl Channels {
    /// `template`: the source of the chat template, or of several; `id_of`: the token of a text; `parser`: the format of the
    /// calls, where somebody says it, in mlx-lm's names.
    ///
    /// None: the model has neither thinking nor calls.
    pub fn find(
        template: &str,
        id_of: &dyn Fn(&str) -> Option<i32>,
        parser: Option<&str>,
    ) -> Option<Arc<Channels>> {
        let is_token = |text: &str| id_of(text).is_some();
        let is_harmony = harmony::MARKERS.iter().all(|(text, _)| {
            is_token(text) || matches!(*text, "<|constrain|>" | "<|return|>" | "<|call|>")
        });
        let is_xtml = xtml::MARKERS.iter().all(|(text, _)| is_token(text));
        let is_xtml = is_xtml && is_token(xtml::END_OF_MESSAGE) && !is_harmony;
        let (thinking, format) = match (is_harmony, is_xtml) {
            (true, _) => (None, None),
            (_, true) => (None, Some(&KIMI_K3)),
            _ => (
                Self::thinking_of(template, &is_token),
                Format::find(template, &is_token, parser),
            ),
        };
        if thinking.is_none() && format.is_none() && !is_harmony {
            return None;
        }
        let mut markers: Vec<Marker> = Vec::new();
        let mut add = |text: &str, role: Role| {
            let text = text.to_owned();
            markers.push(Marker { text, role });
        };
        if let Some(thinking) = thinking {
            add(thinking.start, Role::ThinkStart);
            add(thinking.end, Role::ThinkEnd);
        }
        if let Some(format) = format {
            let all = [
                (format.open, Role::CallOpen),
                (format.close, Role::CallClose),
                (format.sections, Role::CallSection),
                (format.parts, Role::CallPart),
            ];
            for (texts, role) in all {
                texts.iter().for_each(|text| add(text, role));
            }
        }
        if is_xtml {
            for (text, role) in xtml::MARKERS {
                add(text, Role::Xtml(*role));
            }
            add(xtml::END_OF_MESSAGE, Role::CallSection);
        }
        if is_harmony {
            for (text, role) in harmony::MARKERS {
                add(text, Role::Harmony(*role));
            }
        }
        let scan = |wanted: fn(Role) -> bool| {
            let found = markers.iter().filter(|marker| {
                let is_token = id_of(&marker.text).is_some();
                !is_token && wanted(marker.role)
            });
            let found: Vec<&Marker> = found.collect();
            let texts: Vec<&str> = found.iter().map(|marker| marker.text.as_str()).collect();
            Some(Scan {
                strings: StopStrings::new(&texts).ok()?,
                roles: found.iter().map(|marker| marker.role).collect(),
            })
        };
        let scans = [
            scan(|role| !matches!(role, Role::CallPart | Role::Harmony(_) | Role::Xtml(_)))?,
            scan(|role| !matches!(role, Role::CallPart | Role::Harmony(_) | Role::Xtml(_)))?,
            scan(|role| {
                !matches!(
                    role,
                    Role::CallPart | Role::CallSection | Role::Harmony(_) | Role::Xtml(_)
                )
            })?,
        ];
        let signs = Signs {
            template,
            is_token: &is_token,
        };
        let shape = format.and_then(|format| (format.shape)(&signs));
        let tokens = markers.iter();
        let tokens = tokens.filter_map(|marker| Some((id_of(&marker.text)?, marker.clone())));
        Some(Arc::new(Channels {
            tokens: tokens.collect(),
            scans,
            thinking,
            format,
            shape,
            harmony: is_harmony,
            xtml: is_xtml,
        }))
    }

    /// What the template writes counts more than what the vocabulary has.
    fn thinking_of(template: &str, is_token: &dyn Fn(&str) -> bool) -> Option<&'static Thinking> {
        let written = |one: &&Thinking| template.contains(one.end) || template.contains(one.start);
        let tokens = |one: &&Thinking| is_token(one.start) && is_token(one.end);
        let all = || THINKING.iter();
        let both = all().find(|one| written(one) && tokens(one));
        both.or_else(|| all().find(written))
            .or_else(|| all().find(tokens))
    }

    pub(super) fn of_token(&self, id: i32) -> Option<&Marker> {
        self.tokens.get(&id)
    }

    /// Those of the markers that are tokens.
    pub fn token_markers(&self) -> impl Iterator<Item = (i32, &str)> {
        let tokens = self.tokens.iter();
        tokens.map(|(&id, marker)| (id, marker.text.as_str()))
    }

    fn scan_of(&self, scanned: Scanned) -> &Scan {
        let [text, thinking, call] = &self.scans;
        match scanned {
            Scanned::Text => text,
            Scanned::Thinking => thinking,
            Scanned::Call => call,
        }
    }

    pub(super) fn scan(&self, scanned: Scanned) -> &StopStrings {
        &self.scan_of(scanned).strings
    }

    pub(super) fn role_of(&self, scanned: Scanned, index: usize) -> Option<Role> {
        self.scan_of(scanned).roles.get(index).copied()
    }

    pub(super) fn label(&self) -> &'static str {
        self.thinking.map_or("", |thinking| thinking.label)
    }

    pub(super) fn format(&self) -> Option<&'static Format> {
        self.format
    }

    /// Whether the answer is messages with headers, as gpt-oss writes them.
    pub fn is_harmony(&self) -> bool {
        self.harmony
    }

    /// The token that opens thinking, where one does.
    pub fn think_token(&self) -> Option<i32> {
        let mut tokens = self.tokens.iter();
        let start = tokens.find(|(_, marker)| marker.role == Role::ThinkStart);
        start.map(|(&id, _)| id)
    }

    pub fn thinks(&self) -> bool {
        self.thinking.is_some() || self.harmony || self.xtml
    }

    /// Whether a format of calls has that name.
    pub fn knows(name: &str) -> bool {
        Format::named(name).is_some()
    }

    /// The name of the format of its calls, if it makes any.
    pub fn calls(&self) -> Option<&'static str> {
        match self.harmony {
            true => Some("harmony"),
            false => self.format.map(|format| format.name),
        }
    }

    /// The thinking that a written text begins with, and the rest of it.
    pub fn thought_in<'t>(&self, text: &'t str) -> (&'t str, &'t str) {
        let written = || {
            let thinking = self.thinking?;
            let inner = text.trim_start().strip_prefix(thinking.start)?;
            let inner = inner
                .strip_prefix(thinking.label)
                .unwrap_or(inner)
                .trim_start();
            Some(match inner.split_once(thinking.end) {
                Some((thought, rest)) => (thought.trim_end(), rest.trim_start()),
                None => (inner, ""),
            })
        };
        written().unwrap_or(("", text))
    }

    /// What ends thinking, as text, where nothing is known of how the family writes it.
    pub fn end_of_thinking(&self) -> Option<&'static str> {
        match (self.harmony, self.xtml) {
            (true, _) => Some(harmony::END_OF_THINKING),
            (_, true) => Some(xtml::END_OF_THINKING),
            _ => self.thinking.map(|thinking| thinking.end),
        }
    }
}
