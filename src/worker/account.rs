//! What a worker keeps of its exchanges: how many are under way, the counters, the access-log line.
//!
//! Takes the records of the protocol as they begin and end; gives each its line, its counts and the end of its call. It also answers what
//! connections ask of their worker: may another call start, is it draining. It answers no request.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use appserver_handler::abi;
use bytes::Bytes;

use super::Worker;
use super::expiry::{self, Asked};
use crate::access_log::Entry;
use crate::gateway::input::Input;
use crate::gateway::request::ShownId;
use crate::gateway::{Call, Request};
use crate::handover::{Passing, Proxied};
use crate::protocol::http::ledger::{Ledger, Outcome, Record, first_line};
use crate::protocol::http::{Gate, Settings};
use crate::scoreboard::{CallRecord, Counters, Plea, Timeout};

impl Gate for Worker {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn may_start(&self, ledger: &Rc<Ledger>) -> bool {
        if ledger.is_promised() {
            ledger.step_out();
            self.promised.set(self.promised.get() - 1);
            return true;
        }
        if self.taken() < self.limits.in_flight {
            ledger.step_out();
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

    fn hands_over(&self, ledger: &Ledger) -> bool {
        self.handing_over.get() && !ledger.stays.get()
    }

    fn give(&self, connection: BorrowedFd<'_>, passing: &Passing) -> io::Result<()> {
        self.give_away(connection, passing)
    }

    fn idle(&self, ledger: &Ledger, idle: bool, fresh: bool) {
        self.clerk.idle(ledger.place, idle, fresh);
    }

    fn proxied(&self, ledger: &Ledger, proxied: Proxied) {
        self.clerk.proxied(ledger.place, proxied);
    }

    fn is_taken(&self, ledger: &Ledger) -> bool {
        self.clerk.is_taken(ledger.place)
    }

    fn advance(&self, call: &Arc<Call>) {
        self.mounts[call.request.mount.index].advance(call);
    }

    fn expired(&self, ledger: &Ledger, timeout: Timeout) {
        let record = ledger.record.borrow();
        let peer = ledger.peer();
        let remote = record
            .as_ref()
            .map_or(peer.remote_addr.as_str(), |record| record.remote_addr(peer));
        let asked = match record.as_ref() {
            Some(Record { call: Some(call), .. }) => {
                if timeout == Timeout::Request {
                    self.watch.suspect(call);
                }
                Asked::By(call)
            }
            Some(record) => Asked::Raw(&record.refused),
            None => Asked::Raw(&[]),
        };
        expiry::note(self.slot, &self.settings.timeouts, timeout, remote, asked);
    }

    fn waits_for_client(&self, ledger: &Ledger, waits: bool) {
        if ledger.record.borrow().is_none() || ledger.placeless.replace(waits) == waits {
            return;
        }
        // Many slow clients must not use up the places of those who are quick. One that comes back finds its place, full or not.
        if waits {
            self.one_less();
        } else {
            self.one_more();
        }
    }

    fn finished(&self, ledger: &Ledger, mut record: Record, now: u64) {
        if !ledger.placeless.replace(false) {
            self.one_less();
        }
        if let Some(call) = &record.call {
            // Its connection may be closed, and its number another's, while its body is still open.
            call.wire.forget();
        }
        if !record.call.as_ref().is_some_and(|call| call.is_settled()) {
            self.count(ledger, &record, now);
        }
        if let Some(call) = &record.call
            && let Some(mount) = self.mounts.get(call.request.mount.index)
        {
            if call.panicked() {
                add(self.slot.counters().panics, 1);
            }
            mount.learn(call);
        }
        if let Some(call) = &mut record.call {
            match Arc::get_mut(call).and_then(Call::strip) {
                // Nobody else is left to be told that it is over.
                Some(fields) => ledger.give_back(fields),
                None if call.set_client(abi::STATE_GONE) => self.advance(call),
                None => {}
            }
        }
        if let Some(asked) = record.asked.take() {
            ledger.give_back(asked.fields);
        }
        if record.outcome == Outcome::Timeout
            && let (Some(call), Some(kept)) = (&record.call, record.kept.take())
        {
            // Its line is written; what the handler still does for it is to be seen all the same.
            kept.mark().logged();
            self.watch.keep(call, kept);
        }
    }
}

impl Worker {
    /// Counts an exchange that is over and writes its line.
    fn count(&self, ledger: &Ledger, record: &Record, now: u64) {
        let duration_us = micros(record.began, now);
        let counters = self.slot.counters();
        answered(counters, record.status, record.bytes, duration_us);
        if record.outcome == Outcome::Aborted {
            add(counters.aborted, 1);
        }
        self.log(ledger, record, duration_us);
        if counters.requests.load(Ordering::Relaxed) == self.enough {
            self.plead(Plea::Requests);
        }
    }

    /// Asks the master for something, unless something was asked for already.
    pub(super) fn plead(&self, plea: Plea) {
        if self.slot.plea() == Plea::None {
            self.slot.plead(plea);
            self.call_master();
        }
    }

    /// Has the master look at what this worker asks for.
    pub(super) fn call_master(&self) {
        if let Some(notice) = self.notice.get() {
            notice.wake();
        }
    }

