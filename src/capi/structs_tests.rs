use super::*;
use crate::error::Code;

/// A session_options as bytes that a caller of another version might have, at any alignment.
struct Foreign {
    bytes: Vec<u8>,
    start: usize,
}

impl Foreign {
    fn new(size: u32, bytes: usize, misalign: usize) -> Self {
        let mut all = vec![0_u8; bytes + 24];
        let start = all.as_ptr().align_offset(8) + misalign;
        all[start..start + 4].copy_from_slice(&size.to_ne_bytes());
        Foreign { bytes: all, start }
    }

    fn set(mut self, at: usize, value: u32) -> Self {
        let at = self.start + at;
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn get(&self, at: usize) -> u32 {
        let at = self.start + at;
        u32::from_ne_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn read(&self) -> Result<mlxrt_session_options> {
        // SAFETY: as many bytes as struct_size says are there, but in tests of sizes that are refused unread.
        unsafe { read_options(self.bytes[self.start..].as_ptr().cast(), "options") }
    }

    fn write(&mut self, value: mlxrt_session_state) -> Result<()> {
        // SAFETY: as in `read`.
        unsafe { write_out(self.bytes[self.start..].as_mut_ptr().cast(), "out", value) }
    }
}

const SIZE: usize = size_of::<mlxrt_session_options>();
const STATE: usize = size_of::<mlxrt_session_state>();

fn state() -> mlxrt_session_state {
    mlxrt_session_state {
        struct_size: 0,
        flags: 0,
        tokens: 1,
        context: 2,
        kv_tokens: 3,
        kv_bytes: 4,
        busy: 5,
        adapters: 6,
    }
}

fn refused<T>(result: Result<T>) -> (Code, String) {
    let Err(error) = result else {
        panic!("was accepted")
    };
    (error.code, error.message)
}

#[test]
fn null_is_all_defaults() {
    // SAFETY: NULL is allowed.
    let options: mlxrt_generate_options = unsafe { read_options(ptr::null(), "options") }.unwrap();
    assert_eq!(
        options.struct_size as usize,
        size_of::<mlxrt_generate_options>()
    );
    assert_eq!(
        (options.flags, options.temperature, options.seed),
        (0, 0.0, 0)
    );
    assert!(options.stop.is_null() && options.notify.is_none());
}

#[test]
fn the_callers_fields_arrive_at_every_alignment() {
    for misalign in 0..8 {
        let options = Foreign::new(SIZE as u32, SIZE, misalign)
            .set(8, 512)
            .set(16, 7)
            .set(32, 99);
        let options = options.read().unwrap();
        assert_eq!(
            (options.context, options.keep, options.kv_limit),
            (512, 7, 99)
        );
        assert_eq!((options.window, options.struct_size as usize), (0, SIZE));
    }
}

#[test]
fn sizes_that_no_version_had_name_the_fix() {
    for size in [
        0,
        4,
        8,
        SIZE as u32 - 8,
        SIZE as u32 - 1,
        SIZE as u32 + 4,
        4095,
    ] {
        let (code, message) = refused(Foreign::new(size, 4096, 0).read());
        assert_eq!(code, Code::InvalidArgument, "{size}");
        assert!(
            message.contains(&format!("struct_size is {size}")),
            "{message}"
        );
        assert!(
            message.ends_with("set options.struct_size = sizeof(mlxrt_session_options)"),
            "{message}"
        );
    }
}

#[test]
fn newer_callers_are_read_when_they_set_nothing_new() {
    for size in [SIZE + 8, SIZE + 64, LARGEST] {
        let options = Foreign::new(size as u32, size, 3)
            .set(8, 512)
            .read()
            .unwrap();
        assert_eq!((options.context, options.struct_size as usize), (512, SIZE));
        for at in [SIZE, size - 4] {
            let (code, message) =
                refused(Foreign::new(size as u32, size, 3).set(at, 1 << 24).read());
            assert_eq!(code, Code::Unsupported);
            assert!(message.contains("newer than this library"), "{message}");
        }
    }
}

/// An older version of a struct: this library's `Grown` has a field more than `FIRST_SIZE` covers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Grown {
    struct_size: u32,
    flags: u32,
    old: u64,
    new: u64,
}
// SAFETY: #[repr(C)], integers without padding, struct_size first.
unsafe impl AbiStruct for Grown {
    const NAME: &'static str = "grown";
    const FIRST_SIZE: usize = 16;
}
// SAFETY: as AbiStruct.
unsafe impl InStruct for Grown {
    fn check(&self, name: &str) -> Result<()> {
        check_flags(self.flags, 1, name)
    }
}
// SAFETY: as AbiStruct.
unsafe impl OutStruct for Grown {}

#[test]
fn older_callers_get_the_defaults_of_newer_fields() {
    // Sixteen bytes, and behind them what must not be read into `new`.
    let old: [u64; 3] = [16, 5, u64::MAX];
    // SAFETY: 16 bytes are there.
    let value: Grown = unsafe { read_options(old.as_ptr().cast(), "options") }.unwrap();
    assert_eq!((value.struct_size, value.old, value.new), (24, 5, 0));
}

#[test]
fn older_callers_get_what_they_know() {
    let mut old: [u64; 3] = [16, 5, u64::MAX];
    let value = Grown {
        struct_size: 0,
        flags: 0,
        old: 7,
        new: 8,
    };
    // SAFETY: 16 bytes are there.
    unsafe { write_out(old.as_mut_ptr().cast(), "out", value) }.unwrap();
    assert_eq!(old, [16, 7, u64::MAX]);
}

#[test]
fn unknown_flags_and_reserved_fields_are_refused() {
    let (code, message) = refused(Foreign::new(SIZE as u32, SIZE, 0).set(4, 2).read());
    assert_eq!(
        (code, message.as_str()),
        (
            Code::Unsupported,
            "options.flags has bits that are unknown here: 0x2"
        )
    );
    let (code, message) = refused(Foreign::new(SIZE as u32, SIZE, 0).set(28, 1).read());
    assert_eq!(
        (code, message.as_str()),
        (Code::Unsupported, "options.reserved is not 0")
    );
    let mut input = mlxrt_input::zeroed();
    input.flags = INPUT_FLAGS;
    // SAFETY: a whole struct.
    assert!(unsafe { read_options(&input, "input") }.is_ok());
    input.flags = 32;
    // SAFETY: a whole struct.
    let read = unsafe { read_options(&input, "input") };
    assert_eq!(refused(read).0, Code::Unsupported);
}

#[test]
fn outputs_are_filled_and_the_unknown_rest_is_zeroed() {
    for misalign in 0..8 {
        let mut same = Foreign::new(STATE as u32, STATE, misalign).set(STATE, 77);
        same.write(state()).unwrap();
        assert_eq!(
            (same.get(0), same.get(8), same.get(44)),
            (STATE as u32, 1, 6)
        );
        assert_eq!(same.get(STATE), 77, "written past its end");
        let mut newer = Foreign::new(STATE as u32 + 16, STATE + 16, misalign);
        newer = newer.set(STATE, 77).set(STATE + 12, 77).set(STATE + 16, 78);
        newer.write(state()).unwrap();
        assert_eq!((newer.get(0), newer.get(44)), (STATE as u32, 6));
        assert_eq!((newer.get(STATE), newer.get(STATE + 12)), (0, 0));
        assert_eq!(newer.get(STATE + 16), 78);
    }
}

#[test]
fn outputs_that_are_refused_stay_untouched() {
    for (size, expected) in [
        (0, Code::InvalidArgument),
        (8, Code::InvalidArgument),
        (STATE as u32 - 8, Code::InvalidArgument),
        (STATE as u32 + 4, Code::InvalidArgument),
        (4104, Code::Unsupported),
        (u32::MAX, Code::Unsupported),
    ] {
        let mut out = Foreign::new(size, STATE + 16, 0).set(8, 77);
        let (code, message) = refused(out.write(state()));
        assert_eq!(code, expected, "{size}");
        assert!(
            message.contains("set out.struct_size = sizeof(mlxrt_session_state)"),
            "{message}"
        );
        assert_eq!((out.get(0), out.get(8)), (size, 77));
    }
    // SAFETY: NULL is allowed.
    let (code, message) = refused(unsafe { write_out(ptr::null_mut(), "out", state()) });
    assert_eq!(
        (code, message.as_str()),
        (Code::InvalidArgument, "out is NULL")
    );
}

#[test]
#[cfg_attr(miri, ignore = "it protects a page")]
fn absurd_sizes_are_refused_unread() {
    // Two pages, the second without any access: the struct's first 4 bytes are the last 4 of the first page.
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // SAFETY: a fresh private mapping of two pages, the second of which is closed at once.
    let base = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
        let base = libc::mmap(
            ptr::null_mut(),
            2 * page,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        );
        assert_ne!(base, libc::MAP_FAILED);
        assert_eq!(
            libc::mprotect(base.cast::<u8>().add(page).cast(), page, libc::PROT_NONE),
            0
        );
        base.cast::<u8>()
    };
    for (size, expected) in [
        (4097_u32, Code::Unsupported),
        (u32::MAX, Code::Unsupported),
        (0, Code::InvalidArgument),
        (8, Code::InvalidArgument),
    ] {
        // SAFETY: the last 4 bytes of the first page are readable and writable, and no more is asked for.
        unsafe {
            let pointer = base.add(page - 4);
            pointer.cast::<u32>().write(size);
            let read = read_options::<mlxrt_generate_options>(pointer.cast(), "options");
            assert_eq!(refused(read).0, expected);
            assert_eq!(
                refused(write_out(pointer.cast(), "out", state())).0,
                expected
            );
            assert_eq!(pointer.cast::<u32>().read(), size);
        }
    }
    // The same place with a struct that ends exactly with the page: nothing behind it is touched.
    // SAFETY: SIZE bytes before the page's end are readable.
    let options: mlxrt_session_options = unsafe {
        base.add(page - 4).cast::<u32>().write(0);
        let pointer = base.add(page - SIZE);
        pointer.cast::<u32>().write(SIZE as u32);
        read_options(pointer.cast(), "options").unwrap()
    };
    assert_eq!(options.kv_limit, 0);
    // SAFETY: the mapping from above, not used any more.
    assert_eq!(unsafe { libc::munmap(base.cast(), 2 * page) }, 0);
}
