//! The handler's side of a call: what each function of the host table does.
//!
//! Takes checked slices from `handler/functions.rs`, changes the call's state, and wakes the other side. Every function may come on
//! any thread and at any time, also after the answer has gone; then it says so.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use appserver_handler::abi::{self, Status};
use bytes::Bytes;

use super::call::{Call, Stage, State, must_not_wait};
use super::fields::Fields;
use super::output::Source;
use super::start_response::{Fault, Head, interim};
use crate::handler::call::{Chunks, Exchange, FileRange, Pair, Waking};
use crate::sys::time;

/// Interim responses that may wait to be sent.
const MOST_INTERIM: usize = 16;

impl Call {
    /// Whether body bytes may be added now.
    fn writable(&self, state: &State) -> Result<(), Status> {
        if state.client == abi::STATE_GONE {
            return Err(abi::E_GONE);
        }
        match state.stage {
            Stage::Failed => return Err(abi::E_FAILED),
            Stage::Done => return Err(abi::E_STATE),
            Stage::Returned if !state.detached => return Err(abi::E_STATE),
            _ => {}
        }
        // After the commit the head has been taken; before it, start_response must have set one.
        if (state.head.is_none() && !state.committed) || state.source.is_set() {
            return Err(abi::E_STATE);
        }
        Ok(())
    }

    /// Whether one of the `body_*` functions may be used now.
    fn bodyable(&self, state: &State) -> Result<(), Status> {
        match state.stage {
            Stage::Calling if !state.source.is_set() && !state.detached => Ok(()),
            Stage::Failed => Err(abi::E_FAILED),
            _ => Err(abi::E_STATE),
        }
    }

    /// Tells the log what was wrong with fields that can still be left out.
    fn refuse_fields(&self, of: &str, fault: &Fault) -> Status {
        self.complain(&format!("in {of}: {fault}"));
        abi::E_INVALID
    }

    /// The first want of input lets the protocol read.
    fn want_input(&self, state: &mut State) {
        state.input.wanted = true;
        if let Some(pump) = state.input.pump.take() {
            pump.wake();
        }
    }
}

impl Exchange for Call {
    fn log(&self, level: i32, message: &[u8]) {
        let text = String::from_utf8_lossy(message);
        let id = self.request.shown_id();
        match level {
            abi::LOG_ERROR => tracing::error!(target: "handler", request_id = %id, "{text}"),
            abi::LOG_WARN => tracing::warn!(target: "handler", request_id = %id, "{text}"),
            abi::LOG_INFO => tracing::info!(target: "handler", request_id = %id, "{text}"),
            abi::LOG_DEBUG => tracing::debug!(target: "handler", request_id = %id, "{text}"),
            _ => tracing::trace!(target: "handler", request_id = %id, "{text}"),
        }
    }

    fn environ_get(&self, key: &[u8]) -> Option<&[u8]> {
        self.environ.get(&self.request, key)
    }

