//! Row 20: cancel and deadline: from another thread, in the callback, before the start, after the end. Each leaves the
//! session usable, with exactly what was delivered. (What is submitted joins `Way` below.)

use std::ffi::c_void;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::abi::*;
use crate::child::{ask, exactly, ledger, Shared, Told, PROMPT, RIGHT};
use crate::common::{load, Model, Prompt, Session};
use crate::folder::Folder;
use crate::list::Cases;
use crate::verdict::*;
use crate::{ensure, list_class, sized};

list_class!("20", "cancel and deadline, in any place", "cancel");

/// Longer than any step or chunk takes on a busy machine, and far shorter than the request.
const SOON: Duration = Duration::from_millis(1500);
/// More tokens than a request gets to in the time before it is ended, in its prompt or its answer.
const LONG: u32 = 30_000;

/// How far the engine may have run ahead of a callback on a busy machine.
const MOST_QUEUED: usize = 64;

/// How a running request is ended.
#[derive(Clone, Copy, Debug)]
enum Way {
    Cancel,
    CancelTwice,
    Free,
    Shutdown,
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    let mut add = |what: String, run: Box<dyn FnOnce() -> Outcome>| cases.push((what, run));
    for way in [Way::Cancel, Way::CancelTwice, Way::Free, Way::Shutdown] {
        for ms in [0, 1, 3, 10, 30] {
            let run = move || from_another_thread(way, ms, false);
            add(format!("{way:?} after {ms} ms of decoding"), Box::new(run));
            let run = move || from_another_thread(way, ms, true);
            add(
                format!("{way:?} after {ms} ms of a long prompt"),
                Box::new(run),
            );
        }
        for event in [1, 2, 5, 20] {
            let run = move || in_the_callback(way, event);
            add(
                format!("{way:?} in the callback of event {event}"),
                Box::new(run),
            );
        }
    }
    for event in [1, 2, 3, 50] {
        let run = move || stopped_by_the_callback(event);
        add(format!("STOP at event {event}"), Box::new(run));
    }
    for ms in [1, 2, 5, 10, 20, 50, 100] {
        add(
            format!("a deadline of {ms} ms"),
            Box::new(move || deadline(ms, 0)),
        );
        let run = move || deadline(ms, 3);
        add(
            format!("a deadline of {ms} ms, slow callbacks"),
            Box::new(run),
        );
    }
    for kind in ["BPE", "Unigram", "WordLevel", "added tokens"] {
        for ms in [1, 20, 60, 150, 400, 1000] {
            let run = move || long_vocabulary(kind, ms, usize::MAX);
            add(format!("a deadline of {ms} ms, {kind}"), Box::new(run));
        }
        for call in [1, 2, 5, 20] {
            let run = move || long_vocabulary(kind, 0, call);
            add(
                format!("STOP at call {call} of progress, {kind}"),
                Box::new(run),
            );
        }
    }
    for kind in ["numbers", "lists", "texts", "objects", "escapes"] {
        for ms in [1, 5, 20, 80] {
            let run = move || long_conversation(kind, ms, None);
            add(
                format!("a deadline of {ms} ms, a message of {kind}"),
                Box::new(run),
            );
            for way in [Way::Cancel, Way::Free, Way::Shutdown] {
                let run = move || long_conversation(kind, ms, Some(way));
                add(
                    format!("{way:?} after {ms} ms of a message of {kind}"),
                    Box::new(run),
                );
            }
        }
    }
    for ms in [1, 20] {
        let run = move || more_tokens_than_fit(ms);
        add(
            format!("a deadline of {ms} ms, more tokens than fit"),
            Box::new(run),
        );
    }
    add("cancel before the start".into(), Box::new(before_the_start));
    add("cancel after the end".into(), Box::new(after_the_end));
    add(
        "cancel of another session".into(),
        Box::new(another_session),
    );
    add(
        "cancels from eight threads".into(),
        Box::new(from_many_threads),
    );
    cases
}

