//! A decoder's step: a graph for each number of rows, and what goes into one.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use super::compiler;
use super::driver::{Address, Arguments, Driver, Event, Function, Graph, Mail, Module, Recorder};
use super::lows::Lows;
use super::maker::Maker;
use super::memory::{address, address_of, cuda_stream};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::{self, Norm};
use crate::mlx::fast::{Matrix, SessionRows};
use crate::mlx::stored::Stored;
use crate::mlx::{self, Array, HostBuffer};

/// Rows of a step at most (`numbers.cu`).
pub const MAX_ROWS: usize = 8;
/// The attribute of a device that says how many multiprocessors it has.
const MULTIPROCESSORS: i32 = 16;
/// Steps that are queued at once, at most: one runs, one waits, and one is being made.
const IN_FLIGHT: usize = 3;

pub(super) type Linear<'a> = kernels::Linear<Matrix<'a>, &'a Array>;
pub(super) type Half<'a> = kernels::Half<Matrix<'a>, &'a Array>;

/// What a step is made of.
pub struct Model<'a> {
    /// Of what goes from block to block, and of the logits.
    pub dtype: Dtype,
    /// `[vocab, hidden]`
    pub embed_tokens: Matrix<'a>,
    /// What embeddings are multiplied by.
    pub embed_scale: f32,
    /// All halves of all blocks.
    pub halves: Vec<Half<'a>>,
    /// Behind the last one: `[hidden]`
    pub norm: Norm<&'a Array>,
    /// `[vocab, hidden]`
    pub lm_head: Linear<'a>,
}

#[cfg(test)]
thread_local! {
    /// For tests: the kernel that steps which are made now leave out, to see what it takes.
    pub static LEFT_OUT: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The decode step of one decoder.
pub struct Step {
    // In the order in which they end: what runs, what it runs, what that lies in.
    slots: RefCell<Vec<Slot>>,
    next: Cell<usize>,
    /// Without adapters and with some; of each by rows, less one.
    graphs: [[OnceCell<Graph>; MAX_ROWS]; 2],
    driver: Driver,
    recorder: Recorder,
    launches: Vec<Launch>,
    functions: Vec<Function>,
    _module: Module,
    inputs: Address,
    /// Whether kernels begin before those in front of them have ended, as they can from Hopper on.
    early: bool,
    /// Of attention.
    layers: usize,
    vocab: i32,
    dtype: Dtype,
    /// The weights of products that adapters may add to.
    numbered: Vec<Address>,
    /// The weights, and the room for what comes between kernels.
    _arrays: Vec<Array>,
}

/// One that is queued: what the GPU reads of the host, and what must not be freed until it has run.
struct Slot {
    /// Behind it.
    event: Option<Rc<Event>>,
    mail: Mail,
    /// What it reads and writes of MLX's memory, which would be given to something else.
    held: Option<Held>,
}

struct Held {
    _tokens: Array,
    _layers: Vec<Vec<SessionRows>>,
    _lows: Vec<Option<Rc<Lows>>>,
    _made: Stepped,
}

impl Slot {
    fn wait(&self) -> Result<()> {
        self.event.as_ref().map_or(Ok(()), |event| event.wait())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // What the GPU still reads must not go; an error says that it does nothing any more.
        let _ = self.wait();
    }
}

/// What a graph is for.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    pub rows: u32,
    /// Whether some of the rows have adapters.
    pub adapted: bool,
}

/// A kernel of the graph.
pub(super) struct Launch {
    /// Its place in the list of functions.
    pub kernel: usize,
    pub threads: u32,
    /// What it is called with in a pass, or that it is not needed there.
    pub with: Box<dyn Fn(Pass) -> Option<Called>>,
}

/// A kernel's blocks, and its arguments.
pub(super) type Called = ([u32; 3], Arguments);

/// `Place` of numbers.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Place {
    keys: Address,
    values: Address,
    head_stride: u64,
    at: u32,
    seen: u32,
    position: u32,
    unused: u32,
}

/// The bytes of `Inputs` in numbers.cu, before the places.
pub(super) const INPUTS: usize = 16 + 3 * MAX_ROWS * 8;

/// What a step gives.
#[derive(Clone)]
pub struct Stepped {
    /// `[rows, vocab]`
    pub logits: Array,
    /// Of each row.
    pub best: Vec<Best>,
}

/// The largest of a row's logits.
#[derive(Clone)]
pub struct Best {
    /// u32 `[1]`: the first token that has it
    pub token: Array,
    /// f32 `[2]`: twice that logit, or NaN where NaN or infinity is among them
    pub levels: Array,
    /// What the host waits for before it reads these; what MLX computes of them comes behind anyway.
    pub ready: Ready,
}

