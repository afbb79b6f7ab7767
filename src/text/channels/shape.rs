//! How families write a call that obeys: what a grammar is made of where a model is bound to the tools that it has.

use super::call::Tools;
use super::find::Channels;

/// One call, and how several follow each other between one pair of markers. A marker that is a token stands as its text.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub call: &'static [Part],
    pub list: Option<List>,
}

#[derive(Clone, Copy, Debug)]
pub struct List {
    pub before: &'static str,
    pub between: &'static str,
    pub behind: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub enum Part {
    Text(&'static str),
    /// Blanks and line feeds, or none.
    Space,
    /// The tool's name.
    Name,
    /// A number, by which the family counts its calls.
    Index,
    Arguments(Arguments),
}

#[derive(Clone, Copy, Debug)]
pub enum Arguments {
    /// An object of JSON.
    Json,
    /// Each between tags of its own.
    Tagged {
        before: &'static str,
        /// Two where blanks may stand between them.
        between: (&'static str, &'static str),
        behind: &'static str,
        values: Values,
    },
    /// `KEY=VALUE, …`
    Python,
    /// `{KEY:VALUE,…}`; where they are not nested, without objects and lists, and with another quote.
    Gemma { nested: bool },
}

/// What a family takes a tagged value for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// By the schema's type: texts as they are, all others JSON. Without one they are texts.
    Coder,
    /// Texts as they are, without blanks around them, where the type is `string`; all others JSON.
    Glm,
    /// As `Coder`, without blanks around a text.
    MiniMax,
}

/// `{"name": …, "arguments": {…}}`
pub(super) const JSON_CALL: &[Part] = &[
    Part::Text("{\"name\": \""),
    Part::Name,
    Part::Text("\", \"arguments\": "),
    Part::Arguments(Arguments::Json),
    Part::Text("}"),
];

pub(super) const JSON_LIST: List = List {
    before: "[",
    between: ", ",
    behind: "]",
};

/// How a model's calls are written, with its markers.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub shape: Shape,
    /// Where there is none, a call is the whole answer.
    pub open: Option<&'static str>,
    /// Where there is none, a call goes on to the end of the answer.
    pub close: Option<&'static str>,
    /// What stands before the first call.
    pub section: Option<&'static str>,
}

impl Channels {
    /// None where the model makes no calls, or none that a grammar can be made of.
    pub fn written(&self) -> Option<Written> {
        let format = self.format()?;
        let first = |markers: &[&'static str]| markers.first().copied();
        Some(Written {
            shape: self.shape?,
            open: first(format.open).filter(|_| format.bare.is_none()),
            close: first(format.close),
            section: first(format.sections),
        })
    }

    /// The tool that is called by what stands between two markers.
    pub fn called_by(&self, body: &str) -> Option<String> {
        let calls = (self.format()?.parse)(body, &Tools::default())?;
        calls.into_iter().next().map(|call| call.name)
    }

    /// The first marker in a text that is a token: where, how long, and its id.
    pub fn token_in(&self, text: &str) -> Option<(usize, usize, i32)> {
        let places = self.token_markers().filter_map(|(id, marker)| {
            let at = text.find(marker)?;
            Some((at, marker.len(), id))
        });
        places.min_by_key(|&(at, length, _)| (at, std::cmp::Reverse(length)))
    }
}
