//! The model's own sampling settings, and the tokens that end its text.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::folder::ModelFolder;
use super::json::{describe, integer, parse_object, Object};
use super::limits::Limits;
use super::warnings::Warnings;
use crate::error::Result;

const FILE: &str = "generation_config.json";

/// What a repetition penalty may be: no logit that means something leaves f32 by it.
pub const REPETITION_PENALTY: RangeInclusive<f32> = 1e-6..=1e6;

/// What `generation_config.json` sets. None: not set, or set to the value that means "off".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    pub do_sample: Option<bool>,
    /// 0 or more; 0 means greedy.
    pub temperature: Option<f32>,
    /// Above 0, up to 1.
    pub top_p: Option<f32>,
    /// Above 0, up to 1.
    pub min_p: Option<f32>,
    /// 1 or more.
    pub top_k: Option<i32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
    /// The tokens that end the text: those of this file, of `config.json` and of its `text_config`, each once. Chat
    /// fine-tunes often rewrite one of them only.
    pub eos_token_ids: Vec<i32>,
}

impl GenerationConfig {
    /// Reads the folder's file, which may be absent. `config` is the folder's `config.json`. A model runs without any of
    /// this, so what is broken or has a wrong type or value is a warning, and as if it were not there.
    ///
    /// Errors: `OutOfMemory`.
    pub fn read(
        folder: &ModelFolder,
        config: &Object,
        warnings: &mut Warnings,
    ) -> Result<GenerationConfig> {
        let map = warnings.forgive(read_file(folder))?;
        let file = map.as_ref().map(|map| Object::new(FILE, map));
        Self::parse(file.as_ref(), config, warnings)
    }

    fn parse(
        file: Option<&Object>,
        config: &Object,
        warnings: &mut Warnings,
    ) -> Result<GenerationConfig> {
        let mut parsed = GenerationConfig::default();
        if let Some(file) = file {
            let nonzero = |x: &f32| *x > 0.0;
            let mut share = |key| warnings.forgive(file.opt_f32(key, 0.0..=1.0));
            parsed.top_p = share("top_p")?.filter(nonzero);
            parsed.min_p = share("min_p")?.filter(nonzero);
            parsed.do_sample = warnings.forgive(file.opt_bool("do_sample"))?;
            parsed.temperature = warnings.forgive(file.opt_f32("temperature", 0.0..=f32::MAX))?;
            let top_k = warnings.forgive(file.opt_i64("top_k", -1..=i64::from(i32::MAX)))?;
            parsed.top_k = top_k.and_then(|k| i32::try_from(k).ok()).filter(|&k| k > 0);
            parsed.repetition_penalty =
                warnings.forgive(file.opt_f32("repetition_penalty", REPETITION_PENALTY))?;
            parsed.add_ends(eos_token_ids(file, warnings));
        }
        parsed.add_ends(eos_token_ids(config, warnings));
        if let Some(text) = warnings.forgive(config.opt_object("text_config"))? {
            parsed.add_ends(eos_token_ids(&text, warnings));
        }
        Ok(parsed)
    }

    /// More tokens that end the text.
    pub fn add_ends(&mut self, ids: impl IntoIterator<Item = i32>) {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }
}

fn read_file(folder: &ModelFolder) -> Result<Option<Map<String, Value>>> {
    let bytes = folder.read(FILE, Limits::DEFAULT.config_bytes)?;
    bytes.map(|bytes| parse_object(FILE, &bytes)).transpose()
}

/// Most of them in one list.
const MOST_ENDS: usize = 1024;

