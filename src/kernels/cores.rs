//! How many cores there are to compute on.

use std::collections::HashSet;
use std::thread::available_parallelism;

/// Cores that this process may use, two threads of one core counted once; at least 1.
pub fn physical_cores() -> usize {
    let allowed = available_parallelism().map_or(1, usize::from);
    match siblings() {
        0 => allowed,
        cores => cores.min(allowed),
    }
}

/// Sets of threads that share a core, as Linux lists them; 0 where it does not.
fn siblings() -> usize {
    let Ok(cpus) = std::fs::read_dir("/sys/devices/system/cpu") else {
        return 0;
    };
    let lists = cpus.flatten().filter_map(|cpu| {
        let list = cpu.path().join("topology/thread_siblings_list");
        std::fs::read_to_string(list).ok()
    });
    lists.collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core_and_no_more_than_threads() {
        let cores = physical_cores();
        assert!(cores >= 1 && cores <= available_parallelism().map_or(1, usize::from));
    }
}