/// A step that is queued.
#[derive(Clone)]
pub struct Ready(Rc<Event>);

impl Ready {
    pub(super) fn new(behind: Rc<Event>) -> Ready {
        Ready(behind)
    }

    /// Waits until it has run.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }
}

impl Step {
    /// None where MLX does not compute with CUDA, or the kernels do not know all that the model does.
    pub fn new(model: &Model) -> Result<Option<Step>> {
        let Some((driver, capability)) = compiler::usable()? else {
            return Ok(None);
        };
        let multiprocessors = driver.attribute(MULTIPROCESSORS)?;
        let multiprocessors = u32::try_from(multiprocessors).unwrap_or(1);
        let Some(maker) = Maker::of(model, multiprocessors)? else {
            return Ok(None);
        };
        #[cfg(test)]
        let maker = maker.without(LEFT_OUT.get());
        let compiled = compiler::compiled(&maker.kernels, capability)?;
        let module = Module::load(driver, &compiled.code)?;
        let functions = compiled.names.iter().map(|name| module.function(name));
        let functions = functions.collect::<Result<_>>()?;
        let slots = (0..IN_FLIGHT).map(|_| {
            Ok(Slot {
                event: None,
                mail: Mail::new(driver, maker.inputs_size)?,
                held: None,
            })
        });
        Ok(Some(Step {
            slots: RefCell::new(slots.collect::<Result<_>>()?),
            next: Cell::new(0),
            graphs: [const { [const { OnceCell::new() }; MAX_ROWS] }; 2],
            driver,
            recorder: Recorder::new(driver)?,
            launches: maker.launches,
            functions,
            _module: module,
            inputs: maker.inputs,
            early: capability >= 90,
            layers: maker.layers,
            vocab: i32::try_from(maker.vocab).unwrap_or(i32::MAX),
            dtype: model.dtype,
            numbered: maker.numbered,
            _arrays: maker.arrays,
        }))
    }

    /// Queues a step of tokens i32 or u32 `[rows]`. `layers`: of each attention the sessions whose rows these
    /// are, one after the other, with floats as keys and values; no more than `MAX_ROWS` rows, none in a ring. `lows`: of each row its
    /// adapters.
    pub fn run(
        &self,
        tokens: &Array,
        layers: Vec<Vec<SessionRows>>,
        lows: Vec<Option<Rc<Lows>>>,
    ) -> Result<Stepped> {
        let missing = || Error::internal("MLX has left its GPU");
        let stream = cuda_stream()?.ok_or_else(missing)?;
        let rows = usize::try_from(tokens.dim(0)).unwrap_or(0);
        if lows.len() != rows {
            return Err(Error::internal("a step with other rows' adapters"));
        }
        let graph = self.graph(rows, lows.iter().any(Option::is_some))?;
        let mut slots = self.slots.borrow_mut();
        let at = self.next.get() % slots.len().max(1);
        self.next.set(at + 1);
        let missing = || Error::internal("a step without room");
        let slot = slots.get_mut(at).ok_or_else(missing)?;
        slot.wait()?;
        slot.held = None;

        // What nobody has asked for yet is queued first, on the same stream.
        let mut arrays = vec![tokens];
        for session in layers.iter().flatten() {
            let (keys, values) = floats(session)?;
            for array in [keys, values] {
                if address(array)?.is_none() {
                    arrays.push(array);
                }
            }
        }
        mlx::async_eval(&arrays)?;
        let event = Rc::new(Event::new(self.driver)?);
        let logits = HostBuffer::unwritten(&[tokens.dim(0), self.vocab], self.dtype)?;
        let best = (0..rows).map(|_| {
            Ok(Best {
                token: HostBuffer::unwritten(&[1], Dtype::U32)?,
                levels: HostBuffer::unwritten(&[2], Dtype::F32)?,
                ready: Ready(event.clone()),
            })
        });
        let best = best.collect::<Result<Vec<_>>>()?;
        let mut bytes = Vec::with_capacity(INPUTS + self.layers * MAX_ROWS * size_of::<Place>());
        bytes.extend(address_of(tokens)?.to_ne_bytes());
        bytes.extend(address_of(&logits)?.to_ne_bytes());
        for of in [
            |best: &Best| address_of(&best.token),
            |best: &Best| address_of(&best.levels),
        ] {
            let mut addresses = best.iter().map(of).collect::<Result<Vec<Address>>>()?;
            addresses.resize(MAX_ROWS, 0);
            bytes.extend(addresses.iter().flat_map(|address| address.to_ne_bytes()));
        }
        let tables = lows
            .iter()
            .map(|lows| lows.as_ref().map_or(0, |lows| lows.table));
        let mut addresses: Vec<Address> = tables.collect();
        addresses.resize(MAX_ROWS, 0);
        bytes.extend(addresses.iter().flat_map(|address| address.to_ne_bytes()));
        if layers.len() != self.layers {
            return Err(Error::internal("a step of other layers"));
        }
        for sessions in &layers {
            let places = sessions.iter().map(places);
            let mut places = places.collect::<Result<Vec<_>>>()?.concat();
            if places.len() != rows {
                return Err(Error::internal("a step of other rows"));
            }
            places.resize(MAX_ROWS, Place::default());
            for place in places {
                for word in [place.keys, place.values, place.head_stride] {
                    bytes.extend(word.to_ne_bytes());
                }
                for half in [place.at, place.seen, place.position, place.unused] {
                    bytes.extend(half.to_ne_bytes());
                }
            }
        }
        let made = Stepped { logits, best };
        slot.event = Some(event.clone());
        slot.held = Some(Held {
            _tokens: tokens.clone(),
            _layers: layers,
            _lows: lows,
            _made: made.clone(),
        });
        // SAFETY: the stream is the engine thread's, alive. The inputs have room for all layers (`Maker::new`), and what the slot sent
        // before has arrived. The graph's addresses lie in arrays that this holds, all others in arrays that the slot holds until the event
        // behind the step.
        unsafe {
            slot.mail.send(&bytes, self.inputs, stream)?;
            graph.launch(stream)?;
            event.record(stream)?;
        }
        Ok(made)
    }

