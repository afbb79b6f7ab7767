//! Ctrl-C, SIGTERM, and a reader that goes away.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::{endless, json_lines, mlxrt, scratch, tiny};

fn send(child: &Child, signal: i32) {
    // SAFETY: the child is ours and not yet waited for, so that its id is no one else's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Starts it, waits for the first line, sends the signal; gives all lines and the exit code.
fn interrupted(arguments: &[&str], signal: i32) -> (String, Option<i32>) {
    let mut child = mlxrt(arguments).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    send(&child, signal);
    out.read_to_string(&mut text).unwrap();
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert!(!err.contains("panicked"), "{err}");
    (text, child.wait().unwrap().code())
}

#[test]
fn generate_ends_cleanly() {
    let model = endless("endless-signals");
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let base = [
            "generate",
            &model,
            "Tell me a story.",
            "--ignore-eos",
            "--json",
        ];
        let (text, exit) = interrupted(&base, signal);
        assert_eq!(exit, Some(code), "{text}");
        let events = json_lines(&text);
        let [.., end, error] = &events[..] else {
            panic!("{text}");
        };
        assert_eq!(
            (&end["event"], &end["stop"]),
            (&"end".into(), &"cancelled".into())
        );
        assert_eq!(
            (&error["event"], &error["code"], &error["exit"]),
            (&"error".into(), &"CANCELLED".into(), &code.into())
        );
    }
}

#[test]
fn training_keeps_what_there_is() {
    let folder = scratch("interrupted");
    let (data, out) = (folder.join("data.jsonl"), folder.join("out"));
    fs::write(&data, "{\"text\":\"abcabc\"}\n".repeat(4)).unwrap();
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let (text, exit) = interrupted(
        &[
            "train",
            &tiny(),
            "--data",
            data,
            "--out",
            out,
            "--steps",
            "4000000",
            "--save-every",
            "4000000",
            "--json",
        ],
        libc::SIGINT,
    );
    assert_eq!(exit, Some(130), "{text}");
    let events = json_lines(&text);
    let [.., end, error] = &events[..] else {
        panic!("{text}");
    };
    assert_eq!(error["exit"], 130);
    assert_eq!(
        (&end["stopped"], &end["saved"]),
        (&true.into(), &true.into())
    );
    assert!(Path::new(out).join("adapters.safetensors").is_file());
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let model = endless("endless-reader");
    for arguments in [
        &["generate", &model, "Tell me a story.", "--ignore-eos"][..],
        &[
            "generate",
            &model,
            "Tell me a story.",
            "--ignore-eos",
            "--json",
        ],
    ] {
        let mut child = mlxrt(arguments).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        drop(out);
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(141), "{err}");
        assert_eq!(err, "");
    }
}

#[test]
fn nobody_reads_at_all() {
    for arguments in [
        &["info", &tiny()][..],
        &["--help"],
        &["completions", "bash"],
        &["generate", &tiny(), "a", "-n", "3"],
    ] {
        let mut child = mlxrt(arguments).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        let code = child.wait().unwrap().code();
        assert!(code.is_some(), "ended by a signal: {arguments:?}");
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[test]
fn a_chat_saves_its_session() {
    let folder = scratch("saved-by-a-signal");
    let file = folder.join("talk.session");
    let name = file.to_str().unwrap();
    let model = tiny();
    let arguments = [
        "chat",
        &model,
        "--session",
        name,
        "--json",
        "--greedy",
        "-n",
        "3",
        "--ignore-eos",
    ];
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let _ = fs::remove_file(&file);
        let mut child = mlxrt(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"ab\n").unwrap();
        let mut line = String::new();
        while !line.contains("\"end\"") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0);
        }
        // It waits for the next line, once the messages are there.
        let messages = folder.join("talk.session.json");
        let wanted = |text: String| text.matches("role").count() == 2;
        while !fs::read_to_string(&messages).is_ok_and(wanted) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(file.exists());
        let _ = fs::remove_file(&messages);
    }
}
