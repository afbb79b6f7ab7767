//! What is other on a terminal: colours, and a chat with an editor.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::{endless, mlxrt, scratch, tiny};

/// The program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// All that was shown.
    shown: String,
    /// How much of it a test has looked at.
    seen: usize,
}

impl Terminal {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Terminal {
        let (mut host, mut program) = (0, 0);
        let null = std::ptr::null_mut();
        let size = libc::winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: both are places for descriptors, and size is whole.
        let opened = unsafe { libc::openpty(&mut host, &mut program, null, null.cast(), &size) };
        assert_eq!(opened, 0);
        // SAFETY: openpty has just given us both, and nobody else has them.
        let (host, program) = unsafe { (File::from_raw_fd(host), File::from_raw_fd(program)) };
        let end = || Stdio::from(program.try_clone().unwrap());
        let mut command = mlxrt(arguments);
        command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .envs(environment.iter().copied());
        // SAFETY: setsid and ioctl may be called between fork and exec. The terminal becomes the controlling one, so that
        // its Ctrl-C is a signal.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        drop(command);
        drop(program);
        let mut reader = host.try_clone().unwrap();
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal {
            child,
            keys: host,
            screen,
            shown: String::new(),
            seen: 0,
        }
    }

    /// Waits until words are shown, behind those that were waited for before.
    #[track_caller]
    fn expect(&mut self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.shown[self.seen..].find(words) {
                self.seen += at + words.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.screen.recv_timeout(left) else {
                panic!("{words:?} did not come: {:?}", &self.shown);
            };
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn end(mut self) -> (String, Option<i32>) {
        let code = self.child.wait().unwrap().code();
        while let Ok(bytes) = self.screen.recv_timeout(Duration::from_secs(5)) {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        (self.shown, code)
    }
}

#[test]
fn colours_are_for_terminals() {
    let shown = |more: &[&str], environment: &[(&str, &str)]| {
        let model = tiny();
        let (text, code) = Terminal::start(&[&["info", &model], more].concat(), environment).end();
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("Family"), "{text}");
        text.contains("\x1b[")
    };
    assert!(shown(&[], &[]));
    assert!(!shown(&[], &[("NO_COLOR", "1")]));
    assert!(!shown(&[], &[("TERM", "dumb")]));
    assert!(!shown(&["--color", "never"], &[]));
    assert!(!crate::run(["info", &tiny()]).fine().contains('\x1b'));
    assert!(crate::run(["info", &tiny(), "--color", "always"])
        .fine()
        .contains('\x1b'));
}

#[test]
fn no_prompt_on_a_terminal_is_said() {
    let model = tiny();
    let (text, code) = Terminal::start(&["generate", &model], &[]).end();
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no prompt"), "{text}");
}

#[test]
fn other_peoples_text_does_not_steer_the_terminal() {
    let (text, code) = Terminal::start(&["info", "/no/\x1b]0;evil\x07"], &[]).end();
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("evil") && !text.contains("\x1b]"), "{text:?}");
}

#[test]
fn chat_goes_on_after_ctrl_c() {
    let state = scratch("state");
    let model = endless("endless-chat");
    let mut chat = Terminal::start(
        &[
            "chat",
            &model,
            "--greedy",
            "--ignore-eos",
            "--color",
            "never",
        ],
        &[("XDG_STATE_HOME", state.to_str().unwrap())],
    );
    chat.expect("Ctrl-D ends");
    chat.expect("> ");
    chat.type_in("What is the capital of France?\r");
    chat.expect("Paris");
    chat.type_in("\x03");
    chat.expect("[stopped]");
    chat.expect("> ");
    chat.type_in("/stats\r");
    chat.expect("2 messages");
    chat.expect("> ");
    // What is wrong ends no chat here.
    chat.type_in("/nonsense\r");
    chat.expect("there is no command /nonsense");
    chat.expect("> ");
    chat.type_in("/re\t\r");
    chat.expect("A new conversation.");
    chat.expect("> ");
    // An empty line edited away by Ctrl-C, then the end.
    chat.type_in("abc\x03");
    chat.expect("> ");
    chat.type_in("\x04");
    let (text, code) = chat.end();
    assert_eq!(code, Some(0), "{text}");
    let history = std::fs::read_to_string(state.join("mlxrt/history")).unwrap();
    assert!(history.contains("capital of France"), "{history}");
}
