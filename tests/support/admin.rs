//! The admin listener, as those see it who watch over a server.
//!
//! Takes a server with `[admin] bind`; gives its pages, read strictly, and the process that makes them.

use serde_json::Value;

use crate::support::client::{Address, Client, Reply};
use crate::support::metrics::Metrics;
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, until, within};

/// The address that the log tells.
pub fn admin(server: &Server) -> Address {
    let line = server.wait_for_log("admin on ");
    let name = line.rsplit_once("admin on ").unwrap().1.trim();
    match name.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(name.parse().unwrap()),
    }
}

/// A page on a new connection, which must be answered.
pub fn ask(address: &Address, page: &str) -> Reply {
    let reply = Client::connect(address).map(|mut client| client.get(page));
    reply
        .unwrap_or_else(|error| panic!("{address:?}: {error}"))
        .unwrap_or_else(|failure| panic!("{page}: {failure}"))
}

/// `/status`, read.
pub fn status(address: &Address) -> Value {
    let reply = ask(address, "/status");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    serde_json::from_str(&reply.text()).unwrap_or_else(|error| panic!("{error}: {}", reply.text()))
}

/// `/metrics`, read.
pub fn metrics(address: &Address) -> Metrics {
    let reply = ask(address, "/metrics");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    Metrics::parse(&reply.text())
}

/// The monitor's process.
pub fn monitor(server: &Server) -> i32 {
    until("there is a monitor", || {
        let mut children = process::children(server.master()).into_iter();
        children.find(|child| process::title(*child) == "appserver: monitor")
    })
}

/// Waits until `/readyz` says this.
pub fn wait_for_readyz(address: &Address, status: u16) -> Reply {
    let said = within(PATIENCE, || {
        Some(ask(address, "/readyz")).filter(|reply| reply.status == status)
    });
    said.unwrap_or_else(|| panic!("/readyz does not say {status}: {}", ask(address, "/status").text()))
}
