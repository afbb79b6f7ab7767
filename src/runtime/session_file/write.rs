//! A session to a file. The engine copies the session's caches out a part at a time, each part a turn, so that requests of other
//! sessions go on in between; the session itself waits. A part is copied while the one before it is hashed and written.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::{fingerprints, Versions};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::load::{class_of, Checksum, Limits, CHECKSUM_KEY, FORMAT, SESSION_KEY, TOKENS_KEY};
use crate::room;
use crate::runtime::answer::Answer;
use crate::runtime::engine::Command;
use crate::runtime::session::Session;
use crate::runtime::staging::{NewFile, SaveOptions, Staging};
use crate::runtime::worker::{KeptLayer, KeptTensor, Snapshot, Which, Worker};

/// Bytes of a tensor that are copied in one turn of the engine.
const PART: u64 = 4 << 20;
const SUSPENDED_LOOK: Duration = Duration::from_millis(5);

pub(super) fn save(session: &Session, path: &Path, options: SaveOptions) -> Result<()> {
    let mut saving = Saving::start(session, options)?;
    let (tokens, answer) = {
        let state = session.ledger.state();
        let answer = state.answer.as_ref().map_or(0, Answer::bytes);
        let bytes = state.tokens.len().saturating_mul(16);
        // As numbers and as text, twice: a list and the header.
        room::ask(bytes.saturating_add(answer), 4, "the session's tokens")?;
        (state.tokens.clone(), state.answer.clone())
    };
    let applied = session.adapters();
    let (versions, digits) = fingerprints(&applied)?;
    let snapshot = saving.snapshot(&versions, &tokens)?;
    let adapters = applied.iter().zip(digits).map(|((adapter, scale), digits)| {
        json!({ "weights": digits, "scale": scale, "what": adapter.words() })
    });
    let own = own(session, &snapshot, adapters.collect(), answer);
    let items = items(&snapshot);
    let header = header(session, &snapshot, &items, &tokens, &own)?;
    drop((own, tokens));
    let digits_at =
        Checksum::place(&header).ok_or_else(|| Error::internal("a header without a checksum"))?;

    saving.total = items.iter().map(Item::bytes).fold(0, u64::saturating_add);
    saving.look()?;
    let (folder, name) = place(path)?;
    let mut staging = Staging::new(folder)?;
    let file = staging.create(name)?;
    let length = (header.len() as u64).to_le_bytes();
    file.write_at(&length, 0)?;
    file.write_at(&header, length.len() as u64)?;
    let mut offset = (length.len() + header.len()) as u64;
    let mut checksum = Checksum::of_header(&header);
    let mut asked = saving.ask(items.iter().find_map(Item::first_part))?;
    for (index, item) in items.iter().enumerate() {
        let next = items[index + 1..].iter().find_map(Item::first_part);
        asked = saving.write(item, next, asked, (&file, offset), &mut checksum)?;
        offset += item.bytes();
    }
    let digits = checksum.digits();
    file.write_at(digits.as_bytes(), (length.len() + digits_at) as u64)?;
    saving.look()?;
    file.finish()?;
    // The last moment to stop it.
    saving.look()?;
    staging.commit(None, &|_| false)
}

/// The folder and the name in it.
fn place(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let Some(name) = name.filter(|_| !is_folder) else {
        let message = format!("{} is no name of a file", path.display());
        return Err(Error::new(Code::Io, message));
    };
    Ok(match path.parent() {
        Some(folder) if folder != Path::new("") => (folder, name),
        _ => (Path::new("."), name),
    })
}

