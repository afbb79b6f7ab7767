//! What a template may cost: counted before the work is done, never after.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::error::{ErrorKind, Fault, Result};
use crate::{reserve, room, watch};

/// Steps between two looks at whether the render is still wanted: some milliseconds.
const LOOK: u64 = 50_000;

/// Steps for the digits of a float: some hundred, computed exactly.
pub(super) const FLOAT_STEPS: usize = 64;

/// Steps for the shortest digits that tell a float from its neighbours.
pub(super) const SHORTEST_STEPS: usize = 16;

/// Bytes that a render may take before the system is asked whether it has as much again, and between two times that it is.
const ASK: usize = 1 << 20;

/// Bounds of one template and of one render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of template source.
    pub source: usize,
    /// Steps of one render: about one per evaluated node, per item and per 64 bytes moved.
    pub steps: u64,
    /// Bytes alive at once in one render, output included, beyond what the caller passed in.
    pub bytes: usize,
    /// Nesting of the template's source and of any value.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            source: 1 << 20,
            steps: 20_000_000,
            bytes: 64 << 20,
            depth: 200,
        }
    }
}

/// Bytes alive in one render; shared by every value that the render makes.
#[derive(Debug)]
pub(super) struct Meter {
    used: AtomicUsize,
    /// From here on the system is asked again.
    asked: AtomicUsize,
    limit: usize,
}

impl Meter {
    /// Whether there is memory for what the render has to grow to twice its size, as lists and strings do.
    #[cold]
    fn ask(&self, used: usize) -> Result<()> {
        if let Err(error) = room::ask(used, 2, "the template") {
            return Fault::new(ErrorKind::Stopped(error.code), error.message);
        }
        self.asked
            .store(used.saturating_add(ASK), Ordering::Relaxed);
        Ok(())
    }
}

/// Bytes taken from a meter, given back on drop. Values of the caller and of the template hold none.
#[derive(Debug, Default)]
pub(super) struct Charge {
    meter: Option<Arc<Meter>>,
    bytes: usize,
}

impl Charge {
    /// Whether a render pays for it.
    pub fn is_metered(&self) -> bool {
        self.meter.is_some()
    }

    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        if let Some(meter) = &self.meter {
            // One thread renders: nothing comes between the look and the addition.
            let used = meter.used.load(Ordering::Relaxed).saturating_add(bytes);
            if used > meter.limit {
                return Fault::limit(format!(
                    "the template needs more than {} bytes of memory",
                    meter.limit
                ));
            }
            if used >= meter.asked.load(Ordering::Relaxed) || reserve::short() {
                meter.ask(used)?;
            }
            meter.used.store(used, Ordering::Relaxed);
            self.bytes = self.bytes.saturating_add(bytes);
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            let used = meter.used.load(Ordering::Relaxed);
            meter
                .used
                .store(used.saturating_sub(self.bytes), Ordering::Relaxed);
        }
    }
}

/// Whether the work is still wanted.
pub(super) fn looked() -> Result<()> {
    watch::look().or_else(|error| Fault::new(ErrorKind::Stopped(error.code), error.message))
}

/// What is left of one render's limits.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    /// The next look is due when fewer are left.
    look_below: u64,
    limit: u64,
    meter: Arc<Meter>,
    /// No value may be larger than this when written out.
    pub max_size: usize,
    pub max_depth: u32,
    stack: Stack,
}

impl Budget {
    /// `given` is the size of the caller's own values, which may be copied about as a whole.
    pub fn new(limits: &Limits, given: usize) -> Budget {
        Budget {
            steps: limits.steps,
            look_below: limits.steps.saturating_sub(LOOK),
            limit: limits.steps,
            meter: Arc::new(Meter {
                used: AtomicUsize::new(0),
                asked: AtomicUsize::new(ASK),
                limit: limits.bytes,
            }),
            max_size: limits.bytes.saturating_add(given),
            max_depth: limits.depth,
            stack: Stack::new(),
        }
    }

    #[inline]
    pub fn step(&mut self) -> Result<()> {
        self.steps(1)
    }