fn end(way: Way, session: *mut mlxrt_session) {
    // SAFETY: handles may be used in any order; the library checks them.
    unsafe {
        match way {
            Way::Cancel => mlxrt_session_cancel(session),
            Way::CancelTwice => {
                mlxrt_session_cancel(session);
                mlxrt_session_cancel(session);
            }
            Way::Free => mlxrt_session_free(session),
            Way::Shutdown => {
                let _ = crate::common::outcome(mlxrt_shutdown(MLXRT_SHUTDOWN_FORCE, MLXRT_FOREVER));
            }
        }
    }
}

/// With room for a prompt and an answer of `LONG` tokens.
fn fresh() -> (Model, Session) {
    let folder = Folder::copy_of("qwen3-f32");
    folder.edit("config.json", |config| {
        config["max_position_embeddings"] = json!(1 << 16);
    });
    let model = load(folder.path()).unwrap();
    let session = model.session(0);
    (model, session)
}

/// Until a request is there to be ended: before it, a cancel does nothing.
fn wait_until_busy(session: *mut mlxrt_session) {
    let mut state = sized!(mlxrt_session_state);
    while state.busy == 0 {
        // SAFETY: a live handle and a complete output struct.
        crate::common::outcome(unsafe { mlxrt_session_info(session, &mut state) }).unwrap();
        std::thread::yield_now();
    }
}

/// The ledger is the prompt and what was delivered, and the session goes on.
fn usable(session: &Session, told: &Told) -> Result<(), Verdict> {
    let now = ledger(session.0);
    ensure!(
        now.ends_with(&told.tokens),
        "the ledger lost tokens that were delivered"
    );
    let next = ask(
        session.0,
        &Prompt::Messages(r#"[{"role":"user","content":"Hi"}]"#),
        &exactly(3),
        |_| true,
    );
    ensure!(next.failure.is_none(), "afterwards {:?}", next.failure);
    ensure!(next.tokens.len() == 3, "afterwards {:?}", next.tokens);
    Ok(())
}

fn from_another_thread(way: Way, ms: u64, long_prompt: bool) -> Outcome {
    let (_model, session) = fresh();
    let ids = vec![7; LONG as usize];
    let prompt = match long_prompt {
        true => Prompt::Tokens(&ids),
        false => Prompt::Text(PROMPT),
    };
    let handle = Shared(session.0);
    let (told, took) = std::thread::scope(|scope| {
        let ending = scope.spawn(move || {
            wait_until_busy(handle.get());
            std::thread::sleep(Duration::from_millis(ms));
            let now = Instant::now();
            end(way, handle.get());
            now
        });
        let told = ask(session.0, &prompt, &exactly(LONG), |_| true);
        (told, ending.join().unwrap().elapsed())
    });
    ensure!(took < SOON, "it went on for {took:?}");
    if let Some(failure) = &told.failure {
        // It was still queued when the engine ended.
        return named(failure, &["CANCELLED"], &[]);
    }
    let over = told.result.stop;
    ensure!(over == MLXRT_STOPPED_CANCELLED, "stop {over}");
    if matches!(way, Way::Cancel | Way::CancelTwice) {
        usable(&session, &told)?;
    }
    fine()
}

fn in_the_callback(way: Way, event: usize) -> Outcome {
    let (_model, session) = fresh();
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(LONG), |number| {
        if number == event {
            end(way, session.0);
        }
        // Shutdown is refused here: then the callback ends it.
        !matches!(way, Way::Shutdown) || number < event
    });
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    let wanted = match way {
        Way::Shutdown => MLXRT_STOPPED_CALLBACK,
        _ => MLXRT_STOPPED_CANCELLED,
    };
    ensure!(told.result.stop == wanted, "stop {}", told.result.stop);
    // Tokens that the engine had queued by then may still come.
    ensure!(
        told.events <= event + MOST_QUEUED,
        "{} events after {event}",
        told.events
    );
    if !matches!(way, Way::Free) {
        usable(&session, &told)?;
    }
    fine()
}

fn stopped_by_the_callback(event: usize) -> Outcome {
    let (_model, session) = fresh();
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(LONG), |number| {
        number < event
    });
    ensure!(
        told.result.stop == MLXRT_STOPPED_CALLBACK,
        "stop {}",
        told.result.stop
    );
    ensure!(told.events == event, "{} events", told.events);
    usable(&session, &told)?;
    fine()
}

