//! What a caller sends to be rendered: flags, then messages, tools and template_args, a NUL between them. Through every
//! built-in format, a fixture's template, and one that prints tools, calls and arguments.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mlxrt_fuzz::error::{Code, Error};
use mlxrt_fuzz::template::{Json, Now, Object, Origin};
use mlxrt_fuzz::text::{
    continued_text, ChatFormat, ChatTemplate, Message, Piece, RenderOptions, TemplateFiles,
    TemplateOptions,
};
use mlxrt_fuzz::{on_small_stack, peak, scratch};

const HEAP: usize = 64 << 20;
const FORMATS: [ChatFormat; 5] = [
    ChatFormat::Qwen,
    ChatFormat::Gemma,
    ChatFormat::Llama,
    ChatFormat::Mistral,
    ChatFormat::Llama2,
];
/// All that a template can reach of a conversation, in Python's print, as JSON and as text.
const SHOWS_ALL: &str =
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m }}\
    {% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{% endfor %}\
    {% for t in tools or [] %}{{ t | tojson(indent=2) }}{% endfor %}\
    {{ enable_thinking }}{{ custom }}{% if add_generation_prompt %}<|assistant|>{% endif %}";

fuzz_target!(|data: &[u8]| on_small_stack(data, check));

fn check(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else {
        return;
    };
    let mut parts = data.split(|byte| *byte == 0);
    let (messages, heap) = peak(|| Message::parse_list(parts.next().unwrap_or_default()));
    assert!(heap <= HEAP, "parsing held {heap} bytes");
    let messages = match messages {
        Ok(messages) => messages,
        Err(error) => return refusal(&error),
    };
    let mut json = || Json::parse(parts.next()?).ok();
    let (tools, args) = (json(), json());
    let args = args.as_ref().and_then(|args| match args {
        Json::Object(args) => Some(args),
        _ => None,
    });
    let (prompt, open) = (flags & 1 != 0, flags & 2 != 0);

    let ((), heap) = peak(|| {
        for format in FORMATS {
            let options = RenderOptions {
                bos: (flags & 4 != 0).then_some("<s>"),
                eos: (flags & 8 != 0).then_some("</s>"),
                tools: tools.as_ref(),
                add_generation_prompt: prompt,
                continue_last: open,
            };
            match format.render(&messages, options) {
                Ok(pieces) => {
                    rendered(&pieces, open.then(|| continued_text(&messages, &pieces)));
                    // A built-in format writes ASCII; the rest is somebody's.
                    let own = |piece: &Piece| piece.origin == Origin::Template;
                    for piece in pieces.iter().filter(|piece| own(piece)) {
                        assert!(piece.text.is_ascii(), "{format:?} wrote {piece:?}");
                    }
                }
                Err(error) => refusal(&error),
            }
        }
        for template in templates() {
            let options = TemplateOptions {
                tools: tools.as_ref(),
                args,
                add_generation_prompt: prompt,
                continue_last: open,
            };
            match template.render(&messages, options, &now) {
                Ok(pieces) => {
                    // What templates write after the text is cut.
                    rendered(&pieces, open.then(|| continued_text(&messages, &pieces)));
                    let twice = template.render(&messages, options, &now);
                    assert_eq!(twice.ok().as_ref(), Some(&pieces));
                    // Without arguments, which are the host's, the same holds here.
                    for piece in pieces.iter().filter(|_| args.is_none_or(|args| *args == Object::default())) {
                        let own = piece.origin == Origin::Template;
                        assert!(!own || piece.text.is_ascii(), "a template wrote {piece:?}");
                    }
                }
                Err(error) => refusal(&error),
            }
        }
    });
    assert!(heap <= HEAP, "rendering held {heap} bytes");
}

/// Every piece has text; a continued text is the end.
fn rendered(pieces: &[Piece], continued: Option<String>) {
    assert!(pieces.iter().all(|piece| !piece.text.is_empty()));
    if let Some(continued) = continued {
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert!(text.ends_with(&continued), "{text:?} after {continued:?}");
    }
}

fn refusal(error: &Error) {
    use Code::{InvalidArgument, Resources, Unsupported};
    assert!(
        matches!(error.code, InvalidArgument | Resources | Unsupported),
        "{error:?} has another code"
    );
    assert!(error.message.len() < 4096 && !error.message.is_empty());
}

fn templates() -> &'static [ChatTemplate] {
    static TEMPLATES: OnceLock<Vec<ChatTemplate>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let fixture = scratch::fixture("llama-f32", "chat_template.jinja");
        let special = [("bos_token".to_owned(), "<s>".to_owned())];
        [&fixture[..], SHOWS_ALL.as_bytes()]
            .map(|source| {
                let files = TemplateFiles {
                    jinja: Some(Ok(source.to_vec())),
                    ..TemplateFiles::default()
                };
                ChatTemplate::find(files, &special).expect("it is there")
            })
            .into()
    })
}

fn now() -> Now {
    Now {
        year: 2026,
        month: 11,
        day: 21,
        hour: 0,
        minute: 0,
        second: 0,
        microsecond: 0,
    }
}
