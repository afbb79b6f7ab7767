//! Row 37: more requests than anybody serves at once, and priorities of any value.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi::*;
use crate::child::{ask, exactly, ledger, qwen, PROMPT, RIGHT};
use crate::common::{load, outcome, Failure, Model, Prompt, Session};
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!(
    "37",
    "queues without end, priorities of any value",
    "queues"
);

const PRIORITIES: [i32; 7] = [0, 1, -1, 1000, -1000, i32::MAX, i32::MIN];
/// Of one session, and of the process: SECURITY.md.
const MOST_OF_SESSION: usize = 1024;
const MOST_OF_PROCESS: usize = 16_384;
/// Requests of a long queue, over so many sessions: the context of each has room for 1,000 of the smallest.
const QUEUED: usize = 10_000;
const SESSIONS: usize = 10;
/// Bytes that a request which waits may take.
const BYTES_OF_ONE: u64 = 16 << 10;

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for priority in PRIORITIES {
        let run = move || alone(priority);
        cases.push((format!("priority {priority}"), Box::new(run)));
    }
    let mut add = |what: &str, run: fn() -> Outcome| cases.push((what.to_owned(), Box::new(run)));
    add("all priorities at once", all_at_once);
    add("priorities within one session's queue", in_one_queue);
    add("the lowest beside the highest", lowest_beside_highest);
    add("a long queue that waits", long_queue_waits);
    add("a long queue, to its end", long_queue_ends);
    add("more than the process takes", more_than_the_process_takes);
    cases
}

/// A request that is given up when the case ends.
struct Queued(*mut mlxrt_request);

impl Drop for Queued {
    fn drop(&mut self) {
        // SAFETY: any handle is safe to free.
        unsafe { mlxrt_request_free(self.0) }
    }
}

fn submit(
    session: &Session,
    prompt: &Prompt,
    count: u32,
    priority: i32,
) -> Result<Queued, Failure> {
    let (input, mut options) = (prompt.input(), exactly(count));
    options.priority = priority;
    let mut request = std::ptr::null_mut();
    // SAFETY: complete structs, a writable output.
    outcome(unsafe { mlxrt_submit(session.0, &input, &options, &mut request) })?;
    Ok(Queued(request))
}

/// Waits for its end.
fn end(request: &Queued) -> mlxrt_result {
    let mut result = sized!(mlxrt_result);
    // SAFETY: a live request, a complete output struct.
    let ended = outcome(unsafe { mlxrt_request_result(request.0, MLXRT_FOREVER, &mut result) });
    assert!(ended.is_ok(), "{ended:?}");
    result
}

fn metrics() -> mlxrt_metrics_data {
    let mut data = sized!(mlxrt_metrics_data);
    // SAFETY: no model, a complete output struct.
    outcome(unsafe { mlxrt_metrics(std::ptr::null(), &mut data) }).unwrap();
    data
}

fn sessions(model: &Model, count: usize) -> Vec<Session> {
    (0..count).map(|_| model.session(0)).collect()
}

fn alone(priority: i32) -> Outcome {
    let model = load(&qwen()).unwrap();
    let mut options = exactly(8);
    options.priority = priority;
    let told = ask(model.session(0).0, &Prompt::Text(PROMPT), &options, |_| {
        true
    });
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    fine()
}

/// What the session holds ends with the right answer.
fn right(session: &Session) -> bool {
    ledger(session.0).ends_with(&RIGHT)
}

fn all_at_once() -> Outcome {
    let model = load(&qwen()).unwrap();
    let sessions = sessions(&model, 3 * PRIORITIES.len());
    let submitted = sessions.iter().zip(PRIORITIES.iter().cycle());
    let requests: Vec<Queued> = submitted
        .map(|(session, &priority)| submit(session, &Prompt::Text(PROMPT), 8, priority).unwrap())
        .collect();
    for (request, session) in requests.iter().zip(&sessions) {
        let result = end(request);
        ensure!(result.stop == MLXRT_STOPPED_LENGTH, "stop {}", result.stop);
        ensure!(right(session), "{:?}", ledger(session.0));
    }
    fine()
}

/// They go in the order in which they were submitted, whatever their priorities are.
fn in_one_queue() -> Outcome {
    let model = load(&qwen()).unwrap();
    let session = model.session(0);
    let submitted = PRIORITIES.iter().cycle().take(300);
    let requests: Vec<Queued> = submitted
        .map(|&priority| submit(&session, &Prompt::Tokens(&[5, 6]), 1, priority).unwrap())
        .collect();
    for (n, request) in requests.iter().enumerate() {
        let result = end(request);
        let before = 3 * n as u64;
        ensure!(
            result.prompt_tokens == before + 2,
            "request {n} began with {} tokens",
            result.prompt_tokens
        );
    }
    fine()
}

