//! What of a thread is the host's while it is inside the library: how its floating-point unit rounds and traps, and whether
//! pthread_cancel may end it. And whether the host's process is exiting.
//!
//! A host may let divisions by zero trap, flush small numbers to zero or round upwards; what is parsed, estimated and
//! computed here is to be the same everywhere, and threads of ours and of MLX's inherit from the one that starts them. And a
//! thread that is cancelled in the middle of a call would unwind through frames that cannot be unwound, with locks held.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Code, Error, Result};

static EXITING: AtomicBool = AtomicBool::new(false);

/// Whether the process is exiting, and the engine has ended or is about to.
pub fn process_exits() -> bool {
    EXITING.load(Ordering::Acquire)
}

/// Errors: `Cancelled` when the process is exiting.
pub fn refuse_at_exit() -> Result<()> {
    match process_exits() {
        true => Err(Error::new(Code::Cancelled, "the process is exiting")),
        false => Ok(()),
    }
}

/// It does, from now on.
pub fn exit_has_begun() {
    EXITING.store(true, Ordering::Release);
}

/// On this thread the library's own code runs now. Dropped, it is the host's again.
pub struct Inside {
    /// Not inside of another one.
    outermost: bool,
    cancel: i32,
}

#[derive(Clone, Copy)]
struct Host {
    inside: bool,
    float: float::Control,
}

thread_local! {
    static HOST: Cell<Host> = const { Cell::new(Host { inside: false, float: float::DEFAULT }) };
}

impl Inside {
    pub fn enter() -> Inside {
        // Never destroyed: it needs no drop.
        let host = HOST.get();
        if host.inside {
            return Inside {
                outermost: false,
                cancel: 0,
            };
        }
        let mut cancel = 0;
        // SAFETY: `cancel` is writable. It cannot fail with a state that there is.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut cancel) };
        HOST.set(Host {
            inside: true,
            float: float::exchange(float::DEFAULT),
        });
        Inside {
            outermost: true,
            cancel,
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if !self.outermost {
            return;
        }
        let host = HOST.get();
        float::exchange(host.float);
        HOST.set(Host {
            inside: false,
            ..host
        });
        if self.cancel != PTHREAD_CANCEL_DISABLE {
            let mut before = 0;
            // SAFETY: as in `enter`. What is pending ends the thread at its next cancellation point, and this is none.
            unsafe { pthread_setcancelstate(self.cancel, &mut before) };
        }
    }
}

/// Runs a callback of the host, with its own floating-point control, which it may change. Cancelling stays held off: the
/// library's frames are below it.
pub fn outside<T>(run: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            if self.0 {
                HOST.set(Host {
                    inside: true,
                    float: float::exchange(float::DEFAULT),
                });
            }
        }
    }
    let host = HOST.get();
    let _back = Back(host.inside);
    if host.inside {
        float::exchange(host.float);
        HOST.set(Host {
            inside: false,
            ..host
        });
    }
    run()
}

#[cfg(target_os = "macos")]
const PTHREAD_CANCEL_DISABLE: i32 = 0;
#[cfg(not(target_os = "macos"))]
const PTHREAD_CANCEL_DISABLE: i32 = 1;

#[cfg(not(miri))]
extern "C" {
    fn pthread_setcancelstate(state: i32, before: *mut i32) -> i32;
}