    /// Of what goes from block to block, of keys and values, and of the logits.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// What adapters add to its products, out of its halves and output layer with them; `count`: of the modules that they change. None
    /// where the kernels do not know all of it.
    pub fn lows(
        &self,
        halves: &[Half],
        lm_head: Option<&Linear>,
        count: usize,
    ) -> Result<Option<Lows>> {
        Lows::new(&self.numbered, self.dtype, halves, lm_head, count)
    }

    /// Gives back the keys and values of steps that have run, so that MLX can write them in place.
    pub fn settle(&self) {
        let mut slots = self.slots.borrow_mut();
        let is_done = |slot: &&mut Slot| slot.event.as_ref().is_none_or(|event| event.is_done());
        let done = slots.iter_mut().filter(is_done);
        done.for_each(|slot| slot.held = None);
    }

    fn graph(&self, rows: usize, adapted: bool) -> Result<&Graph> {
        let many = || Error::internal(format!("a step of {rows} rows"));
        let index = rows.checked_sub(1).ok_or_else(many)?;
        let [without, with] = &self.graphs;
        let graphs = if adapted { with } else { without };
        let cell = graphs.get(index).ok_or_else(many)?;
        let pass = Pass {
            rows: rows as u32,
            adapted,
        };
        if let Some(graph) = cell.get() {
            return Ok(graph);
        }
        let graph = self.recorder.graph(|| {
            for launch in &self.launches {
                let Some((blocks, arguments)) = (launch.with)(pass) else {
                    continue;
                };
                let missing = || Error::internal("a kernel that is not there");
                let kernel = self.functions.get(launch.kernel).ok_or_else(missing)?;
                // SAFETY: `Maker` gives each kernel what its C says, in arrays that `self` holds.
                unsafe {
                    self.recorder
                        .launch(*kernel, blocks, launch.threads, arguments, self.early)?
                };
            }
            Ok(())
        })?;
        Ok(cell.get_or_init(|| graph))
    }
}

fn floats(session: &SessionRows) -> Result<(&Array, &Array)> {
    match (&session.place.keys, &session.place.values) {
        (Stored::Floats(keys), Stored::Floats(values)) => Ok((keys, values)),
        _ => Err(Error::internal("a step over packed keys")),
    }
}

/// Of each row of a session.
fn places(session: &SessionRows) -> Result<Vec<Place>> {
    let (keys, values) = floats(session)?;
    let place = &session.place;
    // [1, kv_heads, capacity, head_dim]
    let head_stride = i64::from(keys.dim(2)) * i64::from(keys.dim(3));
    let number = |n: i32| u32::try_from(n).map_err(|_| Error::internal("a place before the first"));
    let (keys, values) = (address_of(keys)?, address_of(values)?);
    let rows = (0..session.rows).map(|row| {
        Ok(Place {
            keys,
            values,
            head_stride: head_stride as u64,
            at: number(place.at + row)?,
            seen: number(place.seen - (session.rows - 1 - row))?,
            position: number(place.offset + row)?,
            unused: 0,
        })
    });
    rows.collect()
}
