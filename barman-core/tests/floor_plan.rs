//! The house rules that no compiler checks: rooms use only rooms below them, and no file grows too long.

use std::fs;
use std::path::{Path, PathBuf};

const MOST_LINES: usize = 700;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms, lowest first: the order of the `pub mod` lines is the floor plan.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect()
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Names after `crate::`, also inside `use crate::{a, b::c}`.
fn rooms_used(text: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `some_crate::` are other things.
        if code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => used.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => used.push(word(&std::mem::take(&mut item))),
                        _ => {}
                    }
                    if depth == 0 && c != ',' && c != '}' {
                        item.push(c);
                    }
                }
                used.push(word(&item));
            }
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

#[test]
fn the_reader_of_paths_sees_groups_and_skips_comments() {
    let text = "use crate::{io::{A, B}, model};\nlet x = crate::ctx::Ctx; // crate::server\nother_crate::pg;";
    assert_eq!(rooms_used(text), ["io", "model", "ctx"]);
}

#[test]
fn arrows_run_one_way() {
    let rooms = rooms();
    assert!(rooms.len() > 10, "{rooms:?}");
    let mut wrong = Vec::new();
    for item in fs::read_dir(source()).unwrap() {
        let path = item.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "lib" {
            continue;
        }
        let Some(height) = rooms.iter().position(|r| *r == name) else {
            wrong.push(format!("{name} is not in the plan"));
            continue;
        };
        let mut files = Vec::new();
        files_below(&path, &mut files);
        for file in files {
            for used in rooms_used(&fs::read_to_string(&file).unwrap()) {
                let at = rooms.iter().position(|r| *r == used);
                if at.is_some_and(|at| at > height) {
                    wrong.push(format!("{} uses {used}, which stands above {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_it_may_be() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for package in ["barman-core", "barman-cli", "barman-testkit", "examples", "benches"] {
        files_below(&root.join(package), &mut files);
    }
    let long: Vec<String> = files
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(file, lines)| format!("{} has {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