fn deadline(ms: u32, slow_ms: u64) -> Outcome {
    let (_model, session) = fresh();
    let mut options = exactly(LONG);
    options.timeout_ms = ms;
    let began = Instant::now();
    let told = ask(session.0, &Prompt::Text(PROMPT), &options, |_| {
        std::thread::sleep(Duration::from_millis(slow_ms));
        true
    });
    let took = began.elapsed();
    ensure!(took < SOON, "{took:?}");
    ensure!(told.failure.is_none(), "{:?}", told.failure);
    ensure!(
        told.result.stop == MLXRT_STOPPED_TIMEOUT,
        "stop {}",
        told.result.stop
    );
    ensure!(
        took >= Duration::from_millis(u64::from(ms)),
        "only {took:?}"
    );
    usable(&session, &told)?;
    fine()
}

/// JSON that takes long to read, and whose values take long to free, as long as it may be with the memory that a case has.
fn long_message(kind: &str) -> String {
    let list = |one: &str, count: usize| format!("[{}0]", one.repeat(count));
    let long = match kind {
        "numbers" => list("1,", 1_000_000),
        "lists" => list("[],", 500_000),
        "texts" => list("\"ab\",", 300_000),
        "objects" => list("{\"a\":1},", 200_000),
        _ => format!("\"{}\"", "\\u00e9".repeat(8_000_000)),
    };
    format!(r#"[{{"role":"user","content":"Hi","name":{long}}}]"#)
}

/// It ends in time by the deadline, or in the way that comes after as long, or was done before that.
fn long_conversation(kind: &str, ms: u32, way: Option<Way>) -> Outcome {
    let (_model, session) = fresh();
    let messages = long_message(kind);
    let mut options = exactly(LONG);
    options.timeout_ms = way.map_or(ms, |_| 0);
    let handle = Shared(session.0);
    let wait = Duration::from_millis(u64::from(ms));
    let (told, late) = std::thread::scope(|scope| {
        let ending = scope.spawn(move || {
            if let Some(way) = way {
                wait_until_busy(handle.get());
                std::thread::sleep(wait);
                end(way, handle.get());
            }
            Instant::now()
        });
        let began = Instant::now();
        let told = ask(session.0, &Prompt::Messages(&messages), &options, |_| true);
        let ended = ending.join().unwrap();
        let due = way.map_or(began + wait, |_| ended);
        (told, due.elapsed())
    });
    ensure!(late < SOON, "it ended {late:?} late");
    if let Some(failure) = &told.failure {
        return named(failure, &["CANCELLED"], &[]);
    }
    let wanted = way.map_or(MLXRT_STOPPED_TIMEOUT, |_| MLXRT_STOPPED_CANCELLED);
    let over = told.result.stop;
    ensure!(over == wanted, "stop {over}");
    if !matches!(way, Some(Way::Free | Way::Shutdown)) {
        usable(&session, &told)?;
    }
    fine()
}

/// Refused for what there is too much of, whatever its tokens are.
fn more_tokens_than_fit(ms: u32) -> Outcome {
    let (_model, session) = fresh();
    let ids = vec![-1; 100_000_000];
    let mut options = exactly(1);
    options.timeout_ms = ms;
    let told = ask(session.0, &Prompt::Tokens(&ids), &options, |_| true);
    drop(ids);
    let Some(failure) = &told.failure else {
        return Err(Wrong("it was accepted".to_owned()));
    };
    named(failure, &["CONTEXT_FULL"], &["100000000"])
}

fn before_the_start() -> Outcome {
    let (_model, session) = fresh();
    end(Way::CancelTwice, session.0);
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    fine()
}

fn after_the_end() -> Outcome {
    let (_model, session) = fresh();
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| true);
    end(Way::CancelTwice, session.0);
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    ensure!(
        told.result.stop == MLXRT_STOPPED_LENGTH,
        "stop {}",
        told.result.stop
    );
    usable(&session, &told)?;
    fine()
}

fn another_session() -> Outcome {
    let (model, session) = fresh();
    let other = model.session(0);
    let told = ask(session.0, &Prompt::Text(PROMPT), &exactly(8), |_| {
        end(Way::Cancel, other.0);
        true
    });
    ensure!(told.tokens == RIGHT, "{:?}", told.tokens);
    fine()
}

