//! JSON as Python's `json.dumps(value, ensure_ascii=False)` prints it, which is what chat templates do.

use crate::template::{python_float, Json};

pub(super) fn to_string(value: &Json) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

/// The depth of a parsed value is bounded by the JSON parser.
fn write(out: &mut String, value: &Json) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(true) => out.push_str("true"),
        Json::Bool(false) => out.push_str("false"),
        Json::Int(number) => out.push_str(&number.to_string()),
        Json::Big(number) => out.push_str(&number.to_string()),
        Json::Float(number) => write_float(out, *number),
        Json::Text(text) => write_string(out, text),
        Json::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write(out, item);
            }
            out.push(']');
        }
        Json::Object(object) => {
            out.push('{');
            for (index, (key, item)) in object.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_string(out, key);
                out.push_str(": ");
                write(out, item);
            }
            out.push('}');
        }
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// As Python's `repr`: the shortest digits, scientific below 1e-4 and from 1e16 on.
fn write_float(out: &mut String, float: f64) {
    if float.is_infinite() {
        out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    out.push_str(&python_float(float));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn prints_as_python_does() {
        // The right side is what Python 3.11 prints.
        for (json, python) in [
            (
                r#"{"a":[1,2.5,null],"é\u0001\"":true}"#,
                "{\"a\": [1, 2.5, null], \"é\\u0001\\\"\": true}",
            ),
            (
                "[1e22,1e16,1e15,0.0001,0.00001,-0.0,100.0,-1e999]",
                "[1e+22, 1e+16, 1000000000000000.0, 0.0001, 1e-05, -0.0, 100.0, -Infinity]",
            ),
            (
                r#"[18446744073709551615,-5,1.25e-7,"\u007f/\n\f"]"#,
                "[18446744073709551615, -5, 1.25e-07, \"\u{7f}/\\n\\f\"]",
            ),
        ] {
            assert_eq!(
                super::to_string(&super::Json::parse(json.as_bytes()).unwrap()),
                python
            );
        }
    }
}
