//! The matrices that make keys and values of latents: two of each head, or both of all heads in one.

use std::ops::Range;

use super::{Finder, Named, Places};
use crate::error::{Error, Result};
use crate::load::{Slot, Tensor};

/// One of the two, as mlx-lm has them, or its part of the one, as Hugging Face has it.
pub(in crate::model) struct HeadMatrix {
    /// The name of the one in the files.
    pub both: String,
    pub heads: i32,
    /// Rows of each head in the one.
    pub each: i32,
    /// Those of this matrix.
    pub rows: Range<i32>,
    /// Whether columns become rows.
    pub turns: bool,
}

impl HeadMatrix {
    /// Whether what becomes rows are the columns of packed rows, which cannot be read so.
    pub fn turns_packed(&self, finder: &Finder, path: &str) -> bool {
        let there = |name: String| finder.catalog.get(&name).is_some();
        self.turns && !there(format!("{path}.weight")) && there(format!("{}.scales", self.both))
    }
}

impl Places for HeadMatrix {
    fn place(
        &self,
        finder: &Finder,
        path: &str,
        leaf: &str,
    ) -> Result<Option<(Slot, Vec<Tensor>)>> {
        if finder.catalog.get(&format!("{path}.weight")).is_some() {
            return Named.place(finder, path, leaf);
        }
        let Some((whole, from)) = Named.place(finder, &self.both, leaf)? else {
            return Ok(None);
        };
        let turns = self.turns && !self.turns_packed(finder, path);
        let [tensor] = from.as_slice() else {
            return Err(Error::internal("a tensor of several"));
        };
        let own = format!("{path}.{leaf}");
        let slot = Slot::of_heads(
            own,
            tensor,
            (self.heads, self.each),
            self.rows.clone(),
            turns,
        );
        let slot = slot.ok_or_else(|| {
            Error::bad_model(format!(
                "tensor \"{}\" has the shape {:?}, and config.json implies {} heads of {} rows each",
                whole.name, whole.shape, self.heads, self.each
            ))
        })?;
        Ok(Some((slot, from)))
    }
}
