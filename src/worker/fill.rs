//! The handler's answer and the shared cache: kept for others, put in the place of what was stale, or passed by.
//!
//! Takes the answer to a request that `consult` has sent on, with its errand; gives what the client gets, which is what is kept when the handler
//! fails and it may be used. What may be kept is decided by `cache::policy`.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Worker;
use super::account::add;
use super::shelf::Shelf;
use crate::cache::conditional::{freshen, is_about};
use crate::cache::key;
use crate::cache::making::Making;
use crate::cache::policy::{self, Asked, Lifetime, values};
use crate::cache::response::{Keeping, Kept, Sought, lines};
use crate::cache::shown::{Forward, Shown};
use crate::cache::tags::{is_tag_field, tags, target_of};
use crate::gateway::request::Field;
use crate::gateway::start_response::Head;
use crate::gateway::{Answer, Body, Call, Request};
use crate::protocol::http::kept::{self, Wanted, Whole};
use crate::protocol::http::ledger::{Ledger, Outcome};
use crate::protocol::http::reply::Reply;
use crate::protocol::http::{Gate, answer};
use crate::sys::time;

/// What is to be done with an answer.
pub(super) enum Errand {
    /// It comes from a method that changes its target: what is kept of that is worthless once it has succeeded.
    Changes,
    /// Nothing but to say why the cache was not asked.
    Told(Forward),
    /// It may be kept.
    Fill(Box<Fill>),
}

/// An answer that may be kept.
pub(super) struct Fill {
    pub sought: Sought,
    pub asked: Asked,
    /// When the handler was asked (ms since 1970).
    pub asked_at: u64,
    /// Others wait for it.
    pub making: Option<Making>,
    /// What there was, and whether it may serve should the handler fail.
    pub stale: Option<(Kept, bool)>,
    /// The client's conditions, which the handler was not shown.
    pub own: Vec<Field>,
    pub to_head: bool,
    pub why: Forward,
    /// Whether it is to be kept, if it may.
    pub fills: bool,
}

/// The exchange that an answer belongs to.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub call: &'a Arc<Call>,
    pub gate: &'a Rc<dyn Gate>,
    pub ledger: &'a Rc<Ledger>,
}

impl Exchange<'_> {
    fn respond(self, mut head: Head, body: Body, shown: &Shown) -> Reply {
        head.fields.add("cache-status", shown.to_string().as_bytes());
        answer::respond(Answer::Response(head, body), self.call, self.gate, self.ledger)
    }

    /// What is kept, or was just made, as the client asked for it.
    fn give(self, fill: &Fill, whole: &Whole<'_>, age: Option<u64>, shown: &Shown) -> Reply {
        let request = &self.call.request;
        let part = |field: &Field| (field.name.of(&request.bytes), field.value.of(&request.bytes));
        let wanted = Wanted {
            fields: fill.own.iter().map(part),
            to_head: fill.to_head,
            conditional: !fill.own.is_empty(),
        };
        let mut reply = kept::reply(whole, &wanted, age, shown, self.ledger);
        answer::finish(&mut reply, self.gate, self.ledger);
        reply
    }
}

impl Worker {
    /// What the client gets of the handler's answer.
    pub(super) fn fill(
        &self,
        shelf: &Shelf,
        errand: Errand,
        (mut head, body): (Head, Body),
        exchange: Exchange<'_>,
    ) -> Reply {
        let tags = take_tags(&mut head);
        let fill = match errand {
            Errand::Changes => {
                if (200..400).contains(&head.status.as_u16()) {
                    changed(shelf, &exchange.call.request, &head);
                }
                return answer::respond(
                    Answer::Response(head, body),
                    exchange.call,
                    exchange.gate,
                    exchange.ledger,
                );
            }
            Errand::Told(why) => return exchange.respond(head, body, &forwarded(why)),
            Errand::Fill(fill) if head.status.as_u16() >= 500 && matches!(fill.stale, Some((_, true))) => {
                return self.stale_for(*fill, Some(head.status.as_u16()), exchange);
            }
            Errand::Fill(fill) if !fill.fills => {
                let shown = forwarded(fill.why);
                return exchange.respond(head, body, &shown);
            }
            Errand::Fill(fill) => *fill,
        };
        let status = head.status.as_u16();
        match &fill.stale {
            Some((kept, _)) if status == 304 => {
                let kept = kept.clone();
                return self.confirmed(shelf, fill, &kept, &head, exchange);
            }
            _ => {}
        }
        self.take_in(shelf, fill, (head, body), tags, exchange)
    }

    /// What is kept in place of the answer of a handler that has failed; the errand back when it may not be used.
    pub(super) fn instead(&self, errand: Errand, exchange: Exchange<'_>) -> Result<Reply, Errand> {
        match errand {
            Errand::Fill(fill) if matches!(fill.stale, Some((_, true))) => Ok(self.stale_for(*fill, None, exchange)),
            errand => Err(errand),
        }
    }

