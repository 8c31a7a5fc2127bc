//! What a cache says of itself in an answer: Cache-Status (RFC 9211).
//!
//! Takes what was done; gives the member to append to the list that caches nearer to the origin have begun. Pure.
#![forbid(unsafe_code)]

use std::fmt;

/// Why the handler was asked (RFC 9211 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Nothing is kept for the URI.
    UriMiss,
    /// What is kept for it is of other variants.
    VaryMiss,
    /// What is kept is stale.
    Stale,
    /// The request's own directives.
    Request,
    /// A part was asked for that is not kept.
    Partial,
    /// The method.
    Method,
    /// A rule of the configuration.
    Bypass,
}

impl Forward {
    fn name(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Partial => "partial",
            Self::Method => "method",
            Self::Bypass => "bypass",
        }
    }
}

/// What is said.
#[derive(Debug, Clone, Copy)]
pub enum Shown {
    /// It was answered from the cache; it is fresh for so many seconds more, or was stale for so long (negative).
    Hit(i64),
    /// The handler was asked.
    Forwarded {
        /// Why.
        why: Forward,
        /// What it answered, when that is not what the client gets.
        status: Option<u16>,
        /// Its answer was kept.
        stored: bool,
        /// It was another request that asked.
        collapsed: bool,
        /// Why its answer was not kept.
        detail: Option<&'static str>,
    },
    /// Another request has asked the handler, and this one has waited for it.
    Collapsed(i64),
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit(left) => write!(f, "appserver; hit; ttl={left}"),
            Self::Collapsed(left) => write!(f, "appserver; fwd=uri-miss; collapsed; ttl={left}"),
            Self::Forwarded {
                why,
                status,
                stored,
                collapsed,
                detail,
            } => {
                write!(f, "appserver; fwd={}", why.name())?;
                if let Some(status) = status {
                    write!(f, "; fwd-status={status}")?;
                }
                if *stored {
                    f.write_str("; stored")?;
                }
                if *collapsed {
                    f.write_str("; collapsed")?;
                }
                detail.map_or(Ok(()), |detail| write!(f, "; detail={detail}"))
            }
        }
    }
}
