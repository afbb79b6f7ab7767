//! What cannot be written or read, is busy or fails in the middle leaves everything as it was.

use super::*;

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let _lock = engine_lock();
    let (folder, path) = place("unwritten");
    let model = load("qwen3-f32");
    let own = session(&model);
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 4);
    save(&own, &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let next = Input::Tokens(vec![9]);
    ask(&own, &next, 4);
    let held = own.tokens();
    let fails = |path: &Path, code: Code, words: &str| {
        let error = save(&own, path).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(words), "{error}");
    };
    fails(&path.join("below"), Code::Io, "session.safetensors");
    std::fs::create_dir(folder.0.join("folder")).unwrap();
    fails(
        &folder.0.join("folder"),
        Code::Io,
        "is a folder, not a regular file",
    );
    fails(&folder.0.join("name/"), Code::Io, "is no name of a file");
    fails(Path::new("/"), Code::Io, "is no name of a file");
    fails(Path::new("/proc/nothing/here"), Code::Io, "/proc");
    fails(
        Path::new("/dev/full"),
        Code::Io,
        "is a device, not a regular file",
    );
    fails(&folder.0.join("n".repeat(300)), Code::Io, "too long");
    // Stopped at each step, late, cancelled.
    let stops = |n: u64| {
        let mut left = n;
        let mut progress = |_, _| {
            left -= 1;
            left > 0
        };
        own.save(&path, watch(&mut progress))
    };
    let mut stopped = 0;
    for n in 1.. {
        match stops(n) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.code, Code::Cancelled, "{error}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), good);
        stopped += 1;
    }
    assert!(stopped > 4, "{stopped} steps");
    let late = SaveOptions {
        deadline: Some(Instant::now() - Duration::from_millis(1)),
        progress: &mut |_, _| true,
    };
    let good = std::fs::read(&path).unwrap();
    assert_eq!(own.save(&path, late).unwrap_err().code, Code::Timeout);
    let mut cancels = |_, _| {
        own.ledger.cancel();
        true
    };
    let cancelled = own.save(&path, watch(&mut cancels)).unwrap_err();
    assert_eq!(cancelled.code, Code::Cancelled);
    assert_eq!(std::fs::read(&path).unwrap(), good);
    assert_eq!(own.tokens(), held);
    let names = std::fs::read_dir(&folder.0).unwrap();
    assert_eq!(names.count(), 2, "something was left behind");
    ask(&own, &next, 4);
    save(&own, &path).unwrap();
    // And what is read can be stopped, too.
    let load = |deadline, progress: &mut dyn FnMut(u64, u64) -> bool| {
        let options = SessionLoad { deadline, progress };
        Session::load(model.clone(), &path, &[], options)
    };
    refused(
        load(None, &mut |_, _| false),
        Code::Cancelled,
        "progress callback",
    );
    let late = Some(Instant::now() - Duration::from_millis(1));
    refused(load(late, &mut |_, _| true), Code::Timeout, "timeout_ms");
}

#[test]
fn a_busy_session_is_not_saved_and_one_that_is_saved_is_busy() {
    let _lock = engine_lock();
    let (_folder, path) = place("busy");
    let model = load("qwen3-f32");
    let own = Arc::new(session(&model));
    let mut tried = Vec::new();
    let (_, result) = generate(
        &own,
        &Input::Tokens(vec![1, 2, 3]),
        &exactly(3),
        &mut |_| {
            tried.push(save(&own, &path).unwrap_err().code);
            true
        },
    );
    result.unwrap();
    assert!(tried.len() > 1 && tried.iter().all(|code| *code == Code::Busy));
    assert!(!path.exists());
    let next = Input::Tokens(vec![4]);
    let mut request = None;
    let mut progress = |_, _| {
        assert!(own.info().busy);
        let (_, refused) = generate(&own, &next, &exactly(1), &mut |_| true);
        assert_eq!(refused.unwrap_err().code, Code::Busy);
        assert_eq!(own.fork().err().map(|error| error.code), Some(Code::Busy));
        // One that is submitted waits.
        request.get_or_insert_with(|| submit(own.clone(), &next, &exactly(2), None).unwrap());
        true
    };
    own.save(&path, watch(&mut progress)).unwrap();
    request.unwrap().result(None).unwrap().1.unwrap();
    assert_eq!(own.tokens().unwrap().len(), 9);
    assert_eq!(restore(&model, &path).unwrap().tokens().unwrap().len(), 6);
}

