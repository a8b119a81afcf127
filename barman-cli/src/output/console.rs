//! Colours, and JSON as Python writes it.

use serde_json::Value;

pub(crate) const RED: &str = "\x1b[31m";
pub(crate) const GREEN: &str = "\x1b[32m";
pub(crate) const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

/// The text in a colour, when colours are on.
pub(crate) fn paint(on: bool, color: &str, text: &str) -> String {
    if on && !color.is_empty() { format!("{color}{text}{RESET}") } else { text.to_owned() }
}

/// One line of JSON with sorted keys, `", "` and `": "` between members, and `\u` escapes for all that is not ASCII.
pub(crate) fn ascii_json(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                string(key, out);
                out.push_str(": ");
                write(&members[key], out);
            }
            out.push('}');
        }
        Value::String(text) => string(text, out),
        other => out.push_str(&other.to_string()),
    }
}

fn string(text: &str, out: &mut String) {
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
            c if (' '..='~').contains(&c) => out.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_sorted_and_ascii() {
        let value = json!({"b": [1, "é\n"], "a": {"z": null, "y": true}, "c": "😀"});
        assert_eq!(
            ascii_json(&value),
            r#"{"a": {"y": true, "z": null}, "b": [1, "\u00e9\n"], "c": "\ud83d\ude00"}"#
        );
    }
}
