//! The floor under Rust's own allocations, which cannot fail without ending the process.
//!
//! The system's allocator serves all of them. Where it has nothing, blocks of up to [`MOST`] come out of a reserve: pages that
//! are mapped with the library and untouched until then. From that moment on the process is [`short`] of memory, and whoever
//! looks (`watch::look`, `room::ask`, the engine before each turn) ends its work with an error, whose own few bytes are the
//! reserve's too. So the reserve has to last from one look to the next, not for the work.
//!
//! Blocks that grow with input are not its business: they are asked for beforehand (`room.rs`), of the system alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Once;
use std::time::Duration;

/// Bytes of address space. No memory, until it is needed.
const SIZE: usize = 16 << 20;
/// The largest block. What is larger would leave nothing for the many small ones, and grows with input: it was asked for.
pub const MOST: usize = SIZE / 4;
/// What must be there again before the process is no longer short.
const ENOUGH: usize = 4 << 20;

/// What the heap must give again, of which the system may know nothing.
const LITTLE: usize = 64 << 10;

const LEAST: usize = 64;
const GRANULES: usize = SIZE / LEAST;
const ORDERS: usize = GRANULES.ilog2() as usize + 1;
/// Of the memory itself, and so the most that a block can be aligned to.
const PAGE: usize = 4096;

#[cfg_attr(not(miri), global_allocator)]
static ALLOCATOR: Allocator = Allocator;

static RESERVE: Reserve = Reserve {
    locked: AtomicBool::new(false),
    used: AtomicBool::new(false),
    blocks: UnsafeCell::new(Blocks::new()),
    memory: Memory(UnsafeCell::new([0; SIZE])),
};

/// Whether the system has no memory to speak of: the reserve was needed, and a few megabytes cannot be had. A load of a flag
/// where it was not.
pub fn short() -> bool {
    RESERVE.used.load(Ordering::Relaxed) && still_short()
}

#[cold]
fn still_short() -> bool {
    let short = !system_has(ENOUGH, Promise::Memory) || !heap_has(LITTLE);
    RESERVE.used.store(short, Ordering::Relaxed);
    short
}

/// What a system promises.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// As an allocator asks for it: not more than could ever be memory.
    Memory,
    /// Places for it.
    Addresses,
}

/// Whether the system would give so much. It is given back untouched: two system calls.
pub fn system_has(bytes: usize, promise: Promise) -> bool {
    // SAFETY: a new mapping without a wish for its place, which nobody else knows, and is unmapped whole.
    unsafe {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON,
        );
        let kind = match promise {
            Promise::Memory => kind,
            Promise::Addresses => kind | libc::MAP_NORESERVE,
        };
        let bytes = bytes.max(1);
        let mapped = libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0);
        if mapped != libc::MAP_FAILED {
            libc::munmap(mapped, bytes);
            return true;
        }
    }
    heap_has(bytes)
}

/// Whether the system's allocator would give so much. Glibc's takes blocks of this size out of its heap from then on, up to 32 MB, and
/// not out of mappings that are new each time, which work that has many of them wants.
pub fn heap_has(bytes: usize) -> bool {
    // SAFETY: a block that is freed at once.
    unsafe {
        let block = libc::malloc(bytes);
        // Or it is compiled to nothing.
        let block = std::hint::black_box(block);
        libc::free(block);
        !block.is_null()
    }
}

/// Keeps the reserve whole in children that are forked while a thread is inside it. Called when the library is first used.
pub fn survive_forks() {
    extern "C" fn before() {
        RESERVE.lock();
    }
    extern "C" fn after() {
        RESERVE.unlock();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: plain functions that do not unwind, in a library that is never unmapped (-z nodelete). Where it fails, there is
        // no memory for it, and a child that is forked at a bad moment cannot use the reserve.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
}

struct Allocator;

// SAFETY: every block is the system's or the reserve's, which one its address says; nothing in here unwinds or allocates.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        let block = unsafe { System.alloc(layout) };
        match block.is_null() {
            true => RESERVE.take(layout),
            false => counted(block, layout),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            return counted(block, layout);
        }
        let block = RESERVE.take(layout);
        if !block.is_null() {
            // SAFETY: a new block of this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if RESERVE.holds(block) {
            return RESERVE.give(block, layout);
        }
        discounted(layout);
        // SAFETY: the caller's contract; it is the system's.
        unsafe { System.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !RESERVE.holds(block) {
            // SAFETY: the caller's contract; it is the system's.
            let moved = unsafe { System.realloc(block, layout, size) };
            if !moved.is_null() {
                // SAFETY: the caller's contract: the size is legal with this alignment.
                counted(moved, unsafe {
                    Layout::from_size_align_unchecked(size, layout.align())
                });
                discounted(layout);
                return moved;
            }
        }
        // SAFETY: the caller's contract.
        unsafe { self.move_to(block, layout, size) }
    }
}

