//! The bench's harness, without a measurement: what it found before becomes a table and plots again.
//!
//! Takes the recorded run tests/bench/fixture.json; gives what `--redraw` makes of it, and every file of the harness
//! parsed. Figures are measured by `make bench` alone.

use std::fs;
use std::process::{Command, Output};

use crate::support::modules::root;

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn every_file_of_the_bench_parses() {
    let check = "import ast, pathlib, sys\n\
        for path in pathlib.Path(sys.argv[1]).rglob('*.py'): ast.parse(path.read_text(), str(path))";
    succeeds(
        Command::new("python3")
            .args(["-B", "-c", check])
            .arg(root().join("tests/bench")),
    );
}

#[test]
fn a_recorded_run_becomes_tables_and_plots() {
    let folder = tempfile::tempdir().unwrap();
    let bench = root().join("tests/bench");
    let output = succeeds(
        Command::new(bench.join("run"))
            .arg("--redraw")
            .arg(bench.join("fixture.json"))
            .arg("--out")
            .arg(folder.path()),
    );
    let (told, markdown) = (
        String::from_utf8_lossy(&output.stdout),
        fs::read_to_string(folder.path().join("table.md")).unwrap(),
    );
    // A verdict of each kind, a work that failed, a peer that was left out.
    for words in [
        "ok",
        "over",
        "heap allocations",
        "short",
        "bulk",
        "Granian WSGI",
        "appserver",
        "bare hyper",
    ] {
        assert!(told.contains(words), "{words} is not in:\n{told}");
        assert!(markdown.contains(words), "{words} is not in:\n{markdown}");
    }
    assert!(folder.path().join("bench.json").exists());
    for plot in ["hello", "churn", "connections", "workers", "mixed", "balance"] {
        let drawn = fs::read_to_string(folder.path().join(format!("{plot}.svg"))).unwrap();
        assert!(
            drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"),
            "{plot}: {drawn}"
        );
        assert!(drawn.contains("prefers-color-scheme: dark"), "{plot} suits dark pages");
        assert!(!drawn.contains("nan") && !drawn.contains("inf"), "{plot}: {drawn}");
    }
}

/// A published table stands in the README: it is that of a whole run, where nothing failed.
#[test]
fn only_a_whole_run_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let bench = root().join("tests/bench");
    let recorded = fs::read_to_string(bench.join("fixture.json")).unwrap();
    let whole: String = recorded
        .lines()
        .map(|line| {
            if line.starts_with("\"failed\"") {
                "\"failed\": {}"
            } else {
                line
            }
        })
        .collect();
    for (run, accepted) in [(&recorded, false), (&whole, true)] {
        let (file, out) = (folder.path().join("run.json"), folder.path().join("published"));
        fs::write(&file, run).unwrap();
        let output = Command::new(bench.join("run"))
            .args([
                "--redraw".as_ref(),
                file.as_os_str(),
                "--publish".as_ref(),
                out.as_os_str(),
            ])
            .args(["--out".as_ref(), folder.path().join("all").as_os_str()])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), accepted, "{told}");
        if !accepted {
            assert!(told.contains("without bulk") && !out.exists(), "{told}");
            continue;
        }
        let mut names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["balance.svg", "connections.svg", "table.md", "workers.svg"]);
        let table = fs::read_to_string(out.join("table.md")).unwrap();
        assert!(table.contains("bare hyper") && table.len() < 16 * 1024, "{table}");
    }
}
