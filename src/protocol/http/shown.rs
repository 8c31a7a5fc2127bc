//! The head that hyper is shown for one that was accepted.
//!
//! Takes what matters to hyper's state machine; gives a head of ours with that and nothing of the client's. It judges nothing.
#![forbid(unsafe_code)]

use super::field::Field;
use super::framing::Framing;
use super::reply::Asked;

/// See the module.
pub(super) struct Shown {
    /// What the request asks of the form of its answer. Every method but HEAD is alike to hyper.
    pub(super) asked: Asked,
    /// How the body comes.
    pub(super) framing: Framing,
    /// The client waits for 100 (Continue).
    pub(super) expects: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
}

impl Shown {
    /// As bytes.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(128);
        head.extend_from_slice(if self.asked.to_head { b"HEAD" } else { b"POST" });
        head.extend_from_slice(if self.asked.old {
            b" / HTTP/1.0\r\n"
        } else {
            b" / HTTP/1.1\r\n"
        });
        match (self.asked.old, self.asked.keep_alive) {
            (false, false) => head.extend_from_slice(b"Connection: close\r\n"),
            (true, true) => head.extend_from_slice(b"Connection: keep-alive\r\n"),
            _ => {}
        }
        match self.framing {
            Framing::None => {}
            Framing::Length(length) => head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        if self.expects {
            head.extend_from_slice(b"Expect: 100-continue\r\n");
        }
        if self.trailers {
            head.extend_from_slice(b"TE: trailers\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// Whether the client said that it takes trailers (RFC 9110 section 6.5.1); hyper asks the same field.
pub(super) fn takes_trailers(fields: &[Field], bytes: &[u8]) -> bool {
    let takes = |value: &[u8]| {
        value
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    };
    fields
        .iter()
        .any(|field| field.name.of(bytes).eq_ignore_ascii_case(b"te") && takes(field.value.of(bytes)))
}
