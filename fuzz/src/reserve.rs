//! In place of the library's own, whose allocator cannot stand beside the one that counts: there is always memory.

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    Memory,
    Addresses,
}

pub fn short() -> bool {
    false
}

pub fn heap_has(_bytes: usize) -> bool {
    true
}

pub fn system_has(_bytes: usize, _promise: Promise) -> bool {
    true
}
