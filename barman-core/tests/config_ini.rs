//! The INI reader against Python's own `configparser`, on random texts: same sections, keys, values and errors.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write;
use std::process::{Command, Stdio};

use barman_core::format::ini::{IniError, IniFile, Merged};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

/// Reads a JSON list of lists of texts (the files of one configuration) and prints what Python makes of each: the
/// parse of the first file, and the merge of all of them as Barman merges (interpolated on set and on get).
const ORACLE: &str = r#"
import configparser, io, json, sys
def attempt(action):
    try:
        return action()
    except (configparser.Error, ValueError) as error:
        return {"error": str(error)}
def parsed(text):
    parser = configparser.ConfigParser(strict=False)
    parser.read_file(io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"), source="f0")
    return parser
def first(texts):
    parser = parsed(texts[0])
    names = parser.sections()
    return [[name, [[k, parser.get(name, k, raw=True)] for k in parser.options(name)]] for name in names]
def merged(texts):
    whole = configparser.ConfigParser(strict=False)
    for text in texts:
        part = parsed(text)
        for name in part.sections():
            if not whole.has_section(name):
                whole.add_section(name)
            for key, value in part[name].items():
                whole.set(name, key, value)
    return [[name, [[k, whole.get(name, k)] for k in whole.options(name)]] for name in whole.sections()]
cases = json.load(sys.stdin)
json.dump([[attempt(lambda: first(c)), attempt(lambda: merged(c))] for c in cases], sys.stdout)
"#;

fn failure(error: &IniError) -> Value {
    json!({ "error": error.to_string() })
}

fn first(texts: &[String]) -> Result<Value, IniError> {
    let file = IniFile::parse("f0", &texts[0])?;
    let sections: Vec<Value> = file
        .sections()
        .map(|(name, own)| {
            let mut keys: Vec<Value> = own.iter().map(|key| json!([key.name, key.raw])).collect();
            let inherited = file.defaults().iter().filter(|key| own.get(&key.name).is_none());
            keys.extend(inherited.map(|key| json!([key.name, key.raw])));
            json!([name, keys])
        })
        .collect();
    Ok(Value::Array(sections))
}

fn merged(texts: &[String]) -> Result<Value, IniError> {
    let mut whole = Merged::default();
    for text in texts {
        whole.merge(&IniFile::parse("f0", text)?)?;
    }
    let sections: Vec<String> = whole.sections().map(str::to_owned).collect();
    let mut out = Vec::new();
    for name in sections {
        let items = whole.items(&name)?.unwrap_or_default();
        out.push(json!([name, items.iter().map(|i| json!([i.name, i.value])).collect::<Vec<_>>()]));
    }
    Ok(Value::Array(out))
}

fn line() -> impl Strategy<Value = String> {
    let indent = prop_oneof![4 => Just(""), 1 => Just("  "), 1 => Just("\t"), 1 => Just("    ")];
    let name =
        prop_oneof![Just("barman"), Just("main"), Just("x y"), Just("DEFAULT"), Just("default"), Just("a]b")];
    let key = prop_oneof![
        Just("a"),
        Just("b"),
        Just("Conn Info"),
        Just("AÉ"),
        Just("c-d"),
        Just("e.f"),
        Just("description")
    ];
    let delimiter =
        prop_oneof![Just("="), Just(" = "), Just(":"), Just(" : "), Just("="), Just("=:"), Just("  =  ")];
    let value = prop_oneof![
        3 => "[a-z0-9 /._'\"-]{0,12}",
        1 => Just("v # not a comment".to_owned()),
        1 => Just("v ; not a comment".to_owned()),
        1 => Just("host=/tmp user=b".to_owned()),
        1 => Just("%(a)s".to_owned()),
        1 => Just("x%(B)sy%%%%".to_owned()),
        1 => Just("%%(description)s".to_owned()),
        1 => "[ab%()s]{0,7}",
        1 => Just("é\u{a0}".to_owned()),
    ];
    prop_oneof![
        4 => (indent.clone(), name).prop_map(|(indent, name)| format!("{indent}[{name}]")),
        12 => (indent.clone(), key, delimiter, value.clone()).prop_map(|(i, k, d, v)| format!("{i}{k}{d}{v}")),
        3 => value.prop_map(|text| format!("   {text}")),
        2 => Just(String::new()),
        1 => Just("  \t ".to_owned()),
        1 => (indent.clone(), prop_oneof![Just("# c = d"), Just("; [x]"), Just("#")]).prop_map(|(i, c)| format!("{i}{c}")),
        1 => (indent, prop_oneof![Just("loose"), Just("= v"), Just("[]"), Just("[open"), Just("[x] tail"), Just("[[x]]")])
            .prop_map(|(i, c)| format!("{i}{c}")),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let end = prop_oneof![5 => Just("\n"), 1 => Just("\r\n")];
    let head = prop_oneof![6 => Just("[main]\n"), 1 => Just("")];
    (head, end, proptest::collection::vec(line(), 0..10))
        .prop_map(|(head, end, lines)| format!("{head}{}", lines.join(end)))
}

fn cases() -> Vec<Vec<String>> {
    let by_hand = [
        "",
        "\n\n",
        "x=1",
        "# only\n; comments",
        "[a]\nk\n",
        "[a]\nk=1\n  2\n\n  3\n\n\n[b]\nk:v=w",
        "[a]\nk=1\n# c\n  2",
        "[a]\n  k=1\n  l=2\n   m",
        "[a]\nk=%(k)s",
        "[a]\nk=%(l)s\nl=%(k)s",
        "[a]\nk=%%",
        "[a]\nk=%%%%",
        "[a]\nk=a%b",
        "[a]\nk=%(zz)s",
        "[a]\nk=%%(zz)s",
        "[a]\nk=%(",
        "[a]\nk=%()s",
        "[DEFAULT]\nk=1\n[a]\nl=%(k)s",
        "[a]\nK=1\nk=2",
        "[a]\r\nk=1\r\n  2\r\n",
        "[a]\rk=1",
        "[a]\nk=",
        "[a]\nk:",
        "[a]\nk = v\n\tw",
        "[a]\nk='%'",
        "[a]\n\u{a0}k=1",
        "\u{feff}[a]\nk=1",
        "[a]\nk=%%x%(l)s%%\nl=1",
        "[ a ]\nk=1",
        "[a]\nk=1\n[a]\nl=2",
        "[a]\nk=1\x0b\n",
        "[a]\nİ=1",
    ];
    let mut cases: Vec<Vec<String>> = by_hand.iter().map(|text| vec![(*text).to_owned()]).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = proptest::collection::vec(text(), 1..3);
    for _ in 0..3000 {
        cases.push(strategy.new_tree(&mut runner).unwrap().current());
    }
    cases
}

#[test]
fn same_as_python() {
    let python =
        Command::new("python3").args(["-c", ORACLE]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = python else {
        barman_testkit::skip("python3 is not on this machine");
        return;
    };
    let cases = cases();
    let mut stdin = python.stdin.take().unwrap();
    let input = serde_json::to_vec(&cases).unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let answers: Vec<(Value, Value)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), cases.len());
    let mut good = 0;
    for (case, (python_first, python_merged)) in cases.iter().zip(&answers) {
        let ours = first(case).unwrap_or_else(|error| failure(&error));
        assert_eq!(&ours, python_first, "raw, of {case:?}");
        let ours = merged(case).unwrap_or_else(|error| failure(&error));
        assert_eq!(&ours, python_merged, "merged, of {case:?}");
        good += usize::from(ours.is_array());
    }
    assert!(good > cases.len() / 5, "only {good} of {} cases are good texts", cases.len());
}
