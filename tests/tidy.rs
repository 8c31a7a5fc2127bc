//! The house rules as tests: who may import whom, where unsafe may stand, how long and how named a file is.
//!
//! Takes the source tree as text; gives a list of every breach with its line, so that one run names them all. It does
//! not parse Rust: comments, strings and characters are blanked first (support/source.rs), the rest is looked at by line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::source;

/// The floors of src, from the ground up. A module imports from floors below its own, and from its own floor only when
/// no circle comes of it; the modules of [`APART`] never import each other.
const FLOORS: [&[&str]; 8] = [
    &["sys"],
    &["exit"],
    &["config"],
    &[
        "listener",
        "scoreboard",
        "cache",
        "log",
        "access_log",
        "generation",
        "handler",
        "handover",
        "status",
        "verbs",
    ],
    &["gateway"],
    &["protocol"],
    APART,
    &["lib"],
];
const APART: &[&str] = &["master", "worker", "monitor", "control"];

/// Where unsafe code may stand: the kernel, the plugin boundary, the shared segment, and handlers built to misbehave.
const UNSAFE_ADDRESSES: [&str; 5] = [
    "src/sys/",
    "src/handler/",
    "src/cache/segment.rs",
    "handlers/sdk/src/abi",
    "tests/handlers/",
];

const TOP_FOLDERS: [&str; 5] = ["src", "handlers", "config", "tests", "packaging"];
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "misc", "stuff"];
const LONGEST_FILE: usize = 400;

#[test]
fn imports_only_go_down_the_floors() {
    let mut breaches = Vec::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, code) in code_under(&["src"]) {
        let from = module_of(&path);
        for (line, to) in imports(&code) {
            let (Some(high), Some(low)) = (floor(&from), floor(&to)) else {
                // main.rs stands above all; an unknown name below is a mistake here, or a type of lib.rs.
                if from != "main" {
                    breaches.push(format!(
                        "{path}:{line}: {from} uses {to}: one of them has no floor in tests/tidy.rs"
                    ));
                }
                continue;
            };
            let apart = APART.contains(&from.as_str()) && APART.contains(&to.as_str());
            if from != to && (low > high || apart) {
                breaches.push(format!(
                    "{path}:{line}: {from} may not import {to}, which stands above or beside it"
                ));
            } else if from != to && low == high {
                edges.entry(from.clone()).or_default().insert(to);
            }
        }
    }
    for start in edges.keys() {
        if reaches(&edges, start, start, &mut BTreeSet::new()) {
            breaches.push(format!(
                "{start} imports itself by way of its neighbours: {:?}",
                edges[start]
            ));
        }
    }
    report(breaches);
}

#[test]
fn no_import_goes_round_the_floors_by_super() {
    let mut breaches = Vec::new();
    for (path, code) in code_under(&["src"]) {
        // `super` of src/log.rs and src/log/mod.rs is the crate; of src/log/line.rs it is log, and twice is the crate.
        let inside = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
        let out = format!("use {}", "super::".repeat(inside));
        for (number, line) in code.lines().enumerate() {
            if line.trim_start_matches("pub ").starts_with(&out) {
                breaches.push(format!(
                    "{path}:{}: write `crate::`, so that the floor can be seen",
                    number + 1
                ));
            }
        }
    }
    report(breaches);
}

#[test]
fn every_module_has_a_floor() {
    let unknown = code_under(&["src"])
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path != "src/main.rs" && floor(&module_of(path)).is_none())
        .map(|path| format!("{path}: has no floor; give its module one in tests/tidy.rs and in the map of lib.rs"));
    report(unknown.collect());
}

#[test]
fn every_file_opens_by_telling_what_it_is() {
    let silent = sources(&["src", "handlers", "tests"])
        .into_iter()
        .filter(|path| !read(path).starts_with("//!"))
        .map(|path| format!("{path}: the first line is not a `//!` module doc"));
    report(silent.collect());
}

#[test]
fn no_file_outgrows_its_noun() {
    let long = sources(&["src", "handlers", "tests"]).into_iter().filter_map(|path| {
        let lines = read(&path)
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .count();
        (lines > LONGEST_FILE).then(|| format!("{path}: {lines} lines outside its tests, over {LONGEST_FILE}"))
    });
    report(long.collect());
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let empty = sources(&["src", "handlers", "tests"])
        .into_iter()
        .filter(|path| path.split(['/', '_', '-', '.']).any(|word| EMPTY_NAMES.contains(&word)));
    report(
        empty
            .map(|path| format!("{path}: name it after what it holds"))
            .collect(),
    );
}

