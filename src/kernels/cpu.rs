//! What this processor can do, asked once, and the path that the kernels take on it.

use std::sync::OnceLock;

/// Instruction sets that a kernel can be written for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// AVX-512 VNNI for few rows, AMX tiles in bf16 for many.
    Amx,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// AVX2 with AVX-VNNI.
    AvxVnni,
    /// AVX2, FMA and F16C.
    Avx2,
    /// NEON with dotprod.
    NeonDot,
    Neon,
    /// Plain Rust.
    Portable,
}

impl Path {
    pub const ALL: [Path; 7] = [
        Path::Amx,
        Path::Avx512,
        Path::AvxVnni,
        Path::Avx2,
        Path::NeonDot,
        Path::Neon,
        Path::Portable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Path::Amx => "amx",
            Path::Avx512 => "avx512-vnni",
            Path::AvxVnni => "avx-vnni",
            Path::Avx2 => "avx2",
            Path::NeonDot => "neon-dotprod",
            Path::Neon => "neon",
            Path::Portable => "portable",
        }
    }

    pub fn parse(name: &str) -> Option<Path> {
        Path::ALL.into_iter().find(|path| path.name() == name)
    }

    /// Whether this machine can take it.
    pub fn is_available(self) -> bool {
        let cpu = features();
        match self {
            Path::Amx => cpu.amx && cpu.avx512 && cpu.avx512_bf16,
            Path::Avx512 => cpu.avx512,
            Path::AvxVnni => cpu.avx_vnni && cpu.avx2,
            Path::Avx2 => cpu.avx2,
            Path::NeonDot => cpu.dotprod,
            Path::Neon => cfg!(target_arch = "aarch64"),
            Path::Portable => true,
        }
    }

    /// Every path that this machine can take, best first.
    pub fn available() -> impl Iterator<Item = Path> {
        Path::ALL.into_iter().filter(|path| path.is_available())
    }

    /// The best one here.
    pub fn best() -> Path {
        Path::available().next().unwrap_or(Path::Portable)
    }
}

/// Sets of instructions, each as the kernels need it: with the operating system's consent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// F, BW, VL, DQ and VNNI.
    pub avx512: bool,
    pub avx512_bf16: bool,
    /// AVX2, FMA and F16C.
    pub avx2: bool,
    pub avx_vnni: bool,
    /// Tiles, bf16 and int8, and the kernel has let this process use them.
    pub amx: bool,
    /// Tiles are there, but the operating system refused them.
    pub amx_refused: bool,
    pub dotprod: bool,
}

impl Features {
    /// Names for a person to read, best first; empty where there is none of them.
    pub fn names(&self) -> Vec<&'static str> {
        let neon = cfg!(target_arch = "aarch64");
        [
            (self.amx, "amx"),
            (self.amx_refused, "amx (refused by the system)"),
            (self.avx512, "avx512-vnni"),
            (self.avx512_bf16, "avx512-bf16"),
            (self.avx_vnni, "avx-vnni"),
            (self.avx2, "avx2"),
            (self.dotprod, "dotprod"),
            (neon, "neon"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect()
    }
}

/// Asked once. Asking for AMX changes the process only in that its threads may use tiles.
pub fn features() -> &'static Features {
    static FEATURES: OnceLock<Features> = OnceLock::new();
    FEATURES.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Features {
    use std::arch::is_x86_feature_detected as has;
    let avx512 = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512vl")
        && has!("avx512dq")
        && has!("avx512vnni")
        && has!("avx2")
        && has!("fma")
        && has!("f16c");
    let tiles = has_amx_instructions();
    let amx = tiles && request_amx();
    Features {
        avx512,
        avx512_bf16: avx512 && has!("avx512bf16"),
        avx2: has!("avx2") && has!("fma") && has!("f16c"),
        avx_vnni: has!("avx2") && has!("fma") && has!("f16c") && has!("avxvnni"),
        amx,
        amx_refused: tiles && !amx,
        dotprod: false,
    }
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Features {
    Features {
        dotprod: std::arch::is_aarch64_feature_detected!("dotprod"),
        ..Features::default()
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Features {
    Features::default()
}

/// AMX-BF16 (bit 22), AMX-TILE (24) and AMX-INT8 (25) of leaf 7, and XTILECFG and XTILEDATA in XCR0.
#[cfg(target_arch = "x86_64")]
fn has_amx_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 3 << 17;
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: the caller saw OSXSAVE, so register 0 exists and may be read.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has cpuid; leaf 7 is read only where leaf 0 names it, XCR0 only with OSXSAVE.
    unsafe {
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        __cpuid_count(7, 0).edx & AMX == AMX && xcr0() & TILE_STATE == TILE_STATE
    }
}

/// Linux gives tile registers only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM); it may refuse.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_amx() -> bool {
    const ARCH_GET_XCOMP_PERM: libc::c_int = 0x1022;
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    let mut granted: u64 = 0;
    // SAFETY: arch_prctl with these codes takes a number, or a pointer to the 8 bytes of `granted`.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
            && libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_GET_XCOMP_PERM,
                &mut granted as *mut u64,
            ) == 0
            && granted & (1 << XFEATURE_XTILEDATA) != 0
    }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_amx() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_there_and_last() {
        assert_eq!(Path::available().last(), Some(Path::Portable));
        assert!(Path::best().is_available());
    }

    #[test]
    fn names_read_back() {
        for path in Path::ALL {
            assert_eq!(Path::parse(path.name()), Some(path));
        }
        assert_eq!(Path::parse("sse2"), None);
    }

    #[test]
    fn features_agree_with_the_paths() {
        let names = features().names();
        for path in [
            Path::Amx,
            Path::Avx512,
            Path::AvxVnni,
            Path::Avx2,
            Path::Neon,
        ] {
            assert_eq!(
                names.contains(&path.name()),
                path.is_available(),
                "{path:?} in {names:?}"
            );
        }
    }
}
