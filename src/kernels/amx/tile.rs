//! Tile registers: eight of 16 rows by 64 bytes, and the product of two tiles of bf16 added to a tile of f32.

#![allow(unsafe_op_in_unsafe_fn)]

/// Eight tile registers, named by number.
///
/// # Safety
/// For every method: memory that is named holds 16 rows of 64 bytes, `stride` bytes apart.
pub(super) trait Tiles {
    /// All registers are 16 rows of 64 bytes from here on.
    unsafe fn start() -> Self;
    unsafe fn zero<const T: usize>(&mut self);
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);
    /// `C += A B`: A is 16 rows of 32 numbers, B holds 16 columns, row i their numbers 2 i and 2 i + 1.
    unsafe fn product<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// The processor's own.
pub(super) struct Hardware(());

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn start() -> Self {
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        std::arch::asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags));
        Hardware(())
    }
    #[inline(always)]
    unsafe fn zero<const T: usize>(&mut self) {
        std::arch::asm!("tilezero tmm{}", const T, options(nostack, nomem, preserves_flags));
    }
    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        std::arch::asm!(
            "tileloadd tmm{t}, [{from} + {stride}]",
            t = const T,
            from = in(reg) from,
            stride = in(reg) stride,
            options(nostack, readonly, preserves_flags)
        );
    }
    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        std::arch::asm!(
            "tilestored [{to} + {stride}], tmm{t}",
            t = const T,
            to = in(reg) to,
            stride = in(reg) stride,
            options(nostack, preserves_flags)
        );
    }
    #[inline(always)]
    unsafe fn product<const C: usize, const A: usize, const B: usize>(&mut self) {
        std::arch::asm!(
            "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
            c = const C,
            a = const A,
            b = const B,
            options(nostack, nomem, preserves_flags)
        );
    }
}

impl Drop for Hardware {
    /// Back to the initial state, so that the system has no tiles to save.
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: it was started, so the processor has tiles.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// The same in plain Rust: what the manual says, except that sums are not made two by two.
#[cfg(test)]
pub(super) struct Emulated([[f32; 16 * 16]; 8]);

#[cfg(test)]
impl Tiles for Emulated {
    unsafe fn start() -> Self {
        // Registers hold anything until they are written.
        Emulated([[f32::NAN; 256]; 8])
    }
    unsafe fn zero<const T: usize>(&mut self) {
        self.0[T].fill(0.0);
    }
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        for (row, to) in self.0[T].chunks_exact_mut(16).enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                let from = from.add(row * stride + 4 * i).cast::<u32>();
                *to = f32::from_bits(from.read_unaligned());
            }
        }
    }
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        for (row, from) in self.0[T].chunks_exact(16).enumerate() {
            for (i, from) in from.iter().enumerate() {
                let to = to.add(row * stride + 4 * i).cast::<u32>();
                to.write_unaligned(from.to_bits());
            }
        }
    }
    unsafe fn product<const C: usize, const A: usize, const B: usize>(&mut self) {
        // The product takes denormals for zero.
        let parts = |x: f32| {
            let bits = x.to_bits();
            [bits << 16, bits & 0xffff_0000].map(|bits| {
                let x = f32::from_bits(bits);
                if x.is_subnormal() {
                    0.0
                } else {
                    x
                }
            })
        };
        for m in 0..16 {
            for k in 0..16 {
                let a = parts(self.0[A][16 * m + k]);
                for n in 0..16 {
                    let b = parts(self.0[B][16 * k + n]);
                    self.0[C][16 * m + n] += a[0] * b[0] + a[1] * b[1];
                }
            }
        }
    }
}
