//! Python's literal syntax ⇄ [`PyValue`]: the way Barman keeps structured facts in `backup.info`.
//!
//! Reading follows `ast.literal_eval` for the values that a writer of `repr` produces (no bytes, sets, complex
//! numbers or joined strings); writing is exactly Python 3's `repr`. Which characters are printable is taken from
//! Rust's Unicode tables: a character younger than the Python that wrote a file may be escaped in one and not in
//! the other, which changes the bytes and never the value.

use std::fmt::Write as _;

use crate::model::PyValue;

/// How deep lists, tuples and dictionaries may nest. Barman's values need four levels.
pub const MAX_DEPTH: usize = 64;

/// A text that is not one Python literal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a Python literal: {reason} at byte {at}")]
#[non_exhaustive]
pub struct LiteralError {
    /// Byte offset of the fault in the text.
    pub at: usize,
    /// What was found or missing, in words.
    pub reason: &'static str,
}

/// Reads one literal; blanks and line ends around it and between its parts are ignored.
///
/// Integers beyond 64 bits, more than [`MAX_DEPTH`] levels and anything after the value are errors.
pub fn parse(text: &str) -> Result<PyValue, LiteralError> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.fail("something follows the value"));
    }
    Ok(value)
}

/// The text that Python 3's `repr` gives for a value.
pub fn repr(value: &PyValue) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

/// The text that Python 3's `repr` gives for a string: single quotes, or double ones when the text holds a single
/// quote and no double one.
pub fn repr_str(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_str(&mut out, text);
    out
}

/// The text that Python 3's `repr` gives for a float: the shortest that reads back as the same number, with a decimal
/// point, as `1e-05` below 1e-4 and from 1e16 on.
pub fn repr_float(number: f64) -> String {
    let mut out = String::new();
    write_float(&mut out, number);
    out
}

/// [`repr_float`] into an existing text.
pub fn write_float(out: &mut String, number: f64) {
    if number.is_nan() {
        out.push_str("nan");
        return;
    }
    if number.is_sign_negative() {
        out.push('-');
    }
    if number.is_infinite() {
        out.push_str("inf");
        return;
    }
    // Rust prints the same shortest digits; only where it switches to an exponent do the two differ.
    let plain = number.abs();
    if plain == 0.0 || (1e-4..1e16).contains(&plain) {
        let _ = write!(out, "{plain}");
        if plain.fract() == 0.0 {
            out.push_str(".0");
        }
        return;
    }
    let scientific = format!("{plain:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
}

fn write_value(out: &mut String, value: &PyValue) {
    match value {
        PyValue::None => out.push_str("None"),
        PyValue::Bool(true) => out.push_str("True"),
        PyValue::Bool(false) => out.push_str("False"),
        PyValue::Int(number) => {
            let _ = write!(out, "{number}");
        }
        PyValue::Float(number) => write_float(out, *number),
        PyValue::Str(text) => write_str(out, text),
        PyValue::List(items) => {
            out.push('[');
            write_items(out, items);
            out.push(']');
        }
        PyValue::Tuple(items) => {
            out.push('(');
            write_items(out, items);
            if items.len() == 1 {
                out.push(',');
            }
            out.push(')');
        }
        PyValue::Dict(pairs) => {
            out.push('{');
            for (at, (key, value)) in pairs.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write_value(out, key);
                out.push_str(": ");
                write_value(out, value);
            }
            out.push('}');
        }
    }
}

fn write_items(out: &mut String, items: &[PyValue]) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write_value(out, item);
    }
}

