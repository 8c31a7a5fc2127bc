//! One request, top to bottom.
//!
//! Takes what the guard accepted, finds its mount, makes the call, has it run, and gives the answer back to the protocol.
//! Every failure here becomes a status and a log line; it knows neither sockets nor processes.
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::time::{Sleep, sleep};

use super::Worker;
use super::account::micros;
use super::consult::Consulted;
use super::fill::Exchange;
use super::stuck::{LATE, LEAVING};
use crate::gateway::input::Input;
use crate::gateway::request::{self, Id, Request, Span};
use crate::gateway::{Answer, Body, Call};
use crate::protocol::http::head::Head;
use crate::protocol::http::ledger::{Incoming, Ledger, Outcome};
use crate::protocol::http::refusal::Refusal;
use crate::protocol::http::reply::Reply;
use crate::protocol::http::target::Form;
use crate::protocol::http::timer::ASLEEP;
use crate::protocol::http::upload::{self, Early, Upload};
use crate::protocol::http::{Gate, Service, answer};
use crate::scoreboard::Timeout;
use crate::sys::time;

impl Service for Worker {
    async fn serve(self: Rc<Self>, ledger: Rc<Ledger>, body: Upload) -> Reply {
        let gate: Rc<dyn Gate> = self.clone();
        let began = time::monotonic_ns();
        ledger.answered.set(false);
        let request = match self.take(&ledger, began) {
            Ok(request) => request,
            Err(refusal) => return answer::refused(&refusal, &gate, &ledger),
        };
        let mut errand = None;
        let request = match &self.shelf {
            None => request,
            Some(shelf) => {
                let has_body = !matches!(&body, Upload::Whole(bytes) if bytes.is_empty());
                match self.consult(shelf, request, has_body, &gate, &ledger).await {
                    Consulted::Answered(reply) => return reply,
                    Consulted::Ask(request, found) => {
                        errand = Some((shelf, found));
                        request
                    }
                }
            }
        };
        let (call, rest, start) = match body {
            Upload::Whole(bytes) => {
                // It may have waited for another one's answer.
                let start = if errand.is_some() { time::monotonic_ns() } else { began };
                (self.begin(&ledger, request, Input::whole(bytes), start), None, start)
            }
            // One that the client holds back is read when the handler first asks for it.
            Upload::Coming(body) if ledger.head.borrow().expect_continue => {
                let call = self.begin(&ledger, request, Input::default(), began);
                (call, Some(body), began)
            }
            // One that is short is read before the handler is called, a long one while it runs.
            Upload::Coming(body) => {
                // Should the client break off or the server stop meanwhile, the log knows what was asked.
                ledger.note(|record| {
                    record.refused = request.bytes.clone();
                    record.remote = request.front.as_ref().and_then(|front| front.remote_addr.clone());
                });
                let (input, trailers, rest) = match upload::read_early(body, self.settings.body_buffer, &ledger).await {
                    Ok(Early::Whole(bytes, trailers)) => (Input::whole(bytes), trailers, None),
                    Ok(Early::Partial(bytes, more)) => (Input::begun(bytes), None, Some(more)),
                    Err(refusal) => return answer::refused(&refusal, &gate, &ledger),
                };
                let start = time::monotonic_ns();
                let call = self.begin(&ledger, request, input, start);
                if trailers.is_some() {
                    call.finish_input(Ok(trailers));
                }
                (call, rest, start)
            }
        };
        let here = rest.is_none();
        let path = call.request.part(call.request.path);
        if path.contains(&b'%') && path.windows(3).any(|escape| escape == b"%00") {
            return answer::refused(&Refusal::NUL_IN_PATH, &gate, &ledger);
        }
        let Some(mount) = self.mounts.get(call.request.mount.index) else {
            return answer::plain(404, "Nothing is mounted at this path.\n".into(), &gate, &ledger);
        };
        if let Some(body) = rest {
            tokio::task::spawn_local(upload::pump(body, call.clone(), ledger.clone()));
        }
        let ended = mount.call(&call, here, start);
        if call.is_settled() {
            return cede(&call, &ledger).await;
        }
        let answer = self.wait(&call, &ledger).await;
        let ended = ended.unwrap_or_else(time::monotonic_ns);
        ledger.note(|record| record.handler_us = micros(start, ended));
        let exchange = Exchange {
            call: &call,
            gate: &gate,
            ledger: &ledger,
        };
        match answer {
            Ok(_) if call.is_settled() => cede(&call, &ledger).await,
            Err(timeout) => {
                ledger.note(|record| record.outcome = Outcome::Timeout);
                self.expired(&ledger, timeout);
                if let Some((_, errand)) = errand
                    && let Ok(reply) = self.instead(errand, exchange)
                {
                    return reply;
                }
                let (status, text) = match timeout {
                    Timeout::Drain => (503, LEAVING),
                    _ => (504, LATE),
                };
                answer::plain(status, text.into(), &gate, &ledger)
            }
            Ok(Answer::Failed) => match ledger.body_fault.take() {
                // The handler failed because the client broke off its body: the client is told so.
                Some(refusal) => answer::refused(&refusal, &gate, &ledger),
                None => match errand.map(|(_, errand)| self.instead(errand, exchange)) {
                    Some(Ok(reply)) => reply,
                    _ => answer::respond(Answer::Failed, &call, &gate, &ledger),
                },
            },
            Ok(Answer::Response(head, Body::Upgrade)) => {
                *ledger.upgrade.borrow_mut() = Some((answer::switch(&head, &ledger), call.clone()));
                // The connection becomes a tunnel; this answer is never waited for.
                std::future::pending().await
            }
            Ok(Answer::Response(head, body)) => match errand {
                Some((shelf, errand)) => self.fill(shelf, errand, (head, body), exchange),
                None => answer::respond(Answer::Response(head, body), &call, &gate, &ledger),
            },
        }
    }
}

