//! Servers with a control socket, and the commands that speak to them.
//!
//! Takes a socket and a verb as it is typed; gives what the command printed and left with. The wire is control.rs's.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::modules::SERVER;
use crate::support::server::{Builder, Server};

/// A server with a control socket in its folder.
pub fn controlled() -> Builder {
    let builder = Server::lab();
    let path = builder.folder().join("control.sock");
    builder.arg("--control").arg(path)
}

/// Where it is.
pub fn socket(server: &Server) -> PathBuf {
    server.folder().join("control.sock")
}

/// Says a verb with its options, which hold no spaces, to the server behind a socket.
pub fn verb(socket: &Path, line: &str) -> Output {
    Command::new(SERVER)
        .args(line.split(' '))
        .arg("--control")
        .arg(socket)
        .env_remove("APPSERVER_CONTROL_SOCKET")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Exit code, standard output and standard error.
pub fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
