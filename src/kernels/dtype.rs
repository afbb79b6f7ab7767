//! What elements and packed weights are, in words that files and arrays share.

/// The element types that safetensors files and MLX share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
}

impl Dtype {
    const ALL: [Dtype; 12] = [
        Dtype::Bool,
        Dtype::U8,
        Dtype::U16,
        Dtype::U32,
        Dtype::U64,
        Dtype::I8,
        Dtype::I16,
        Dtype::I32,
        Dtype::I64,
        Dtype::F16,
        Dtype::BF16,
        Dtype::F32,
    ];

    /// As a safetensors header spells it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "BOOL",
            Dtype::U8 => "U8",
            Dtype::U16 => "U16",
            Dtype::U32 => "U32",
            Dtype::U64 => "U64",
            Dtype::I8 => "I8",
            Dtype::I16 => "I16",
            Dtype::I32 => "I32",
            Dtype::I64 => "I64",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F32 => "F32",
        }
    }

    pub fn parse(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// What MLX makes of two float types: f32 where they differ.
    pub fn wider(self, other: Dtype) -> Dtype {
        match self == other {
            true => self,
            false => Dtype::F32,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> i64 {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::BF16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F16 | Dtype::BF16 | Dtype::F32)
    }
}

/// MLX's quantisation modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `w = q * scale + bias`, scales and biases in the model's float type.
    Affine,
    /// 4-bit floats with one E8M0 scale per 32.
    Mxfp4,
    /// 8-bit floats with one E8M0 scale per 32.
    Mxfp8,
    /// 4-bit floats with one E4M3 scale per 16.
    Nvfp4,
}

impl Mode {
    pub const ALL: [Mode; 4] = [Mode::Affine, Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4];

    /// The name that configs and MLX's `mode` argument use.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Affine => "affine",
            Mode::Mxfp4 => "mxfp4",
            Mode::Mxfp8 => "mxfp8",
            Mode::Nvfp4 => "nvfp4",
        }
    }
}

/// One legal combination of mode, bits per weight and weights per scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    pub mode: Mode,
    pub bits: i32,
    pub group_size: i32,
}

impl Scheme {
    /// Bytes of so many affine numbers, whole groups of them, whose scales and biases have that type.
    pub fn affine_bytes(self, numbers: u64, scales: Dtype) -> u64 {
        let size = |n: i32| u64::from(n.unsigned_abs());
        let groups = numbers / size(self.group_size).max(1);
        (numbers / 8)
            .saturating_mul(size(self.bits))
            .saturating_add(groups.saturating_mul(2 * scales.size() as u64))
    }
}