/// The watchdog has answered: what is left of the connection is to be closed, and nothing said on it.
async fn cede(call: &Call, ledger: &Ledger) -> Reply {
    ledger.note(|record| {
        (record.status, record.bytes) = call.told();
        record.outcome = Outcome::Timeout;
    });
    ledger.over.set(true);
    std::future::pending().await
}

impl Worker {
    /// The call's answer; interim responses are passed on while it is waited for.
    ///
    /// # Errors
    /// Which time for it is over.
    pub(super) async fn wait(&self, call: &Arc<Call>, ledger: &Ledger) -> Result<Answer, Timeout> {
        // A call that ran inline has answered: only one that did not costs a timer.
        let mut timer = pin!(None::<Sleep>);
        let mut extra = false;
        poll_fn(|cx| {
            let mut answer = call.poll_answer(cx);
            while answer.is_pending() && call.wants_asking() {
                self.advance(call);
                answer = call.poll_answer(cx);
            }
            let interim = call.take_interim();
            if !interim.is_empty() {
                ledger.interim.borrow_mut().extend(interim);
            }
            if let Poll::Ready(answer) = answer {
                return Poll::Ready(Ok(answer));
            }
            if timer.is_none() {
                timer.set(Some(sleep(self.settings.timeouts.request)));
            }
            let over = timer.as_mut().as_pin_mut().is_some_and(|mut timer| {
                let asleep = timer.as_mut().poll(cx).is_ready() && timer.deadline().elapsed() >= ASLEEP;
                if asleep && !std::mem::replace(&mut extra, true) {
                    timer.as_mut().reset(tokio::time::Instant::now() + ASLEEP);
                }
                timer.poll(cx).is_ready()
            });
            let timeout = match (over, self.out_of_time.get()) {
                (true, _) => Timeout::Request,
                (false, true) => Timeout::Drain,
                (false, false) => return Poll::Pending,
            };
            if call.expire() {
                Poll::Ready(Err(timeout))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// The id of another request.
    pub(super) fn next_id(&self) -> Id {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        Id {
            worker: self.seed,
            serial,
        }
    }

    /// The request that the guard has left in the ledger; its record begins.
    ///
    /// # Errors
    /// The guard has refused it.
    fn take(&self, ledger: &Ledger, began: u64) -> Result<Request, Refusal> {
        match ledger.incoming.borrow_mut().take() {
            Some(Incoming::Accepted(bytes)) => {
                self.open(ledger, began, Bytes::new());
                Ok(self.locate(bytes, &mut ledger.head.borrow_mut(), ledger))
            }
            Some(Incoming::Refused(refusal, seen)) => {
                self.open(ledger, began, seen);
                Err(refusal)
            }
            None => unreachable!("the guard leaves a request in the ledger before it is served"),
        }
    }

    /// The request with its mount: the longest prefix its path lies under. Beyond the last mount when there is none.
    fn locate(&self, bytes: Bytes, head: &mut Head, ledger: &Ledger) -> Request {
        let whole = head.path_and_query();
        let (path, query) = split(whole, &bytes);
        let authority = match head.form {
            Form::Absolute { authority, .. } => Some(authority),
            _ => None,
        };
        let raw = path.of(&bytes);
        let found = self
            .places
            .iter()
            .find_map(|mount| Some((mount, request::under(&mount.script_name, raw)?)));
        let (mount, at) = found.map_or((&self.nowhere, 0), |(mount, at)| (mount, at));
        let tag = tag(self.seed, head.method.of(&bytes), raw);
        let front = ledger.front.borrow_mut().take();
        let told = front.as_ref().and_then(|front| front.id);
        let id = told.unwrap_or_else(|| self.next_id());
        Request {
            method: head.method,
            target: head.target,
            path,
            query,
            authority,
            fields: std::mem::take(&mut head.fields),
            version: head.version,
            upgrade: head.upgrade,
            peer: ledger.peer().clone(),
            front,
            mount: mount.clone(),
            path_info: Span {
                start: path.start + at as u32,
                end: path.end,
            },
            tag,
            id,
            bytes,
        }
    }
}

/// Path and query of `path?query`.
fn split(whole: Span, bytes: &[u8]) -> (Span, Span) {
    match whole.of(bytes).iter().position(|byte| *byte == b'?') {
        Some(at) => {
            let at = whole.start + at as u32;
            (
                Span {
                    start: whole.start,
                    end: at,
                },
                Span {
                    start: at + 1,
                    end: whole.end,
                },
            )
        }
        None => (
            whole,
            Span {
                start: whole.end,
                end: whole.end,
            },
        ),
    }
}

/// A quick hash of method and path (FNV-1a); the worker's random seed keeps clients from choosing who shares a place.
fn tag(seed: u64, method: &[u8], path: &[u8]) -> u64 {
    let bytes = method.iter().chain(path);
    let hash = bytes.fold(seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ hash >> 32
}