    /// Begins the record of an exchange; it counts as in flight until it is finished.
    pub(super) fn open(&self, ledger: &Ledger, began: u64, refused: Bytes) {
        self.one_more();
        *ledger.record.borrow_mut() = Some(Record {
            refused,
            ..Record::new(began)
        });
    }

    /// Begins a call, and adds it to its record here and on the scoreboard. `start` as in [`Call::new`].
    pub(super) fn begin(&self, ledger: &Ledger, request: Request, input: Input, start: u64) -> Arc<Call> {
        // Method and target stand side by side in the head.
        let line = &request.bytes[request.method.start as usize..request.target.end as usize];
        // As `shown_id` has it, without a copy.
        let own = request.id.hex();
        let told = request.front.as_ref().and_then(|front| front.request_id.as_deref());
        let id = told.map_or(&own[..], str::as_bytes);
        let kept = self.slot.call_begin(id, line, start);
        let mark = kept.as_ref().map(CallRecord::mark);
        let call = Call::new(request, input, (start, self.settings.timeouts.request), mark);
        // A FIN may have come with the request, before there was a call to tell.
        if ledger.client() != abi::STATE_HERE {
            call.set_client(ledger.client());
        }
        call.wire.name(ledger.number);
        ledger.note(|record| {
            record.queue_us = micros(record.began, start);
            record.kept = kept;
            record.call = Some(call.clone());
        });
        call
    }

    /// Calls under way, and places kept for connections whose turn has come and which have not run yet.
    fn taken(&self) -> usize {
        self.in_flight.get() + self.promised.get()
    }

    fn one_more(&self) {
        let before = self.taken();
        self.in_flight.set(self.in_flight.get() + 1);
        self.tell(before);
    }

    /// A call is over: whoever has waited longest gets its place.
    fn one_less(&self) {
        let before = self.taken();
        self.in_flight.set(self.in_flight.get() - 1);
        self.call_up(before);
    }

    /// A connection ends that may have been waiting for its turn, or was about to take it.
    pub(super) fn leave_line(&self, ledger: &Ledger) {
        let before = self.taken();
        if ledger.step_out() {
            self.promised.set(self.promised.get() - 1);
            self.call_up(before);
        }
    }

    /// Keeps places for as many of those who wait as there is room for, the longest waiting first: nobody who comes later takes them.
    fn call_up(&self, before: usize) {
        let mut waiting = self.waiting.borrow_mut();
        while self.taken() < self.limits.in_flight
            && let Some(next) = waiting.pop_front()
        {
            if next.called_up() {
                self.promised.set(self.promised.get() + 1);
                next.wake();
            }
        }
        drop(waiting);
        self.tell(before);
    }

    /// Tells those who want to know how many calls there are, `before` being how many were taken.
    fn tell(&self, before: usize) {
        let (most, now) = (self.limits.in_flight, self.taken());
        // The acceptor has to know of the limit alone: waking it costs more than all the rest here.
        if (before < most) != (now < most) {
            self.load.set_calls_full(now >= most);
        }
        let calls = self.in_flight.get() as u64;
        self.slot.counters().in_flight.store(calls, Ordering::Relaxed);
    }

    /// The access-log line of an exchange.
    fn log(&self, ledger: &Ledger, record: &Record, duration_us: u64) {
        let mut access = self.access.borrow_mut();
        let Some(access) = access.as_mut() else { return };
        let id = match record.request() {
            Some(request) => request.shown_id(),
            None => ShownId::Own(self.next_id().hex()),
        };
        let mut entry = match record.request() {
            Some(request) => described(request, id.as_str()),
            // What was refused need not have three parts; its first line is shown as far as it goes.
            None => {
                let mut parts = first_line(&record.refused).splitn(3, |byte| *byte == b' ');
                Entry {
                    remote: record.remote_addr(ledger.peer()),
                    request_id: id.as_str(),
                    method: parts.next().unwrap_or_default(),
                    target: parts.next().unwrap_or_default(),
                    protocol: parts.next().unwrap_or_default(),
                    ..Entry::default()
                }
            }
        };
        entry.status = record.status;
        entry.bytes = record.bytes;
        entry.duration_us = duration_us;
        entry.queue_us = record.queue_us;
        entry.handler_us = record.handler_us;
        entry.outcome = record.outcome.name();
        entry.cache = record.cache;
        access.write(&entry);
    }
}

/// What an access line says of the request.
pub(super) fn described<'a>(request: &'a Request, id: &'a str) -> Entry<'a> {
    Entry {
        remote: request.remote_addr(),
        request_id: id,
        method: request.method(),
        target: request.shown_target(),
        protocol: request.protocol(),
        referer: request.field(b"referer").unwrap_or_default(),
        user_agent: request.field(b"user-agent").unwrap_or_default(),
        ..Entry::default()
    }
}

/// Counts an answer of any kind. From the runtime thread, or for it while it is held up.
pub(super) fn answered(counters: &Counters, status: u16, bytes: u64, duration_us: u64) {
    add(counters.requests, 1);
    add(counters.bytes_out, bytes);
    counters.latency.record(duration_us);
    if let Some(class) = counters.status.get((status as usize / 100).wrapping_sub(1)) {
        add(class, 1);
    }
}

/// Adds to a counter that only this thread writes: a plain store is enough, and far cheaper than a locked addition.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// Microseconds from one moment (ns) to a later one.
pub(super) fn micros(from: u64, to: u64) -> u64 {
    to.saturating_sub(from) / 1000
}
