//! The built-in formats against the families' own templates.

use serde_json::Value;

use super::shared;
use crate::error::Code;
use crate::error::Result;
use crate::text::tokenizer::Origin;
use crate::text::{ChatFormat, Message, RenderOptions};
use serde_json::json;

fn render(format: ChatFormat, messages: &Value, options: RenderOptions) -> Result<String> {
    let messages = Message::parse_list(messages.to_string().as_bytes())?;
    let pieces = format.render(&messages, options)?;
    Ok(pieces.into_iter().map(|p| p.text).collect())
}

/// transformers' renders of the families' own templates.
#[test]
fn prints_what_the_families_templates_print() {
    let Some(folder) = shared("renders") else {
        return;
    };
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let inputs = read("_inputs.json");
    let all = ["basic", "system", "tools", "toolcall", "toolcall_strargs"];
    let plain = &all[..2];
    for (name, format, cases) in [
        ("qwen3-0.6b", ChatFormat::Qwen, &all[..]),
        // Without a system message Qwen2.5 adds its own, which ChatML has not; its string arguments differ too.
        ("qwen2.5-0.5b-instruct", ChatFormat::Qwen, &all[1..2]),
        ("gemma-3-4b-it", ChatFormat::Gemma, plain),
        ("gemma-2-9b-it", ChatFormat::Gemma, &all[..1]),
        ("llama-3-instruct", ChatFormat::Llama, plain),
        ("mistral-7b-instruct-v0.3", ChatFormat::Mistral, plain),
    ] {
        let renders = read(&format!("{name}.json"));
        for case in cases {
            let input = &inputs["cases"][case];
            let bos = (format != ChatFormat::Llama).then_some("<s>");
            let tools = input.get("tools");
            let options = RenderOptions {
                bos,
                tools,
                add_generation_prompt: true,
                ..RenderOptions::default()
            };
            let got = render(format, &input["messages"], options).unwrap();
            assert_eq!(Value::from(got), renders[case]["text"], "{name} {case}");
        }
    }
    // This adaptation of Llama 2's template lets line breaks and indentation through.
    for case in plain {
        let bare = |text: &str| {
            text.split('\n')
                .map(str::trim)
                .filter(|l| !l.is_empty())
                .collect::<String>()
        };
        let got = render(
            ChatFormat::Llama2,
            &inputs["cases"][case]["messages"],
            RenderOptions::default(),
        )
        .unwrap();
        let text = &read("cz-llama-2-chat.json")[case]["text"];
        assert_eq!(
            bare(&got.replace("[/INST] ", "[/INST]")),
            bare(text.as_str().unwrap()),
            "{case}"
        );
    }
}

#[test]
fn a_continued_answer_ends_the_prompt_unchanged() {
    let messages = json!([{"role":"user","content":" q "},{"role":"assistant","content":" so \n"}]);
    let options = RenderOptions {
        continue_last: true,
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    for (format, wanted) in [
        (
            ChatFormat::Qwen,
            "<|im_start|>user\n q <|im_end|>\n<|im_start|>assistant\n so \n",
        ),
        (
            ChatFormat::Gemma,
            "<bos><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n so \n",
        ),
        (ChatFormat::Mistral, "<s>[INST]  q [/INST]  so \n"),
        (ChatFormat::Llama2, "<s>[INST] q [/INST]  so \n"),
    ] {
        assert_eq!(render(format, &messages, options).unwrap(), wanted);
    }
    let e = render(
        ChatFormat::Qwen,
        &json!([{"role":"user","content":"q"}]),
        options,
    )
    .unwrap_err();
    assert!(
        e.message
            .starts_with("messages[0].role must be \"assistant\""),
        "{e}"
    );
}

/// Python strips the four information separators too.
#[test]
fn trims_as_python_does() {
    let messages = json!([{"role":"user","content":"\u{1c}\u{a0} q\u{200b}\u{1f}\n"}]);
    let got = render(ChatFormat::Gemma, &messages, RenderOptions::default()).unwrap();
    assert_eq!(got, "<bos><start_of_turn>user\nq\u{200b}<end_of_turn>\n");
}

#[test]
fn every_piece_knows_who_wrote_it() {
    let messages = json!([{"role":"system","content":"S"},{"role":"user","content":"U"},
        {"role":"assistant","content":"A","tool_calls":[{"name":"N","arguments":{"k":"V"}}]},
        {"role":"tool","content":"T"}]);
    let messages = Message::parse_list(messages.to_string().as_bytes()).unwrap();
    let tools = json!([{"name":"X"}]);
    let options = RenderOptions {
        tools: Some(&tools),
        ..RenderOptions::default()
    };
    let pieces = ChatFormat::Qwen.render(&messages, options).unwrap();
    let of = |origin| -> Vec<&str> {
        pieces
            .iter()
            .filter(|p| p.origin == origin)
            .map(|p| p.text.as_str())
            .collect()
    };
    assert_eq!(of(Origin::Content), ["S", "{\"name\": \"X\"}", "U", "T"]);
    assert_eq!(of(Origin::Assistant), ["A", "N", "{\"k\": \"V\"}"]);
    assert!(pieces.windows(2).all(|w| w[0].origin != w[1].origin));
}

#[test]
fn what_a_format_lacks_is_named() {
    let user = json!({"role":"user","content":"q"});
    let tools = json!([{"type":"function"}]);
    for (format, messages, tools, code, message) in [
        (
            ChatFormat::Qwen,
            json!([{"role":"developer","content":""}]),
            None,
            Code::InvalidArgument,
            "messages[0].role is \"developer\", which the ChatML",
        ),
        (
            ChatFormat::Gemma,
            json!([user, {"role":"system","content":""}]),
            None,
            Code::InvalidArgument,
            "messages[1].role is \"system\"",
        ),
        (
            ChatFormat::Gemma,
            json!([user, user]),
            None,
            Code::InvalidArgument,
            "messages[1].role must be \"assistant\"",
        ),
        (
            ChatFormat::Mistral,
            json!([{"role":"system","content":""}]),
            None,
            Code::InvalidArgument,
            "messages: the Mistral chat format needs",
        ),
        (
            ChatFormat::Llama,
            json!([user, {"role":"tool","content":""}]),
            None,
            Code::Unsupported,
            "messages[1]: tools",
        ),
        (
            ChatFormat::Gemma,
            json!([user]),
            Some(&tools),
            Code::Unsupported,
            "tools: the Gemma chat format has none",
        ),
        (
            ChatFormat::Qwen,
            json!([user]),
            Some(&user),
            Code::InvalidArgument,
            "tools must be a list",
        ),
    ] {
        let options = RenderOptions {
            tools,
            ..RenderOptions::default()
        };
        let e = render(format, &messages, options).unwrap_err();
        assert!(e.code == code && e.message.starts_with(message), "{e:?}");
    }
}
