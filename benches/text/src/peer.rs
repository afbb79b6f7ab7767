//! minijinja as programs that render chat templates with it set it up.

use minijinja::value::{Kwargs, Value};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::template::Now;

/// `json.dumps` puts a space after commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let _: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    written
        .map_err(|e| e.to_string())
        .and_then(|()| String::from_utf8(out).map_err(|e| e.to_string()))
        .map(Value::from_safe_string)
        .map_err(|message| Error::new(ErrorKind::BadSerialization, message))
}

pub fn environment(now: Now) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_function("strftime_now", move |format: String| now.strftime(&format));
    Ok(environment)
}

/// minijinja has no `generation` tag; a block that is always taken prints the same.
pub fn rewritten(source: &str) -> String {
    let mut source = source.to_string();
    for (left, right) in [
        ("{% ", " %}"),
        ("{%- ", " %}"),
        ("{% ", " -%}"),
        ("{%- ", " -%}"),
    ] {
        source = source
            .replace(
                &format!("{left}generation{right}"),
                &format!("{left}if true{right}"),
            )
            .replace(
                &format!("{left}endgeneration{right}"),
                &format!("{left}endif{right}"),
            );
    }
    source
}
