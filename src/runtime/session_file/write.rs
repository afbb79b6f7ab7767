//! A session to a file. The engine copies the session's caches out a part at a time, each part a turn, so that requests of other
//! sessions go on in between; the session itself waits.

use std::path::Path;
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::{fingerprints, Versions};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::load::{Checksum, Limits, CHECKSUM_KEY, FORMAT, SESSION_KEY, TOKENS_KEY};
use crate::room;
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
        let answer = state.answer.as_ref().map_or(0, String::len);
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
    let (folder, name) = place(path)?;
    let mut staging = Staging::new(folder)?;
    let file = staging.create(name)?;
    let length = (header.len() as u64).to_le_bytes();
    file.write_at(&length, 0)?;
    file.write_at(&header, length.len() as u64)?;
    let mut offset = (length.len() + header.len()) as u64;
    let mut checksum = Checksum::of_header(&header);
    for item in &items {
        saving.write(item, &file, offset, &mut checksum)?;
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
    answer: Option<String>,
) -> String {
    let (model, spec) = (&session.model, session.cache);
    let marks = snapshot.layers.iter().map(|layer| match layer {
        KeptLayer::State { marks, .. } if snapshot.cached > 0 => marks.as_slice(),
        _ => &[],
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
        "kv_bits": 0,
        "kv_limit": spec.limit.unwrap_or(0).min(i64::MAX as u64),
        "cached": snapshot.cached,
        "long": snapshot.long,
        "marks": marks.collect::<Vec<_>>(),
        "answer": answer,
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

impl Item {
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
            KeptLayer::Tokens { tensors, .. } => {
                for (number, which) in [Which::Keys, Which::Values].into_iter().enumerate() {
                    let name = format!("{layer}.{number}");
                    match tensors {
                        Some(tensors) => put(name, &tensors[number], From::Kept(layer, which)),
                        None => rest.push(Item::absent(name)),
                    }
                }
            }
            KeptLayer::State { arrays, .. } => {
                for (number, array) in arrays.iter().enumerate() {
                    let name = format!("{layer}.0.{number}");
                    match snapshot.cached {
                        0 => rest.push(Item::absent(name)),
                        _ => put(name, array, From::Kept(layer, Which::State(number))),
                    }
                }
                // Of batches.
                rest.extend([1, 2].map(|number| Item::absent(format!("{layer}.{number}"))));
            }
        }
        if let KeptLayer::Tokens {
            offset,
            index,
            window,
            ..
        } = kept
        {
            let window = window.map(|(size, keep)| [keep, size, *index]);
            let numbers = [*offset].into_iter().chain(window.into_iter().flatten());
            for (number, value) in numbers.enumerate() {
                rest.push(Item::number(format!("{layer}.{}", 2 + number), value));
            }
        }
    }
    let count = snapshot.layers.len();
    for (layer, kept) in snapshot.layers.iter().enumerate() {
        let KeptLayer::State { arrays, marks } = kept else {
            continue;
        };
        for mark in 0..marks.len() {
            for (number, array) in arrays.iter().enumerate() {
                let name = format!("{count}.{layer}.{mark}.{number}");
                put(name, array, From::Kept(layer, Which::Mark(mark, number)));
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
            KeptLayer::Tokens {
                window: Some(_), ..
            } => "RotatingKVCache",
            KeptLayer::Tokens { window: None, .. } => "KVCache",
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

    /// While the library is suspended it waits.
    fn ask<T: Send + 'static>(
        &mut self,
        work: impl Fn(&mut Worker) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        loop {
            let work = work.clone();
            match self.session.model.engine.call(move |worker| work(worker)) {
                Err(error) if error.code == Code::Suspended => {
                    self.look()?;
                    std::thread::sleep(SUSPENDED_LOOK);
                }
                outcome => return outcome,
            }
        }
    }

    fn snapshot(&mut self, versions: &Versions, tokens: &[i32]) -> Result<Snapshot> {
        let (id, spec) = (self.id, self.session.cache);
        let (versions, tokens) = (versions.clone(), tokens.to_vec());
        self.ask(move |worker| worker.snapshot(id, spec, &versions, &tokens))
    }

    fn write(
        &mut self,
        item: &Item,
        file: &NewFile,
        offset: u64,
        checksum: &mut Checksum,
    ) -> Result<()> {
        let place = match item.from {
            From::Kept(layer, which) => (layer, which),
            From::Number(number) => {
                let bytes = number.to_le_bytes();
                checksum.add(&bytes);
                self.done += bytes.len() as u64;
                return file.write_at(&bytes, offset);
            }
            From::Absent => return Ok(()),
        };
        let (id, bytes, mut at) = (self.id, item.bytes(), 0);
        while at < bytes {
            let end = bytes.min(at + PART);
            let wanted = at as usize..end as usize;
            // On the engine, and here.
            room::ask(wanted.len(), 2, "the session's caches")?;
            let part = self.ask(move |worker| worker.snapshot_bytes(id, place, wanted.clone()))?;
            checksum.add(&part);
            file.write_at(&part, offset + at)?;
            self.done += part.len() as u64;
            at = end;
            self.look()?;
        }
        Ok(())
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
