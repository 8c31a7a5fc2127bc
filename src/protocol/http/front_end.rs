//! What stands in front and is heard: the PROXY header that a connection begins with, the forwarding fields of each request.
//!
//! Takes a guard's bytes; sets the connection's ends, and what goes with the request, in the ledger, and gives the refusal of a
//! front-end that cannot be understood. How headers and fields are read is told in `protocol/proxy` and `gateway/forwarded`.
#![forbid(unsafe_code)]

use bytes::Buf;

use super::guard::Guard;
use super::ledger::Phase;
use super::refusal::Refusal;
use super::target::Form;
use crate::config::Trusted;
use crate::gateway::Peer;
use crate::gateway::forwarded::{self, Doubt};
use crate::handover::Proxied;
use crate::protocol::proxy::{self, Progress};

/// Whether the peer of a connection is believed what it says of clients.
pub(super) fn is_trusted(trusted: &Trusted, peer: &Peer) -> bool {
    if trusted.is_nobody() {
        return false;
    }
    match peer.remote_addr.as_str() {
        "" => trusted.holds(None),
        address => address.parse().is_ok_and(|address| trusted.holds(Some(address))),
    }
}

impl Guard {
    /// Takes the awaited PROXY header off what has come, if it is whole; tells whether more of it is awaited.
    ///
    /// # Errors
    /// The connection begins otherwise.
    #[cold]
    pub(super) fn awaits_proxy(&mut self) -> Result<bool, Refusal> {
        // A client that says nothing at all is as idle as any.
        if self.buf.is_empty() {
            return Ok(false);
        }
        match proxy::parse(&self.buf)? {
            Progress::Partial if self.ended => Err(Refusal::PROXY_TRUNCATED),
            Progress::Partial => {
                // From its first byte on, although it is no head yet.
                if self.ledger.bounding() != Some(Phase::Head) {
                    self.ledger.bound(Phase::Head, self.settings().timeouts.header);
                }
                Ok(true)
            }
            Progress::Complete { length, proxied } => {
                self.buf.advance(length);
                let trusted = &self.gate.settings().trusted;
                // The option of the listener is trust enough, unless it was said whom to trust.
                let believed = trusted.is_nobody() || self.trusted;
                self.proxied = if believed { proxied } else { Proxied::No };
                if let Some(peer) = Peer::proxied(&self.proxied) {
                    self.trusted = is_trusted(trusted, &peer);
                    // Only the first header of a connection is looked at.
                    let _ = self.ledger.proxied.set(peer.into());
                }
                self.gate.proxied(&self.ledger, self.proxied);
                Ok(false)
            }
        }
    }

    /// Hears what a trusted front-end says of the request whose head is whole.
    ///
    /// # Errors
    /// It contradicts itself, or cannot be understood.
    #[cold]
    pub(super) fn hear_front_end(&self) -> Result<(), Refusal> {
        let head = self.ledger.head.borrow();
        let bytes = &self.buf[..];
        let fields = || {
            head.fields
                .iter()
                .map(|field| (field.name.of(bytes), field.value.of(bytes)))
        };
        let host = match head.form {
            Form::Absolute { authority, .. } => authority.of(bytes),
            _ => fields()
                .find(|(name, _)| name.eq_ignore_ascii_case(b"host"))
                .map(|(_, host)| host)
                .unwrap_or_default(),
        };
        let front = forwarded::told(&self.settings().trusted, fields(), host)?;
        *self.ledger.front.borrow_mut() = front.map(Box::new);
        Ok(())
    }
}

impl From<Doubt> for Refusal {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::Address => Refusal::FORWARDED_ADDRESS,
            Doubt::Forwarded => Refusal::FORWARDED_SYNTAX,
            Doubt::Scheme => Refusal::FORWARDED_SCHEME,
            Doubt::Host => Refusal::FORWARDED_HOST,
            Doubt::Port => Refusal::FORWARDED_PORT,
            Doubt::Prefix => Refusal::FORWARDED_PREFIX,
            Doubt::Clients => Refusal::FORWARDED_CLIENTS,
            Doubt::Schemes => Refusal::FORWARDED_SCHEMES,
            Doubt::Hosts => Refusal::FORWARDED_HOSTS,
            Doubt::Ports => Refusal::FORWARDED_PORTS,
            Doubt::Prefixes => Refusal::FORWARDED_PREFIXES,
        }
    }
}