/// Miri does not know the C library's: nobody cancels a thread there.
#[cfg(miri)]
unsafe fn pthread_setcancelstate(_state: i32, before: *mut i32) -> i32 {
    // SAFETY: as of the C library's, `before` is writable.
    unsafe { before.write(0) };
    0
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod float {
    use std::arch::asm;

    /// MXCSR, and the control word of the x87, which long doubles use.
    #[derive(Clone, Copy, PartialEq)]
    pub struct Control(u32, u16);

    pub const DEFAULT: Control = Control(0x1f80, 0x037f);
    /// Of MXCSR: what has happened, which is no setting.
    const HAPPENED: u32 = 0x3f;

    /// Sets another one and gives the one before, with what had happened so far.
    pub fn exchange(control: Control) -> Control {
        let (mut mxcsr, mut word) = (0_u32, 0_u16);
        // SAFETY: both write a register to the place of its size.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack, preserves_flags));
            asm!("fnstcw [{}]", in(reg) &mut word, options(nostack, preserves_flags));
        }
        if (mxcsr ^ control.0) & !HAPPENED != 0 {
            // SAFETY: the value is the processor's default or was read from the register.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &control.0, options(nostack, preserves_flags)) };
        }
        if word != control.1 {
            // SAFETY: as above. What has happened is cleared first, or it would trap where the new word lets it.
            unsafe {
                asm!("fnclex", "fldcw [{}]", in(reg) &control.1, options(nostack, preserves_flags))
            };
        }
        Control(mxcsr, word)
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod float {
    use std::arch::asm;

    /// FPCR.
    #[derive(Clone, Copy, PartialEq)]
    pub struct Control(u64);

    pub const DEFAULT: Control = Control(0);

    /// Sets another one and gives the one before.
    pub fn exchange(control: Control) -> Control {
        let before: u64;
        // SAFETY: reads the register.
        unsafe { asm!("mrs {}, fpcr", out(reg) before, options(nomem, nostack, preserves_flags)) };
        if before != control.0 {
            // SAFETY: the value is the default or was read from the register.
            unsafe {
                asm!("msr fpcr, {}", in(reg) control.0, options(nomem, nostack, preserves_flags))
            };
        }
        Control(before)
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod float {
    #[derive(Clone, Copy, PartialEq)]
    pub struct Control;

    pub const DEFAULT: Control = Control;

    pub fn exchange(_: Control) -> Control {
        Control
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    fn cancel_state() -> i32 {
        let mut state = 0;
        // SAFETY: `state` is writable; set back at once.
        unsafe {
            pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut state);
            pthread_setcancelstate(state, &mut 0);
        }
        state
    }

    /// Exact results only: 1 / 3 rounded up is another number than rounded to nearest.
    fn third() -> f64 {
        std::hint::black_box(1.0) / std::hint::black_box(3.0)
    }

    #[cfg(target_arch = "x86_64")]
    fn round_up() {
        let control: u32 = 0x1f80 | 0x4000;
        // SAFETY: a legal value.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &control) };
    }
    #[cfg(target_arch = "aarch64")]
    fn round_up() {
        // SAFETY: a legal value.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) 0x40_0000_u64) };
    }

    #[test]
    fn inside_is_the_librarys_and_outside_the_hosts() {
        std::thread::spawn(|| {
            let nearest = third();
            round_up();
            let up = third();
            assert!(up > nearest);
            let enabled = cancel_state();
            assert_ne!(enabled, PTHREAD_CANCEL_DISABLE);
            {
                let _inside = Inside::enter();
                assert_eq!(third(), nearest);
                assert_eq!(cancel_state(), PTHREAD_CANCEL_DISABLE);
                outside(|| {
                    assert_eq!(third(), up);
                    // A call from inside a callback.
                    let _again = Inside::enter();
                    assert_eq!(third(), nearest);
                });
                assert_eq!(third(), nearest);
                assert_eq!(cancel_state(), PTHREAD_CANCEL_DISABLE);
                let inner = Inside::enter();
                drop(inner);
                assert_eq!(third(), nearest);
                // What it starts is as it is.
                assert_eq!(std::thread::spawn(third).join().unwrap(), nearest);
                let panicked = std::panic::catch_unwind(|| outside(|| std::panic::panic_any(1)));
                assert!(panicked.is_err());
                assert_eq!(third(), nearest);
            }
            assert_eq!(third(), up);
            assert_eq!(cancel_state(), enabled);
        })
        .join()
        .unwrap();
    }

    /// `make bench` runs it.
    #[test]
    #[ignore = "a measurement"]
    fn what_entering_costs() {
        let began = std::time::Instant::now();
        for _ in 0..1_000_000 {
            drop(std::hint::black_box(Inside::enter()));
        }
        let ns = began.elapsed().as_secs_f64() * 1e3;
        println!("| entering and leaving the library, ns | {ns:.1} | |");
    }
}
