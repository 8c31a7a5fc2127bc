//! A request and the shared cache, before there is a call: answered from it, made to wait for another one's answer, or sent on.
//!
//! Takes requests without a body; gives a reply, or the request with the errand that its answer is to be kept. How the handler's answer is dealt
//! with is in `fill`.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::Worker;
use super::account::add;
use super::fill::{Errand, Fill};
use super::shelf::Shelf;
use crate::cache::conditional::{is_beyond, is_own, validators};
use crate::cache::making::{Claim, Making};
use crate::cache::policy::{Asked, Method, Reuse};
use crate::cache::response::{Kept, Sought};
use crate::cache::shown::{Forward, Shown};
use crate::gateway::Request;
use crate::gateway::request::{Field, Span};
use crate::protocol::http::kept::{self, Wanted, Whole};
use crate::protocol::http::ledger::Ledger;
use crate::protocol::http::reply::Reply;
use crate::protocol::http::{Gate, answer};
use crate::scoreboard::CacheCounters;
use crate::sys::time;

/// What became of a request.
pub(super) enum Consulted {
    /// It is answered.
    Answered(Reply),
    /// The handler has to be asked.
    Ask(Request, Errand),
}

/// A request that the cache is asked about.
struct Question<'a> {
    shelf: &'a Shelf,
    request: Request,
    asked: Asked,
    conditional: bool,
    to_head: bool,
}

impl Worker {
    fn cache_counters(&self) -> &'static CacheCounters {
        &self.slot.counters().cache
    }

    /// Whether the cache has the answer. `body` tells that the request has one.
    pub(super) async fn consult(
        self: &Rc<Self>,
        shelf: &Shelf,
        request: Request,
        body: bool,
        gate: &Rc<dyn Gate>,
        ledger: &Rc<Ledger>,
    ) -> Consulted {
        let rule = shelf.rule(&request);
        let asked = Asked::of(request.method(), request.fields());
        let beyond = request.upgrade || request.fields().any(|(name, _)| is_beyond(name));
        let why = match asked.method {
            Method::Unsafe => return Consulted::Ask(request, Errand::Changes),
            _ if rule.is_some_and(|rule| rule.bypass) => Some(Forward::Bypass),
            Method::Safe => Some(Forward::Method),
            Method::Get | Method::Head if body || beyond => Some(Forward::Request),
            Method::Get | Method::Head => None,
        };
        if let Some(why) = why {
            add(self.cache_counters().bypassed, 1);
            ledger.note(|record| record.cache = "bypass");
            return Consulted::Ask(request, Errand::Told(why));
        }
        let key = shelf.key(&request, rule);
        let question = Question {
            shelf,
            conditional: asked.range || request.fields().any(|(name, _)| is_own(name)),
            to_head: asked.method == Method::Head,
            asked,
            request,
        };
        let sought = shelf.look(key, &question.request);
        self.decide(question, sought, gate, ledger).await
    }

    /// What is done with what was found: it answers, or it is to be made, by this request or by another that is at it already.
    async fn decide(
        self: &Rc<Self>,
        question: Question<'_>,
        mut sought: Sought,
        gate: &Rc<dyn Gate>,
        ledger: &Rc<Ledger>,
    ) -> Consulted {
        let shelf = question.shelf;
        let counters = self.cache_counters();
        // How long this one waits is reckoned when it begins to: most are answered at once.
        let mut until = None;
        let mut making = None;
        let mut collapsed = false;
        loop {
            let now = time::unix_ms();
            let kept = sought.found.take();
            let reuse = kept
                .as_ref()
                .map(|kept| kept.lifetime.reuse(&question.asked.directives, now));
            let stale = match (kept, reuse) {
                (Some(kept), Some(Reuse::Fresh(age))) => {
                    add(counters.hits, 1);
                    let left = kept.lifetime.left(now);
                    let shown = if collapsed {
                        Shown::Collapsed(left)
                    } else {
                        Shown::Hit(left)
                    };
                    return Consulted::Answered(question.reply(&kept, age, &shown, "hit", gate, ledger));
                }
                (Some(kept), Some(Reuse::Stale(age))) => {
                    add(counters.stale, 1);
                    let shown = Shown::Hit(kept.lifetime.left(now));
                    self.refresh(&question.request, &question.asked, sought, &kept);
                    return Consulted::Answered(question.reply(&kept, age, &shown, "stale", gate, ledger));
                }
                (Some(kept), Some(Reuse::Validate { if_error, .. })) => Some((kept, if_error)),
                _ => None,
            };
            if question.asked.directives.only_if_cached {
                add(counters.misses, 1);
                return Consulted::Answered(question.refuse(gate, ledger));
            }
            let hash = sought.hash();
            // Who does not fill the cache does not wait, nor who wants what was not worth keeping, nor who has waited long enough, nor who could not
            // use the answer to another.
            let own = |(kept, _): &(Kept, bool)| !kept.lifetime.serves_several(&question.asked.directives, now);
            let is_own = question.asked.directives.no_cache || stale.as_ref().is_some_and(own);
            let alone = !question.fills()
                || shelf.cache.passes(hash)
                || is_own
                || until.is_some_and(|until| Instant::now() >= until);
            if making.is_none() && !alone {
                match shelf.cache.claim(hash) {
                    // Another may have kept it since this one looked.
                    Claim::Mine(mine) => {
                        let again = shelf.look_again(sought, &question.request);
                        making = (again.hash() == hash).then_some(mine);
                        sought = again;
                        continue;
                    }
                    Claim::Theirs => {
                        if !std::mem::replace(&mut collapsed, true) {
                            add(counters.coalesced, 1);
                        }
                        let until = *until.get_or_insert_with(|| Instant::now() + shelf.config.wait);
                        shelf.wait(hash, until).await;
                        sought = shelf.look_again(sought, &question.request);
                        continue;
                    }
                    Claim::Free => {}
                }
            }
            add(counters.misses, 1);
            ledger.note(|record| record.cache = "miss");
            return question.send_on(sought, stale, making);
        }
    }
}

