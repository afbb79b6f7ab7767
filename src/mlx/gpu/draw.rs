//! Tokens drawn on the GPU: from logits that MLX's operations or a step's kernels made, by kernels on the same stream.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::compiler;
use super::driver::{Address, Arguments, Driver, Event, Function, Module};
use super::memory::{address, address_of, cuda_stream, lasting_address_of};
use super::step::Ready;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels;
use crate::mlx::{self, ops, Array, HostBuffer};

/// Tokens that a block has, its threads, and bins of a histogram (`draw.cu`).
const EACH_PART: usize = 2048;
const THREADS: u32 = 512;
const BINS: usize = 2048;
/// More bytes than `DrawState` of draw.cu has.
const STATE: usize = 256;
/// Parts that there is room for from the start: of half a million tokens.
const USUAL_PARTS: usize = 256;
/// Draws that are queued at once at most: for more than these the host waits.
const IN_FLIGHT: usize = 256;

/// A token that is drawn on the GPU.
pub struct Drawn {
    /// u32 `[1]`
    pub token: Array,
    /// f32 `[2]`: of the logits and of the model's own the largest, or NaN where NaN or infinity is among them
    pub levels: Array,
    /// What the host waits for before it reads these.
    pub ready: Ready,
}

/// `DrawOf` of draw.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Draw {
    logits: Address,
    own: Address,
    n: u32,
    own_is_f32: u32,
    key: [u32; 2],
    sharpness: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,
    token: Address,
    levels: Address,
}

/// `DrawRoom` of draw.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Room {
    state: Address,
    masses: Address,
    counts: Address,
    best: Address,
    own: Address,
    sums: Address,
}

/// The kernels, and the room in which they work one draw after the other.
struct Drawer {
    // In the order in which they end: what is queued, what it works in, what it runs.
    queued: VecDeque<Queued>,
    /// And for how many parts that is.
    room: Option<(Array, Room, usize)>,
    /// Of each of `TYPES`: `measure`, `draw`, and `narrow` for each digit.
    functions: Vec<[Function; 5]>,
    _module: Module,
    driver: Driver,
}

/// What must not be freed until the GPU has read and written it.
struct Queued {
    event: Rc<Event>,
    _held: Vec<Array>,
}

