//! The units we ship, read by systemd itself.
//!
//! Takes packaging/systemd with the path of the binary under test; gives the findings of `systemd-analyze`. Starting
//! them needs a running systemd, which a test machine seldom has: socket activation itself is tested in serving.rs.

use std::fs;
use std::process::Command;

use crate::support::modules::{SERVER, root};

#[test]
fn the_units_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for name in ["appserver.service", "appserver.socket"] {
        let unit = fs::read_to_string(root().join("packaging/systemd").join(name)).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, unit.replace("/usr/bin/appserver", SERVER)).unwrap();
        verify.arg(path);
    }
    let output = verify.output().expect("systemd-analyze is installed by `make test`");
    let said = String::from_utf8_lossy(&output.stderr);
    // Units of the machine itself may have findings of their own.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("appserver")).collect();
    assert!(ours.is_empty(), "{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_service_is_shut_in() {
    let unit = root().join("packaging/systemd/appserver.service");
    let mut security = Command::new("systemd-analyze");
    // Exposure is counted from 0 (shut) to 100 (open); 20 leaves room for what handlers need: the network.
    security
        .args(["security", "--offline=yes", "--no-pager", "--threshold=20"])
        .arg(unit);
    let output = security.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
