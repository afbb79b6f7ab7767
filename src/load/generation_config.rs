//! The model's own sampling settings, and the tokens that end its text.

use serde_json::Value;

use super::folder::ModelFolder;
use super::json::{parse_object, Object};
use super::limits::Limits;
use crate::error::Result;

const FILE: &str = "generation_config.json";

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
    /// Reads the folder's file, which may be absent. `config` is the folder's `config.json`.
    ///
    /// Errors: `BadModel` naming the key that has a wrong type or value.
    pub fn read(folder: &ModelFolder, config: &Object) -> Result<GenerationConfig> {
        match folder.read(FILE, Limits::DEFAULT.config_bytes)? {
            None => Self::parse(None, config),
            Some(bytes) => {
                let map = parse_object(FILE, &bytes)?;
                Self::parse(Some(&Object::new(FILE, &map)), config)
            }
        }
    }

    fn parse(file: Option<&Object>, config: &Object) -> Result<GenerationConfig> {
        let mut parsed = GenerationConfig::default();
        if let Some(file) = file {
            let nonzero = |x: &f32| *x > 0.0;
            parsed.do_sample = file.opt_bool("do_sample")?;
            parsed.temperature = file.opt_f32("temperature", 0.0..=f32::MAX)?;
            parsed.top_p = file.opt_f32("top_p", 0.0..=1.0)?.filter(nonzero);
            parsed.min_p = file.opt_f32("min_p", 0.0..=1.0)?.filter(nonzero);
            let top_k = file.opt_i64("top_k", -1..=i64::from(i32::MAX))?;
            parsed.top_k = top_k.and_then(|k| i32::try_from(k).ok()).filter(|&k| k > 0);
            parsed.repetition_penalty =
                file.opt_f32("repetition_penalty", f32::MIN_POSITIVE..=f32::MAX)?;
            parsed.add_ends(eos_token_ids(file)?);
        }
        parsed.add_ends(eos_token_ids(config)?);
        if let Some(text) = config.opt_object("text_config")? {
            parsed.add_ends(eos_token_ids(&text)?);
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

/// `eos_token_id`: absent, one token, or a list of them.
fn eos_token_ids(object: &Object) -> Result<Vec<i32>> {
    let last = Limits::DEFAULT.vocab.saturating_sub(1);
    let ids = match object.get("eos_token_id") {
        Some(Value::Array(_)) => object
            .opt_u32s("eos_token_id", 1024, 0..=last)?
            .unwrap_or_default(),
        _ => object
            .opt_u32("eos_token_id", 0..=last)?
            .into_iter()
            .collect(),
    };
    let mut unique = Vec::new();
    for id in ids.into_iter().filter_map(|id| i32::try_from(id).ok()) {
        if !unique.contains(&id) {
            unique.push(id);
        }
    }
    Ok(unique)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::TempFolder;
    use super::*;
    use crate::error::Code;

    fn read(generation: Option<&str>, config: &str) -> Result<GenerationConfig> {
        let temp = TempFolder::new();
        if let Some(text) = generation {
            temp.write(FILE, text);
        }
        let map = parse_object("config.json", config.as_bytes())?;
        GenerationConfig::read(&temp.open(), &Object::new("config.json", &map))
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

    #[test]
    fn wrong_values_name_their_key() {
        for (text, key) in [
            (r#"{"do_sample": 1}"#, "do_sample"),
            (r#"{"temperature": -0.1}"#, "temperature"),
            (r#"{"temperature": NaN}"#, "temperature"),
            (r#"{"temperature": Infinity}"#, "temperature"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"min_p": -1}"#, "min_p"),
            (r#"{"top_k": 2147483648}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
            (r#"{"eos_token_id": -1}"#, "eos_token_id"),
            (r#"{"eos_token_id": true}"#, "eos_token_id"),
            (r#"{"eos_token_id": [1, 4194304]}"#, "eos_token_id[1]"),
            (r#"{"eos_token_id": [1, [2]]}"#, "eos_token_id[1]"),
        ] {
            let error = read(Some(text), "{}").unwrap_err();
            assert_eq!(error.code, Code::BadModel);
            assert!(
                error
                    .message
                    .starts_with(&format!("{FILE}: \"{key}\" must be ")),
                "{text}: {error}"
            );
        }
        let error = read(None, r#"{"text_config": {"eos_token_id": {}}}"#).unwrap_err();
        assert!(
            error
                .message
                .starts_with("config.json: \"text_config.eos_token_id\" must be "),
            "{error}"
        );
        let error = read(Some("{"), "{}").unwrap_err();
        assert!(
            error
                .message
                .starts_with("generation_config.json: is not valid JSON: "),
            "{error}"
        );
    }
}