    /// RFC 5861 section 4.
    fn stale_for(&self, fill: Fill, status: Option<u16>, exchange: Exchange<'_>) -> Reply {
        let Some((kept, _)) = &fill.stale else {
            unreachable!("it was looked at before")
        };
        add(self.slot.counters().cache.stale, 1);
        exchange.ledger.note(|record| {
            record.cache = "stale";
            if status.is_none() && record.outcome == Outcome::Ok {
                record.outcome = Outcome::Fault;
            }
        });
        let shown = Shown::Forwarded {
            why: fill.why,
            status,
            stored: false,
            collapsed: false,
            detail: Some("stale-if-error"),
        };
        let age = kept.lifetime.age(time::unix_ms());
        exchange.give(&fill, &Whole::of(kept), Some(age), &shown)
    }

    /// The handler says that what is kept has not changed (RFC 9111 section 4.3.4).
    fn confirmed(&self, shelf: &Shelf, mut fill: Fill, kept: &Kept, head: &Head, exchange: Exchange<'_>) -> Reply {
        add(self.slot.counters().cache.revalidated, 1);
        exchange.ledger.note(|record| record.cache = "revalidated");
        // A field of the 304 that is not there was not said anew: Age and Date are, whatever the old ones were.
        let old: Vec<u8> = Vec::from_iter(
            without(kept.text(), |name| name == b"age" || name == b"date")
                .flatten()
                .copied(),
        );
        let new = dated(head.fields.text());
        // The handler was asked about what is kept; but an answer about something else changes nothing of that.
        let about = is_about(lines(&old), lines(&new));
        let text = if about {
            freshen(&old, &new)
        } else {
            kept.text().to_vec()
        };
        let body = kept.body();
        let lifetime = self.lifetime(shelf, &fill, kept.status, &text, exchange);
        let names = key::selecting(lines(&text), shelf.rule(&exchange.call.request));
        let now = time::unix_ms();
        let age = match &lifetime {
            Ok(lifetime) if about => lifetime.age(now),
            _ if about => 0,
            _ => kept.lifetime.age(now),
        };
        let lifetime = lifetime.ok().filter(|_| about);
        let stored = lifetime.zip(names).is_some_and(|(lifetime, names)| {
            let keeping = Keeping {
                lifetime,
                status: kept.status,
                reason: kept.reason().to_vec(),
                tags: kept.tags().to_vec(),
                fields: text.clone(),
                names,
            };
            store(shelf, &mut fill, keeping, body.clone(), exchange)
        });
        let shown = Shown::Forwarded {
            why: fill.why,
            status: Some(304),
            stored,
            collapsed: false,
            detail: None,
        };
        let whole = Whole {
            status: kept.status,
            reason: kept.reason(),
            text: &text,
            body,
        };
        exchange.give(&fill, &whole, Some(age), &shown)
    }

    fn lifetime(
        &self,
        shelf: &Shelf,
        fill: &Fill,
        status: u16,
        text: &[u8],
        exchange: Exchange<'_>,
    ) -> Result<Lifetime, policy::NotKept> {
        let wishes = shelf.wishes(shelf.rule(&exchange.call.request));
        let times = (fill.asked_at, time::unix_ms());
        policy::keep(&fill.asked, status, lines(text), times, wishes)
    }

