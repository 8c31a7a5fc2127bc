//! A call that does not come back: its client's answer, its record, and the plea for another worker.
//!
//! Takes a call whose time is over from the watchdog; ends its exchange on the bare connection, counts it, writes its access
//! line, and tells master and log who is stuck where. The stack it leaves on the scoreboard for the master to put names to.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::account::{answered, described, micros};
use super::expiry;
use crate::access_log;
use crate::config::{Log, Timeouts};
use crate::gateway::Call;
use crate::protocol::http::ledger::Outcome;
use crate::scoreboard::{Plea, Slot, State, Timeout};
use crate::sys::fd::EventFd;
use crate::sys::{fault, socket, time};

/// What a client is told whose call has taken too long.
pub const LATE: &str = "The handler did not answer in time.\n";
/// What a client is told whose call outlasts the drain.
pub const LEAVING: &str = "The server could not wait any longer for the handler: it is being restarted or stopped.\n";

/// The thread that a call holds.
#[derive(Debug, Clone, Copy)]
pub enum Held {
    /// The runtime thread: nothing goes on in this worker.
    Runtime(i32),
    /// One of the pool.
    Pool(i32),
}

/// Who tells of stuck calls, and with what.
pub struct Report {
    /// The worker's place.
    pub slot: Slot,
    /// Its number.
    pub worker: usize,
    /// Wakes the master.
    pub notice: EventFd,
    /// Where access lines go.
    pub log: Log,
    /// What stands in each expiry's line.
    pub timeouts: Timeouts,
    /// One stuck call has been told of, and the worker is to be replaced.
    pub pleaded: AtomicBool,
}

/// How an exchange ended that was ended on the bare connection.
pub struct Ended {
    status: u16,
    bytes: u64,
    duration_us: u64,
}

impl Report {
    /// Ends the exchange of a call that holds the runtime thread, for `timeout` is over; None when it was over and only its body is being closed.
    pub fn end(&self, call: &Arc<Call>, timeout: Timeout) -> Option<Ended> {
        let (status, bytes) = call.wire.lend(|connection| {
            if call.expire() && !call.has_spoken() {
                answer(call, connection, timeout)
            } else {
                // A head has left: only a broken connection tells the client that the rest will not come.
                call.cut_off();
                // A connection that is gone already needs no end.
                let _ = socket::break_off(&connection);
                call.told()
            }
        })?;
        call.settle();
        let duration_us = micros(call.bound.0, time::monotonic_ns());
        answered(self.slot.counters(), status, bytes, duration_us);
        expiry::note(
            self.slot,
            &self.timeouts,
            timeout,
            call.request.remote_addr(),
            expiry::Asked::By(call),
        );
        Some(Ended {
            status,
            bytes,
            duration_us,
        })
    }

    /// Writes the access line of an exchange that was ended here.
    pub fn log(&self, call: &Call, ended: &Ended) {
        let id = call.request.shown_id();
        let mut entry = described(&call.request, id.as_str());
        entry.status = ended.status;
        entry.bytes = ended.bytes;
        entry.duration_us = ended.duration_us;
        entry.handler_us = ended.duration_us;
        entry.outcome = Outcome::Timeout.name();
        let about = access_log::about(self.worker, std::process::id(), self.slot.generation());
        if let Err(error) = access_log::stand_in(&self.log, self.slot.log(), &entry, &about) {
            tracing::error!("access log: the lines of a stuck worker are left to the master: {error}");
        }
        // Written or held back for the master: another line would be one too many.
        if let Some(mark) = call.mark {
            mark.logged();
        }
    }

    /// Tells of a stuck call and, at the first one, asks for another worker.
    pub fn stuck(&self, call: &Call, held: Held) {
        let (thread, tid) = match held {
            Held::Runtime(tid) => ("runtime".to_owned(), tid),
            Held::Pool(tid) => {
                let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
                (name.trim_end().to_owned(), tid)
            }
        };
        let first = !self.pleaded.swap(true, Ordering::AcqRel);
        let stack = fault::stack_of(tid);
        if let (true, Some(stack)) = (first, &stack) {
            fault::leave(tid, stack);
        }
        let request = &call.request;
        tracing::error!(
            method = %String::from_utf8_lossy(request.method()),
            path = %String::from_utf8_lossy(request.part(request.path)),
            request_id = %request.shown_id(),
            age_ms = micros(call.bound.0, time::monotonic_ns()) / 1000,
            worker = self.worker,
            generation = self.slot.generation(),
            thread,
            tid,
            frames = stack.map_or(0, |stack| stack.len()),
            "a call is stuck: its handler has not returned; the worker is to be replaced"
        );
        if first {
            self.slot.state_set(State::Stuck);
            self.slot.plead(Plea::Stuck);
            self.notice.wake();
        }
    }
}

/// Sends the 504, or 503 at the end of a drain, and our FIN behind it; gives status and bytes of the body.
fn answer(call: &Call, connection: BorrowedFd<'_>, timeout: Timeout) -> (u16, u64) {
    let (status, reason, sentence) = match timeout {
        Timeout::Drain => (503, "Service Unavailable", LEAVING),
        _ => (504, "Gateway Timeout", LATE),
    };
    let request = &call.request;
    let version = request.version.name();
    let body = if request.method() == b"HEAD" { "" } else { sentence };
    let text = format!(
        "{version} {status} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\ndate: {}\r\n\r\n{body}",
        sentence.len(),
        httpdate::fmt_http_date(SystemTime::now())
    );
    // Nothing of this answer has left before, so there is room for it unless the client has read nothing for long.
    let sent = socket::send_now(&connection, text.as_bytes());
    let _ = socket::shutdown_write(&connection);
    let head = text.len() - body.len();
    (status, sent.map_or(0, |sent| sent.saturating_sub(head)) as u64)
}
