//! The repository's modules in C: takes each source, gives a failure for any warning of gcc's. It loads none of them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

#[test]
fn every_c_module_compiles_without_a_warning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let misbehaving = std::fs::read_dir(root.join("../../tests/handlers/c")).expect("the folder of the test modules");
    let misbehaving = misbehaving.map(|entry| entry.expect("a directory entry").path());
    let sources = misbehaving.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    for source in sources.chain([root.join("../hello.c")]) {
        let module = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.file_name().expect("a file"));
        let out = Command::new("gcc")
            .args([
                "-std=c11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
                "-shared",
                "-fPIC",
                "-I",
            ])
            .arg(root.join("include"))
            .arg("-o")
            .args([&module.with_extension("so"), &source])
            .output()
            .expect("gcc is installed");
        assert!(
            out.status.success(),
            "{}: {}",
            source.display(),
            String::from_utf8_lossy(&out.stderr)
        );
    }
}