    /// An answer with a content of its own.
    fn take_in(
        &self,
        shelf: &Shelf,
        mut fill: Fill,
        (head, body): (Head, Body),
        tags: Vec<u8>,
        exchange: Exchange<'_>,
    ) -> Reply {
        let shown = |why, stored, detail| Shown::Forwarded {
            why,
            status: None,
            stored,
            collapsed: false,
            detail,
        };
        let text: Vec<u8> = Vec::from_iter(
            without(&dated(head.fields.text()), |name| name == b"content-length")
                .flatten()
                .copied(),
        );
        let status = head.status.as_u16();
        let request = &exchange.call.request;
        let names = key::selecting(lines(&text), shelf.rule(request));
        let (lifetime, names) = match (self.lifetime(shelf, &fill, status, &text, exchange), names) {
            (Ok(lifetime), Some(names)) => (lifetime, names),
            (Err(why), _) => {
                shelf.cache.pass(fill.sought.hash());
                let shown = shown(fill.why, false, Some(why.name()));
                return exchange.respond(head, body, &shown);
            }
            (_, None) => {
                shelf.cache.pass(fill.sought.hash());
                let shown = shown(fill.why, false, Some("vary-many"));
                return exchange.respond(head, body, &shown);
            }
        };
        let keeping = Keeping {
            lifetime,
            status,
            reason: head.reason.as_deref().unwrap_or_default().to_vec(),
            tags,
            fields: text,
            names,
        };
        let most = shelf.cache.max_entry();
        let whole = match &body {
            Body::Full(bytes) => Some(bytes.clone()),
            Body::File(file) => read(file.fd(), file.offset(), file.length(), head.declared, most),
            Body::Stream | Body::Upgrade => None,
        };
        match whole {
            Some(bytes) if head.declared.is_none_or(|length| length == bytes.len() as u64) => {
                let why = fill.why;
                let stored = store(shelf, &mut fill, keeping.clone(), bytes.clone(), exchange);
                let shown = shown(why, stored, (!stored).then_some("no-room"));
                if fill.own.is_empty() {
                    return exchange.respond(head, body, &shown);
                }
                let whole = Whole {
                    status,
                    reason: &keeping.reason,
                    text: &keeping.fields,
                    body: bytes,
                };
                exchange.give(&fill, &whole, None, &shown)
            }
            None if matches!(body, Body::Stream) && head.declared.is_none_or(|length| length <= most) => {
                let Fill {
                    sought, making, why, ..
                } = fill;
                let variant = |names: &[u8], key: &mut Vec<u8>| key::variant(names, request.fields(), key);
                let gathering = shelf.cache.gather(sought, keeping, making, variant);
                *exchange.ledger.gathering.borrow_mut() = Some(gathering);
                exchange.respond(head, body, &shown(why, true, None))
            }
            _ => {
                shelf.cache.pass(fill.sought.hash());
                let shown = shown(fill.why, false, Some("too-large"));
                exchange.respond(head, body, &shown)
            }
        }
    }
}

fn forwarded(why: Forward) -> Shown {
    Shown::Forwarded {
        why,
        status: None,
        stored: false,
        collapsed: false,
        detail: None,
    }
}

/// Keeps a response whose body is here; whether it did.
fn store(shelf: &Shelf, fill: &mut Fill, keeping: Keeping, body: Bytes, exchange: Exchange<'_>) -> bool {
    let request = &exchange.call.request;
    let sought = fill.sought.clone();
    let hash = sought.hash();
    let variant = |names: &[u8], key: &mut Vec<u8>| key::variant(names, request.fields(), key);
    let mut gathering = shelf.cache.gather(sought, keeping, fill.making.take(), variant);
    let stored = gathering.add(body) && gathering.keep().is_ok();
    if !stored {
        shelf.cache.pass(hash);
    }
    stored
}

/// Takes the tags out of a head: they are for caches like this one.
fn take_tags(head: &mut Head) -> Vec<u8> {
    let found = head.fields.iter().any(|(name, ..)| is_tag_field(name));
    if !found {
        return Vec::new();
    }
    let tags = tags(lines(head.fields.text()));
    head.fields.remove("cache-tag");
    head.fields.remove("surrogate-key");
    tags
}

/// Makes worthless what is kept of the target of a change, and of what its answer names (RFC 9111 section 4.4).
fn changed(shelf: &Shelf, request: &Request, head: &Head) {
    let own = (request.part(request.path), request.part(request.query));
    let named = |name| values(lines(head.fields.text()), name).next();
    let others = [named(b"location"), named(b"content-location")].into_iter().flatten();
    let others = others.filter_map(|reference| target_of(reference, request.scheme().name(), request.host()));
    // They are named as clients see them, with what the front-end has taken off.
    let prefix = request.front.as_ref().map_or(&[][..], |front| &front.prefix);
    let others = others.filter_map(|(path, query)| Some((path.strip_prefix(prefix)?, query)));
    for (path, query) in std::iter::once(own).chain(others) {
        let rule = shelf.rule_of(request, path, b"GET");
        shelf.cache.invalidate(&shelf.key_of(request, rule, (path, query)));
    }
}

/// The lines whose name is not one of those.
fn without(text: &[u8], is: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').filter(move |line| {
        let end = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        !is(&line[..end])
    })
}

/// The fields with a Date, if only ours (RFC 9110 section 6.6.1): what is kept is as old as it is.
fn dated(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    if values(lines(&text), b"date").next().is_none() {
        let now = httpdate::fmt_http_date(std::time::SystemTime::now());
        text.extend_from_slice(format!("date: {now}\r\n").as_bytes());
    }
    text
}

/// The bytes of a file that is an answer's body, if they are no more than `most`.
fn read(fd: BorrowedFd<'_>, offset: u64, length: u64, declared: Option<u64>, most: u64) -> Option<Bytes> {
    let file = std::fs::File::from(fd.try_clone_to_owned().ok()?);
    let there = file.metadata().ok()?.len().saturating_sub(offset);
    let length = declared.unwrap_or(length.min(there));
    if length > most || length > there {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes.into())
}
