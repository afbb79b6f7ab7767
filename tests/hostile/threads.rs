//! Row 19: many threads that call whatever they like, on handles that they share and free under each other.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::abi::{mlxrt_free, mlxrt_shutdown, MLXRT_FOREVER};
use crate::child::active_bytes;
use crate::common::outcome;
use crate::damage::Random;
use crate::list::Cases;
use crate::surface::{free, handle_types, surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!(
    "19",
    "32 threads, random calls on shared handles",
    "threads"
);

const THREADS: usize = 32;
const LENGTH: Duration = Duration::from_secs(2);
/// Handles of each type that may live at once.
const MOST: usize = 12;

fn cases() -> Cases {
    (1..=12)
        .map(|seed| -> (String, Box<dyn FnOnce() -> Outcome>) {
            (format!("seed {seed}"), Box::new(move || chaos(seed)))
        })
        .collect()
}

/// All handles that were made and perhaps freed since, by type.
type Pool = Mutex<Vec<(&'static str, u64)>>;

fn chaos(seed: u64) -> Outcome {
    let pool: Pool = Mutex::default();
    let bad: Mutex<Option<Verdict>> = Mutex::default();
    let end = Instant::now() + LENGTH;
    let started = (Mutex::new(()), Condvar::new());
    std::thread::scope(|scope| {
        let calling = (0..THREADS).map(|thread| {
            let (pool, bad, started) = (&pool, &bad, &started);
            scope.spawn(move || {
                let mut random = Random(seed * 1_000 + thread as u64 + 1);
                started.1.notify_all();
                while Instant::now() < end && bad.lock().unwrap().is_none() {
                    if let Err(verdict) = one_call(&mut random, pool) {
                        *bad.lock().unwrap() = Some(verdict);
                    }
                }
            })
        });
        let calling: Vec<_> = calling.collect();
        // What was suspended at random goes on: a save or a training waits for that.
        while !calling.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
            if Instant::now() > end {
                resume_all();
            }
        }
    });
    if let Some(verdict) = bad.into_inner().unwrap() {
        return Err(verdict);
    }
    for (handle, bits) in pool.into_inner().unwrap() {
        free(handle, bits);
    }
    resume_all();
    // Random inits are still owed.
    // SAFETY: no preconditions.
    while outcome(unsafe { mlxrt_shutdown(0, MLXRT_FOREVER) }).is_err() {}
    for _ in 0..100 {
        if active_bytes() == 0 {
            return fine();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Leak(format!(
        "{} bytes of MLX's memory stay",
        active_bytes()
    )))
}

fn resume_all() {
    let resume = crate::surface::function("mlxrt_resume");
    while Call::good(resume, &mut World::new()).run().is_ok() {}
}

fn pick(random: &mut Random, pool: &Pool, handle: &str) -> u64 {
    let pool = pool.lock().unwrap();
    let of_type: Vec<u64> = pool.iter().filter(|h| h.0 == handle).map(|h| h.1).collect();
    match of_type.len() {
        0 => random.below(1000) as u64,
        count => of_type[random.below(count)],
    }
}

fn one_call(random: &mut Random, pool: &Pool) -> Result<(), Verdict> {
    let functions = &surface().functions;
    let function: &'static Function = &functions[random.below(functions.len())];
    let mut world = World::new();
    for handle in handle_types() {
        world.insert(handle.to_owned(), pick(random, pool, handle));
    }
    let call = Call::good(function, &mut world);
    let made = function.params.last().and_then(|last| {
        let ty = last.ty.strip_suffix(" * *")?;
        handle_types().into_iter().find(|handle| *handle == ty)
    });
    if let Some(handle) = made {
        let live = pool
            .lock()
            .unwrap()
            .iter()
            .filter(|h| h.0 == handle)
            .count();
        if live >= MOST {
            return Ok(());
        }
    }
    let frees = handle_types()
        .into_iter()
        .find(|handle| function.name == format!("{handle}_free"));
    if let Some(handle) = frees {
        // Kept in the pool for a while: others use what is freed.
        if random.below(2) == 0 {
            pool.lock()
                .unwrap()
                .retain(|h| *h != (handle, call.args[0]));
        }
    }
    match call.run() {
        Err(failure) => {
            ensure!(failure.code != "INTERNAL", "{}: {failure:?}", function.name);
            ensure!(!failure.message.is_empty(), "{}: no message", function.name);
        }
        Ok(_) => {
            for (i, param) in function.params.iter().enumerate() {
                if !param.ty.ends_with(" * *") || param.ty.starts_with("const") {
                    continue;
                }
                let out = call.memory[i][0];
                match made {
                    Some(handle) => pool.lock().unwrap().push((handle, out)),
                    // SAFETY: a buffer that just came out.
                    None => unsafe { mlxrt_free(out as *mut _) },
                }
            }
        }
    }
    Ok(())
}
