//! What each keyword of JSON Schema is here.

/// How a keyword is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyword {
    /// It says nothing of what is valid, or only where others are looked up.
    Silent,
    /// A list of the types' names, or one.
    Type,
    /// A list of values.
    Enum,
    /// Any value.
    Const,
    /// A schema.
    Schema,
    /// A schema, or a list of them.
    Items,
    /// A list of schemas.
    Schemas,
    /// Schemas by name.
    Named,
    /// Schemas by pattern.
    Patterns,
    /// A list of names.
    Names,
    /// A whole number that is not negative.
    Count,
    /// A number.
    Number,
    /// A number, or, as draft 4 has it, whether the one beside it is excluded.
    Exclusive,
    /// A number above 0.
    Step,
    Reference,
    Pattern,
    Format,
    /// False says nothing; true cannot be followed.
    Unique,
    /// `true` and the empty schema say nothing; others cannot be followed.
    UnlessAnything,
    /// The empty object says nothing; others cannot be followed.
    UnlessEmpty,
    /// Cannot be followed.
    Refused,
    /// No keyword: the standard says to ignore it.
    Unknown,
}

pub fn keyword(name: &str) -> Keyword {
    use Keyword::*;
    match name {
        "$schema" | "$vocabulary" | "$comment" | "$defs" | "definitions" | "$anchor"
        | "$dynamicAnchor" | "$recursiveAnchor" | "title" | "description" | "default"
        | "examples" | "deprecated" | "readOnly" | "writeOnly" | "contentEncoding"
        | "contentMediaType" | "contentSchema" => Silent,
        "type" => Type,
        "enum" => Enum,
        "const" => Const,
        "additionalProperties" | "additionalItems" => Schema,
        "items" => Items,
        "prefixItems" | "allOf" | "anyOf" | "oneOf" => Schemas,
        "properties" => Named,
        "patternProperties" => Patterns,
        "required" => Names,
        "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
            Count
        }
        "minimum" | "maximum" => Number,
        "exclusiveMinimum" | "exclusiveMaximum" => Exclusive,
        "multipleOf" => Step,
        "$ref" => Reference,
        "pattern" => Pattern,
        "format" => Format,
        "uniqueItems" => Unique,
        "propertyNames" | "unevaluatedProperties" | "unevaluatedItems" => UnlessAnything,
        "dependentRequired" | "dependentSchemas" | "dependencies" => UnlessEmpty,
        "not" | "if" | "then" | "else" | "contains" | "minContains" | "maxContains"
        | "$dynamicRef" | "$recursiveRef" => Refused,
        _ => Unknown,
    }
}

pub const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];

/// What a format says of a string.
pub enum Format {
    /// What its characters are, and llguidance knows it.
    Known,
    /// What its characters are, as expressions that all match.
    Characters(Vec<String>),
    /// Nothing of its characters: what it is for, or how a number is kept.
    Hint,
    Unknown,
}

pub fn format(name: &str) -> Format {
    match name {
        "date-time" => Format::Characters(vec![format!("^(?:{})T{TIME}$", date())]),
        "date" => Format::Characters(vec![format!("^(?:{})$", date())]),
        "time" => Format::Characters(vec![format!("^{TIME}$")]),
        "hostname" => Format::Characters(HOST.map(str::to_owned).to_vec()),
        "duration" | "email" | "ipv4" | "ipv6" | "uuid" | "uri" => Format::Known,
        "int32" | "int64" | "float" | "double" | "password" | "binary" | "textarea" | "text"
        | "string" | "markdown" | "html" => Format::Hint,
        _ => Format::Unknown,
    }
}

/// Labels without two hyphens in a row, which are those of other scripts in disguise (`xn--`) and have rules of their own; how
/// long one is; how long all are.
const HOST: [&str; 3] = [
    r"^[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*(?:\.[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*)*$",
    r"^[^.]{1,63}(?:\.[^.]{1,63})*$",
    r"^.{1,253}$",
];

/// Without leap seconds: which minutes have one cannot be told from the text.
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

/// A day that the calendar has, from the year 1 on. (llguidance's has 29 days in every February.)
fn date() -> String {
    let year = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
    let by_four = "0[48]|[2468][048]|[13579][26]";
    let leap = format!("(?:[0-9]{{2}}(?:{by_four})|(?:{by_four})00)");
    let days = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])";
    format!("{year}-(?:{days})|{leap}-02-29")
}