fn write_str(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xFF => write!(out, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable` for one character: not in the categories C*, Zl, Zp, nor Zs but for the blank. The
/// standard library escapes the same categories in `escape_debug`; a letter before it keeps it from escaping
/// combining marks too.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let length = c.len_utf8();
    if let Some(room) = buffer.get_mut(1..) {
        c.encode_utf8(room);
    }
    let text = buffer.get(..=length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("");
    text.escape_debug().count() == 2
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail(&self, reason: &'static str) -> LiteralError {
        LiteralError { at: self.at, reason }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', '\x0C']).len();
    }

    fn value(&mut self, depth: usize) -> Result<PyValue, LiteralError> {
        if depth > MAX_DEPTH {
            return Err(self.fail("it nests too deep"));
        }
        self.blanks();
        match self.peek() {
            Some('\'' | '"') => self.string().map(PyValue::Str),
            // Python 2 wrote u'…' for what it had decoded.
            Some('u' | 'U') if matches!(self.rest().as_bytes().get(1), Some(b'\'' | b'"')) => {
                self.at += 1;
                self.string().map(PyValue::Str)
            }
            Some('[') => {
                self.at += 1;
                Ok(PyValue::List(self.items(']', depth)?.0))
            }
            Some('(') => {
                self.at += 1;
                let (mut items, comma) = self.items(')', depth)?;
                // `(1)` is 1 in brackets, `(1,)` a tuple.
                match items.pop() {
                    Some(only) if items.is_empty() && !comma => Ok(only),
                    last => {
                        items.extend(last);
                        Ok(PyValue::Tuple(items))
                    }
                }
            }
            Some('{') => {
                self.at += 1;
                self.pairs(depth)
            }
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            Some(c) if c.is_ascii_alphabetic() => self.word(),
            Some(_) => Err(self.fail("a value should begin")),
            None => Err(self.fail("a value is missing")),
        }
    }

    fn word(&mut self) -> Result<PyValue, LiteralError> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let value = match rest.get(..end) {
            Some("None") => PyValue::None,
            Some("True") => PyValue::Bool(true),
            Some("False") => PyValue::Bool(false),
            _ => return Err(self.fail("a word that is not None, True or False stands")),
        };
        self.at += end;
        Ok(value)
    }

    /// The values up to the closing bracket, and whether a comma follows the last one.
    fn items(&mut self, close: char, depth: usize) -> Result<(Vec<PyValue>, bool), LiteralError> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            self.blanks();
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return Err(self.fail("a comma or a closing bracket is missing"));
            }
            items.push(self.value(depth + 1)?);
            self.blanks();
            comma = self.eat(",");
        }
    }

    fn pairs(&mut self, depth: usize) -> Result<PyValue, LiteralError> {
        let mut pairs = Vec::new();
        let mut comma = true;
        loop {
            self.blanks();
            if self.eat("}") {
                return Ok(PyValue::Dict(pairs));
            }
            if !comma {
                return Err(self.fail("a comma or a closing bracket is missing"));
            }
            let key = self.value(depth + 1)?;
            self.blanks();
            if !self.eat(":") {
                return Err(self.fail("a colon is missing"));
            }
            let value = self.value(depth + 1)?;
            pairs.push((key, value));
            self.blanks();
            comma = self.eat(",");
        }
    }

    fn number(&mut self) -> Result<PyValue, LiteralError> {
        let start = self.at;
        let mut before = ' ';
        while let Some(c) = self.peek() {
            let sign = matches!(c, '+' | '-') && (self.at == start || matches!(before, 'e' | 'E'));
            if !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '_') || sign) {
                break;
            }
            before = c;
            self.at += 1;
        }
        let written = self.text.get(start..self.at).unwrap_or("");
        let fail = |reason| LiteralError { at: start, reason };
        let digits = written.replace('_', "");
        let body = digits.trim_start_matches(['+', '-']);
        if body.is_empty() || self.peek().is_some_and(|c| c.is_alphanumeric()) {
            return Err(fail("a number is malformed"));
        }
        if body.bytes().all(|b| b.is_ascii_digit()) {
            let padded = body.len() > 1 && body.starts_with('0') && body.bytes().any(|b| b != b'0');
            if padded {
                return Err(fail("a number has leading zeros"));
            }
            return digits.parse().map(PyValue::Int).map_err(|_| fail("an integer exceeds 64 bits"));
        }
        // Rust reads every decimal float form of Python and, of these characters, nothing more.
        digits.parse().map(PyValue::Float).map_err(|_| fail("a number is malformed"))
    }

    fn string(&mut self) -> Result<String, LiteralError> {
        let quote = self.next().unwrap_or('\'');
        let mut out = String::new();
        loop {
            let start = self.at;
            match self.next() {
                None => return Err(LiteralError { at: start, reason: "a closing quote is missing" }),
                Some(c) if c == quote => return Ok(out),
                Some('\n') => {
                    return Err(LiteralError { at: start, reason: "a line end stands inside a string" });
                }
                Some('\\') => self.escape(&mut out, start)?,
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String, start: usize) -> Result<(), LiteralError> {
        let fail = |reason| LiteralError { at: start, reason };
        let c = self.next().ok_or_else(|| fail("a closing quote is missing"))?;
        let simple = match c {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => c,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0C',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0B',
            'x' => self.hex(2, start)?,
            'u' => self.hex(4, start)?,
            'U' => self.hex(8, start)?,
            'N' => return Err(fail("a character is given by its Unicode name, which is not supported")),
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                char::from_u32(code).ok_or_else(|| fail("an escape names no character"))?
            }
            // Python keeps the backslash of an escape it does not know.
            other => {
                out.push('\\');
                other
            }
        };
        out.push(simple);
        Ok(())
    }

    fn hex(&mut self, digits: usize, start: usize) -> Result<char, LiteralError> {
        let fail = |reason| LiteralError { at: start, reason };
        let text = self.rest().get(..digits).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
        let text = text.ok_or_else(|| fail("an escape lacks hexadecimal digits"))?;
        let code = u32::from_str_radix(text, 16).map_err(|_| fail("an escape lacks hexadecimal digits"))?;
        self.at += digits;
        // A lone half of a surrogate pair is a character in Python and none in UTF-8.
        char::from_u32(code).ok_or_else(|| fail("an escape names no character"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = PyValue> {
        let leaf = prop_oneof![
            Just(PyValue::None),
            any::<bool>().prop_map(PyValue::Bool),
            any::<i64>().prop_map(PyValue::Int),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(PyValue::Float),
            any::<String>().prop_map(PyValue::Str),
            "[a-z'\"\\\\\n]{0,6}".prop_map(PyValue::Str),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(PyValue::List),
                prop::collection::vec(inner.clone(), 0..4).prop_map(PyValue::Tuple),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(PyValue::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value in any_value()) {
            prop_assert_eq!(parse(&repr(&value)).unwrap(), value);
        }

        #[test]
        fn never_panics(text in "[\\[\\](){},:'\"\\\\a-zA-Z0-9 .eE+_-]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_any_text(text: String) {
            let _ = parse(&text);
        }
    }

    /// Text and its `repr`, made with Python 3.11.
    const STRINGS: &[(&str, &str)] = &[
        ("", "''"),
        ("a'b", "\"a'b\""),
        ("a\"b", "'a\"b'"),
        ("a'b\"c", "'a\\'b\"c'"),
        ("tab\tnl\nr\r", "'tab\\tnl\\nr\\r'"),
        ("\x00\x1f\x7f\u{80}\u{a0}\u{ad}", "'\\x00\\x1f\\x7f\\x80\\xa0\\xad'"),
        ("é 日本 😀", "'é 日本 😀'"),
        ("\u{200b}\u{2028}\u{e000}", "'\\u200b\\u2028\\ue000'"),
        ("e\u{301}", "'e\u{301}'"),
        ("\u{e0001}", "'\\U000e0001'"),
        ("\\", "'\\\\'"),
        ("\u{d7ff}\u{feff}\u{fffd}\u{ffff}", "'\\ud7ff\\ufeff\u{fffd}\\uffff'"),
    ];

    /// Numbers and their `repr`, made with Python 3.11.
    const FLOATS: &[(f64, &str)] = &[
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (100.0, "100.0"),
        (1e-4, "0.0001"),
        (1.234e-5, "1.234e-05"),
        (1e-5, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
        (1e22, "1e+22"),
        (1e23, "1e+23"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (1_795_383_933.233_320_2, "1795383933.2333202"),
        (1_795_384_342.0, "1795384342.0"),
        (4.279352, "4.279352"),
    ];

    #[test]
    fn strings_print_as_python_prints_them() {
        for (text, printed) in STRINGS {
            assert_eq!(repr_str(text), *printed);
            assert_eq!(parse(printed).unwrap(), PyValue::Str((*text).to_owned()), "{printed}");
        }
    }

    #[test]
    fn floats_print_as_python_prints_them() {
        for (number, printed) in FLOATS {
            assert_eq!(repr_float(*number), *printed);
            assert_eq!(parse(printed).unwrap(), PyValue::Float(*number), "{printed}");
        }
    }

    /// Forms that `ast.literal_eval` reads, and the `repr` of what it reads.
    const READ: &[(&str, &str)] = &[
        ("[('ts1', 16386, '/srv/ts/ts1')]", "[('ts1', 16386, '/srv/ts/ts1')]"),
        (" ( 1 , ) ", "(1,)"),
        ("(1)", "1"),
        ("()", "()"),
        ("((1))", "1"),
        ("[1, 2,]", "[1, 2]"),
        ("{'a': {}, 'b':[True,False,None],}", "{'a': {}, 'b': [True, False, None]}"),
        ("\"x\"", "'x'"),
        ("u'x'", "'x'"),
        ("'\\x41\\u00e9\\U0001F600\\101\\q'", "'Aé😀A\\\\q'"),
        ("'\\a\\b\\f\\v'", "'\\x07\\x08\\x0c\\x0b'"),
        ("-5", "-5"),
        ("+5", "5"),
        ("1_000", "1000"),
        ("00", "0"),
        ("1.", "1.0"),
        (".5", "0.5"),
        ("1e3", "1000.0"),
        ("-1.5E-7", "-1.5e-07"),
        ("9223372036854775807", "9223372036854775807"),
    ];

    #[test]
    fn reads_what_literal_eval_reads() {
        for (text, canonical) in READ {
            assert_eq!(repr(&parse(text).unwrap()), *canonical, "{text}");
        }
    }

    #[test]
    fn what_is_no_literal_is_an_error_with_its_place() {
        for (text, at) in [
            ("", 0),
            ("  ", 2),
            ("'abc", 4),
            ("'a\nb'", 2),
            ("[1 2]", 3),
            ("[,]", 1),
            ("{'a' 1}", 5),
            ("{'a': 1 'b': 2}", 8),
            ("nope", 0),
            ("Nonesuch", 0),
            ("1 2", 2),
            ("1x", 0),
            ("-", 0),
            ("1.2.3", 0),
            ("012", 0),
            ("99999999999999999999", 0),
            ("'\\x4'", 1),
            ("'\\ud800'", 1),
            ("'\\N{DIGIT ONE}'", 1),
            ("__import__('os')", 0),
            ("[1", 2),
            ("(1", 2),
            ("{", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nest(MAX_DEPTH)).is_ok());
        assert_eq!(parse(&nest(MAX_DEPTH + 2)).unwrap_err().reason, "it nests too deep");
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn python3_agrees() {
        let texts: Vec<&str> = READ.iter().map(|(t, _)| *t).chain(STRINGS.iter().map(|(_, p)| *p)).collect();
        let program = "import sys, ast\n\
                       sys.stdin.reconfigure(encoding='utf-8', newline='\\0')\n\
                       sys.stdout.reconfigure(encoding='utf-8')\n\
                       for t in sys.stdin.read().split('\\0'): sys.stdout.write(repr(ast.literal_eval(t.strip())) + '\\0')";
        let child = std::process::Command::new("python3")
            .args(["-c", program])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("SKIPPED: python3 is not installed");
            return;
        };
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, texts.join("\0").as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<&str> = answer.split_terminator('\0').collect();
        let ours: Vec<String> = texts.iter().map(|t| repr(&parse(t).unwrap())).collect();
        assert_eq!(answers, ours);
    }
}
