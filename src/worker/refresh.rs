//! What is stale made fresh behind the back of the client that got it (RFC 5861 section 3).
//!
//! Takes the request that found it; asks the handler again in a task of its own, once for all workers. Nobody waits for that, and nobody is told when it fails.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use appserver_handler::abi;
use bytes::Bytes;
use hyper::body::Body as _;

use super::Worker;
use super::consult::{ask_whether, take_own};
use super::fill::{Errand, Exchange, Fill};
use crate::cache::making::Claim;
use crate::cache::policy::{Asked, Method};
use crate::cache::response::{Kept, Sought};
use crate::cache::shown::Forward;
use crate::gateway::input::Input;
use crate::gateway::{Answer, Call, Request};
use crate::protocol::http::Gate;
use crate::protocol::http::ledger::Ledger;
use crate::sys::time;

impl Worker {
    /// Has what was found stale made again, unless somebody is at it.
    pub(super) fn refresh(self: &Rc<Self>, request: &Request, asked: &Asked, sought: Sought, kept: &Kept) {
        let Some(shelf) = self.shelf.as_ref() else { return };
        if self.draining.get() || asked.method != Method::Get {
            return;
        }
        let Claim::Mine(making) = shelf.cache.claim(sought.hash()) else {
            return;
        };
        let mut request = request.clone();
        take_own(&mut request);
        ask_whether(&mut request, kept);
        let fill = Fill {
            sought,
            asked: asked.clone(),
            asked_at: time::unix_ms(),
            making: Some(making),
            stale: Some((kept.clone(), false)),
            own: Vec::new(),
            to_head: false,
            why: Forward::Stale,
            fills: true,
        };
        tokio::task::spawn_local(self.clone().make_again(request, fill));
    }

    async fn make_again(self: Rc<Self>, request: Request, fill: Fill) {
        let (Some(shelf), Some(mount)) = (self.shelf.as_ref(), self.mounts.get(request.mount.index)) else {
            return;
        };
        let start = time::monotonic_ns();
        let patience = self.settings.timeouts.request;
        let call = Call::new(request, Input::whole(Bytes::new()), (start, patience), None);
        // A connection that nobody is at the other end of.
        let ledger = Rc::new(Ledger::default());
        mount.call(&call, true, start);
        if let Ok(Answer::Response(head, body)) = self.wait(&call, &ledger).await {
            let gate: Rc<dyn Gate> = self.clone();
            let exchange = Exchange {
                call: &call,
                gate: &gate,
                ledger: &ledger,
            };
            let mut reply = self.fill(shelf, Errand::Fill(Box::new(fill)), (head, body), exchange);
            let read = async {
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut reply.body).poll_frame(cx)).await {
                    ledger.chunk_out.set(false);
                }
            };
            // What takes longer is not kept.
            let _ = tokio::time::timeout(patience, read).await;
        }
        mount.learn(&call);
        if call.set_client(abi::STATE_GONE) {
            self.advance(&call);
        }
    }
}
