//! The units we ship, read by systemd itself.
//!
//! Takes packaging/systemd with the path of the binary under test; gives the findings of `systemd-analyze`. Starting
//! them needs a running systemd: `make systemd-test` boots one. What is told to it, and got from it, is tested in notify.rs.

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
fn a_reload_waits_for_its_outcome_and_a_stop_for_the_longest_default_drain() {
    let unit = fs::read_to_string(root().join("packaging/systemd/appserver.service")).unwrap();
    let value = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(value("Type"), Some("notify"));
    assert!(value("ExecReload").is_some_and(|command| command.starts_with("/usr/bin/appserver reload")));
    let seconds = |name| value(name).and_then(|time| time.strip_suffix('s')?.parse::<u64>().ok());
    let drain = appserver::config::Timeouts::default().drain.as_secs();
    assert!(seconds("TimeoutStopSec").is_some_and(|stop| stop > drain));
    // The verbs look for their server there (src/verbs.rs), and the folder above is the socket unit's.
    let folder = format!("/run/{}/control.sock", value("RuntimeDirectory").unwrap());
    assert_eq!(folder, appserver::verbs::SYSTEM_SOCKET);
    let socket = fs::read_to_string(root().join("packaging/systemd/appserver.socket")).unwrap();
    assert!(socket.contains("ListenStream=/run/appserver/app.sock\n"));
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
