//! Events as C sees them: one block of memory each, the struct first, its arrays and its text behind it.

use std::ffi::c_char;
use std::mem::size_of;
use std::ptr::{self, NonNull};

use super::constants::{
    MLXRT_EVENT_PROGRESS, MLXRT_EVENT_TEXT, MLXRT_EVENT_THINKING, MLXRT_EVENT_TOOL_CALL,
    MLXRT_EVENT_TOOL_DELTA,
};
use super::text::{allocate, release};
use super::types::mlxrt_event;
use crate::error::Result;
use crate::runtime::generate::Event;
use crate::text::{Channel, Chunk};

const EMPTY: mlxrt_event = mlxrt_event {
    struct_size: size_of::<mlxrt_event>() as u32,
    kind: 0,
    text: c"".as_ptr(),
    text_len: 0,
    tokens: ptr::null(),
    token_count: 0,
    logprobs: ptr::null(),
    top_tokens: ptr::null(),
    top_logprobs: ptr::null(),
    top_count: 0,
    done: 0,
    total: 0,
};

/// An event in one block, which `mlxrt_free` frees.
pub struct EventBlock(NonNull<mlxrt_event>);

impl EventBlock {
    /// `logprobs`: whether they were asked for.
    ///
    /// # Errors
    /// OUT_OF_MEMORY.
    pub fn new(event: &Event, logprobs: bool) -> Result<Self> {
        match event {
            &Event::Progress { done, total } => {
                let event = mlxrt_event {
                    kind: MLXRT_EVENT_PROGRESS,
                    done,
                    total,
                    ..EMPTY
                };
                Self::with_room(event, 0).map(|(block, _)| block)
            }
            Event::Text(chunk) => Self::of_chunk(chunk, logprobs),
        }
    }

    fn of_chunk(chunk: &Chunk, logprobs: bool) -> Result<Self> {
        let top_count = chunk.tops.first().map_or(0, Vec::len);
        // Per token its id, its logprob and the alternatives' ids and logprobs, 4 bytes each; then the text and a NUL.
        let per_token = size_of::<i32>() * (2 + 2 * top_count);
        let room = chunk.tokens.len() * per_token + chunk.text.len() + 1;
        let event = mlxrt_event {
            kind: match chunk.channel {
                Channel::Text => MLXRT_EVENT_TEXT,
                Channel::Thinking => MLXRT_EVENT_THINKING,
                Channel::ToolCall => MLXRT_EVENT_TOOL_CALL,
                Channel::ToolDelta => MLXRT_EVENT_TOOL_DELTA,
            },
            text_len: chunk.text.len(),
            token_count: chunk.tokens.len(),
            top_count,
            ..EMPTY
        };
        let (mut block, mut room) = Self::with_room(event, room)?;
        let tops = || chunk.tops.iter().flatten();
        // SAFETY: the block is alive and nobody else has it; all values together are as many bytes as the room has.
        unsafe {
            let event = block.0.as_mut();
            event.tokens = room.put(chunk.tokens.iter().copied());
            let values = room.put(chunk.logprobs.iter().copied());
            if logprobs {
                event.logprobs = values;
            }
            if top_count > 0 {
                event.top_tokens = room.put(tops().map(|&(id, _)| id));
                event.top_logprobs = room.put(tops().map(|&(_, logprob)| logprob));
            }
            event.text = room.put(chunk.text.bytes().map(|byte| byte as c_char));
            room.put([0 as c_char].into_iter());
        }
        Ok(block)
    }

    fn with_room(event: mlxrt_event, bytes: usize) -> Result<(Self, Room)> {
        let start = allocate::<u8>(size_of::<mlxrt_event>(), bytes)?.cast::<mlxrt_event>();
        // SAFETY: malloc aligns for every type, and the block is large enough for the event.
        unsafe { start.write(event) };
        // SAFETY: the event's end is inside the block.
        let room = Room(unsafe { start.add(1) }.cast());
        // SAFETY: `allocate` gives no NULL.
        let block = EventBlock(unsafe { NonNull::new_unchecked(start) });
        Ok((block, room))
    }

    pub fn as_ptr(&self) -> *const mlxrt_event {
        self.0.as_ptr()
    }

    /// Gives the block to the host.
    pub fn into_raw(self) -> *mut mlxrt_event {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }
}

impl Drop for EventBlock {
    fn drop(&mut self) {
        // SAFETY: the block came out of `allocate` and nobody else has it.
        unsafe { release(self.0.as_ptr().cast()) };
    }
}

/// Where the next value of a block goes.
struct Room(*mut u8);

impl Room {
    /// Appends values and gives where they begin.
    ///
    /// # Safety
    /// There is room for them, and the place is aligned for them.
    unsafe fn put<T: Copy>(&mut self, values: impl Iterator<Item = T>) -> *const T {
        let start = self.0.cast::<T>();
        let mut next = start;
        for value in values {
            // SAFETY: as this function's own contract.
            unsafe {
                next.write(value);
                next = next.add(1);
            }
        }
        self.0 = next.cast();
        start
    }
}
