//! The named timeouts, when one expires: a count and a line.
//!
//! Takes which one, on whose connection and during what request; gives one addition and one line in the log that names the
//! setting and its value. What becomes of the connection is decided where the timeout is watched.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use crate::config::Timeouts;
use crate::gateway::Call;
use crate::protocol::http::ledger::first_line;
use crate::scoreboard::{Slot, Timeout};

/// What is known of the request.
pub enum Asked<'a> {
    /// Its call.
    By(&'a Call),
    /// The first bytes of its head, perhaps none.
    Raw(&'a [u8]),
}

/// Counts an expired timeout and tells of it: as the handler's fault an error, a client's worth a look, an idle connection's
/// end nobody's business.
pub fn note(slot: Slot, timeouts: &Timeouts, timeout: Timeout, remote: &str, asked: Asked<'_>) {
    // By the watchdog too, so not by a plain store.
    slot.counters().timeouts[timeout as usize].fetch_add(1, Ordering::Relaxed);
    let (name, value, what) = match timeout {
        Timeout::Header => ("header", timeouts.header, "the rest of the request head did not come"),
        Timeout::Body => ("body", timeouts.body, "more of the request body did not come"),
        Timeout::Request => ("request", timeouts.request, "the handler did not answer"),
        Timeout::Write => ("write", timeouts.write, "the client did not read"),
        Timeout::KeepAlive => ("keep-alive", timeouts.keep_alive, "no further request came"),
        Timeout::Drain => (
            "drain",
            timeouts.drain,
            "the worker leaves and the handler has not answered",
        ),
    };
    let (id, method, target) = match asked {
        Asked::By(call) => {
            let request = &call.request;
            let target = request.part(request.path);
            (request.shown_id().to_string(), text(request.method()), text(target))
        }
        Asked::Raw(head) => {
            let mut parts = first_line(head).split(|byte| *byte == b' ');
            let method = text(parts.next().unwrap_or_default());
            let target = parts.next().unwrap_or_default();
            let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
            (String::new(), method, text(path))
        }
    };
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                timeout = name,
                remote,
                request_id = id,
                method,
                path = target,
                "timeouts.{name} ({value:?}) expired: {what}"
            )
        };
    }
    match timeout {
        Timeout::Header | Timeout::Body | Timeout::Write => tell!(info),
        Timeout::Request | Timeout::Drain => tell!(error),
        Timeout::KeepAlive => tell!(debug),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