/// What mlx-lm does not know.
fn own(
    session: &Session,
    snapshot: &Snapshot,
    adapters: Vec<Value>,
    answer: Option<Answer>,
) -> String {
    let (model, spec) = (&session.model, session.cache);
    let marks = snapshot.layers.iter().map(|layer| match layer {
        _ if snapshot.cached == 0 => json!([]),
        KeptLayer::State { marks, .. } => json!(marks),
        KeptLayer::Tokens { marks, .. } => {
            let marks = marks.iter().map(|(offset, kept)| match kept {
                Some(kept) => json!([offset, kept.index]),
                None => json!(offset),
            });
            marks.collect()
        }
    });
    // A session that may be as long as the model's stays so where another one is allowed more or less.
    let context = match session.context == model.context as usize {
        true => 0,
        false => session.context,
    };
    json!({
        "format": FORMAT,
        "model": {
            "type": model.model_type,
            "weights": model.identity.weights,
            "config": model.identity.config,
            "tokenizer": model.identity.tokenizer,
            "template": model.identity.template,
        },
        "adapters": adapters,
        "context": context,
        "window": spec.window.unwrap_or(0),
        "keep": spec.keep,
        "kv_bits": spec.scheme.map_or(0, |scheme| scheme.bits),
        "kv_group_size": spec.scheme.map_or(0, |scheme| scheme.group_size),
        "kv_limit": spec.limit.unwrap_or(0).min(i64::MAX as u64),
        "cached": snapshot.cached,
        "long": snapshot.long,
        "marks": marks.collect::<Value>(),
        "answer": answer.map(|answer| json!({
            "text": answer.text,
            "thinking": answer.thinking,
            "calls": answer.calls,
        })),
    })
    .to_string()
}

/// One tensor of the file.
struct Item {
    name: String,
    tensor: KeptTensor,
    from: From,
}

enum From {
    Kept(usize, Which),
    Number(i32),
    /// Nothing: mlx-lm's None.
    Absent,
}

/// Some bytes of an array of a layer.
type Part = (usize, Which, Range<usize>);

/// A part that the engine was asked for.
struct Asked {
    part: Part,
    answer: Receiver<Result<Vec<u8>>>,
}

impl Item {
    /// What is copied in one turn, from `at` on; None: it is all written, or was never an array.
    fn part(&self, at: u64) -> Option<Part> {
        let From::Kept(layer, which) = self.from else {
            return None;
        };
        let end = self.bytes().min(at.saturating_add(PART));
        (at < end).then_some((layer, which, at as usize..end as usize))
    }

    fn first_part(&self) -> Option<Part> {
        self.part(0)
    }

    fn number(name: String, number: i32) -> Item {
        let tensor = KeptTensor {
            dtype: Dtype::I32,
            shape: Vec::new(),
        };
        let from = From::Number(number);
        Item { name, tensor, from }
    }

    fn absent(name: String) -> Item {
        let tensor = KeptTensor {
            dtype: Dtype::F32,
            shape: vec![0],
        };
        let from = From::Absent;
        Item { name, tensor, from }
    }

    fn bytes(&self) -> u64 {
        let sizes = self.tensor.shape.iter();
        let sizes = sizes.map(|&n| u64::from(n.unsigned_abs()));
        sizes
            .fold(1, u64::saturating_mul)
            .saturating_mul(self.tensor.dtype.size() as u64)
    }
}

