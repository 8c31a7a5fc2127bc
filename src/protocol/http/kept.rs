//! The answer to a request from what the shared cache has kept.
//!
//! Takes a kept response and what the client asked: the whole, a part, its head alone, or whether it has changed; gives the reply. Whether it
//! may be used at all was decided before.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use hyper::http::StatusCode;

use super::body::ResponseBody;
use super::ledger::Ledger;
use super::reply::Reply;
use crate::cache::range::{Part, part};
use crate::cache::response::{Kept, lines};
use crate::cache::shown::Shown;
use crate::cache::{conditional, policy};
use crate::gateway::fields::Fields;

/// A response as it is kept, or as it was just made.
pub struct Whole<'a> {
    /// Its status.
    pub status: u16,
    /// Its reason where it is not the usual one.
    pub reason: &'a [u8],
    /// Its fields, as they are sent.
    pub text: &'a [u8],
    /// Its body.
    pub body: Bytes,
}

impl<'a> Whole<'a> {
    /// What is kept.
    pub fn of(kept: &'a Kept) -> Self {
        Self {
            status: kept.status,
            reason: kept.reason(),
            text: kept.text(),
            body: kept.body(),
        }
    }
}

/// What the client asked for.
#[derive(Clone)]
pub struct Wanted<I> {
    /// Its fields.
    pub fields: I,
    /// The method is HEAD.
    pub to_head: bool,
    /// There is a field among them that is a condition or a range.
    pub conditional: bool,
}

/// The reply, but for what [`answer::finish`](super::answer::finish) adds to each. `age` in seconds, for one that was kept.
pub fn reply<'a>(
    whole: &Whole<'_>,
    wanted: &Wanted<impl Iterator<Item = policy::Field<'a>> + Clone>,
    age: Option<u64>,
    shown: &Shown,
    ledger: &Rc<Ledger>,
) -> Reply {
    let (status, part) = if wanted.conditional {
        choose(whole, wanted)
    } else {
        (whole.status, Part::Whole)
    };
    let without = |name: &[u8]| {
        name == b"age"
            || status == 304 && conditional::is_of_content(name)
            || status == 416 && (conditional::is_of_content(name) || name == b"etag")
    };
    let mut fields = Fields::of_text(whole.text, without);
    let length = whole.body.len() as u64;
    let body = match part {
        Part::Whole if status == 304 => Bytes::new(),
        Part::Whole => whole.body.clone(),
        Part::Of(from, to) => {
            fields.set("content-range", format!("bytes {from}-{}/{length}", to - 1).as_bytes());
            whole.body.slice(from as usize..to as usize)
        }
        Part::None => {
            fields.set("content-range", format!("bytes */{length}").as_bytes());
            Bytes::new()
        }
    };
    if let Some(age) = age {
        fields.add("age", age.to_string().as_bytes());
    }
    fields.add("cache-status", shown.to_string().as_bytes());
    let bodiless = matches!(status, 204 | 304);
    let body = if wanted.to_head || bodiless {
        if !bodiless {
            fields.set_number("content-length", body.len() as u64);
        }
        ResponseBody::empty(ledger.clone())
    } else {
        ResponseBody::full(body, ledger.clone())
    };
    Reply {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        reason: (status == whole.status && !whole.reason.is_empty()).then(|| Bytes::copy_from_slice(whole.reason)),
        fields,
        old: false,
        body,
    }
}

/// Conditions go before ranges (RFC 9110 section 13.2.2); a range is for GET and a 200 alone.
fn choose<'a>(whole: &Whole<'_>, wanted: &Wanted<impl Iterator<Item = policy::Field<'a>> + Clone>) -> (u16, Part) {
    if conditional::is_not_modified(wanted.fields.clone(), whole.status, lines(whole.text)) {
        return (304, Part::Whole);
    }
    let mut ranges = policy::values(wanted.fields.clone(), b"range");
    let (Some(range), None, 200, false) = (ranges.next(), ranges.next(), whole.status, wanted.to_head) else {
        return (whole.status, Part::Whole);
    };
    let if_range = policy::values(wanted.fields.clone(), b"if-range").next();
    if !conditional::is_same(if_range, lines(whole.text)) {
        return (200, Part::Whole);
    }
    match part(range, whole.body.len() as u64) {
        Part::Whole => (200, Part::Whole),
        part @ Part::Of(..) => (206, part),
        Part::None => (416, Part::None),
    }
}
