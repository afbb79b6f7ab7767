//! What the metadata and the tensors' names say, in mlx-lm's two forms and in ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use super::{
    class_of, SavedAdapter, SavedAnswer, SavedLayer, SavedMark, SavedState, SavedTokens, Stored,
    Written, CHECKSUM_KEY, FORMAT, SESSION_KEY, TOKENS_KEY,
};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::{Error, Result};
use crate::load::folder::cannot_read;
use crate::load::json::{parse_strict_object, Object};
use crate::load::limits::Limits;
use crate::room;
use crate::words::quoted;

/// Numbers of the JSON of `SESSION_KEY`: marks of layers and a few more.
const MOST_VALUES: usize = 100_000;
/// Arrays of one state.
const MOST_ARRAYS: usize = 16;
/// Adapters of one session.
const MOST_ADAPTERS: usize = 1_024;

/// How mlx-lm has numbers and absent arrays, and where its three kinds of metadata are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// 0.31: numbers are metadata, `0.LAYER.NUMBER`; then what the user gave, and the classes.
    Strings,
    /// 0.32: numbers are tensors without dimensions, absent arrays are empty ones; what the user gave, the classes, and a list
    /// of those tensors, which begins with an empty string.
    Tensors,
}

/// What mlxrt wrote.
pub(super) struct Own {
    pub written: Written,
    pub cached: i32,
    /// Of each layer.
    pub marks: Vec<Vec<MarkAt>>,
}

pub(super) struct MarkAt {
    offset: i32,
    /// In a window that has turned since.
    index: Option<i32>,
}

pub(super) struct Reader<'a> {
    pub file: &'a File,
    pub metadata: Object<'a>,
    pub tensors: BTreeMap<&'a str, &'a Stored>,
}

