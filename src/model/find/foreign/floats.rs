//! Small floats with scales: what MLX has, it takes as it is; the others are unpacked.

use super::{size, Matrix};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::error::Result;
use crate::load::{Blocks, Float8, Make, Number, Slot};
use crate::model::modules::Weight;

impl Matrix<'_, '_, '_> {
    /// 8-bit floats, in MLX's own groups or in blocks, rows or all with a scale.
    pub fn floats8(&mut self, weight: Slot, scales: &Slot) -> Result<Weight<Slot>> {
        self.is(&weight, &[self.rows, self.input], Dtype::U8)?;
        let own = self.own(scales)?.to_vec();
        let groups = self.input / 32;
        let number = self.number(scales)?;
        let powers = number == Number::Small(Float8::E8m0);
        if powers && self.input % 32 == 0 && own == [self.rows, groups] {
            let mode = (Mode::Mxfp8, 8, 32);
            return self.as_they_are("mxfp8", mode, weight, scales.clone());
        }
        let [down, across] = self.finder.foreign().map_or([128; 2], |of| of.block);
        let parts = |n: i32, block: i32| n / block + i32::from(n % block != 0);
        let (rows, columns) = match own.as_slice() {
            [] | [1] | [1, 1] => (self.rows, self.input),
            [rows] | [rows, 1] if *rows == self.rows => (1, self.input),
            [a, b] if *a == parts(self.rows, down) && *b == parts(self.input, across) => {
                (down, across)
            }
            _ => return Err(self.other_shape(scales)),
        };
        let blocks = Blocks {
            number,
            rows: size(rows),
            columns: size(columns),
        };
        let sources = [&weight, scales];
        let dtype = self.plain();
        let made = self.made("weight", self.input, &sources, Make::Float8(blocks), dtype)?;
        let exact = dtype == Dtype::F32 || powers;
        self.became("fp8", None, dtype, (!exact).then_some("weights"));
        Ok(Weight::Dense(made))
    }

    /// 4-bit floats, two in a byte: in MLX's own groups, or with a scale of the scales.
    pub fn floats4(&mut self, packed: Slot) -> Result<Weight<Slot>> {
        let input = self.input;
        if input % 16 != 0 {
            return Err(self.unknown(&packed));
        }
        self.is(&packed, &[self.rows, input / 2], Dtype::U8)?;
        let scales = self.need("weight_scale")?;
        let own = self.own(&scales)?.to_vec();
        if scales.dtype != Dtype::U8 {
            return Err(self.other_type(&scales, "F8_E4M3 or F8_E8M0"));
        }
        let e4m3 = scales.float8 != Some(Float8::E8m0);
        if input % 32 == 0 && own == [self.rows, input / 32] && scales.float8 != Some(Float8::E4m3)
        {
            return self.as_they_are("mxfp4", (Mode::Mxfp4, 4, 32), packed, scales);
        }
        if own != [self.rows, input / 16] || !e4m3 {
            return Err(self.other_shape(&scales));
        }
        let mut global = self.take("weight_global_scale")?;
        let divided = global.is_some();
        if global.is_none() {
            global = self.take("weight_scale_2")?;
        }
        let Some(global) = global else {
            return self.as_they_are("nvfp4", (Mode::Nvfp4, 4, 16), packed, scales);
        };
        if !matches!(self.own(&global)?, [] | [1]) {
            return Err(self.other_shape(&global));
        }
        if global.dtype != Dtype::F32 {
            return Err(self.other_type(&global, "F32"));
        }
        let dtype = self.plain();
        let sources = [&packed, &scales, &global];
        let made = self.made("weight", input, &sources, Make::Nvfp4 { divided }, dtype)?;
        let rounded = (dtype != Dtype::F32).then_some("weights");
        self.became("nvfp4", None, dtype, rounded);
        Ok(Weight::Dense(made))
    }

    /// Bytes that MLX takes in this mode.
    fn as_they_are(
        &mut self,
        from: &'static str,
        (mode, bits, group_size): (Mode, i32, i32),
        weight: Slot,
        scales: Slot,
    ) -> Result<Weight<Slot>> {
        let scheme = Scheme {
            mode,
            bits,
            group_size,
        };
        self.became(from, Some(scheme), Dtype::U8, None);
        let shape = [self.stack, &[self.rows, self.input / 32 * bits]].concat();
        Ok(Weight::Quantized {
            weight: Slot {
                name: format!("{}.weight", self.path),
                dtype: Dtype::U32,
                shape,
                float8: None,
                ..weight
            },
            scales: Slot {
                name: format!("{}.scales", self.path),
                float8: None,
                ..scales
            },
            biases: None,
            scheme,
        })
    }

    /// What plain weights become.
    fn plain(&self) -> Dtype {
        match self.finder.float {
            Dtype::F32 => Dtype::F32,
            _ => Dtype::BF16,
        }
    }
}