impl Question<'_> {
    /// Whether its answer may be kept: that to GET, the whole, and not against the client's will.
    fn fills(&self) -> bool {
        !self.asked.directives.no_store && !self.asked.range && !self.to_head
    }

    /// The answer from what is kept.
    fn reply(
        self,
        kept: &Kept,
        age: u64,
        shown: &Shown,
        named: &'static str,
        gate: &Rc<dyn Gate>,
        ledger: &Rc<Ledger>,
    ) -> Reply {
        let mut reply = {
            let wanted = Wanted {
                fields: self.request.fields(),
                to_head: self.to_head,
                conditional: self.conditional,
            };
            kept::reply(&Whole::of(kept), &wanted, Some(age), shown, ledger)
        };
        let asked = Box::new(self.request);
        ledger.note(|record| {
            record.cache = named;
            record.asked = Some(asked);
        });
        answer::finish(&mut reply, gate, ledger);
        reply
    }

    /// RFC 9111 section 5.2.1.7.
    fn refuse(self, gate: &Rc<dyn Gate>, ledger: &Rc<Ledger>) -> Reply {
        let asked = Box::new(self.request);
        ledger.note(|record| {
            record.cache = "miss";
            record.asked = Some(asked);
        });
        answer::plain(504, "Nothing that may be used is in the cache.\n".into(), gate, ledger)
    }

    /// The request as the handler is asked, and what is to be done with its answer.
    fn send_on(mut self, sought: Sought, stale: Option<(Kept, bool)>, making: Option<Making>) -> Consulted {
        let why = match &stale {
            Some(_) if self.asked.directives.no_cache => Forward::Request,
            Some(_) => Forward::Stale,
            None if self.asked.range => Forward::Partial,
            None if sought.misses_variant() => Forward::VaryMiss,
            None => Forward::UriMiss,
        };
        let fills = self.fills();
        let mut own = Vec::new();
        if fills {
            // What fills the cache is the whole; the client's own conditions are answered from that.
            own = take_own(&mut self.request);
            if let Some((kept, _)) = &stale {
                ask_whether(&mut self.request, kept);
            }
        }
        let fill = Fill {
            sought,
            asked: self.asked,
            asked_at: time::unix_ms(),
            making,
            stale,
            own,
            to_head: self.to_head,
            why,
            fills,
        };
        Consulted::Ask(self.request, Errand::Fill(Box::new(fill)))
    }
}

/// Takes a client's own conditions out of its request.
pub(super) fn take_own(request: &mut Request) -> Vec<Field> {
    let bytes = request.bytes.clone();
    let is = |field: &Field| is_own(field.name.of(&bytes));
    if !request.fields.iter().any(is) {
        return Vec::new();
    }
    let (own, others) = request.fields.iter().partition(|field| is(field));
    request.fields = others;
    own
}

/// Adds the conditions that ask whether what is kept has changed.
pub(super) fn ask_whether(request: &mut Request, kept: &Kept) {
    let added = validators(kept.fields());
    if added.is_empty() {
        return;
    }
    let mut bytes = request.bytes.to_vec();
    for (name, value) in added {
        let mut append = |text: &[u8]| {
            let start = bytes.len();
            bytes.extend_from_slice(text);
            Span::new(start, bytes.len())
        };
        let (name, value) = (append(name.as_bytes()), append(value));
        request.fields.push(Field { name, value });
    }
    request.bytes = Bytes::from(bytes);
}