fn from_many_threads() -> Outcome {
    let (_model, session) = fresh();
    let handle = Shared(session.0);
    let told = std::thread::scope(|scope| {
        ask(session.0, &Prompt::Text(PROMPT), &exactly(LONG), |event| {
            if event == 3 {
                (0..8).for_each(|_| {
                    scope.spawn(move || end(Way::CancelTwice, handle.get()));
                });
            }
            true
        })
    });
    ensure!(
        told.result.stop == MLXRT_STOPPED_CANCELLED,
        "stop {}",
        told.result.stop
    );
    usable(&session, &told)?;
    fine()
}

/// A folder whose vocabulary is as long as the longest that are published; building it is one step of another crate.
fn long_folder(kind: &str) -> Folder {
    let folder = Folder::copy_of("qwen3-f32");
    let letters = || 'a'..='z';
    let mut all: Vec<String> = letters().map(String::from).collect();
    let (mut last, mut merges) = (all.clone(), vec![]);
    for _ in 0..3 {
        let pairs = last
            .iter()
            .flat_map(|first| letters().map(move |second| (first, second)));
        merges.extend(
            pairs
                .clone()
                .map(|(first, second)| format!("{first} {second}")),
        );
        last = pairs
            .map(|(first, second)| format!("{first}{second}"))
            .collect();
        all.extend(last.iter().cloned());
    }
    let numbered = || {
        let ids = all.iter().enumerate();
        ids.map(|(id, token)| (token.clone(), json!(id))).collect()
    };
    match kind {
        "added tokens" => folder.edit("tokenizer_config.json", |config| {
            let tokens = all.iter().take(60_000).enumerate().map(|(id, token)| {
                (id.to_string(), json!({"content": format!("<{token}>"), "special": true}))
            });
            config["added_tokens_decoder"] = Value::Object(tokens.collect());
        }),
        _ => folder.edit("tokenizer.json", |file| {
            file["added_tokens"] = json!([]);
            file["model"] = match kind {
                "BPE" => json!({"type": "BPE", "vocab": Value::Object(numbered()), "merges": merges}),
                "Unigram" => {
                    let scored: Vec<Value> = all.iter().map(|token| json!([token, -1.5])).collect();
                    json!({"type": "Unigram", "unk_id": 0, "vocab": scored})
                }
                _ => json!({"type": "WordLevel", "unk_token": "a", "vocab": Value::Object(numbered())}),
            };
        }),
    }
    folder
}

/// Ends when it is to end, not when the vocabulary is there; and another model loads afterwards.
fn long_vocabulary(kind: &str, ms: u32, stop_at: usize) -> Outcome {
    unsafe extern "C" fn hear(calls: *mut c_void, _: u64, _: u64) -> i32 {
        // SAFETY: user_data is the pair below, which lives through the call.
        let (calls, stop_at, stopped) = unsafe { &mut *calls.cast::<(usize, usize, Instant)>() };
        *calls += 1;
        *stopped = Instant::now();
        i32::from(*calls >= *stop_at)
    }
    let folder = long_folder(kind);
    let path = crate::common::c_path(folder.path());
    let began = Instant::now();
    let mut heard = (0_usize, stop_at, began);
    let mut options = sized!(mlxrt_load_options);
    options.timeout_ms = ms;
    options.progress = Some(hear);
    options.progress_data = (&raw mut heard).cast();
    let mut model = std::ptr::null_mut();
    // SAFETY: the path is NUL-terminated, the options complete, the output writable.
    let loaded = unsafe { mlxrt_model_load(path.as_ptr(), &options, &mut model) };
    let loaded = crate::common::outcome(loaded);
    let end = match stop_at {
        usize::MAX => began + Duration::from_millis(u64::from(ms)),
        _ => heard.2,
    };
    let late = end.elapsed();
    ensure!(
        loaded.is_ok() || late < Duration::from_secs(1),
        "it ended {late:?} late"
    );
    drop(loaded.is_ok().then(|| Model(model)));
    fine_or_named(loaded, &["TIMEOUT", "CANCELLED"], &["load"])
}