impl Allocator {
    /// Out of the reserve, or into it.
    #[cold]
    unsafe fn move_to(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: both blocks have so many bytes, and they are two.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

struct Reserve {
    locked: AtomicBool,
    /// Since a block of it was last given, and the system was not yet found to have memory again.
    used: AtomicBool,
    /// Which parts of the memory are free. Touched only under the lock.
    blocks: UnsafeCell<Blocks<GRANULES, ORDERS>>,
    memory: Memory,
}

// SAFETY: `blocks` is touched only under the lock, and of the memory each block by its owner alone.
unsafe impl Sync for Reserve {}

impl Reserve {
    fn start(&self) -> usize {
        self.memory.0.get() as usize
    }

    #[inline]
    fn holds(&self, block: *mut u8) -> bool {
        (block as usize).wrapping_sub(self.start()) < SIZE
    }

    /// NULL for what is too large, and where too little is left.
    #[cold]
    fn take(&self, layout: Layout) -> *mut u8 {
        self.used.store(true, Ordering::Relaxed);
        let Some(order) = order_of(layout) else {
            return std::ptr::null_mut();
        };
        let taken = self.with(|blocks| blocks.take(order));
        let place = taken.and_then(|granule| granule.checked_mul(LEAST));
        place.map_or(std::ptr::null_mut(), |place| {
            self.memory.0.get().cast::<u8>().wrapping_add(place)
        })
    }

    #[cold]
    fn give(&self, block: *mut u8, layout: Layout) {
        let granule = (block as usize).wrapping_sub(self.start()) / LEAST;
        if let Some(order) = order_of(layout) {
            self.with(|blocks| blocks.give(granule, order));
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Blocks<GRANULES, ORDERS>) -> T) -> T {
        self.lock();
        // SAFETY: the lock is held, and `work` is one of the few lines above, which do not allocate.
        let done = work(unsafe { &mut *self.blocks.get() });
        self.unlock();
        done
    }

    /// Held for a microsecond, by a thread that cannot be cancelled meanwhile.
    fn lock(&self) {
        let mut tries = 0_u32;
        while self
            .locked
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            tries = tries.saturating_add(1);
            match tries < 1000 {
                true => std::hint::spin_loop(),
                // Its owner may be a thread that runs only when this one sleeps.
                false => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }
}

/// Of the smallest block that fits.
fn order_of(layout: Layout) -> Option<usize> {
    if layout.align() > PAGE || layout.size() > MOST {
        return None;
    }
    let bytes = layout.size().max(layout.align()).max(LEAST);
    let granules = bytes.div_ceil(LEAST).checked_next_power_of_two()?;
    Some(granules.ilog2() as usize)
}

/// Free blocks of powers of two; two halves that are free become one again, so that nothing is lost to what stays for long.
/// (Knuth's buddies, with the lists beside the memory.)
struct Blocks<const GRANULES: usize, const ORDERS: usize> {
    /// There was a first use: then all of it is one free block.
    begun: bool,
    /// The first free block of each order, plus 1; 0: none.
    heads: [u32; ORDERS],
    /// For each granule with which a free block begins its order, plus 1, and its neighbours in the list, plus 1.
    orders: [u8; GRANULES],
    next: [u32; GRANULES],
    before: [u32; GRANULES],
}

impl<const GRANULES: usize, const ORDERS: usize> Blocks<GRANULES, ORDERS> {
    const fn new() -> Self {
        Blocks {
            begun: false,
            heads: [0; ORDERS],
            orders: [0; GRANULES],
            next: [0; GRANULES],
            before: [0; GRANULES],
        }
    }

    /// The granule with which a block of this order begins.
    fn take(&mut self, order: usize) -> Option<usize> {
        if !self.begun {
            self.begun = true;
            self.push(0, ORDERS.checked_sub(1)?);
        }
        let (mut larger, head) = (order..ORDERS)
            .find_map(|order| Some((order, self.heads.get(order).filter(|&&head| head != 0)?)))?;
        let granule = (*head as usize).checked_sub(1)?;
        self.remove(granule);
        while larger > order {
            larger = larger.saturating_sub(1);
            self.push(granule | 1 << larger, larger);
        }
        Some(granule)
    }

    fn give(&mut self, mut granule: usize, mut order: usize) {
        while order.saturating_add(1) < ORDERS {
            let other = granule ^ 1 << order;
            if self.order_at(other) != Some(order) {
                break;
            }
            self.remove(other);
            granule &= !(1 << order);
            order = order.saturating_add(1);
        }
        self.push(granule, order);
    }

    /// The order of the free block that begins there.
    fn order_at(&self, granule: usize) -> Option<usize> {
        usize::from(*self.orders.get(granule)?).checked_sub(1)
    }

    fn push(&mut self, granule: usize, order: usize) {
        let name = granule as u32 + 1;
        let Some(head) = self.heads.get_mut(order) else {
            return;
        };
        let behind = std::mem::replace(head, name);
        set(&mut self.before, behind, name);
        set(&mut self.next, name, behind);
        set(&mut self.before, name, 0);
        set(&mut self.orders, name, order as u8 + 1);
    }

    fn remove(&mut self, granule: usize) {
        let Some(order) = self.order_at(granule) else {
            return;
        };
        let at = |list: &[u32; GRANULES]| list.get(granule).copied().unwrap_or(0);
        let (before, behind) = (at(&self.before), at(&self.next));
        match before {
            0 => self
                .heads
                .iter_mut()
                .skip(order)
                .take(1)
                .for_each(|head| *head = behind),
            before => set(&mut self.next, before, behind),
        }
        set(&mut self.before, behind, before);
        set(&mut self.orders, granule as u32 + 1, 0);
    }
}

/// `name` is an index plus 1; 0 is none.
fn set<T>(list: &mut [T], name: u32, value: T) {
    let place = (name as usize).checked_sub(1);
    if let Some(slot) = place.and_then(|place| list.get_mut(place)) {
        *slot = value;
    }
}

#[cfg(not(test))]
#[inline(always)]
fn counted(block: *mut u8, _: Layout) -> *mut u8 {
    block
}

#[cfg(not(test))]
#[inline(always)]
fn discounted(_: Layout) {}

#[cfg(test)]
pub use meter::peak_of;
#[cfg(test)]
use meter::{counted, discounted};

/// For tests of estimates.
#[cfg(test)]
mod meter {
    use std::alloc::Layout;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<isize> = const { Cell::new(0) };
        static PEAK: Cell<isize> = const { Cell::new(0) };
    }

    /// As the system's allocator rounds.
    fn bytes(layout: Layout) -> isize {
        ((layout.size() + 8).next_multiple_of(16)).max(32) as isize
    }

    pub fn counted(block: *mut u8, layout: Layout) -> *mut u8 {
        let now = NOW.get() + bytes(layout);
        NOW.set(now);
        PEAK.set(PEAK.get().max(now));
        block
    }

    pub fn discounted(layout: Layout) {
        NOW.set(NOW.get() - bytes(layout));
    }

    /// The most that this thread had more than before, at any time of `work`.
    pub fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
        let before = NOW.get();
        PEAK.set(before);
        let done = work();
        ((PEAK.get() - before).max(0) as usize, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    /// Whatever is taken and given back in whatever order: blocks never overlap, and in the end all is one block again.
    #[test]
    fn blocks_are_apart_and_become_one_again() {
        const G: usize = 256;
        let mut blocks: Box<Blocks<G, 9>> = Box::new(Blocks::new());
        for seed in 0..50 {
            let mut taken: Vec<(usize, usize)> = Vec::new();
            let mut owner = [false; G];
            for index in 0..500 {
                let random = mix(seed, index);
                if !random.is_multiple_of(3) || taken.is_empty() {
                    let order = (random >> 8) as usize % 6;
                    let Some(at) = blocks.take(order) else {
                        continue;
                    };
                    assert_eq!(at % (1 << order), 0, "aligned to its size");
                    for granule in &mut owner[at..at + (1 << order)] {
                        assert!(!std::mem::replace(granule, true), "taken twice");
                    }
                    taken.push((at, order));
                } else {
                    let (at, order) = taken.swap_remove((random >> 8) as usize % taken.len());
                    owner[at..at + (1 << order)].fill(false);
                    blocks.give(at, order);
                }
            }
            for (at, order) in taken {
                blocks.give(at, order);
            }
            assert_eq!(blocks.take(8), Some(0), "all of it");
            assert_eq!(blocks.take(0), None);
            blocks.give(0, 8);
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let order = |size, align| order_of(Layout::from_size_align(size, align).unwrap());
        assert_eq!(order(1, 1), Some(0));
        assert_eq!(order(LEAST + 1, 1), Some(1));
        assert_eq!(order(1, PAGE), Some((PAGE / LEAST).ilog2() as usize));
        assert_eq!(order(MOST, 8), Some((MOST / LEAST).ilog2() as usize));
        assert_eq!(order(MOST + 1, 8), None);
        assert_eq!(order(1, 2 * PAGE), None);
    }

    /// With the system's allocator refusing everything: the reserve alone, through the doors that Rust uses.
    #[test]
    #[cfg_attr(miri, ignore = "it asks the system")]
    fn the_reserve_serves_and_takes_back() {
        let layout = Layout::from_size_align(1000, 16).unwrap();
        let block = RESERVE.take(layout);
        assert!(RESERVE.holds(block) && (block as usize).is_multiple_of(16));
        // SAFETY: the block is ours, of this layout, and each is freed once.
        unsafe {
            block.write_bytes(7, 1000);
            let moved = ALLOCATOR.realloc(block, layout, 5000);
            assert!(!RESERVE.holds(moved), "there is memory");
            assert_eq!(std::slice::from_raw_parts(moved, 1000), [7; 1000]);
            ALLOCATOR.dealloc(moved, Layout::from_size_align(5000, 16).unwrap());
        }
        assert!(!short(), "there is memory again");
        assert!(!RESERVE.used.load(Ordering::Relaxed));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it asks the system")]
    fn nothing_has_more_than_there_can_be() {
        let has = |bytes| system_has(bytes, Promise::Memory);
        assert!(has(0) && has(1 << 20) && !has(usize::MAX / 2));
        assert!(!system_has(usize::MAX / 2, Promise::Addresses));
    }
}
