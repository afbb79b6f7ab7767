//! Handles: ids that look like pointers and are never dereferenced.
//!
//! ```text
//! bits 63..56  kind        never 0, so that a handle is neither NULL nor the address of anything
//! bits 55..28  generation  from 1; counts the objects that the slot has held
//! bits 27..0   slot        its low 4 bits are the shard
//! ```
//! A freed handle is recognised by its generation. When a slot's generations are used up it is retired, so no
//! id is ever given out twice.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Code, Error, Result};
use crate::mail::{Boxes, Mailbox};

/// What a handle stands for. The numbers are bits 63..56.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Model = 0xA1,
    Session = 0xA2,
    Request = 0xA3,
    Adapter = 0xA4,
    Grammar = 0xA5,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Model,
        Kind::Session,
        Kind::Request,
        Kind::Adapter,
        Kind::Grammar,
    ];

    fn from_bits(bits: u64) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u64 == bits)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Session => "session",
            Kind::Request => "request",
            Kind::Adapter => "adapter",
            Kind::Grammar => "grammar",
        }
    }

    /// With its article: "an adapter".
    fn a_name(self) -> String {
        let article = if self == Kind::Adapter { "an" } else { "a" };
        format!("{article} {}", self.name())
    }
}

/// A Rust type that a handle can stand for, and the opaque C type that only its handles have.
pub trait Handle: Any + Send + Sync {
    type C;
    const KIND: Kind;
    /// What can be cancelled from a signal handler takes its box here; nothing else has one.
    const BIND: Option<fn(&Self, Mailbox)> = None;
}

const SLOT_BITS: u32 = 28;
const GENERATION_BITS: u32 = 28;
const KIND_SHIFT: u32 = SLOT_BITS + GENERATION_BITS;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const LAST_GENERATION: u32 = GENERATION_MASK as u32;
const SHARD_BITS: u32 = 4;
const SHARDS: usize = 1 << SHARD_BITS;
const SLOTS_PER_SHARD: usize = 1 << (SLOT_BITS - SHARD_BITS);

struct Object {
    kind: Kind,
    value: Arc<dyn Any + Send + Sync>,
}

struct Slot {
    /// Of the object in it, or of the last one that was.
    generation: u32,
    object: Option<Object>,
}

/// Alone on its cache lines: threads that use handles of different shards do not disturb each other.
#[repr(align(128))]
struct Shard {
    slots: Vec<Slot>,
    /// Indices of empty slots that may be used again.
    free: Vec<u32>,
}

/// The objects that C code holds handles of. Locks are held for the lookup only, never while an object works
/// or is dropped.
pub struct Table {
    shards: [RwLock<Shard>; SHARDS],
    next_shard: AtomicUsize,
    /// By shard.
    boxes: [Boxes; SHARDS],
}

static TABLE: Table = Table::new();

/// The process's table.
pub fn table() -> &'static Table {
    &TABLE
}

/// An id taken apart.
struct Id {
    kind: Kind,
    generation: u32,
    shard: usize,
    index: usize,
}

impl Id {
    fn from_pointer<C>(pointer: *const C) -> Option<Id> {
        let bits = pointer.addr() as u64;
        let kind = Kind::from_bits(bits >> KIND_SHIFT)?;
        let slot = (bits & SLOT_MASK) as usize;
        Some(Id {
            kind,
            generation: ((bits >> SLOT_BITS) & GENERATION_MASK) as u32,
            shard: slot % SHARDS,
            index: slot / SHARDS,
        })
    }

    fn to_pointer<C>(&self) -> *mut C {
        let slot = (self.index * SHARDS + self.shard) as u64;
        let kind = (self.kind as u64) << KIND_SHIFT;
        let bits = kind | (u64::from(self.generation) << SLOT_BITS) | slot;
        std::ptr::without_provenance_mut(bits as usize)
    }
}

const _: () = assert!(usize::BITS == 64, "handles need 64-bit pointers");

impl Table {
    pub const fn new() -> Self {
        Table {
            shards: [const {
                RwLock::new(Shard {
                    slots: Vec::new(),
                    free: Vec::new(),
                })
            }; SHARDS],
            next_shard: AtomicUsize::new(0),
            boxes: [const { Boxes::new() }; SHARDS],
        }
    }

    /// Cancels what a handle stands for, where it is live and can be cancelled. May be called from a signal handler.
    pub fn send_cancel<T: Handle>(&self, pointer: *const T::C) {
        let id = Id::from_pointer(pointer).filter(|id| id.kind == T::KIND);
        if let Some((boxes, index)) = id.and_then(|id| Some((self.boxes.get(id.shard)?, id.index)))
        {
            boxes.send(index, pointer.addr() as u64);
        }
    }