/// A session that is freed while it is saved, and others that need its memory.
#[test]
fn a_save_keeps_what_it_writes() {
    let _lock = engine_lock();
    let (_folder, path) = place("kept");
    let (model, elsewhere) = (load("qwen3-f32"), load("qwen3-f32"));
    let own = session(&model);
    ask(&own, &Input::Tokens((0..60).collect()), 4);
    let mut trims = 0;
    let mut progress = |_, _| {
        let trim = |worker: &mut crate::runtime::worker::Worker| {
            worker.trim(Trim::IdleSessions);
            Ok(())
        };
        model.engine.call(trim).unwrap();
        trims += 1;
        true
    };
    own.save(&path, watch(&mut progress)).unwrap();
    assert!(trims > 4);
    assert_eq!(own.info().kv_tokens, 0);
    let restored = restore(&elsewhere, &path).unwrap();
    assert_eq!(restored.info().kv_tokens, 63);
    let next = Input::Tokens(vec![9]);
    assert_eq!(ask(&restored, &next, 8).0, ask(&own, &next, 8).0);
    let mut closes = |_, _| {
        own.close();
        true
    };
    let closed: Result<()> = own.save(&path, watch(&mut closes));
    assert_eq!(closed.unwrap_err().code, Code::Cancelled);
    drop(own);
    model.engine.call(|_| Ok(())).unwrap();
}

#[test]
fn where_memory_is_short_a_session_is_refused_and_nothing_stays() {
    let _lock = engine_lock();
    let (_folder, path) = place("memory");
    let model = load("qwen3-f32");
    let own = session(&model);
    ask(&own, &Input::Tokens((0..100).collect()), 4);
    save(&own, &path).unwrap();
    drop(own);
    model.engine.call(|_| Ok(())).unwrap();
    let (limit, active) = (memory::limit(), memory::active());
    memory::set_limit(active + 4096).unwrap();
    let outcome = restore(&model, &path);
    memory::set_limit(limit).unwrap();
    refused(outcome, Code::OutOfMemory, "session.safetensors");
    model.engine.call(|_| Ok(())).unwrap();
    assert!(memory::active() <= active);
    restore(&model, &path).unwrap();
}

/// MLX fails at each of its calls, once: what is written is whole, or there is an error and nothing is lost.
#[test]
fn a_fault_at_any_call_loses_nothing() {
    let _lock = engine_lock();
    let (_folder, path) = place("faults");
    let model = load("lfm2-f32");
    let next = Input::Tokens(vec![9]);
    let own = session(&model);
    ask(&own, &Input::Tokens(vec![3, 4, 5]), 4);
    save(&own, &path).unwrap();
    let wanted = ask(&own.fork().unwrap(), &next, 6).0;
    let good = std::fs::read(&path).unwrap();
    let inject = |n: u64| {
        let fault = move |_: &mut crate::runtime::worker::Worker| {
            fault::fail_at(n);
            Ok(())
        };
        model.engine.call(fault).unwrap();
    };
    let struck = || model.engine.call(|_| Ok(!fault::pending())).unwrap();
    let of_mlx = |error: Error| assert_eq!(error.code, Code::Device, "{error}");
    let mut faults = [0, 0];
    for n in 1.. {
        inject(n);
        save(&own, &path).unwrap();
        let hit = struck();
        inject(0);
        if !hit {
            break;
        }
        faults[0] += 1;
        // Which tokens were computed, and how, is the same.
        assert_eq!(
            std::fs::read(&path).unwrap().len(),
            good.len(),
            "fault at {n}"
        );
        let restored = restore(&model, &path).unwrap();
        assert_eq!(ask(&restored, &next, 6).0, wanted, "fault at {n}");
    }
    for n in 1.. {
        inject(n);
        let restored = restore(&model, &path);
        let hit = struck();
        inject(0);
        match restored {
            Ok(restored) => assert_eq!(ask(&restored, &next, 6).0, wanted, "fault at {n}"),
            Err(error) => of_mlx(error),
        }
        if !hit {
            break;
        }
        faults[1] += 1;
    }
    assert!(faults[0] > 8 && faults[1] > 4, "{faults:?}");
    assert_eq!(ask(&own, &next, 6).0, wanted);
}
