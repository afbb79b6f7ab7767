//! Cancels that a signal handler can send: a box for every handle of a session or request, in memory that is never freed, which
//! a handler marks with two atomic operations, and which the engine looks into between two steps. Nothing here locks,
//! allocates (but for `Boxes::open`), logs, or touches what belongs to a thread, whose first use may allocate.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::OnceLock;

/// One handle's box.
#[derive(Default)]
pub struct Line {
    /// The bits of the handle that has it; 0 = none.
    owner: AtomicU64,
    /// The bits of the handle that a cancel came for; 0 = none came.
    wanted: AtomicU64,
}

/// Boxes by index. They stay where they are: each chunk is twice as long as the one before.
pub struct Boxes([AtomicPtr<Line>; CHUNKS]);

const CHUNKS: usize = 32;

impl Boxes {
    pub const fn new() -> Self {
        Boxes([const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS])
    }

    /// The chunk of an index, its place there, and the chunk's length.
    fn place(index: usize) -> Option<(usize, usize, usize)> {
        let number = index.checked_add(1)?;
        let chunk = number.ilog2() as usize;
        let length = 1_usize.checked_shl(chunk as u32)?;
        Some((chunk, number - length, length))
    }

    fn line(&self, index: usize) -> Option<&'static Line> {
        let (chunk, at, _) = Self::place(index)?;
        let chunk = self.0.get(chunk)?.load(Ordering::Acquire);
        if chunk.is_null() {
            return None;
        }
        // SAFETY: a chunk is set once, to memory that is never freed and has as many lines as `place` counts with.
        Some(unsafe { &*chunk.add(at) })
    }

    /// The box of an index, for the handle with these bits. None: no memory. One thread at a time may call it.
    pub fn open(&self, index: usize, bits: u64) -> Option<Mailbox> {
        if self.line(index).is_none() {
            let (chunk, _, length) = Self::place(index)?;
            let mut lines: Vec<Line> = Vec::new();
            lines.try_reserve_exact(length).ok()?;
            lines.resize_with(length, Line::default);
            let lines = Box::leak(lines.into_boxed_slice());
            self.0
                .get(chunk)?
                .store(lines.as_mut_ptr(), Ordering::Release);
        }
        let line = self.line(index)?;
        line.wanted.store(0, Ordering::SeqCst);
        line.owner.store(bits, Ordering::SeqCst);
        Some(Mailbox { line, bits })
    }

    /// A cancel for the handle with these bits; nothing where it is not live. (One that is freed at this very moment may leave
    /// its mark to the next that gets the box, which knows its own bits.)
    pub fn send(&self, index: usize, bits: u64) {
        if let Some(line) = self.line(index) {
            if line.owner.load(Ordering::SeqCst) == bits {
                line.wanted.store(bits, Ordering::SeqCst);
            }
        }
    }

    /// The handle is gone.
    pub fn close(&self, index: usize) {
        if let Some(line) = self.line(index) {
            line.owner.store(0, Ordering::SeqCst);
        }
    }
}

/// The box of one live handle, as what it stands for holds it.
#[derive(Clone, Copy)]
pub struct Mailbox {
    line: &'static Line,
    bits: u64,
}

impl Mailbox {
    /// Whether a cancel has come since it was last asked.
    fn take(&self) -> bool {
        let line = &self.line.wanted;
        line.load(Ordering::Acquire) == self.bits
            && line
                .compare_exchange(self.bits, 0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }
}

/// Where what a handle stands for keeps its box, once it has a handle.
#[derive(Default)]
pub struct Letter(OnceLock<Mailbox>);

impl Letter {
    pub fn bind(&self, mailbox: Mailbox) {
        let _ = self.0.set(mailbox);
    }

    /// Whether a cancel has come since it was last asked.
    pub fn take(&self) -> bool {
        self.0.get().is_some_and(Mailbox::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_reaches_the_live_handle_only() {
        static BOXES: Boxes = Boxes::new();
        BOXES.send(7, 1); // Nothing is there.
        let letter = Letter::default();
        assert!(!letter.take());
        letter.bind(BOXES.open(7, 1).unwrap());
        assert!(!letter.take());
        BOXES.send(7, 2);
        BOXES.send(8, 1);
        assert!(!letter.take());
        BOXES.send(7, 1);
        BOXES.send(7, 1);
        assert!(letter.take() && !letter.take());
        BOXES.close(7);
        BOXES.send(7, 1);
        assert!(!letter.take());
        // The next one has another handle.
        let next = Letter::default();
        next.bind(BOXES.open(7, 3).unwrap());
        BOXES.send(7, 1);
        assert!(!next.take());
        BOXES.send(7, 3);
        assert!(next.take() && !letter.take());
    }

    #[test]
    fn boxes_do_not_overlap() {
        let mut seen = std::collections::HashSet::new();
        for index in 0..5000 {
            let (chunk, at, length) = Boxes::place(index).unwrap();
            assert!(at < length && length == 1 << chunk && seen.insert((chunk, at)));
        }
        // As many as the table of handles has slots in a shard.
        assert!(Boxes::place((1 << 24) - 1).unwrap().0 < CHUNKS);
        assert_eq!(Boxes::place(usize::MAX), None);
    }
}