    /// Puts an object in and gives its handle.
    ///
    /// # Errors
    /// OUT_OF_MEMORY when the table cannot grow.
    pub fn insert<T: Handle>(&self, object: Arc<T>) -> Result<*mut T::C> {
        let full = || {
            Error::new(
                Code::OutOfMemory,
                format!("no room for another {} handle", T::KIND.name()),
            )
        };
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut entries = self.write(shard);
        let index = match entries.free.pop() {
            Some(index) => index as usize,
            None => {
                let index = entries.slots.len();
                if index >= SLOTS_PER_SHARD {
                    return Err(full());
                }
                // Room for its place in `free` as well, so that `remove` never allocates.
                entries.slots.try_reserve(1).map_err(|_| full())?;
                let spare = entries.slots.capacity() - entries.free.len();
                entries.free.try_reserve(spare).map_err(|_| full())?;
                entries.slots.push(Slot {
                    generation: 0,
                    object: None,
                });
                index
            }
        };
        let handle = Id {
            kind: T::KIND,
            generation: entries.slots[index].generation + 1,
            shard,
            index,
        };
        let pointer: *mut T::C = handle.to_pointer();
        if let Some(bind) = T::BIND {
            let Some(mailbox) = self.boxes[shard].open(index, pointer.addr() as u64) else {
                entries.free.push(index as u32);
                return Err(full());
            };
            bind(&object, mailbox);
        }
        let slot = &mut entries.slots[index];
        slot.generation = handle.generation;
        slot.object = Some(Object {
            kind: T::KIND,
            value: object,
        });
        Ok(pointer)
    }

    /// The object of a handle; it lives at least as long as the `Arc`. `what` names the argument.
    ///
    /// # Errors
    /// INVALID_HANDLE for NULL, a freed handle, one of another type, and anything else.
    pub fn get<T: Handle>(&self, pointer: *const T::C, what: &str) -> Result<Arc<T>> {
        let id = check::<T>(pointer, what)?;
        let entries = self.read(id.shard);
        let value = match entries.slots.get(id.index) {
            Some(Slot {
                generation,
                object: Some(object),
            }) if *generation == id.generation && object.kind == id.kind => {
                Arc::clone(&object.value)
            }
            slot => return Err(missing::<T>(slot, &id, what)),
        };
        drop(entries);
        value.downcast().map_err(|_| foreign(what))
    }

    /// Takes an object out; its handle is invalid from here on. Dropping it is the caller's, outside any lock.
    ///
    /// # Errors
    /// As `get`; of several threads that remove one handle, exactly one succeeds.
    pub fn remove<T: Handle>(&self, pointer: *const T::C, what: &str) -> Result<Arc<T>> {
        let id = check::<T>(pointer, what)?;
        let mut entries = self.write(id.shard);
        let slot = entries.slots.get_mut(id.index);
        let object = match slot {
            Some(Slot { generation, object })
                if *generation == id.generation
                    && object.as_ref().is_some_and(|object| object.kind == id.kind) =>
            {
                object.take()
            }
            slot => return Err(missing::<T>(slot.as_deref(), &id, what)),
        };
        if T::BIND.is_some() {
            self.boxes[id.shard].close(id.index);
        }
        if id.generation < LAST_GENERATION {
            entries.free.push(id.index as u32);
        }
        drop(entries);
        let Some(object) = object else {
            return Err(foreign(what));
        };
        object.value.downcast().map_err(|_| foreign(what))
    }

    /// All live objects of a type, in no order: for naming or ending what is left at shutdown.
    pub fn all<T: Handle>(&self) -> Vec<Arc<T>> {
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            let entries = self.read(shard);
            let objects = entries.slots.iter().filter_map(|slot| slot.object.as_ref());
            let values = objects.filter(|object| object.kind == T::KIND);
            all.extend(values.filter_map(|object| Arc::clone(&object.value).downcast().ok()));
        }
        all
    }

    /// The kind of a live handle that came where a real pointer belongs.
    pub fn kind_of<C>(&self, pointer: *const C) -> Option<Kind> {
        let id = Id::from_pointer(pointer)?;
        let entries = self.read(id.shard);
        let slot = entries.slots.get(id.index)?;
        let object = slot.object.as_ref()?;
        (slot.generation == id.generation && object.kind == id.kind).then_some(id.kind)
    }

    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[shard]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard]
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