/// Layer by layer as mlx-lm's `state` of each, and behind them the marks, where mlx-lm does not look.
fn items(snapshot: &Snapshot) -> Vec<Item> {
    let mut items = Vec::new();
    let mut put = |name: String, tensor: &KeptTensor, from: From| {
        let tensor = tensor.clone();
        items.push(Item { name, tensor, from });
    };
    let mut rest = Vec::new();
    for (layer, kept) in snapshot.layers.iter().enumerate() {
        match kept {
            KeptLayer::Tokens {
                kept,
                window,
                scheme,
                ..
            } => {
                let mut which = 0;
                for part in 0..2 {
                    let Some(tensors) = &kept.tensors else {
                        rest.push(Item::absent(format!("{layer}.{part}")));
                        continue;
                    };
                    for (number, tensor) in tensors[part].iter().enumerate() {
                        let name = match scheme {
                            None => format!("{layer}.{part}"),
                            Some(_) => format!("{layer}.{part}.{number}"),
                        };
                        put(name, tensor, From::Kept(layer, Which::Own(which)));
                        which += 1;
                    }
                }
                let window = window.map(|(size, keep)| [keep, size, kept.index]);
                let scheme = scheme.map(|scheme| [scheme.group_size, scheme.bits]);
                let numbers = [kept.offset].into_iter();
                let numbers = numbers.chain(window.into_iter().flatten());
                let numbers = numbers.chain(scheme.into_iter().flatten());
                for (number, value) in numbers.enumerate() {
                    rest.push(Item::number(format!("{layer}.{}", 2 + number), value));
                }
            }
            KeptLayer::State { arrays, .. } => {
                for (number, array) in arrays.iter().enumerate() {
                    let name = format!("{layer}.0.{number}");
                    match snapshot.cached {
                        0 => rest.push(Item::absent(name)),
                        _ => put(name, array, From::Kept(layer, Which::Own(number))),
                    }
                }
                // Of batches.
                rest.extend([1, 2].map(|number| Item::absent(format!("{layer}.{number}"))));
            }
        }
    }
    let count = snapshot.layers.len();
    for (layer, kept) in snapshot.layers.iter().enumerate() {
        let mut put_mark = |mark: usize, arrays: &[KeptTensor]| {
            for (number, array) in arrays.iter().enumerate() {
                let name = format!("{count}.{layer}.{mark}.{number}");
                put(name, array, From::Kept(layer, Which::Mark(mark, number)));
            }
        };
        match kept {
            KeptLayer::State { arrays, marks } => {
                (0..marks.len()).for_each(|mark| put_mark(mark, arrays));
            }
            KeptLayer::Tokens { marks, .. } => {
                for (mark, (_, kept)) in marks.iter().enumerate() {
                    let tensors = kept.as_ref().and_then(|kept| kept.tensors.as_ref());
                    let tensors = tensors.map(|tensors| tensors.concat());
                    put_mark(mark, &tensors.unwrap_or_default());
                }
            }
        }
    }
    items.append(&mut rest);
    items
}

/// The file's header without the length before it.
fn header(
    session: &Session,
    snapshot: &Snapshot,
    items: &[Item],
    tokens: &[i32],
    own: &str,
) -> Result<Vec<u8>> {
    let mut metadata = Map::new();
    let mut put = |key: String, value: String| metadata.insert(key, value.into());
    put(CHECKSUM_KEY.into(), Checksum::UNKNOWN.into());
    put(SESSION_KEY.into(), own.into());
    // What mlx-lm's programs look for.
    put("0.model".into(), session.model.path.clone());
    put("0.tokenizer_config".into(), "{}".into());
    let list: Vec<String> = tokens.iter().map(i32::to_string).collect();
    put(TOKENS_KEY.into(), format!("[{}]", list.join(",")));
    for (layer, kept) in snapshot.layers.iter().enumerate() {
        let class = match kept {
            KeptLayer::Tokens { window, scheme, .. } => {
                class_of(window.is_some(), scheme.is_some())
            }
            KeptLayer::State { .. } => "ArraysCache",
        };
        put(format!("1.{layer}"), class.into());
    }
    put("2.0".into(), String::new());
    let odd = items.iter().filter_map(|item| match item.from {
        From::Kept(..) => None,
        From::Number(_) => Some((&item.name, "scalar")),
        From::Absent => Some((&item.name, "none")),
    });
    for (number, (name, what)) in odd.enumerate() {
        put(format!("2.{}.0", number + 1), name.clone());
        put(format!("2.{}.1", number + 1), what.into());
    }
    let mut table = Map::new();
    table.insert("__metadata__".into(), Value::Object(metadata));
    let mut end = 0;
    for item in items {
        let start = end;
        end += item.bytes();
        table.insert(
            item.name.clone(),
            json!({
                "dtype": item.tensor.dtype.name(),
                "shape": item.tensor.shape,
                "data_offsets": [start, end],
            }),
        );
    }
    let mut text = Value::Object(table).to_string().into_bytes();
    // So that the data begins at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    let most = Limits::DEFAULT.header_bytes;
    if text.len() as u64 > most {
        let message = format!("the session's tokens take more than the {most} bytes of a header");
        return Err(Error::unsupported(message));
    }
    Ok(text)
}

