//! The uwsgi protocol, as nginx's `uwsgi_pass` speaks it: a packet of variables, the body behind it, one request a connection.
//!
//! Takes the bytes of a connection; puts in the place of the packet the head that it was made from (`translate`), so that one
//! parser, one set of limits and one way serve both protocols, and gives what the front-end says beside it. How a packet is laid out is told
//! in `packet`. Answers go back as HTTP/1.0 is answered: nginx decodes neither chunks nor interim responses here.
#![forbid(unsafe_code)]

pub mod packet;
pub mod translate;

use std::cell::RefCell;

use bytes::{Buf, BytesMut};

use super::http::head::{Head, Limits, Progress, Version};
use super::http::refusal::Refusal;
use crate::gateway::Front;

/// Looks for a request at the start of `buf`: once its packet is whole, the head stands there instead, and `front` is filled.
///
/// # Errors
/// It is no packet, or a request that is not served.
pub fn parse(
    head: &mut Head,
    buf: &mut BytesMut,
    limits: &Limits,
    front: &RefCell<Option<Box<Front>>>,
) -> Result<Progress, Refusal> {
    // A head that has to wait for its turn is translated already.
    if front.borrow().is_none() {
        let Some(packet) = packet::parse(buf, limits.request_line + limits.header_total)? else {
            return Ok(Progress::Partial);
        };
        let (text, told) = translate::translate(&packet)?;
        let length = packet.length;
        buf.advance(length);
        *buf = BytesMut::from(&[&text[..], &buf[..]].concat()[..]);
        *front.borrow_mut() = Some(Box::new(told));
    }
    let progress = head.parse(buf, limits)?;
    // Whatever the version that an upgrade had to be written in.
    head.version = Version::Http10;
    head.keep_alive = false;
    head.expect_continue = false;
    Ok(progress)
}
