//! What is thrown away on request: by URI, by what URIs begin with, by tag.
//!
//! Takes what is meant; walks the index and takes out what fits, without a lock, so that no stopped writer can keep what must go. What a
//! handler was asked for before a purge is not kept after it.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::record::Kind;
use super::{Cache, Toll, response, values};

/// What is to be thrown away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purge {
    /// All variants of one URI: `http://host/path?query`, or `/path?query` of any scheme and host.
    Key(Vec<u8>),
    /// All that begins with it, in either form.
    Prefix(Vec<u8>),
    /// All that bears the tag (`Cache-Tag`, `Surrogate-Key`).
    Tag(Vec<u8>),
    /// All responses.
    Responses,
    /// All of one of the handlers' caches.
    Values(Vec<u8>),
}

impl Purge {
    fn means(&self, kind: Kind, key: &[u8], head: &[u8]) -> bool {
        let is_value = kind == Kind::Value;
        match self {
            Purge::Values(name) => is_value && values::is_of(key, name),
            _ if is_value => false,
            Purge::Key(uri) => part(key, uri) == uri.as_slice(),
            Purge::Prefix(text) => part(key, text).starts_with(text),
            // What tells variants apart bears no tags; it stays, and finds nothing.
            Purge::Tag(tag) => kind == Kind::Response && response::has_tag(head, tag),
            Purge::Responses => true,
        }
    }
}

/// The part of a response's key that a text is compared with: its URI, or that from the path on.
fn part<'a>(key: &'a [u8], text: &[u8]) -> &'a [u8] {
    let uri = response::uri(key);
    if !text.starts_with(b"/") {
        return uri;
    }
    let authority = uri.windows(3).position(|three| three == b"://").map_or(0, |at| at + 3);
    let path = uri[authority..].iter().position(|byte| *byte == b'/');
    path.map_or(&[], |at| &uri[authority + at..])
}

impl Cache {
    /// Throws away what is meant; gives how many responses or values that were. It waits for nobody.
    pub fn purge(&self, what: &Purge) -> u64 {
        if !matches!(what, Purge::Values(_)) {
            self.segment.purges().fetch_add(1, Ordering::AcqRel);
        }
        let mut toll = Toll::default();
        let mut gone = 0;
        for shard in &self.shards {
            shard.sweep(&mut toll, |shape, key, head| {
                let meant = what.means(shape.kind, key, head);
                // What only tells variants apart is not what anybody counts.
                gone += u64::from(meant && shape.kind != Kind::Vary);
                meant
            });
        }
        self.pay(&toll);
        gone
    }
}