/// A session that is being saved: no request of it begins until this goes.
struct Saving<'a, 'b> {
    session: &'a Session,
    id: u64,
    options: SaveOptions<'b>,
    done: u64,
    total: u64,
}

impl<'a, 'b> Saving<'a, 'b> {
    fn start(session: &'a Session, options: SaveOptions<'b>) -> Result<Self> {
        let id = session.model.engine.next_id();
        session.ledger.hold(id)?;
        Ok(Saving {
            session,
            id,
            options,
            done: 0,
            total: 0,
        })
    }

    fn look(&mut self) -> Result<()> {
        if self.session.ledger.is_cancelled(self.id) {
            return Err(Error::new(Code::Cancelled, "the save was cancelled"));
        }
        self.options.check(self.done, self.total)
    }

    /// Asks the engine for a part, to copy it while the one before is written.
    fn ask(&self, part: Option<Part>) -> Result<Option<Asked>> {
        let Some(part) = part else {
            return Ok(None);
        };
        // On the engine, and here.
        room::ask(part.2.len(), 2, "the session's caches")?;
        let (id, (layer, which, wanted)) = (self.id, part.clone());
        let engine = &self.session.model.engine;
        let answer = engine.ask(move |worker| worker.snapshot_bytes(id, (layer, which), wanted))?;
        Ok(Some(Asked { part, answer }))
    }

    /// While the library is suspended it waits.
    fn answer(&mut self, asked: Asked) -> Result<Vec<u8>> {
        let Asked { part, mut answer } = asked;
        loop {
            match self.session.model.engine.answer(answer) {
                Err(error) if error.code == Code::Suspended => {
                    self.look()?;
                    std::thread::sleep(SUSPENDED_LOOK);
                    let again = self.ask(Some(part.clone()))?;
                    let gone = || Error::internal("a part that nobody asked for");
                    answer = again.ok_or_else(gone)?.answer;
                }
                outcome => return outcome,
            }
        }
    }

    /// Of a library that is suspended nothing is begun.
    fn snapshot(&self, versions: &Versions, tokens: &[i32]) -> Result<Snapshot> {
        let (id, spec) = (self.id, self.session.cache);
        let (versions, tokens) = (versions.clone(), tokens.to_vec());
        let engine = &self.session.model.engine;
        engine.call(move |worker| worker.snapshot(id, spec, &versions, &tokens))
    }

    /// Writes one tensor, whose first part was asked for, and gives the first part of the `next` one.
    fn write(
        &mut self,
        item: &Item,
        next: Option<Part>,
        asked: Option<Asked>,
        (file, offset): (&NewFile, u64),
        checksum: &mut Checksum,
    ) -> Result<Option<Asked>> {
        let bytes = match item.from {
            From::Kept(..) => item.bytes(),
            From::Number(number) => {
                let bytes = number.to_le_bytes();
                checksum.add(&bytes);
                self.done += bytes.len() as u64;
                file.write_at(&bytes, offset)?;
                return Ok(asked);
            }
            From::Absent => return Ok(asked),
        };
        let (mut at, mut asked) = (0, asked);
        while at < bytes {
            let own = asked.take();
            let own = own.ok_or_else(|| Error::internal("a part that nobody asked for"))?;
            let part = self.answer(own)?;
            let end = at + part.len() as u64;
            asked = self.ask(item.part(end).or_else(|| next.clone()))?;
            checksum.add(&part);
            file.write_at(&part, offset + at)?;
            self.done += part.len() as u64;
            at = end;
            self.look()?;
        }
        Ok(asked)
    }
}

impl Drop for Saving<'_, '_> {
    fn drop(&mut self) {
        let id = self.id;
        // Fails only when the engine ended, and then the caches went with it.
        let forget = move |worker: &mut Worker| worker.drop_snapshot(id);
        let _ = self
            .session
            .model
            .engine
            .send(Command::Do(Box::new(forget)));
        self.session.ledger.give_up(id);
        // A request that was submitted meanwhile can begin.
        self.session.wake();
    }
}