    #[inline]
    pub fn steps(&mut self, count: usize) -> Result<()> {
        match self.steps.checked_sub(count as u64) {
            Some(left) if left >= self.look_below => {
                self.steps = left;
                Ok(())
            }
            left => self.look(left),
        }
    }

    #[cold]
    fn look(&mut self, left: Option<u64>) -> Result<()> {
        self.steps = left.unwrap_or(0);
        self.look_below = self.steps.saturating_sub(LOOK);
        looked()?;
        match left {
            Some(_) => Ok(()),
            None => Fault::limit(format!("the template takes more than {} steps", self.limit)),
        }
    }

    /// Steps for moving or reading that many bytes.
    #[inline]
    pub fn bytes(&mut self, bytes: usize) -> Result<()> {
        self.steps((bytes >> 6).saturating_add(1))
    }

    /// Steps for work of several nanoseconds a byte: searching, escaping, mapping characters.
    #[inline]
    pub fn slow_bytes(&mut self, bytes: usize) -> Result<()> {
        self.steps((bytes >> 3).saturating_add(1))
    }

    pub fn charge(&self, bytes: usize) -> Result<Charge> {
        let mut charge = Charge {
            meter: Some(self.meter.clone()),
            bytes: 0,
        };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// A step into a value, whose depth is bounded.
    #[inline]
    pub fn descend(&mut self) -> Result<()> {
        self.step()?;
        self.stack.within(VALUES)
    }

    /// The capacity to grow to: twice the old one, but not much beyond what is needed near the limit.
    pub fn growth(&self, capacity: usize, needed: usize) -> usize {
        let free = self
            .meter
            .limit
            .saturating_sub(self.meter.used.load(Ordering::Relaxed));
        let extra = capacity.max(64).min(free >> 2).min(8 << 20);
        match capacity {
            // Much is written at once and never grows.
            0 => needed,
            capacity => needed.max(capacity.saturating_add(extra)),
        }
    }

    /// Whether so many bytes could be had, before something of that size is put together.
    pub fn room(&self, bytes: usize) -> Result<()> {
        self.charge(bytes).map(drop)
    }

    pub fn used_steps(&self) -> u64 {
        self.limit.saturating_sub(self.steps)
    }
}

/// A render or a parse, with all that it calls, stays within 192 KB of stack: a thread with 256 KB may ask for one. What runs
/// a template or reads one stops at the first of these, what goes into values at the second, and the rest is for functions
/// that go nowhere.
const SOURCE: usize = 128 << 10;
const VALUES: usize = 160 << 10;

/// Where the stack was at the beginning.
#[derive(Debug)]
struct Stack(usize);

impl Stack {
    fn new() -> Stack {
        Stack(stack_position())
    }

    #[inline]
    fn within(&self, bytes: usize) -> Result<()> {
        match stack_position().abs_diff(self.0) > bytes {
            true => Fault::limit("the template nests too deeply"),
            false => Ok(()),
        }
    }
}

/// Counts recursion, in levels and in bytes of stack: the first is the rule that users meet, the second
/// keeps it true on a small stack whatever the build's frames cost.
#[derive(Debug)]
pub(super) struct Recursion {
    stack: Stack,
    level: u32,
    limit: u32,
}

impl Recursion {
    pub fn new(limit: u32) -> Recursion {
        Recursion {
            stack: Stack::new(),
            level: 0,
            limit,
        }
    }

    /// Every `Ok` must be followed by `leave`, except on the way out with an error.
    #[inline]
    pub fn enter(&mut self) -> Result<()> {
        self.level = self.level.saturating_add(1);
        if self.level > self.limit {
            return Fault::limit("the template nests too deeply");
        }
        self.stack.within(SOURCE)
    }

    #[inline]
    pub fn leave(&mut self) {
        self.level = self.level.saturating_sub(1);
    }
}

/// About where the stack ends now.
#[inline(never)]
fn stack_position() -> usize {
    let here = 0u8;
    std::ptr::from_ref(std::hint::black_box(&here)) as usize
}
