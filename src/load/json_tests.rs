#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::error::Code;

fn parse(text: &str) -> Result<Map<String, Value>> {
    parse_object("config.json", text.as_bytes())
}

/// The message of the error that `take` gives for the value of `"k"`.
fn complaint<T: std::fmt::Debug>(value: &str, take: impl Fn(&Object) -> Result<T>) -> String {
    let map = parse(&format!("{{\"k\": {value}}}")).unwrap();
    let error = take(&Object::new("config.json", &map)).unwrap_err();
    assert_eq!(error.code, Code::BadModel);
    error.message
}

#[test]
fn refuses_what_is_not_one_object_naming_file_line_and_column() {
    for (text, expected) in [
        (
            "",
            "config.json: is not valid JSON: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{\n \"a\": }",
            "config.json: is not valid JSON: expected value at line 2 column 7",
        ),
        (
            "{} x",
            "config.json: is not valid JSON: trailing characters at line 1 column 4",
        ),
        (
            "[1]",
            "config.json: must hold a JSON object, holds an array of 1",
        ),
        ("null", "config.json: must hold a JSON object, holds null"),
        (
            "{\n\"a\":1,\n \"a\":2}",
            "config.json: the key \"a\" is given twice, at line 3 column 2",
        ),
        (
            "{\"a\": 1e999}",
            "config.json: is not valid JSON: number out of range at line 1 column 11",
        ),
        (
            "{\"a\": nan}",
            "config.json: is not valid JSON: expected ident at line 1 column 8",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::BadModel, expected),
            "{text}"
        );
    }
    let error = parse_object("config.json", b"{\"a\": \"\xff\"}").unwrap_err();
    assert!(
        error
            .message
            .starts_with("config.json: is not valid JSON: invalid unicode"),
        "{error}"
    );
}

#[test]
fn refuses_deep_and_crowded_json() {
    for open in ["[", "{\"a\":"] {
        let error = parse(&format!("{{\"a\": {}", open.repeat(100_000))).unwrap_err();
        assert!(
            error
                .message
                .starts_with("config.json: the JSON nests too deep, at line 1"),
            "{error}"
        );
    }
    let error = parse(&format!("{{\"a\": [{}0]}}", "0,".repeat(1_000_000))).unwrap_err();
    assert!(
        error.message.contains("holds more than 1000000 values"),
        "{error}"
    );
}

#[test]
fn python_words_parse_but_are_no_numbers() {
    let map = parse("{\"a\": NaN,\n \"b\": [0.0, Infinity], \"c\": -Infinity, \"d\": 1}").unwrap();
    assert_eq!(map["b"][1], "Infinity");
    let object = Object::new("config.json", &map);
    assert_eq!(
        object.opt_f32("a", 0.0..=1.0).unwrap_err().message,
        "config.json: \"a\" must be a number from 0 to 1, is \"NaN\""
    );
    assert!(object.opt_f32("c", -f32::MAX..=f32::MAX).is_err());
    assert_eq!(object.opt_u32("d", 0..=1).unwrap(), Some(1));
    // Nothing that is strictly JSON admits them.
    assert!(parse_strict_object("x", b"{\"a\": NaN}", 10).is_err());
}

#[test]
fn integers() {
    let take = |value: &str| {
        let map = parse(&format!("{{\"k\": {value}}}")).unwrap();
        Object::new("f", &map).opt_u32("k", 1..=1024)
    };
    assert_eq!(take("64").unwrap(), Some(64));
    assert_eq!(take("64.0").unwrap(), Some(64));
    assert_eq!(take("1e2").unwrap(), Some(100));
    assert_eq!(take("null").unwrap(), None);
    for bad in [
        "0",
        "1025",
        "-1",
        "64.5",
        "true",
        "[]",
        "{}",
        "\"64\"",
        "2147483648",
        "4294967360",
    ] {
        take(bad).unwrap_err();
    }
    for bad in [
        "9223372036854775808",
        "18446744073709551615",
        "1e18",
        "1e300",
        "-1e300",
        "9223372036854775807",
    ] {
        take(bad).unwrap_err();
    }
    let layers = |o: &Object| o.u32("k", 1..=1024);
    assert_eq!(
        complaint("\"abc\"", layers),
        "config.json: \"k\" must be an integer from 1 to 1024, is \"abc\""
    );
    assert_eq!(complaint("null", layers), "config.json: \"k\" is missing");
    assert_eq!(
        complaint("{\"x\": 1}", layers),
        "config.json: \"k\" must be an integer from 1 to 1024, is an object"
    );
}