/// `eos_token_id`: absent, one token, or a list of them. What is no id (-1 is written where there is none) never ends a
/// text.
fn eos_token_ids(object: &Object, warnings: &mut Warnings) -> Vec<i32> {
    const KEY: &str = "eos_token_id";
    let values = match object.get(KEY) {
        None => return Vec::new(),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let ids = 0..i64::from(Limits::DEFAULT.vocab);
    let mut unique = Vec::new();
    for value in values.iter().take(MOST_ENDS) {
        let id = integer(value).filter(|id| ids.contains(id));
        match id.and_then(|id| i32::try_from(id).ok()) {
            Some(id) if unique.contains(&id) => {}
            Some(id) => unique.push(id),
            None => warnings.add(format!(
                "{} holds {}, which is no token id; it is ignored",
                object.place(KEY),
                describe(value)
            )),
        }
    }
    if values.len() > MOST_ENDS {
        warnings.add(format!(
            "{} holds more than {MOST_ENDS} token ids; the rest is ignored",
            object.place(KEY)
        ));
    }
    unique
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::TempFolder;
    use super::*;

    fn read(generation: Option<&str>, config: &str) -> Result<GenerationConfig> {
        let mut warnings = Warnings::default();
        let read = read_with(generation, config, &mut warnings);
        assert!(warnings.sentences().is_empty(), "{warnings:?}");
        read
    }

    fn read_with(
        generation: Option<&str>,
        config: &str,
        warnings: &mut Warnings,
    ) -> Result<GenerationConfig> {
        let temp = TempFolder::new();
        if let Some(text) = generation {
            temp.write(FILE, text);
        }
        let map = parse_object("config.json", config.as_bytes())?;
        GenerationConfig::read(&temp.open(), &Object::new("config.json", &map), warnings)
    }

    #[test]
    fn reads_a_published_file() {
        let text = r#"{"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643, 151645],
            "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}"#;
        let expected = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.95),
            min_p: Some(0.05),
            top_k: Some(20),
            repetition_penalty: Some(1.05),
            eos_token_ids: vec![151645, 151643, 7],
        };
        assert_eq!(
            read(Some(text), r#"{"eos_token_id": 7}"#).unwrap(),
            expected
        );
    }

    #[test]
    fn ends_are_the_union_of_all_places() {
        let eos = |generation, config| read(generation, config).unwrap().eos_token_ids;
        let config = r#"{"eos_token_id": [7, 8], "text_config": {"eos_token_id": [8, 9]}}"#;
        assert_eq!(eos(Some(r#"{"eos_token_id": 0}"#), config), [0, 7, 8, 9]);
        assert_eq!(eos(Some(r#"{"eos_token_id": [9, 7]}"#), config), [9, 7, 8]);
        assert_eq!(eos(Some(r#"{"eos_token_id": []}"#), config), [7, 8, 9]);
        assert_eq!(eos(Some(r#"{"eos_token_id": null}"#), config), [7, 8, 9]);
        assert_eq!(eos(None, config), [7, 8, 9]);
        assert_eq!(eos(None, r#"{"text_config": {"eos_token_id": 8}}"#), [8]);
        assert_eq!(eos(Some(r#"{"eos_token_id": 3}"#), "{}"), [3]);
        assert!(eos(None, "{}").is_empty());
    }

    #[test]
    fn off_is_none() {
        let off = read(
            Some(r#"{"top_p": 0, "min_p": 0.0, "top_k": -1, "temperature": 0}"#),
            "{}",
        )
        .unwrap();
        assert_eq!(
            off,
            GenerationConfig {
                temperature: Some(0.0),
                ..Default::default()
            }
        );
        assert_eq!(read(Some(r#"{"top_k": 0}"#), "{}").unwrap().top_k, None);
    }

    /// What is left of the settings, and the one warning.
    fn warned(generation: Option<&str>, config: &str) -> (GenerationConfig, String) {
        let mut warnings = Warnings::default();
        let read = read_with(generation, config, &mut warnings).unwrap();
        let [warning] = warnings.sentences() else {
            unreachable!("{generation:?}: {warnings:?}")
        };
        (read, warning.clone())
    }

    #[test]
    fn odd_values_are_ignored_with_a_warning_that_names_the_key() {
        for (text, key) in [
            (r#"{"do_sample": 1}"#, "do_sample"),
            (r#"{"temperature": -0.1}"#, "temperature"),
            (r#"{"temperature": NaN}"#, "temperature"),
            (r#"{"temperature": Infinity}"#, "temperature"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_p": "0.9"}"#, "top_p"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"min_p": -1}"#, "min_p"),
            (r#"{"top_k": 2147483648}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        ] {
            let (read, warning) = warned(Some(text), "{}");
            assert_eq!(read, GenerationConfig::default(), "{text}");
            assert!(
                warning.starts_with(&format!("{FILE}: \"{key}\" must be "))
                    && warning.ends_with("; it is ignored"),
                "{text}: {warning}"
            );
        }
        let (read, _) = warned(Some(r#"{"top_p": "0.9", "top_k": 20}"#), "{}");
        assert_eq!(read.top_k, Some(20), "its neighbours count");
    }

    #[test]
    fn what_is_no_id_ends_no_text() {
        let no_id = |file: &str, path: &str, shown: &str| {
            format!(
                "{file}: \"{path}eos_token_id\" holds {shown}, which is no token id; it is ignored"
            )
        };
        for (text, shown, left) in [
            ("-1", "-1", vec![]),
            (r#""</s>""#, r#""</s>""#, vec![]),
            ("true", "true", vec![]),
            ("1.5", "1.5", vec![]),
            ("[1, 4194304]", "4194304", vec![1]),
            ("[[2], 1, 1]", "an array of 1", vec![1]),
            ("[3, null]", "null", vec![3]),
        ] {
            let text = format!(r#"{{"eos_token_id": {text}}}"#);
            let (read, warning) = warned(Some(&text), "{}");
            assert_eq!(
                (read.eos_token_ids, warning),
                (left, no_id(FILE, "", shown))
            );
        }
        // Another file's still count.
        let (read, _) = warned(Some(r#"{"eos_token_id": -1}"#), r#"{"eos_token_id": 7}"#);
        assert_eq!(read.eos_token_ids, [7]);
        let (_, warning) = warned(None, r#"{"text_config": {"eos_token_id": {}}}"#);
        assert_eq!(warning, no_id("config.json", "text_config.", "an object"));
        let many: Vec<i32> = (0..2000).collect();
        let (read, warning) = warned(Some(&format!(r#"{{"eos_token_id": {many:?}}}"#)), "{}");
        assert_eq!(read.eos_token_ids.len(), MOST_ENDS);
        assert!(warning.contains("more than 1024 token ids"), "{warning}");
    }

    #[test]
    fn a_broken_file_is_as_none() {
        for text in [
            "",
            "{",
            "null",
            "[]",
            "{\"top_k\": 5,}",
            "{\"top_k\": 5, \"top_k\": 6}",
            "\u{feff}{}",
        ] {
            let (read, warning) = warned(Some(text), r#"{"eos_token_id": 7}"#);
            assert_eq!(read.eos_token_ids, [7], "{text}");
            assert_eq!(read.top_k, None, "{text}");
            assert!(warning.starts_with(&format!("{FILE}: ")), "{warning}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_as_none() {
        let temp = TempFolder::new();
        std::fs::create_dir(temp.path().join(FILE)).unwrap();
        let mut warnings = Warnings::default();
        let map = Map::new();
        let config = Object::new("config.json", &map);
        let read = GenerationConfig::read(&temp.open(), &config, &mut warnings).unwrap();
        assert_eq!(read, GenerationConfig::default());
        assert_eq!(
            warnings.sentences(),
            [format!(
                "{FILE}: is a folder, not a regular file; it is ignored"
            )]
        );
    }
}
