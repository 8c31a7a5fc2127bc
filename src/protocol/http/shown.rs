//! The head that hyper is shown for one that was accepted.
//!
//! Takes the accepted head; gives one of ours with what matters to hyper's state machine and nothing of the client's. It
//! judges nothing.
#![forbid(unsafe_code)]

use bytes::Bytes;
use hyper::rt::ReadBufCursor;

use super::framing::Framing;
use super::head::{Head, Version};

/// Writes it behind what hyper has.
pub(super) fn canonical(head: &Head, bytes: &Bytes, cursor: &mut ReadBufCursor<'_>) {
    let method = head.method.of(bytes);
    // hyper needs to know a HEAD (no body in the answer); every other method is alike to it.
    cursor.put_slice(if method == b"HEAD" { b"HEAD" } else { b"POST" });
    cursor.put_slice(match head.version {
        Version::Http10 => b" / HTTP/1.0\r\n",
        Version::Http11 => b" / HTTP/1.1\r\n",
    });
    match (head.version, head.keep_alive) {
        (Version::Http11, false) => cursor.put_slice(b"Connection: close\r\n"),
        (Version::Http10, true) => cursor.put_slice(b"Connection: keep-alive\r\n"),
        _ => {}
    }
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => cursor.put_slice(format!("Content-Length: {length}\r\n").as_bytes()),
        Framing::Chunked => cursor.put_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if head.expect_continue {
        cursor.put_slice(b"Expect: 100-continue\r\n");
    }
    // RFC 9110 section 6.5.1: trailers are for those who said they take them; hyper asks the same field.
    let takes = |value: &[u8]| {
        value
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    };
    if head
        .fields
        .iter()
        .any(|field| field.name.of(bytes).eq_ignore_ascii_case(b"te") && takes(field.value.of(bytes)))
    {
        cursor.put_slice(b"TE: trailers\r\n");
    }
    cursor.put_slice(b"\r\n");
}
