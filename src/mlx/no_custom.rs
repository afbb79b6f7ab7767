//! Where the GPU computes there are no operations of ours; see custom.rs.

use std::ffi::CStr;
use std::ops::Range;

use super::array::Array;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// What an operation gives: an error's text says why.
pub(super) type Outcome<T = ()> = std::result::Result<T, String>;

/// An array in memory while an operation runs: never made here.
pub(super) enum View {}

impl View {
    pub fn data(&self) -> *mut u8 {
        match *self {}
    }
    pub fn dtype(&self) -> Option<Dtype> {
        match *self {}
    }
    pub fn shape(&self) -> &[i32] {
        match *self {}
    }
    pub fn strides(&self) -> &[i64] {
        match *self {}
    }
}

pub(super) type Run = Box<dyn Fn(&[View], &[View]) -> Outcome + Send + Sync>;

#[allow(dead_code)]
pub(super) struct Custom {
    pub name: &'static CStr,
    pub strided: u32,
    pub written: Range<usize>,
    pub run: Run,
    pub gradient: Option<Run>,
}

impl Custom {
    pub fn queue<const N: usize>(
        self,
        _inputs: &[&Array],
        _outputs: [(&[i32], Dtype); N],
    ) -> Result<[Array; N]> {
        Err(Error::internal("this platform has no kernels on the CPU"))
    }
}
