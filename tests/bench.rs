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
    for words in ["ok", "over", "short", "bulk", "Granian WSGI", "appserver", "bare hyper"] {
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
