//! The handlers that tests load, and throw-away ones built on the spot.
//!
//! Takes a name or a source; gives the path of a shared library. The workspace's own handlers are brought up to date
//! once per run, since `cargo test` does not build the libraries of other members.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The server under test.
pub const SERVER: &str = env!("CARGO_BIN_EXE_appserver");

/// The root of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder the server was built into (`target/debug`).
pub fn built() -> &'static Path {
    Path::new(SERVER).parent().expect("a binary lies in a folder")
}

/// A handler of the workspace: `lab`, `probe`, `hello`, `echo`, `environ`.
pub fn module(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = cargo(built().parent().expect("target/debug lies in target"));
        for name in ["lab", "probe", "hello", "echo", "environ"] {
            cargo.args(["-p", &format!("handler-{name}")]);
        }
        if built().ends_with("release") {
            cargo.arg("--release");
        }
        run(cargo.arg("--locked").current_dir(root()));
    });
    built().join(format!("lib{name}.so"))
}

/// Builds one Rust source file as a handler in `folder`, against the SDK of this tree, with nothing but the SDK.
pub fn rust(folder: &Path, name: &str, source: &str) -> PathBuf {
    let package = folder.join(name);
    fs::create_dir_all(package.join("src")).unwrap();
    fs::write(package.join("src/lib.rs"), source).unwrap();
    let sdk = root().join("handlers/sdk");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"1.2.3\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n\
         [dependencies]\nappserver-handler = {{ path = {sdk:?} }}\n\n[workspace]\n"
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    run(cargo(&folder.join("target")).current_dir(&package));
    folder.join(format!("target/debug/lib{}.so", name.replace('-', "_")))
}

/// Builds one C source file as a handler in `folder`, with the flags an author would use.
pub fn c(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (text, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    fs::write(&text, source).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-O2", "-Wall", "-Wextra", "-Werror", "-std=c11", "-fPIC", "-shared", "-I",
    ]);
    run(gcc
        .arg(root().join("handlers/sdk/include"))
        .arg("-o")
        .arg(&library)
        .arg(&text));
    library
}

fn cargo(target: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--offline", "--quiet"])
        .env("CARGO_TARGET_DIR", target);
    cargo
}

/// Runs a command that must succeed; gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}