impl Reader<'_> {
    fn name(&self) -> &str {
        self.metadata.file()
    }

    fn bad(&self, what: &str) -> Error {
        Error::bad_model(format!("{}: {what}", self.name()))
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(format!("{}: {what}", self.name()))
    }

    pub fn form(&self) -> Result<Form> {
        match self.metadata.opt_str("2.0")? {
            Some("") => Ok(Form::Tensors),
            Some(_) => Ok(Form::Strings),
            None => Err(self.bad("is neither a saved session nor a prompt cache of mlx-lm")),
        }
    }

    pub fn own(&self) -> Result<Option<Own>> {
        // Both, or one of them is damaged.
        let is_own = |key| self.metadata.names(key);
        if !is_own(SESSION_KEY) && !is_own(CHECKSUM_KEY) {
            return Ok(None);
        }
        let text = self.metadata.str(SESSION_KEY)?;
        let map = parse_strict_object(self.name(), text.as_bytes(), MOST_VALUES)?;
        let object = Object::new(self.name(), &map);
        let format = object.u32("format", 1..=u32::MAX)?;
        if format > FORMAT {
            let what = format!("has format {format}, and this version reads up to {FORMAT}");
            return Err(self.unsupported(&what));
        }
        let model = object.object("model")?;
        let most = u32::try_from(i32::MAX).unwrap_or_default();
        let signed = |key: &str| -> Result<i32> {
            let n = object.u32(key, 0..=most)?;
            i32::try_from(n).map_err(|_| object.wrong(key, "a number"))
        };
        let whole = |key: &str| object.opt_i64(key, 0..=i64::MAX);
        let kv_limit = whole("kv_limit")?.and_then(|n| u64::try_from(n).ok());
        let truth = |key: &str| -> Result<bool> {
            let value = object.opt_bool(key)?;
            value.ok_or_else(|| object.wrong(key, "true or false"))
        };
        let kv_bits = object.u32("kv_bits", 0..=8)?;
        let kv_group_size = object.u32("kv_group_size", 0..=128)?;
        if !matches!((kv_bits, kv_group_size), (0, 0) | (4 | 8, 32 | 64 | 128)) {
            let what = "a number of bits that keys are packed in, with its \"kv_group_size\"";
            return Err(object.wrong("kv_bits", what));
        }
        let written = Written {
            model_type: model.str("type")?.to_owned(),
            weights: model.str("weights")?.to_owned(),
            config: model.str("config")?.to_owned(),
            tokenizer: model.str("tokenizer")?.to_owned(),
            template: model.str("template")?.to_owned(),
            adapters: self.adapters(&object)?,
            context: object.u32("context", 0..=most)?,
            window: object.u32("window", 0..=most)?,
            keep: signed("keep")?,
            kv_bits,
            kv_group_size,
            kv_limit: kv_limit.ok_or_else(|| object.wrong("kv_limit", "a number"))?,
            long: truth("long")?,
            answer: answer(&object)?,
            checksum: self.metadata.str(CHECKSUM_KEY)?.to_owned(),
        };
        let marks = object.opt_array("marks")?;
        let marks = marks.ok_or_else(|| object.wrong("marks", "an array"))?;
        let marks = marks.iter().map(marks_of_layer).collect::<Option<_>>();
        Ok(Some(Own {
            written,
            cached: signed("cached")?,
            marks: marks
                .ok_or_else(|| object.wrong("marks", "an array of arrays of numbers or pairs"))?,
        }))
    }

    fn adapters(&self, object: &Object) -> Result<Vec<SavedAdapter>> {
        let wrong = || object.wrong("adapters", "an array of objects");
        let adapters = object.opt_array("adapters")?.ok_or_else(wrong)?;
        if adapters.len() > MOST_ADAPTERS {
            return Err(self.bad(&format!("has more than {MOST_ADAPTERS} adapters")));
        }
        let adapters = adapters.iter().map(|adapter| {
            let map = adapter.as_object().ok_or_else(wrong)?;
            let adapter = Object::new(self.name(), map);
            Ok(SavedAdapter {
                weights: adapter.str("weights")?.to_owned(),
                scale: adapter.f32("scale", f32::MIN..=f32::MAX)?,
                what: adapter.str("what")?.to_owned(),
            })
        });
        adapters.collect()
    }

    pub fn tokens(&self, form: Form) -> Result<Vec<i32>> {
        let key = match form {
            Form::Tensors => TOKENS_KEY,
            Form::Strings => "1.tokens",
        };
        let Some(text) = self.metadata.opt_str(key)? else {
            return Err(self.unsupported(
                "is a prompt cache of mlx-lm without the tokens that it holds, and a session is its tokens; \
                 save it with metadata={\"tokens\": json.dumps(tokens)}",
            ));
        };
        room::ask(text.len(), 4, self.name())?;
        serde_json::from_str(text).map_err(|error| {
            self.bad(&format!(
                "the metadata \"{key}\" must be a list of token ids: {error}"
            ))
        })
    }

    pub fn layers(&self, form: Form, limits: &Limits) -> Result<Vec<SavedLayer>> {
        let group = match form {
            Form::Tensors => 1,
            Form::Strings => 2,
        };
        let mut layers = Vec::new();
        while let Some(class) = self
            .metadata
            .opt_str(&format!("{group}.{}", layers.len()))?
        {
            if u32::try_from(layers.len()).map_or(true, |count| count >= limits.layers) {
                return Err(self.bad(&format!("has more than {} layers", limits.layers)));
            }
            layers.push(self.layer(form, layers.len(), class)?);
        }
        Ok(layers)
    }

    fn layer(&self, form: Form, layer: usize, class: &str) -> Result<SavedLayer> {
        // An older name of it.
        if matches!(class, "ArraysCache" | "MambaCache") {
            return self.state(form, layer);
        }
        let kinds = [false, true].map(|rotates| [false, true].map(|packed| (rotates, packed)));
        let mut kinds = kinds.into_iter().flatten();
        let kind = kinds.find(|&(rotates, packed)| class_of(rotates, packed) == class);
        let Some((rotates, is_packed)) = kind else {
            let class = quoted(class, 80);
            let what = format!("layer {layer} is a {class}, which this version does not have");
            return Err(self.unsupported(&what));
        };
        let [keys, values] = [0, 1].map(|part| self.pair(&format!("{layer}.{part}"), is_packed));
        let tensors = match (keys?, values?) {
            (Some(keys), Some(values)) => Some([keys, values]),
            (None, None) => None,
            _ => return Err(self.bad(&format!("layer {layer} has keys or values alone"))),
        };
        let number = |at: usize| match form {
            Form::Strings => self.string_number(&format!("0.{layer}.{at}")),
            Form::Tensors => self.number(&format!("{layer}.{}", at.saturating_add(2))),
        };
        let first = tensors.as_ref().and_then(|[keys, _]| keys.first());
        let capacity = first.map_or(0, |keys| keys.dim(2));
        let (offset, window, index) = match (rotates, form) {
            (true, Form::Strings) => (number(2)?, Some((number(1)?, number(0)?)), number(3)?),
            (true, Form::Tensors) => (number(0)?, Some((number(2)?, number(1)?)), number(3)?),
            // There the arrays have no spare room.
            (false, Form::Strings) if !is_packed => (capacity, None, capacity),
            (false, _) => {
                let offset = number(0)?;
                (offset, None, offset)
            }
        };
        let scheme = match is_packed {
            true => {
                let behind = if rotates { 4 } else { 1 };
                Some(self.scheme(layer, number(behind)?, number(behind.saturating_add(1))?)?)
            }
            false => None,
        };
        Ok(SavedLayer::Tokens(SavedTokens {
            tensors,
            offset,
            index,
            window,
            scheme,
            marks: Vec::new(),
        }))
    }

    fn scheme(&self, layer: usize, group_size: i32, bits: i32) -> Result<Scheme> {
        if matches!((bits, group_size), (4 | 8, 32 | 64 | 128)) {
            return Ok(Scheme {
                mode: Mode::Affine,
                bits,
                group_size,
            });
        }
        let what = format!("layer {layer} is packed in {bits} bits by {group_size}, which this version does not have");
        Err(self.unsupported(&what))
    }

    /// Keys or values; none where they are empty.
    fn pair(&self, name: &str, is_packed: bool) -> Result<Option<Vec<Stored>>> {
        if !is_packed || self.tensors.contains_key(name) {
            let array = self.array(name)?;
            return match array {
                Some(_) if is_packed => {
                    let what =
                        format!("\"{name}\" is one tensor, and its layer says that it is packed");
                    Err(self.bad(&what))
                }
                array => Ok(array.map(|array| vec![array])),
            };
        }
        let arrays = [0, 1, 2].map(|number| {
            let name = format!("{name}.{number}");
            self.array(&name)?.ok_or_else(|| self.missing(&name))
        });
        arrays.into_iter().collect::<Result<_>>().map(Some)
    }

    fn state(&self, form: Form, layer: usize) -> Result<SavedLayer> {
        let prefix = match form {
            Form::Tensors => format!("{layer}.0"),
            Form::Strings => layer.to_string(),
        };
        if form == Form::Tensors {
            for part in [1, 2] {
                if self.array(&format!("{layer}.{part}"))?.is_some() {
                    let what = format!("layer {layer} is of a batch, which a session is not");
                    return Err(self.unsupported(&what));
                }
            }
        }
        let mut arrays = Vec::new();
        let mut absent = false;
        for number in 0..MOST_ARRAYS {
            let name = format!("{prefix}.{number}");
            if !self.tensors.contains_key(name.as_str()) {
                break;
            }
            match self.array(&name)? {
                Some(array) => arrays.push(array),
                None => absent = true,
            }
        }
        if absent && !arrays.is_empty() {
            return Err(self.bad(&format!("layer {layer} lacks some of its arrays")));
        }
        Ok(SavedLayer::State(SavedState {
            arrays,
            marks: Vec::new(),
        }))
    }

    /// The arrays of marks lie behind all layers, where mlx-lm does not look: `LAYERS.LAYER.MARK.ARRAY`.
    pub fn add_marks(&self, marks: &[Vec<MarkAt>], layers: &mut [SavedLayer]) -> Result<()> {
        let count = layers.len();
        if marks.len() != count {
            let what = format!("has marks of {} layers, and {count} layers", marks.len());
            return Err(self.bad(&what));
        }
        for (layer, (saved, marks)) in layers.iter_mut().zip(marks).enumerate() {
            for (number, at) in marks.iter().enumerate() {
                let arrays = |count_of: usize| -> Result<Vec<Stored>> {
                    let names = (0..count_of).map(|of| format!("{count}.{layer}.{number}.{of}"));
                    let arrays =
                        names.map(|name| self.array(&name)?.ok_or_else(|| self.missing(&name)));
                    arrays.collect()
                };
                match (&mut *saved, at.index) {
                    (SavedLayer::State(state), None) => {
                        let own = arrays(state.arrays.len())?;
                        state.marks.push((at.offset, own));
                    }
                    (SavedLayer::Tokens(tokens), index) => {
                        let each: usize = if tokens.scheme.is_some() { 3 } else { 1 };
                        let kept = index.map(|index| -> Result<_> {
                            let mut keys = arrays(each.saturating_mul(2))?;
                            let values = keys.split_off(each);
                            Ok((index, [keys, values]))
                        });
                        let (offset, kept) = (at.offset, kept.transpose()?);
                        tokens.marks.push(SavedMark { offset, kept });
                    }
                    (SavedLayer::State(_), Some(_)) => {
                        let what = format!("layer {layer} has marks of a window and a state");
                        return Err(self.bad(&what));
                    }
                }
            }
        }
        Ok(())
    }

    fn missing(&self, tensor: &str) -> Error {
        self.bad(&format!("holds no tensor \"{tensor}\""))
    }

    fn tensor(&self, name: &str) -> Result<&Stored> {
        let tensor = self.tensors.get(name).copied();
        tensor.ok_or_else(|| self.missing(name))
    }

    /// None where it is an empty one.
    fn array(&self, name: &str) -> Result<Option<Stored>> {
        let tensor = self.tensor(name)?;
        Ok((!tensor.is_empty()).then(|| tensor.clone()))
    }

    /// A tensor of one whole number, which is not negative.
    fn number(&self, name: &str) -> Result<i32> {
        let tensor = self.tensor(name)?;
        let wrong = || self.bad(&format!("the tensor \"{name}\" must be one whole number"));
        if !tensor.shape.is_empty() {
            return Err(wrong());
        }
        let read = |bytes: &mut [u8]| {
            let read = self.file.read_exact_at(bytes, tensor.offset);
            read.map_err(|error| cannot_read(self.name(), &error))
        };
        let number = match tensor.dtype {
            Dtype::I32 => {
                let mut bytes = [0; 4];
                read(&mut bytes)?;
                i64::from(i32::from_le_bytes(bytes))
            }
            Dtype::I64 => {
                let mut bytes = [0; 8];
                read(&mut bytes)?;
                i64::from_le_bytes(bytes)
            }
            _ => return Err(wrong()),
        };
        let number = i32::try_from(number).ok().filter(|&n| n >= 0);
        number.ok_or_else(wrong)
    }

    fn string_number(&self, key: &str) -> Result<i32> {
        let number = self.metadata.str(key)?.parse().ok();
        let number = number.filter(|&n: &i32| n >= 0);
        number.ok_or_else(|| self.bad(&format!("the metadata \"{key}\" must be a whole number")))
    }
}

fn answer(object: &Object) -> Result<Option<SavedAnswer>> {
    let Some(answer) = object.opt_object("answer")? else {
        return Ok(None);
    };
    let calls = answer.opt_strs("calls", MOST_VALUES)?.unwrap_or_default();
    Ok(Some(SavedAnswer {
        text: answer.str("text")?.to_owned(),
        thinking: answer.str("thinking")?.to_owned(),
        calls: calls.into_iter().map(str::to_owned).collect(),
    }))
}

/// Numbers of tokens, or each with an index.
fn marks_of_layer(value: &Value) -> Option<Vec<MarkAt>> {
    let number = |value: &Value| {
        let number = value.as_i64().and_then(|n| i32::try_from(n).ok());
        number.filter(|&n| n >= 0)
    };
    let mark = |value: &Value| match value {
        Value::Array(pair) => match pair.as_slice() {
            [offset, index] => Some(MarkAt {
                offset: number(offset)?,
                index: Some(number(index)?),
            }),
            _ => None,
        },
        value => Some(MarkAt {
            offset: number(value)?,
            index: None,
        }),
    };
    value.as_array()?.iter().map(mark).collect()
}
