//! From what the handler said to what is sent.
//!
//! Takes an [`Answer`] or a [`Refusal`], gives a reply with the framing RFC 9112 asks for: no body where none may be, a
//! Content-Length where it is known, and `Connection: close` where the connection must end.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hyper::http::StatusCode;

use super::Gate;
use super::body::ResponseBody;
use super::ledger::{Ledger, Outcome, Record, SentFile};
use super::refusal::Refusal;
use super::reply::Reply;
use crate::gateway::Call;
use crate::gateway::fields::Fields;
use crate::gateway::request::Version;
use crate::gateway::start_response::{Fault, Head};
use crate::gateway::{Answer, Body};
use crate::handler::call::FileRange;

/// The response to an exchange that reached its handler.
pub fn respond(answer: Answer, call: &Arc<Call>, gate: &Rc<dyn Gate>, ledger: &Rc<Ledger>) -> Reply {
    let (head, body) = match answer {
        Answer::Response(head, body) => (head, body),
        Answer::Failed => return failed(gate, ledger),
    };
    match assemble(head, body, call, gate, ledger) {
        Ok(mut reply) => {
            // hyper ends a connection whose request body is not read to its end; the client must know. A handler that reads
            // while it answers is trusted to read on.
            if ledger.body_open.get() && (reply.body.is_whole() || !call.has_read()) {
                ledger.closing.set(true);
            }
            finish(&mut reply, gate, ledger);
            reply
        }
        Err(fault) => {
            tracing::error!(request_id = %call.request.shown_id(), "handler fault: {fault}");
            failed(gate, ledger)
        }
    }
}

fn assemble(
    head: Head,
    body: Body,
    call: &Arc<Call>,
    gate: &Rc<dyn Gate>,
    ledger: &Rc<Ledger>,
) -> Result<Reply, Fault> {
    let bodiless = head.bodiless();
    let to_head = call.request.method() == b"HEAD";
    let Head {
        status,
        reason,
        mut fields,
        declared,
    } = head;
    let body = match body {
        _ if bodiless => {
            if status != StatusCode::NOT_MODIFIED {
                // RFC 9110 section 8.6: no Content-Length in a 204.
                fields.remove("content-length");
            }
            ResponseBody::empty(ledger.clone())
        }
        Body::Full(bytes) if to_head => {
            if declared.is_none() && !bytes.is_empty() {
                fields.set_number("content-length", bytes.len() as u64);
            }
            ResponseBody::empty(ledger.clone())
        }
        Body::File(file) if to_head => {
            let length = measure(file, declared)?.left;
            fields.set_number("content-length", length);
            ResponseBody::empty(ledger.clone())
        }
        Body::Stream | Body::Upgrade if to_head => ResponseBody::empty(ledger.clone()),
        Body::Full(bytes) => {
            if let Some(length) = declared.filter(|length| *length != bytes.len() as u64) {
                return Err(Fault(format!(
                    "it declared Content-Length {length} and gave a body of {} bytes",
                    bytes.len()
                )));
            }
            ResponseBody::full(bytes, ledger.clone())
        }
        Body::File(file) => ResponseBody::file(measure(file, declared)?, ledger.clone()),
        Body::Stream | Body::Upgrade => {
            if let Some(names) = call.trailer_names()
                && !fields.contains("trailer")
            {
                fields.set("trailer", names.as_bytes());
            }
            if declared.is_none() && call.request.version == Version::Http10 {
                // Its end is the end of the connection (RFC 9112 section 6.3).
                ledger.closing.set(true);
            }
            ResponseBody::stream(call.clone(), declared, gate.clone(), ledger.clone())
        }
    };
    Ok(Reply {
        status,
        reason,
        fields,
        old: false,
        body,
    })
}

/// The head of a 101 (RFC 9110 section 7.8), which is sent past hyper: the connection is no longer HTTP after it.
pub fn switch(head: &Head, ledger: &Ledger) -> Bytes {
    ledger.note(|record| record.status = head.status.as_u16());
    let mut raw = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n".to_vec();
    raw.extend_from_slice(head.fields.text());
    raw.extend_from_slice(b"\r\n");
    Bytes::from(raw)
}

/// The answer to a handler's fault: nothing of the fault goes to the client.
fn failed(gate: &Rc<dyn Gate>, ledger: &Rc<Ledger>) -> Reply {
    ledger.note(|record| record.outcome = Outcome::Fault);
    plain(500, "Internal Server Error\n".into(), gate, ledger)
}

/// The answer to what the guard refused; the connection ends with it.
pub fn refused(refusal: &Refusal, gate: &Rc<dyn Gate>, ledger: &Rc<Ledger>) -> Reply {
    ledger.closing.set(true);
    ledger.note(|record| record.outcome = Outcome::Refused);
    plain(refusal.status, refusal.text(), gate, ledger)
}

/// A short answer of the server's own.
pub fn plain(status: u16, text: String, gate: &Rc<dyn Gate>, ledger: &Rc<Ledger>) -> Reply {
    let to_head = ledger
        .record
        .borrow()
        .as_ref()
        .is_some_and(|record| match record.request() {
            Some(request) => request.method() == b"HEAD",
            None => super::ledger::is_head(&record.refused),
        });
    let mut fields = Fields::take();
    fields.set("content-type", b"text/plain");
    fields.set_number("content-length", text.len() as u64);
    let body = if to_head {
        ResponseBody::empty(ledger.clone())
    } else {
        ResponseBody::full(Bytes::from(text), ledger.clone())
    };
    let mut reply = Reply {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        reason: None,
        fields,
        old: false,
        body,
    };
    if ledger.body_open.get() {
        ledger.closing.set(true);
    }
    finish(&mut reply, gate, ledger);
    reply
}

/// What every answer gets: the record's status, and `Connection: close` when the connection is to end.
pub fn finish(reply: &mut Reply, gate: &Rc<dyn Gate>, ledger: &Rc<Ledger>) {
    ledger.note(|record| record.status = reply.status.as_u16());
    if gate.is_draining() && !gate.hands_over(ledger) {
        ledger.closing.set(true);
    }
    if ledger.closing.get() {
        reply.fields.set("connection", b"close");
        let old = |record: &Record| {
            record
                .request()
                .is_some_and(|request| request.version == Version::Http10)
        };
        if ledger.record.borrow().as_ref().is_some_and(old) {
            // Else hyper appends the keep-alive that a client of HTTP/1.0 asked for.
            reply.old = true;
        }
    }
}

/// How many bytes of a file there are to send.
///
/// # Errors
/// The handler's fault: an unusable descriptor, or a Content-Length the file cannot give.
pub fn measure(file: FileRange, declared: Option<u64>) -> Result<SentFile, Fault> {
    let size = size_of_file(file.fd()).map_err(|error| Fault(format!("its file body cannot be measured: {error}")))?;
    let there = size.saturating_sub(file.offset());
    let left = if file.length() == u64::MAX {
        there
    } else {
        file.length()
    };
    let left = declared.unwrap_or(left);
    if left > there {
        return Err(Fault(format!(
            "it promised {left} bytes of a file that has {there} from byte {} on",
            file.offset()
        )));
    }
    Ok(SentFile {
        offset: file.offset(),
        left,
        file,
    })
}

fn size_of_file(fd: BorrowedFd<'_>) -> std::io::Result<u64> {
    Ok(std::fs::File::from(fd.try_clone_to_owned()?).metadata()?.len())
}
