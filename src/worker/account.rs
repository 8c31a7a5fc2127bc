//! What a worker keeps of its exchanges: how many are under way, the counters, the access-log line.
//!
//! Takes the records of the protocol as they begin and end; gives each its line, its counts and the end of its call. It also answers what
//! connections ask of their worker: may another call start, is it draining. It answers no request.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use appserver_handler::abi;
use bytes::Bytes;

use super::Worker;
use crate::access_log::Entry;
use crate::gateway::Call;
use crate::protocol::http::ledger::{Ledger, Outcome, Record, first_line};
use crate::protocol::http::{Gate, Settings};

impl Gate for Worker {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn may_start(&self, ledger: &Rc<Ledger>) -> bool {
        if self.in_flight.get() < self.limits.in_flight {
            return true;
        }
        if ledger.queue_up() {
            self.waiting.borrow_mut().push_back(ledger.clone());
        }
        false
    }

    fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn advance(&self, call: &Arc<Call>) {
        self.mounts[call.request.mount.index].advance(call);
    }

    fn finished(&self, ledger: &Ledger, record: Record, now: Instant) {
        self.set_in_flight(self.in_flight.get() - 1);
        let duration_us = micros(record.began, now);
        let counters = self.slot.counters();
        add(counters.requests, 1);
        add(counters.bytes_out, record.bytes);
        counters.latency.record(duration_us);
        if let Some(class) = counters.status.get((record.status as usize / 100).wrapping_sub(1)) {
            add(class, 1);
        }
        if record.outcome == Outcome::Aborted {
            add(counters.aborted, 1);
        }
        self.log(ledger, &record, duration_us);
        if let Some(call) = &record.call
            && let Some(mount) = self.mounts.get(call.request.mount.index)
        {
            if call.panicked() {
                add(counters.panics, 1);
            }
            mount.learn(call);
            if call.set_client(abi::STATE_GONE) {
                mount.advance(call);
            }
        }
        self.call_up();
    }
}

impl Worker {
    /// Begins the record of an exchange; it counts as in flight until it is finished.
    pub(super) fn open(&self, ledger: &Ledger, began: Instant, refused: Bytes) {
        self.set_in_flight(self.in_flight.get() + 1);
        *ledger.record.borrow_mut() = Some(Record {
            refused,
            ..Record::new(began)
        });
    }

    /// Adds the call to its record, here and on the scoreboard.
    pub(super) fn keep(&self, ledger: &Ledger, call: &Arc<Call>, start: Instant) {
        // A FIN may have come with the request, before there was a call to tell.
        if ledger.client() != abi::STATE_HERE {
            call.set_client(ledger.client());
        }
        let request = &call.request;
        // Method and target stand side by side in the head.
        let line = &request.bytes[request.method.start as usize..request.target.end as usize];
        ledger.note(|record| {
            record.queue_us = micros(record.began, start);
            record.kept = self.slot.call_begin(&request.id.hex(), line);
            record.call = Some(call.clone());
        });
    }

    /// Lets connections that wait for their turn start as many calls as there is room for, the longest waiting first.
    pub(super) fn call_up(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let mut room = self.limits.in_flight.saturating_sub(self.in_flight.get());
        while room > 0
            && let Some(next) = waiting.pop_front()
        {
            if next.called_up() {
                next.wake();
                room -= 1;
            }
        }
    }

    fn set_in_flight(&self, calls: usize) {
        let most = self.limits.in_flight;
        let before = self.in_flight.replace(calls);
        // The acceptor has to know of the limit alone, and telling another thread costs more than all the rest here.
        if (before < most) != (calls < most) {
            self.load.set_calls_full(calls >= most);
        }
        self.slot.counters().in_flight.store(calls as u64, Ordering::Relaxed);
    }

    /// The access-log line of an exchange.
    fn log(&self, ledger: &Ledger, record: &Record, duration_us: u64) {
        let mut access = self.access.borrow_mut();
        let Some(access) = access.as_mut() else { return };
        let id = match &record.call {
            Some(call) => call.request.id,
            None => self.next_id(),
        };
        let id = id.hex();
        let mut entry = Entry {
            remote: &ledger.peer.remote_addr,
            status: record.status,
            bytes: record.bytes,
            duration_us,
            queue_us: record.queue_us,
            handler_us: record.handler_us,
            request_id: std::str::from_utf8(&id).unwrap_or_default(),
            outcome: record.outcome.name(),
            ..Entry::default()
        };
        match &record.call {
            Some(call) => {
                let request = &call.request;
                entry.method = request.method();
                entry.target = request.part(request.target);
                entry.protocol = request.version.name().as_bytes();
                entry.referer = request.field(b"referer").unwrap_or_default();
                entry.user_agent = request.field(b"user-agent").unwrap_or_default();
            }
            // What was refused need not have three parts; its first line is shown as far as it goes.
            None => {
                let mut parts = first_line(&record.refused).splitn(3, |byte| *byte == b' ');
                entry.method = parts.next().unwrap_or_default();
                entry.target = parts.next().unwrap_or_default();
                entry.protocol = parts.next().unwrap_or_default();
            }
        }
        access.write(&entry);
    }
}

/// Adds to a counter that only this thread writes: a plain store is enough, and far cheaper than a locked addition.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// Microseconds from one moment to a later one.
pub(super) fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