/// There are always some of the highest priority, and nobody starves.
fn lowest_beside_highest() -> Outcome {
    static OVER: AtomicBool = AtomicBool::new(false);
    let model = load(&qwen()).unwrap();
    let low = model.session(0);
    let always_one = || {
        let mut options = exactly(100);
        options.priority = i32::MAX;
        while !OVER.load(Ordering::SeqCst) {
            let told = ask(model.session(0).0, &Prompt::Text(PROMPT), &options, |_| {
                true
            });
            assert!(told.failure.is_none(), "{:?}", told.failure);
        }
    };
    let mut result = sized!(mlxrt_result);
    let ended = std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(always_one)));
        let lowest = submit(&low, &Prompt::Text(PROMPT), 8, i32::MIN).unwrap();
        // SAFETY: a live request, a complete output struct.
        let ended = outcome(unsafe { mlxrt_request_result(lowest.0, 8000, &mut result) });
        OVER.store(true, Ordering::SeqCst);
        ended
    });
    if let Err(failure) = ended {
        return Err(Wrong(format!("it starves: {failure:?}")));
    }
    ensure!(right(&low), "{:?}", ledger(low.0));
    fine()
}

fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// The first of each session is parked, since nobody reads it, so that the others wait.
fn long_queue_waits() -> Outcome {
    let model = load(&qwen()).unwrap();
    let sessions = sessions(&model, SESSIONS);
    let before = resident();
    let mut requests = vec![];
    for n in 0..QUEUED {
        let session = &sessions[n % sessions.len()];
        let request = submit(session, &Prompt::Text(PROMPT), 1000, PRIORITIES[n % 7]);
        requests.push(request.unwrap());
    }
    let grown = before
        .zip(resident())
        .map(|(before, after)| after.saturating_sub(before));
    // And the keys and values of ten, with room to spare.
    let most = QUEUED as u64 * BYTES_OF_ONE + (16 << 20);
    ensure!(
        grown.is_none_or(|grown| grown < most),
        "{QUEUED} requests take {grown:?} bytes"
    );
    let waiting = metrics().requests_waiting;
    ensure!(
        (QUEUED - SESSIONS..=QUEUED).contains(&(waiting as usize)),
        "{waiting} wait"
    );
    // Others have their turns.
    let told = ask(
        model.session(0).0,
        &Prompt::Text(PROMPT),
        &exactly(8),
        |_| true,
    );
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    drop(requests);
    drop(sessions);
    drop(model);
    let left = metrics();
    ensure!(
        left.requests_waiting == 0 && left.requests_running == 0,
        "{} wait and {} run afterwards",
        left.requests_waiting,
        left.requests_running
    );
    fine()
}

fn long_queue_ends() -> Outcome {
    let model = load(&qwen()).unwrap();
    let sessions = sessions(&model, SESSIONS);
    let mut requests = vec![];
    for n in 0..QUEUED {
        let session = &sessions[n % sessions.len()];
        let request = submit(session, &Prompt::Tokens(&[5]), 1, PRIORITIES[n % 7]);
        requests.push(request.unwrap());
    }
    for request in &requests {
        let result = end(request);
        ensure!(result.stop == MLXRT_STOPPED_LENGTH, "stop {}", result.stop);
    }
    for session in &sessions {
        let held = ledger(session.0).len();
        ensure!(
            held == 2 * QUEUED / SESSIONS,
            "a session holds {held} tokens"
        );
    }
    fine()
}

fn more_than_the_process_takes() -> Outcome {
    let model = load(&qwen()).unwrap();
    let count = MOST_OF_PROCESS / MOST_OF_SESSION + 1;
    let sessions = sessions(&model, count);
    let mut requests = vec![];
    let failure = loop {
        let session = &sessions[requests.len() % count];
        match submit(session, &Prompt::Tokens(&[5]), 1000, 0) {
            Ok(request) if requests.len() < MOST_OF_PROCESS => requests.push(request),
            Ok(_) => return Err(Wrong("it takes more and more".into())),
            Err(failure) => break failure,
        }
    };
    let taken = requests.len();
    ensure!(taken == MOST_OF_PROCESS, "{taken} requests wait");
    // One that ends makes room for another.
    requests.pop();
    submit(&sessions[0], &Prompt::Tokens(&[5]), 1, 0).map_err(|f| Wrong(format!("{f:?}")))?;
    named(
        &failure,
        &["RESOURCES"],
        &["16384 submitted requests of this process"],
    )
}
