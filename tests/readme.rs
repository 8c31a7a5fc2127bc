//! What the README promises, taken from the README itself.
//!
//! Takes the first Rust block under "A handler in ten lines"; gives it built as a reader would build it, and served.

use std::fs;

use crate::support::modules::{root, rust};
use crate::support::server::Server;

#[test]
fn the_ten_line_handler_of_the_readme_is_built_and_served() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme
        .split_once("A handler in ten lines")
        .expect("README.md has that section");
    let (_, block) = section.split_once("```rust\n").expect("the section has a Rust block");
    let (source, _) = block.split_once("```").expect("the block ends");
    assert!(source.lines().count() <= 10, "ten lines:\n{source}");

    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(rust(folder.path(), "ten-lines", source)).start();
    let reply = server.get("/");
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("Hello"), "{}", reply.text());
}
