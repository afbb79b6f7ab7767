//! Text to ids beside the tokenizers crate, and ids to text one at a time.

use std::path::{Path, PathBuf};

use serde_json::{json, Map, Value};

use crate::template::Origin;
use crate::text::{
    Finish, Kind, Piece, Specials, StopStrings, StreamOptions, TextStream, Token, TokenFiles,
    Tokenizer,
};
use crate::{timed, Failure};

const TEXT_BYTES: usize = 100_000;

/// So that not all of the text is ASCII.
const OTHER_SCRIPTS: &str = "Die Straße führt über eine Brücke; où est la gare, s'il vous plaît? \
    Съешь же ещё этих мягких французских булок. 東京の天気は晴れです。今天天气很好，我们去公园吧。 \
    مرحبا بالعالم. שלום עולם. हिन्दी में लिखा हुआ वाक्य। 한국어 문장입니다. 🦊🌲 👩‍👩‍👧 1 234,56 €\n\n";

/// 100 KB of prose, then code, then other scripts, none of it repeated but the last.
fn text(repository: &Path) -> Result<String, Failure> {
    let mut out = OTHER_SCRIPTS.repeat(12);
    let mut files: Vec<PathBuf> = Vec::new();
    for (folder, extension) in [
        (".", "md"),
        ("benches", "md"),
        ("src/text", "rs"),
        ("src/template", "rs"),
    ] {
        let mut here: Vec<PathBuf> = std::fs::read_dir(repository.join(folder))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            // These change with every run.
            .filter(|path| !path.ends_with("RESULTS.md") && !path.ends_with("TEXT.md"))
            .collect();
        here.sort();
        files.append(&mut here);
    }
    for path in files {
        out.push_str(&std::fs::read_to_string(path)?);
    }
    let end = (0..=TEXT_BYTES)
        .rev()
        .find(|end| out.is_char_boundary(*end));
    out.truncate(end.unwrap_or(0));
    Ok(out)
}

/// Each tokenizer of the folder.
pub fn measure(data: &Path, repository: &Path, rounds: usize) -> Result<Value, Failure> {
    let text = text(repository)?;
    let mut folders: Vec<PathBuf> = std::fs::read_dir(data.join("tokenizers"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.join("tokenizer.json").is_file())
        .collect();
    folders.sort();
    let mut all = Map::new();
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        all.insert(name.into_owned(), one(&folder, &text, rounds)?);
    }
    Ok(all.into())
}

fn one(folder: &Path, text: &str, rounds: usize) -> Result<Value, Failure> {
    let file = std::fs::read(folder.join("tokenizer.json"))?;
    let config: Option<Value> = std::fs::read(folder.join("tokenizer_config.json"))
        .ok()
        .map(|file| serde_json::from_slice(&file))
        .transpose()?;
    let files = TokenFiles {
        config: config.as_ref().and_then(Value::as_object).cloned(),
        ..TokenFiles::default()
    };
    let ours = Tokenizer::new(&file, &files, None, &mut Vec::new())?;
    let mut direct = tokenizers::Tokenizer::from_bytes(&file).map_err(|e| e.to_string())?;
    direct.with_padding(None);
    direct.with_truncation(None).map_err(|e| e.to_string())?;

    // A prompt as a chat template leaves it: content, with a few of the template's characters between.
    let mut pieces = Vec::new();
    for line in text.split_inclusive("\n\n") {
        pieces.push(Piece::new("User: ", Origin::Template));
        pieces.push(Piece::new(line, Origin::Content));
    }
    let joined: String = pieces.iter().map(|piece| piece.text.as_str()).collect();

    let ids = ours.encode(text, Specials::Recognise, false)?;
    let theirs = direct.encode_fast(text, false).map_err(|e| e.to_string())?;
    let same = theirs
        .get_ids()
        .iter()
        .map(|id| *id as i32)
        .eq(ids.iter().copied());
    let mut streamed = String::new();
    stream(&ours, &ids, &mut streamed)?;
    let whole = ours.detokenize(&ids, false)?;

    const KINDS: usize = 5;
    let mut encode: [Vec<f64>; KINDS] = Default::default();
    let (mut stream_s, mut detokenize_s) = (Vec::new(), Vec::new());
    // The first round, which fills both sides' caches, is not counted.
    for round in 0..=rounds {
        for turn in 0..KINDS {
            let kind = (round + turn) % KINDS;
            let (seconds, length) = match kind {
                0 => timed(|| {
                    ours.encode(text, Specials::Recognise, false)
                        .map(|ids| ids.len())
                        .unwrap_or(0)
                }),
                1 => timed(|| {
                    direct
                        .encode_fast(text, false)
                        .map(|e| e.len())
                        .unwrap_or(0)
                }),
                2 => timed(|| direct.encode(text, false).map(|e| e.len()).unwrap_or(0)),
                3 => timed(|| {
                    ours.encode_pieces(&pieces, false)
                        .map(|ids| ids.len())
                        .unwrap_or(0)
                }),
                _ => timed(|| {
                    direct
                        .encode_fast(joined.as_str(), false)
                        .map(|e| e.len())
                        .unwrap_or(0)
                }),
            };
            if length == 0 {
                return Err(format!("{}: no tokens", folder.display()).into());
            }
            if round > 0 {
                encode[kind].push(seconds);
            }
        }
        let mut out = String::with_capacity(whole.len());
        let (seconds, result) = timed(|| stream(&ours, &ids, &mut out));
        result?;
        let (at_once, result) = timed(|| ours.detokenize(&ids, false));
        result?;
        if round > 0 {
            stream_s.push(seconds);
            detokenize_s.push(at_once);
        }
    }
    let [text_s, fast_s, offsets_s, prompt_s, prompt_fast_s] = encode;
    Ok(json!({
        "bytes": text.len(),
        "tokens": ids.len(),
        "same_ids": same,
        "same_text": streamed == whole,
        "encode": {"mlxrt_s": text_s, "crate_fast_s": fast_s, "crate_s": offsets_s},
        "encode_prompt": {"mlxrt_s": prompt_s, "crate_fast_s": prompt_fast_s},
        "stream_s": stream_s,
        "detokenize_s": detokenize_s,
    }))
}

/// What a session does with each token: in, and the chunks out as soon as they are whole.
fn stream(tokenizer: &Tokenizer, ids: &[i32], out: &mut String) -> Result<(), Failure> {
    let stops = StopStrings::new::<&str>(&[])?;
    let detokenizer = tokenizer.detokenizer(false, false);
    let mut stream = TextStream::new(detokenizer, &stops, StreamOptions::default());
    for id in ids {
        let token = Token {
            id: *id,
            ..Default::default()
        };
        stream.push(token, Kind::Normal);
        while let Some(chunk) = stream.pop() {
            out.push_str(&chunk.text);
        }
    }
    stream.finish(Finish::End);
    while let Some(chunk) = stream.pop() {
        out.push_str(&chunk.text);
    }
    Ok(())
}