    fn environ_at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.environ.at(&self.request, index)
    }

    fn method(&self) -> &[u8] {
        self.request.method()
    }

    fn target(&self) -> &[u8] {
        self.request.part(self.request.target)
    }

    fn field_at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let field = self.request.fields.get(index)?;
        Some((self.request.part(field.name), self.request.part(field.value)))
    }

    fn trailer_at(&self, index: usize) -> Result<Option<Pair<'_>>, Status> {
        match self.trailers_in.get() {
            Some(list) => Ok(list.get(index).map(|(name, value)| (name.as_slice(), value.as_slice()))),
            // A body that was read as a whole before the call carries its trailers from the start, so there are none here.
            None if self.lock().input.ended() => Ok(None),
            None => Err(abi::E_STATE),
        }
    }

    fn deadline(&self) -> u64 {
        let (began, patience) = self.bound;
        time::monotonic_ns().max(began.saturating_add(time::nanos(patience)))
    }

    fn state(&self) -> Status {
        self.lock().client
    }

    fn state_poll(&self, waking: Waking) -> Status {
        let mut state = self.lock();
        if state.client == abi::STATE_GONE {
            drop(state);
            return waking.decline(abi::OK);
        }
        let before = state.watching.replace(waking);
        drop(state);
        drop(before);
        abi::AGAIN
    }

    fn input_read(&self, buf: &mut [u8]) -> Result<usize, Status> {
        let mut state = self.lock();
        loop {
            self.want_input(&mut state);
            if let Some(outcome) = state.input.take(buf) {
                self.want_input(&mut state);
                return outcome;
            }
            if must_not_wait() {
                // The I/O thread would wait for itself. Bodies are read before an inline call, so only a raw stream gets here.
                return Err(abi::E_UNSUPPORTED);
            }
            state = self.sleep(state);
        }
    }

    fn input_poll(&self, buf: &mut [u8], waking: Option<Waking>) -> Result<usize, Status> {
        let mut state = self.lock();
        self.want_input(&mut state);
        if let Some(outcome) = state.input.take(buf) {
            self.want_input(&mut state);
            drop(state);
            if let Some(waking) = waking {
                waking.decline(());
            }
            return outcome;
        }
        let before = std::mem::replace(&mut state.input.waiting, waking);
        drop(state);
        drop(before);
        Err(abi::AGAIN)
    }

    fn start_response(
        &self,
        status: &[u8],
        fields: &mut dyn Iterator<Item = (&[u8], &[u8])>,
        exc_info: Option<&[u8]>,
    ) -> Status {
        let built = Head::build(status, fields);
        let mut state = self.lock();
        if let Some(text) = exc_info {
            tracing::error!(request_id = %self.request.shown_id(), "handler error: {}", String::from_utf8_lossy(text));
        }
        if matches!(state.stage, Stage::Done | Stage::Failed) {
            return abi::E_STATE;
        }
        if state.committed {
            // PEP 3333: with exc_info after the first byte the error is raised again, and the response is cut.
            if exc_info.is_some() {
                self.fail(
                    &mut state,
                    &Fault("start_response with exc_info after the first body byte".into()),
                );
            }
            self.notify(state);
            return abi::E_STATE;
        }
        let fault = match built {
            Err(fault) => fault,
            Ok(_) if state.head.is_some() && exc_info.is_none() => {
                Fault("it called start_response twice without exc_info".into())
            }
            Ok(head) => {
                let replaced = exc_info.is_some().then(|| state.output.take_all());
                state.head = Some(head);
                drop(state);
                drop(replaced);
                return abi::OK;
            }
        };
        self.fail(&mut state, &fault);
        self.notify(state);
        abi::E_INVALID
    }

    fn informational(&self, status: u32, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Status {
        if !(102..=199).contains(&status) {
            return abi::E_INVALID;
        }
        // nginx before 1.29 takes an interim response for the final one, and its client waits for a body that never comes.
        let heard = self.request.front.is_none() || self.request.mount.proxy_hints;
        if self.request.version == super::request::Version::Http10 || !heard {
            return abi::E_UNSUPPORTED;
        }
        let head = match interim(status as u16, fields) {
            Ok(head) => head,
            Err(fault) => return self.refuse_fields("an interim response", &fault),
        };
        let mut state = self.lock();
        if state.committed || state.client == abi::STATE_GONE || state.interim.len() == MOST_INTERIM {
            return abi::E_STATE;
        }
        state.interim.push(head);
        self.has_interim.store(true, Ordering::Release);
        self.notify(state);
        abi::OK
    }

    fn trailers(&self, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Status {
        let map = match Fields::read(fields) {
            Ok(fields) => fields.to_map(),
            Err(fault) => return self.refuse_fields("the trailers", &fault),
        };
        let mut state = self.lock();
        if matches!(state.stage, Stage::Done | Stage::Failed) {
            return abi::E_STATE;
        }
        state.trailers = Some(Box::new(map));
        abi::OK
    }

    fn write(&self, bytes: &[u8]) -> Status {
        let mut rest = bytes;
        loop {
            let mut state = self.lock();
            if let Err(status) = self.writable(&state) {
                return status;
            }
            // The I/O thread cannot wait for itself to send: an inline call keeps its bytes in memory.
            let n = if must_not_wait() {
                rest.len()
            } else {
                rest.len().min(state.output.room())
            };
            if n > 0 || rest.is_empty() {
                state.output.push(Bytes::copy_from_slice(&rest[..n]));
                rest = &rest[n..];
                self.notify(state);
                if rest.is_empty() {
                    return abi::OK;
                }
                continue;
            }
            drop(self.sleep(state));
        }
    }

    fn write_poll(&self, bytes: &[u8], waking: Option<Waking>) -> Result<usize, Status> {
        let mut state = self.lock();
        let outcome = self.writable(&state).map(|()| bytes.len().min(state.output.room()));
        if let Ok(0) = outcome
            && !bytes.is_empty()
        {
            let before = std::mem::replace(&mut state.output.waiting, waking);
            drop(state);
            drop(before);
            return Err(abi::AGAIN);
        }
        if let Ok(n) = outcome {
            state.output.push(Bytes::copy_from_slice(&bytes[..n]));
        }
        self.notify(state);
        if let Some(waking) = waking {
            waking.decline(());
        }
        outcome
    }

    fn body_bytes(&self, take: &mut dyn FnMut() -> Bytes) -> Status {
        let mut state = self.lock();
        match self.bodyable(&state) {
            Ok(()) => {
                state.source = Source::Bytes(take());
                abi::OK
            }
            Err(status) => status,
        }
    }

    fn body_iter(&self, chunks: Chunks) -> Result<(), (Status, Chunks)> {
        let mut state = self.lock();
        match self.bodyable(&state) {
            Ok(()) => {
                state.source = Source::Idle(chunks);
                Ok(())
            }
            Err(status) => Err((status, chunks)),
        }
    }

    fn body_file(&self, file: FileRange) -> Result<(), (Status, FileRange)> {
        let mut state = self.lock();
        match self.bodyable(&state) {
            Ok(()) => {
                state.source = Source::File(file);
                Ok(())
            }
            Err(status) => Err((status, file)),
        }
    }

    fn detach(&self) -> Status {
        let mut state = self.lock();
        if state.stage != Stage::Calling || state.source.is_set() {
            return abi::E_STATE;
        }
        state.detached = true;
        abi::OK
    }

    fn finish(&self, outcome: Status) -> Status {
        let mut state = self.lock();
        if !state.detached || matches!(state.stage, Stage::Done | Stage::Failed) {
            return abi::E_STATE;
        }
        if outcome == abi::OK {
            state.stage = Stage::Done;
        } else {
            self.fail(
                &mut state,
                &Fault(format!("its detached response was finished with {outcome}")),
            );
        }
        self.notify(state);
        abi::OK
    }

    fn upgrade(&self, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Status {
        if !self.request.upgrade {
            return abi::E_UNSUPPORTED;
        }
        let head = match Head::switching(fields) {
            Ok(head) => head,
            Err(fault) => return self.refuse_fields("an upgrade", &fault),
        };
        let mut state = self.lock();
        // What is left of a body would be taken for the first bytes of the new protocol.
        let body_left = !state.input.ended();
        if state.stage != Stage::Calling || state.source.is_set() || state.head.is_some() || body_left {
            return abi::E_STATE;
        }
        state.head = Some(head);
        state.detached = true;
        state.upgraded = true;
        state.input = super::input::Input::default();
        state.input.wanted = true;
        self.notify(state);
        abi::OK
    }

    fn errors_write(&self, bytes: &[u8]) -> Status {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.log(abi::LOG_ERROR, line);
        }
        abi::OK
    }

    fn retained(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    fn released(&self) {
        if self.held.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut state = self.lock();
        if state.detached && state.stage == Stage::Returned && state.client != abi::STATE_GONE {
            self.fail(
                &mut state,
                &Fault("its detached response was dropped unfinished".into()),
            );
            self.notify(state);
        }
    }
}