#[test]
fn unsafe_code_stays_at_its_addresses() {
    let mut breaches = Vec::new();
    for (path, code) in code_under(&["src", "handlers", "tests"]) {
        if UNSAFE_ADDRESSES.iter().any(|address| path.starts_with(address)) {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            if line
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .any(|word| word == "unsafe")
            {
                breaches.push(format!("{path}:{}: unsafe outside {UNSAFE_ADDRESSES:?}", number + 1));
            }
        }
    }
    report(breaches);
}

#[test]
fn an_ignored_test_says_why() {
    let mut breaches = Vec::new();
    for (path, code) in code_under(&["src", "handlers", "tests"]) {
        for (number, line) in code.lines().enumerate() {
            if line.trim_start().starts_with("#[ignore]") {
                breaches.push(format!("{path}:{}: write #[ignore = \"the reason\"]", number + 1));
            }
        }
    }
    report(breaches);
}

#[test]
fn the_top_level_has_its_five_folders() {
    let strange = fs::read_dir(root())
        .expect("the source tree is readable")
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') || name == "target";
            let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (folder && !hidden && !TOP_FOLDERS.contains(&name.as_str()))
                .then(|| format!("{name}/: not one of {TOP_FOLDERS:?}"))
        });
    report(strange.collect());
}

#[test]
fn every_golden_request_has_its_expectation() {
    let mut breaches = Vec::new();
    for kind in ["valid", "invalid"] {
        let files = files_under(&root().join("tests/requests").join(kind));
        for file in files
            .iter()
            .filter(|file| file.extension().is_some_and(|ending| ending == "http"))
        {
            let mate = files
                .iter()
                .any(|other| other != file && other.file_stem() == file.file_stem());
            if !mate {
                breaches.push(format!("{}: has no expectation beside it", file.display()));
            }
        }
    }
    report(breaches);
}

fn report(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below these folders, by its path from the root.
fn sources(folders: &[&str]) -> Vec<String> {
    let mut found: Vec<String> = folders
        .iter()
        .flat_map(|folder| files_under(&root().join(folder)))
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| {
            path.strip_prefix(root())
                .expect("found below the root")
                .display()
                .to_string()
        })
        .collect();
    found.sort();
    found
}

fn code_under(folders: &[&str]) -> Vec<(String, String)> {
    sources(folders)
        .into_iter()
        .map(|path| (path.clone(), source::code_only(&read(&path))))
        .collect()
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_under(&entry.path()),
            _ => vec![entry.path()],
        })
        .collect()
}

/// `src/worker/drain.rs` and `src/worker.rs` are of module `worker`.
fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/");
    inside
        .split('/')
        .next()
        .unwrap_or(inside)
        .trim_end_matches(".rs")
        .to_owned()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The modules a file names after `crate::`, in braces or not, with the line of each.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, matched) in code.match_indices("crate::") {
        let own = code[..at]
            .chars()
            .next_back()
            .is_none_or(|letter| !letter.is_alphanumeric() && letter != '_' && letter != '$');
        if !own {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + matched.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => first_names(group),
            None => vec![word(rest)],
        };
        // A capital or a bare function is an item of lib.rs itself.
        found.extend(
            names
                .into_iter()
                .filter(|name| !name.is_empty())
                .map(|name| (line, name)),
        );
    }
    found
}

/// The first path segment of every entry of a brace group.
fn first_names(group: &str) -> Vec<String> {
    let mut names = vec![word(group)];
    let mut depth = 1;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn word(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, goal: &str, seen: &mut BTreeSet<String>) -> bool {
    edges
        .get(from)
        .into_iter()
        .flatten()
        .any(|next| next == goal || (seen.insert(next.clone()) && reaches(edges, next, goal, seen)))
}

#[test]
fn imports_are_read_in_and_out_of_braces() {
    let code = "use crate::sys::{fd, shm};\nuse crate::{config::Config, log::{self, Level}, exit};\nlet x = crate::cache::key();";
    let names: Vec<String> = imports(code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["sys", "config", "log", "exit", "cache"]);
}