#[test]
fn floats_bools_strings() {
    let eps = |o: &Object| o.f32("k", f32::MIN_POSITIVE..=1.0);
    assert_eq!(
        complaint("0", eps),
        "config.json: \"k\" must be a number above 0, up to 1, is 0"
    );
    assert_eq!(
        complaint("\"NaN\"", eps),
        "config.json: \"k\" must be a number above 0, up to 1, is \"NaN\""
    );
    assert!(complaint("true", eps).ends_with("is true"));
    let any = |o: &Object| o.f32("k", -f32::MAX..=f32::MAX);
    assert_eq!(
        complaint("1e39", any),
        "config.json: \"k\" must be a finite number, is 1e+39"
    );
    assert!(complaint("1", |o: &Object| o.opt_bool("k")).ends_with("must be true or false, is 1"));
    assert!(
        complaint("[1,2]", |o: &Object| o.str("k").map(String::from))
            .ends_with("must be a string, is an array of 2")
    );
    let map = parse("{\"x\": 2, \"y\": 1e-6, \"b\": false, \"s\": \"q\"}").unwrap();
    let object = Object::new("f", &map);
    assert_eq!(object.f32("x", 0.0..=2.0).unwrap(), 2.0);
    assert_eq!(object.f32("y", 0.0..=2.0).unwrap(), 1e-6);
    assert_eq!(object.opt_bool("b").unwrap(), Some(false));
    assert_eq!(object.str("s").unwrap(), "q");
    assert_eq!(object.opt_str("absent").unwrap(), None);
}

#[test]
fn arrays_and_inner_objects_name_their_place() {
    let map = parse("{\"t\": {\"r\": {\"n\": [1, 2, \"x\"], \"f\": [0.5, 2]}}}").unwrap();
    let inner = Object::new("config.json", &map)
        .object("t")
        .unwrap()
        .object("r")
        .unwrap();
    assert_eq!(
        inner.opt_strs("n", 8).unwrap_err().message,
        "config.json: \"t.r.n[0]\" must be a string, is 1"
    );
    assert_eq!(
        inner.opt_strs("n", 2).unwrap_err().message,
        "config.json: \"t.r.n\" must be an array of at most 2, is an array of 3"
    );
    assert_eq!(
        inner.object("m").unwrap_err().message,
        "config.json: \"t.r.m\" is missing"
    );
    assert_eq!(
        Object::new("config.json", &map)
            .opt_array("t")
            .unwrap_err()
            .message,
        "config.json: \"t\" must be an array, is an object"
    );
}

#[test]
fn errors_stay_short_and_printable() {
    let long = complaint(&format!("\"{}\"", "é".repeat(100_000)), |o| {
        o.u32("k", 0..=1)
    });
    assert!(long.chars().count() < 120, "{long}");
    assert!(long.ends_with("…\""));
    let odd = complaint("\"a\\u0000\\u001b[31m\\n\"", |o| o.u32("k", 0..=1));
    assert!(odd.ends_with("is \"a\\0\\u{1b}[31m\\n\""), "{odd}");
    let key = format!("{{\"{0}\": 1, \"{0}\": 2}}", "k".repeat(100_000));
    assert!(parse(&key).unwrap_err().message.len() < 200);
}

/// What costs most for its length.
#[test]
fn parsing_takes_no_more_than_it_says() {
    let n = 5_000;
    let list = |one: &str| format!("{{\"x\":[{}0]}}", one.repeat(n));
    let keys: String = (0..n).map(|i| format!("\"{i:x}\":0,")).collect();
    let names: String = (0..n).map(|i| format!("\"{i:x}\":\"f\",")).collect();
    let deep = format!("{}0{},", "[".repeat(100), "]".repeat(100));
    let deep_objects = format!("{}0{},", "{\"\":".repeat(100), "}".repeat(100));
    for doc in [
        list("0,"),
        list("[],"),
        list("[0],"),
        list("{},"),
        list("{\"\":0},"),
        list("{\"a\":0,\"b\":0,\"c\":0,\"d\":0,\"e\":0},"),
        list("\"\","),
        list("NaN,"),
        list("\"once upon a time\","),
        format!("{{{keys}\"\":0}}"),
        format!("{{{names}\"\":0}}"),
        format!("{{\"x\":[{}0]}}", deep.repeat(n / 100)),
        format!("{{\"x\":[{}0]}}", deep_objects.repeat(n / 100)),
    ] {
        let (peak, parsed) =
            crate::reserve::peak_of(|| parse_object("config.json", doc.as_bytes()));
        let start = &doc[..40];
        let cost = cost(doc.as_bytes());
        assert!(parsed.is_ok(), "{start:?}");
        assert!(peak <= cost, "{start:?}: {peak} and not {cost}");
    }
}