fn check<T: Handle>(pointer: *const T::C, what: &str) -> Result<Id> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    let id = Id::from_pointer(pointer).ok_or_else(|| foreign(what))?;
    if id.kind == T::KIND {
        Ok(id)
    } else {
        Err(invalid(format!(
            "{what} is {}, not {}",
            id.kind.a_name(),
            T::KIND.a_name()
        )))
    }
}

fn missing<T: Handle>(slot: Option<&Slot>, id: &Id, what: &str) -> Error {
    match slot {
        Some(slot) if (1..=slot.generation).contains(&id.generation) => invalid(format!(
            "{what} is {} that has been freed",
            T::KIND.a_name()
        )),
        _ => foreign(what),
    }
}

fn foreign(what: &str) -> Error {
    invalid(format!("{what} is not a handle that this library gave out"))
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidHandle, message)
}

#[cfg(test)]
mod tests {
    use super::super::types::{mlxrt_model, mlxrt_session};
    use super::*;
    use std::collections::HashSet;

    #[derive(Debug)]
    struct Model(usize);
    impl Handle for Model {
        type C = mlxrt_model;
        const KIND: Kind = Kind::Model;
    }
    #[derive(Debug)]
    struct Session;
    impl Handle for Session {
        type C = mlxrt_session;
        const KIND: Kind = Kind::Session;
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::InvalidHandle);
        error.message
    }

    #[test]
    fn objects_come_back_until_removed() {
        let table = Table::new();
        let one = table.insert(Arc::new(Model(1))).unwrap();
        let two = table.insert(Arc::new(Model(2))).unwrap();
        assert_eq!(table.get::<Model>(one, "model").unwrap().0, 1);
        assert_eq!(table.get::<Model>(two, "model").unwrap().0, 2);
        assert_eq!(table.all::<Model>().len(), 2);
        assert_eq!(table.all::<Session>().len(), 0);
        assert_eq!(table.kind_of(one), Some(Kind::Model));
        assert_eq!(table.remove::<Model>(one, "model").unwrap().0, 1);
        assert_eq!(table.kind_of(one), None);
        assert_eq!(table.get::<Model>(two, "model").unwrap().0, 2);
        assert_eq!(table.all::<Model>().len(), 1);
    }

    #[test]
    fn every_wrong_handle_is_told_apart() {
        let table = Table::new();
        let model = table.insert(Arc::new(Model(1))).unwrap();
        let session = table.insert(Arc::new(Session)).unwrap();
        assert_eq!(
            message(table.get::<Model>(std::ptr::null(), "model")),
            "model is NULL"
        );
        assert_eq!(
            message(table.get::<Model>(session.cast(), "model")),
            "model is a session, not a model"
        );
        assert_eq!(
            message(table.remove::<Session>(model.cast(), "session")),
            "session is a model, not a session"
        );
        table.remove::<Model>(model, "model").unwrap();
        let freed = "model is a model that has been freed";
        assert_eq!(message(table.get::<Model>(model, "model")), freed);
        assert_eq!(message(table.remove::<Model>(model, "model")), freed);
        let foreign = "model is not a handle that this library gave out";
        let local = 0_u64;
        let bits = model.addr();
        for odd in [
            (&raw const local).addr(),
            1,
            usize::MAX,
            bits + 16,                                         // a slot that does not exist
            bits + (1 << SLOT_BITS),                           // a generation to come
            bits & !((GENERATION_MASK as usize) << SLOT_BITS), // generation 0
        ] {
            let pointer = std::ptr::without_provenance::<mlxrt_model>(odd);
            assert_eq!(
                message(table.get::<Model>(pointer, "model")),
                foreign,
                "{odd:#x}"
            );
            assert_eq!(
                message(table.remove::<Model>(pointer, "model")),
                foreign,
                "{odd:#x}"
            );
        }
    }

    #[test]
    fn a_reused_slot_has_another_id() {
        let table = Table::new();
        let mut seen = HashSet::new();
        let rounds = if cfg!(miri) { 100 } else { 1000 };
        for round in 0..rounds {
            let handle = table.insert(Arc::new(Model(round))).unwrap();
            assert!(seen.insert(handle.addr()));
            assert_eq!(table.remove::<Model>(handle, "model").unwrap().0, round);
        }
        let slots: usize = (0..SHARDS).map(|shard| table.read(shard).slots.len()).sum();
        assert_eq!(slots, SHARDS);
        let old = seen
            .into_iter()
            .map(std::ptr::without_provenance::<mlxrt_model>);
        for pointer in old {
            assert!(message(table.get::<Model>(pointer, "m")).contains("has been freed"));
        }
    }

    #[test]
    fn a_slot_is_retired_after_its_last_generation() {
        let table = Table::new();
        let first = table.insert(Arc::new(Model(1))).unwrap();
        let shard = Id::from_pointer(first).unwrap().shard;
        table.remove::<Model>(first, "model").unwrap();
        table.write(shard).slots[0].generation = LAST_GENERATION - 1;
        table.next_shard.store(shard, Ordering::Relaxed);
        let last = table.insert(Arc::new(Model(2))).unwrap();
        assert_eq!(Id::from_pointer(last).unwrap().generation, LAST_GENERATION);
        table.remove::<Model>(last, "model").unwrap();
        table.next_shard.store(shard, Ordering::Relaxed);
        let other = table.insert(Arc::new(Model(3))).unwrap();
        assert_eq!(Id::from_pointer(other).unwrap().index, 1);
        assert!(message(table.get::<Model>(last, "m")).contains("has been freed"));
    }

    #[test]
    fn an_object_outlives_its_handle_while_in_use() {
        let table = Table::new();
        let handle = table.insert(Arc::new(Model(7))).unwrap();
        let in_use = table.get::<Model>(handle, "model").unwrap();
        drop(table.remove::<Model>(handle, "model").unwrap());
        assert_eq!(in_use.0, 7);
    }

    #[test]
    fn threads_that_insert_use_and_remove() {
        let rounds = if cfg!(miri) { 160 } else { 2000 };
        let table = Table::new();
        let shared: Vec<usize> = (0..64)
            .map(|n| table.insert(Arc::new(Model(n))).unwrap().addr())
            .collect();
        let removed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..rounds {
                        let own = table.insert(Arc::new(Model(round))).unwrap();
                        assert_eq!(table.get::<Model>(own, "own").unwrap().0, round);
                        let pointer = std::ptr::without_provenance(shared[round % 64]);
                        match table.get::<Model>(pointer, "shared") {
                            Ok(model) => assert_eq!(model.0, round % 64),
                            Err(error) => assert!(error.message.contains("has been freed")),
                        }
                        if round >= rounds / 2 && table.remove::<Model>(pointer, "shared").is_ok() {
                            removed.fetch_add(1, Ordering::Relaxed);
                        }
                        table.remove::<Model>(own, "own").unwrap();
                    }
                });
            }
        });
        assert_eq!(removed.load(Ordering::Relaxed), 64);
        assert!(table.all::<Model>().is_empty());
    }

    /// `make bench` runs it.
    #[test]
    #[ignore = "a measurement"]
    fn what_a_lookup_costs() {
        const LOOKUPS: u32 = 1_000_000;
        let handles: Vec<usize> = (0..4)
            .map(|n| table().insert(Arc::new(Model(n))).unwrap().addr())
            .collect();
        // On a busy machine the clock would count other processes too.
        let thread_seconds = || {
            let mut time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: `time` is writable, and every system has this clock.
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        };
        // Nanoseconds a lookup: of eleven rounds the middle one, of its threads the slowest.
        let measure = |handles: &[usize]| {
            let round = |_| {
                let start = std::sync::Barrier::new(handles.len());
                let run = |handle: usize| {
                    let pointer = std::ptr::without_provenance::<mlxrt_model>(handle);
                    start.wait();
                    let began = thread_seconds();
                    for _ in 0..LOOKUPS {
                        let pointer = std::hint::black_box(pointer);
                        std::hint::black_box(table().get::<Model>(pointer, "model").unwrap());
                    }
                    (thread_seconds() - began) * 1e9 / f64::from(LOOKUPS)
                };
                std::thread::scope(|scope| {
                    let threads: Vec<_> = handles
                        .iter()
                        .map(|&handle| scope.spawn(move || run(handle)))
                        .collect();
                    let times = threads.into_iter().map(|thread| thread.join().unwrap());
                    times.fold(0.0, f64::max)
                })
            };
            let mut times: Vec<f64> = (0..11).map(round).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let (one, other) = (handles[0], handles[1]);
        for (what, target, handles) in [
            ("one thread", "< 50", vec![one]),
            ("two threads, a handle each", "", vec![one, other]),
            ("two threads with one handle", "", vec![one, one]),
        ] {
            let ns = measure(&handles);
            println!("| lookup of a handle (`Table::get` and its drop), {what}, ns | {ns:.3} | {target} |");
        }
        for handle in handles {
            let pointer = std::ptr::without_provenance::<mlxrt_model>(handle);
            table().remove::<Model>(pointer, "model").unwrap();
        }
    }
}
