//! The built-in formats against the families' own templates.

use serde_json::Value;

use super::{read, shared};
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
    let file = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let inputs = file("_inputs.json");
    let all = ["basic", "system", "tools", "toolcall", "toolcall_strargs"];
    let plain = &all[..2];
    for (name, format, cases) in [
        ("qwen3-0.6b", ChatFormat::Qwen, &all[..]),
        // Without a system message Qwen2.5 adds its own, which ChatML has not.
        ("qwen2.5-0.5b-instruct", ChatFormat::Qwen, &all[1..2]),
        ("gemma-3-4b-it", ChatFormat::Gemma, plain),
        ("gemma-2-9b-it", ChatFormat::Gemma, &all[..1]),
        ("llama-3-instruct", ChatFormat::Llama, plain),
        ("mistral-7b-instruct-v0.3", ChatFormat::Mistral, plain),
    ] {
        let renders = file(&format!("{name}.json"));
        for case in cases {
            let input = &inputs["cases"][case];
            let bos = (format != ChatFormat::Llama).then_some("<s>");
            let tools = input.get("tools").map(read);
            let options = RenderOptions {
                bos,
                tools: tools.as_ref(),
                add_generation_prompt: true,
                ..RenderOptions::default()
            };
            let got = render(format, &input["messages"], options).unwrap();
            // Arguments that were text are the object.
            let case = if *case == "toolcall_strargs" {
                "toolcall"
            } else {
                case
            };
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
        let text = &file("cz-llama-2-chat.json")[case]["text"];
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
    let tools = read(&json!([{"name":"X"}]));
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

/// What a client may send beside text; arguments that were text are the object, as with a template.
#[test]
fn content_and_arguments_of_every_form_become_text() {
    for (message, wanted) in [
        (json!({"role":"tool","content":{"t":3}}), "user\n<tool_response>\n{\"t\": 3}\n</tool_response>"),
        (json!({"role":"tool","content":[1,"x"]}), "user\n<tool_response>\n[1, \"x\"]\n</tool_response>"),
        (json!({"role":"tool","content":null}), "user\n<tool_response>\n\n</tool_response>"),
        (json!({"role":"assistant","content":null}), "assistant\n"),
        (json!({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}), "user\nab"),
        (
            json!({"role":"assistant","content":null,"tool_calls":[
                {"type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},
                {"name":"g","arguments":"a"},{"name":"h"}]}),
            "assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n\
             {\"name\": \"g\", \"arguments\": a}\n</tool_call>\n<tool_call>\n{\"name\": \"h\", \"arguments\": {}}\n</tool_call>",
        ),
    ] {
        let got = render(ChatFormat::Qwen, &json!([message]), RenderOptions::default()).unwrap();
        assert_eq!(got, format!("<|im_start|>{wanted}<|im_end|>\n"), "{message}");
    }
}

#[test]
fn what_a_format_lacks_is_named() {
    let user = json!({"role":"user","content":"q"});
    let tools = read(&json!([{"type":"function"}]));
    let no_list = read(&user);
    for (format, messages, tools, code, message) in [
        (
            ChatFormat::Qwen,
            json!([{"role":"developer","content":""}]),
            None,
            Code::InvalidArgument,
            "messages[0].role is \"developer\", which the ChatML chat format does not know here: it takes \
             \"system\", \"user\", \"assistant\" and \"tool\"",
        ),
        (
            ChatFormat::Llama,
            json!([{"role":"human","content":""}]),
            None,
            Code::InvalidArgument,
            "messages[0].role is \"human\", which the Llama 3 chat format does not know here: it takes \
             \"system\", \"user\" and \"assistant\"",
        ),
        (
            ChatFormat::Gemma,
            json!([user, {"role":"human","content":""}]),
            None,
            Code::InvalidArgument,
            "messages[1].role is \"human\", which the Gemma chat format does not know here: it takes \
             \"user\" and \"assistant\" by turns, after one \"system\" or none",
        ),
        (
            ChatFormat::Qwen,
            json!([{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}]),
            None,
            Code::Unsupported,
            "messages[0].content[0].type \"refusal\" is not supported",
        ),
        (
            ChatFormat::Qwen,
            json!([{"role":"assistant","tool_calls":[{"type":"custom","custom":{"name":"f"}}]}]),
            None,
            Code::Unsupported,
            "messages[0].tool_calls[0]: the ChatML chat format knows calls of functions only",
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
            Some(&no_list),
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