/// What logits are, and how many digits their log-probabilities have.
const TYPES: [(Dtype, &str, usize); 3] = [
    (Dtype::BF16, "Bf16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::F32, "F32", 3),
];

thread_local! {
    /// Outer None: not looked for. Inner None: there is none.
    static DRAWER: RefCell<Option<Option<Drawer>>> = const { RefCell::new(None) };
}

/// Compiles the kernels, if this thread's stream is one of CUDA's, so that no draw has to wait for that. Where it fails, it does once, and
/// MLX's operations draw.
pub fn prepare() -> Result<()> {
    DRAWER.with_borrow_mut(|drawer| {
        if drawer.is_some() {
            return Ok(());
        }
        let made = Drawer::new();
        let (found, result) = match made {
            Ok(found) => (found, Ok(())),
            Err(error) => (None, Err(error)),
        };
        *drawer = Some(found);
        result
    })
}

/// Gives back what draws that are done have read.
pub fn settle_draws() {
    DRAWER.with_borrow_mut(|drawer| {
        if let Some(Some(drawer)) = drawer {
            drawer.settle();
        }
    });
}

/// Ends what this thread draws with.
pub fn stop() {
    drop(DRAWER.take());
}

/// Queues a draw from logits `[vocab]`, of any float type. `own`: what the model gave, where something was done to that. None: MLX's
/// operations have to draw, for there are no kernels here.
pub fn draw(logits: &Array, own: Option<&Array>, how: kernels::Draw) -> Result<Option<Drawn>> {
    prepare()?;
    DRAWER.with_borrow_mut(|drawer| match drawer {
        Some(Some(drawer)) => drawer.draw(logits, own, how),
        _ => Ok(None),
    })
}

impl Drawer {
    fn new() -> Result<Option<Drawer>> {
        let Some((driver, capability)) = compiler::usable()? else {
            return Ok(None);
        };
        let names = TYPES.iter().flat_map(|(_, name, digits)| {
            // What a type has no use for is not called.
            let narrow = |digit: usize| format!("narrow<{name}, {}>", digit.min(digits - 1));
            [
                format!("measure<{name}>"),
                format!("draw<{name}>"),
                narrow(0),
                narrow(1),
                narrow(2),
            ]
        });
        let compiled = compiler::compiled(&names.collect::<Vec<_>>(), capability)?;
        let module = Module::load(driver, &compiled.code)?;
        let functions = compiled.names.iter().map(|name| module.function(name));
        let functions = functions.collect::<Result<Vec<_>>>()?;
        let (functions, _) = functions.as_chunks();
        let mut drawer = Drawer {
            queued: VecDeque::new(),
            room: None,
            functions: functions.to_vec(),
            _module: module,
            driver,
        };
        drawer.room(USUAL_PARTS)?;
        Ok(Some(drawer))
    }

    fn draw(
        &mut self,
        logits: &Array,
        own: Option<&Array>,
        how: kernels::Draw,
    ) -> Result<Option<Drawn>> {
        let dtype = logits.dtype();
        let known = TYPES.iter().zip(&self.functions);
        let mut known = known.filter(|((of, ..), _)| *of == dtype);
        let Some((&(.., digits), &[measure, draw, narrow @ ..])) = known.next() else {
            return Ok(None);
        };
        let own_is_known = |own: &Array| own.dtype() == dtype || own.dtype() == Dtype::F32;
        let missing = || Error::internal("MLX has left its GPU");
        let stream = cuda_stream()?.ok_or_else(missing)?;
        // What nobody has asked for yet is queued first, on the same stream.
        let inputs: Vec<&Array> = [logits].into_iter().chain(own).collect();
        mlx::async_eval(&inputs)?;
        let addresses = inputs.iter().map(|array| address(array));
        let addresses = addresses.collect::<Result<Option<Vec<_>>>>()?;
        let (Some(addresses), true) = (addresses, own.is_none_or(own_is_known)) else {
            return Ok(None);
        };
        let n = logits.size();
        let parts = n.div_ceil(EACH_PART);
        let room = self.room(parts)?;
        let token = HostBuffer::unwritten(&[1], Dtype::U32)?;
        let levels = HostBuffer::unwritten(&[2], Dtype::F32)?;
        let many = |_| Error::internal("a vocabulary of 2^32 tokens");
        let of = Draw {
            logits: addresses.first().copied().unwrap_or(0),
            own: addresses.get(1).copied().unwrap_or(0),
            n: u32::try_from(n).map_err(many)?,
            own_is_f32: own.is_some_and(|own| own.dtype() == Dtype::F32).into(),
            key: [(how.seed >> 32) as u32, how.seed as u32],
            sharpness: how.sharpness.unwrap_or(0.0),
            // As little as `sampling/filters.rs` takes.
            top_p: how.top_p.map_or(0.0, |p| p.max(1e-9)),
            min_p: how.min_p.map_or(1.0, f32::ln),
            top_k: how
                .top_k
                .map_or(0, |k| u32::try_from(k).unwrap_or(u32::MAX)),
            token: address_of(&token)?,
            levels: address_of(&levels)?,
        };
        let filters = of.top_p > 0.0 || of.top_k > 0;
        let mut kernels = vec![measure];
        if how.sharpness.is_some() {
            kernels.extend(narrow.iter().take(if filters { digits } else { 0 }));
            kernels.push(draw);
        }
        let blocks = [u32::try_from(parts).map_err(many)?, 1, 1];
        let event = Rc::new(Event::new(self.driver)?);
        for kernel in kernels {
            // SAFETY: the stream is the engine thread's own, alive; the arguments are those of draw.cu, with addresses in arrays that
            // are held until the event behind the draw (`hold`), or for longer (`room`).
            unsafe {
                let arguments = Arguments::new().add(of).add(room);
                self.driver
                    .launch(stream, kernel, blocks, THREADS, arguments)?;
            }
        }
        // SAFETY: the stream is alive.
        unsafe { event.record(stream)? };
        let mut held = vec![token.clone(), levels.clone()];
        held.extend(inputs.into_iter().cloned());
        self.hold(event.clone(), held)?;
        let ready = Ready::new(event);
        Ok(Some(Drawn {
            token,
            levels,
            ready,
        }))
    }

    fn settle(&mut self) {
        while self.queued.front().is_some_and(|of| of.event.is_done()) {
            self.queued.pop_front();
        }
    }

    /// Keeps these until the event.
    fn hold(&mut self, event: Rc<Event>, held: Vec<Array>) -> Result<()> {
        self.settle();
        while self.queued.len() >= IN_FLIGHT {
            let Some(first) = self.queued.pop_front() else {
                break;
            };
            first.event.wait()?;
        }
        let _held = held;
        self.queued.push_back(Queued { event, _held });
        Ok(())
    }

    /// Room for so many parts.
    fn room(&mut self, parts: usize) -> Result<Room> {
        if let Some((_, room, _)) = self.room.as_ref().filter(|(.., has)| *has >= parts) {
            return Ok(*room);
        }
        // Of `Largest` there are two for each part.
        let sizes = [STATE, 8 * BINS, 8 * BINS, 8 * parts, 8 * parts, 4 * parts];
        let bytes = i32::try_from(sizes.iter().sum::<usize>());
        let bytes = bytes.map_err(|_| Error::internal("a vocabulary without end"))?;
        let array = ops::zeros(&[bytes], Dtype::U8)?;
        let mut at = lasting_address_of(&array)?;
        let [state, masses, counts, best, own, sums] = sizes.map(|size| {
            let start = at;
            at += size as Address;
            start
        });
        let room = Room {
            state,
            masses,
            counts,
            best,
            own,
            sums,
        };
        // What works in the room that was has to end first.
        while let Some(queued) = self.queued.pop_front() {
            queued.event.wait()?;
        }
        self.room = Some((array, room, parts));
        Ok(room)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        // What the GPU still reads must not go; an error says that it does nothing any more.
        let _ = self.event.wait();
    }
}
