//! Working memory that is kept from one call to the next.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::activations::Digits;
#[cfg(target_arch = "x86_64")]
use super::amx::Line;

#[derive(Default)]
pub(super) struct Scratch {
    digits: Mutex<Vec<Digits>>,
    floats: Mutex<Vec<Vec<f32>>>,
    #[cfg(target_arch = "x86_64")]
    lines: Mutex<Vec<Vec<Line>>>,
}

impl Scratch {
    pub fn digits(&self) -> Lent<'_, Digits> {
        Lent::new(&self.digits)
    }

    pub fn floats(&self) -> Lent<'_, Vec<f32>> {
        Lent::new(&self.floats)
    }

    #[cfg(target_arch = "x86_64")]
    pub fn lines(&self) -> Lent<'_, Vec<Line>> {
        Lent::new(&self.lines)
    }

    /// Gives all of it back to the system.
    pub fn clear(&self) {
        self.digits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.floats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        #[cfg(target_arch = "x86_64")]
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Goes back when dropped. Its content is whatever the last user left.
pub(super) struct Lent<'a, T: Default> {
    value: T,
    home: &'a Mutex<Vec<T>>,
}

impl<'a, T: Default> Lent<'a, T> {
    fn new(home: &'a Mutex<Vec<T>>) -> Self {
        let value = home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        Lent { value, home }
    }
}

impl<T: Default> Deref for Lent<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default> DerefMut for Lent<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        self.home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.value));
    }
}
