//! What the verbs of the command line say to a running server, and what it answers.
//!
//! Takes a [`Request`] or a [`Reply`]; gives one line of JSON, and back. It is the protocol and nothing else: who may
//! ask is decided in `master::control`, what is done about it by the master. A line stands for itself:
//!
//! ```text
//! {"protocol":1,"verb":"scale","workers":"+2"}
//! {"protocol":1,"outcome":"done","note":"4 workers wanted","master_pid":4711}
//! ```
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// The version of the lines below. A server refuses a request of another one; members may be added without a new number.
pub const PROTOCOL: u64 = 1;

/// Longest line of a request, in bytes, its end included.
pub const LONGEST: usize = 4096;

/// Where a server that systemd started listens for verbs (RuntimeDirectory=appserver/control), and where they look at last.
pub const SYSTEM_SOCKET: &str = "/run/appserver/control/control.sock";

/// The words of the verbs, as a refusal lists them.
const WORDS: &str = "status, reload, rollback, upgrade, stop, scale, purge, ping";

/// What is asked of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How things are; the reply has the status document.
    Status,
    /// Read the configuration and the modules anew; answered when it is done or undone.
    Reload,
    /// Return to the generation before; answered as a reload.
    Rollback,
    /// Execute the binary anew; answered when the new master serves or has failed.
    Upgrade,
    /// Stop gracefully; answered when the stop has begun, and the connection closes when the master has ended.
    Stop,
    /// Another number of workers.
    Scale(Scale),
    /// Throw something out of the shared cache; answered when it is gone.
    Purge(Target),
    /// Is anybody there?
    Ping,
}

/// What is to be thrown out of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All variants of a URI, or of a path and query of whatever host.
    Key(String),
    /// All that begins with it, in either form.
    Prefix(String),
    /// All with that tag.
    Tag(String),
    /// One of the handlers' caches.
    Values(String),
    /// All responses.
    All,
}

impl Target {
    /// The word and the text, as they are written.
    fn words(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Key(text) => ("key", Some(text)),
            Self::Prefix(text) => ("prefix", Some(text)),
            Self::Tag(text) => ("tag", Some(text)),
            Self::Values(text) => ("values", Some(text)),
            Self::All => ("all", None),
        }
    }

    fn read(what: Option<&str>, text: Option<String>) -> Option<Self> {
        let text = text.filter(|text| !text.is_empty());
        match (what?, text) {
            ("key", Some(text)) => Some(Self::Key(text)),
            ("prefix", Some(text)) => Some(Self::Prefix(text)),
            ("tag", Some(text)) => Some(Self::Tag(text)),
            ("values", Some(text)) => Some(Self::Values(text)),
            ("all", None) => Some(Self::All),
            _ => None,
        }
    }
}

/// How many workers there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// This many.
    To(usize),
    /// This many more, or fewer.
    By(isize),
}

impl Scale {
    /// The number of workers to want when `now` are wanted and `most` are possible; never less than one.
    #[must_use]
    pub fn from(self, now: usize, most: usize) -> usize {
        match self {
            Self::To(number) => number,
            Self::By(difference) => now.saturating_add_signed(difference),
        }
        .clamp(1, most)
    }

    /// Reads `4`, `+2` or `-1`; none for anything else, `0` included.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if digits.len() < text.len() {
            return text.parse().ok().map(Self::By);
        }
        text.parse().ok().filter(|number| *number > 0).map(Self::To)
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(number) => write!(f, "{number}"),
            Self::By(difference) => write!(f, "{difference:+}"),
        }
    }
}

/// A request as it lies in its line.
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    /// Left out, it is ours: a person with socat need not know it.
    #[serde(default = "ours")]
    protocol: u64,
    verb: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workers: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

fn ours() -> u64 {
    PROTOCOL
}

impl Request {
    /// The word of the verb.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Reload => "reload",
            Self::Rollback => "rollback",
            Self::Upgrade => "upgrade",
            Self::Stop => "stop",
            Self::Scale(_) => "scale",
            Self::Ping => "ping",
            Self::Purge(_) => "purge",
        }
    }

    /// The line, with its end.
    #[must_use]
    pub fn line(&self) -> String {
        let workers = match self {
            Self::Scale(scale) => Some(Value::from(scale.to_string())),
            _ => None,
        };
        let (what, text) = match self {
            Self::Purge(target) => {
                let (what, text) = target.words();
                (Some(what.to_owned()), text.map(str::to_owned))
            }
            _ => (None, None),
        };
        in_line(&Wire {
            protocol: PROTOCOL,
            verb: self.verb().to_owned(),
            workers,
            what,
            text,
        })
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence for whoever sent it.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(line).map_err(|error| {
            format!("this is no request ({error}); send one JSON object on a line, like {{\"verb\":\"status\"}}")
        })?;
        if wire.protocol != PROTOCOL {
            return Err(format!(
                "the server speaks protocol {PROTOCOL} and was spoken to in protocol {}; use the appserver it was started from",
                wire.protocol
            ));
        }
        Ok(match wire.verb.as_str() {
            "status" => Self::Status,
            "reload" => Self::Reload,
            "rollback" => Self::Rollback,
            "upgrade" => Self::Upgrade,
            "stop" => Self::Stop,
            "ping" => Self::Ping,
            "scale" => {
                let workers = match &wire.workers {
                    Some(Value::String(text)) => Scale::read(text),
                    Some(Value::Number(number)) => {
                        Scale::read(&number.to_string()).filter(|to| matches!(to, Scale::To(_)))
                    }
                    _ => None,
                };
                let needs = "scale needs \"workers\": a number from 1, or \"+1\" or \"-1\" for so many more or fewer";
                Self::Scale(workers.ok_or_else(|| needs.to_owned())?)
            }
            "purge" => {
                let needs =
                    "purge needs \"what\": \"all\", or \"key\", \"prefix\", \"tag\" or \"values\" with a \"text\"";
                Self::Purge(Target::read(wire.what.as_deref(), wire.text).ok_or_else(|| needs.to_owned())?)
            }
            other => return Err(format!("there is no verb {other:?}; the verbs are {WORDS}")),
        })
    }
}

/// Whether what was asked for is so now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is.
    Done,
    /// It is not, and the server is as it was.
    Refused,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// See [`PROTOCOL`].
    pub protocol: u64,
    /// Whether it was done.
    pub outcome: Outcome,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How things are now that it is done, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The status document, for those who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// How many entries of the cache were thrown away, for those who asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<u64>,
    /// Who answers: filled in as the reply is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_pid: Option<i32>,
}

impl Reply {
    fn of(outcome: Outcome) -> Self {
        Self {
            protocol: PROTOCOL,
            outcome,
            reason: None,
            note: None,
            status: None,
            purged: None,
            master_pid: None,
        }
    }

    /// It is done; `note` tells how things are now, as in "generation 3 serves".
    #[must_use]
    pub fn done(note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..Self::of(Outcome::Done)
        }
    }

    /// It is not done, for this reason.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::of(Outcome::Refused)
        }
    }

    /// So many entries were thrown away.
    #[must_use]
    pub fn purged(count: u64) -> Self {
        let entries = if count == 1 { "entry" } else { "entries" };
        Self {
            purged: Some(count),
            ..Self::done(format!("{count} {entries} thrown away"))
        }
    }

    /// The status document.
    #[must_use]
    pub fn status(document: Value) -> Self {
        Self {
            status: Some(document),
            ..Self::of(Outcome::Done)
        }
    }

    /// The line, with its end.
    #[must_use]
    pub fn line(&self) -> String {
        in_line(self)
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is no reply of this protocol, as a sentence.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| format!("its answer is not understood ({error})"))
    }
}

/// One object on one line: JSON escapes every line break inside.
fn in_line(object: &impl Serialize) -> String {
    let mut line = serde_json::to_string(object).expect("strings, numbers and trees of them always become JSON");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_read_as_it_was_written() {
        for request in [
            Request::Status,
            Request::Reload,
            Request::Rollback,
            Request::Upgrade,
            Request::Stop,
            Request::Ping,
            Request::Scale(Scale::To(4)),
            Request::Scale(Scale::By(2)),
            Request::Scale(Scale::By(-3)),
            Request::Purge(Target::All),
            Request::Purge(Target::Key("http://a/\"b\"".into())),
            Request::Purge(Target::Prefix("/a".into())),
            Request::Purge(Target::Tag("t".into())),
            Request::Purge(Target::Values("v".into())),
        ] {
            let line = request.line();
            assert_eq!(line.matches('\n').count(), 1);
            assert!(WORDS.contains(request.verb()));
            assert_eq!(Request::read(line.trim_end().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn a_hand_written_request_needs_no_protocol_and_no_quotes_around_a_number() {
        assert_eq!(Request::read(b" {\"verb\":\"status\"} "), Ok(Request::Status));
        let line = b"{\"verb\":\"scale\",\"workers\":3,\"later\":true}";
        assert_eq!(Request::read(line), Ok(Request::Scale(Scale::To(3))));
    }

    #[test]
    fn what_is_no_request_is_told_why() {
        for (line, told) in [
            (&b"status"[..], "no request"),
            (b"", "no request"),
            (b"\xff\xfe\0", "no request"),
            (b"{\"verb\":\"dance\"}", "the verbs are status, reload"),
            (b"{\"verb\":\"status\",\"protocol\":2}", "protocol 2"),
            (b"{\"verb\":\"scale\"}", "needs \"workers\""),
            (b"{\"verb\":\"scale\",\"workers\":\"0\"}", "needs"),
            (b"{\"verb\":\"scale\",\"workers\":-1}", "needs"),
            (b"{\"verb\":\"scale\",\"workers\":\"+-1\"}", "needs"),
            (b"{\"verb\":\"scale\",\"workers\":1.5}", "needs"),
            (b"{\"verb\":\"purge\"}", "needs \"what\""),
            (b"{\"verb\":\"purge\",\"what\":\"tag\"}", "needs"),
            (b"{\"verb\":\"purge\",\"what\":\"all\",\"text\":\"x\"}", "needs"),
        ] {
            let reason = Request::read(line).unwrap_err();
            assert!(reason.contains(told), "{reason}");
        }
    }

    #[test]
    fn there_is_always_one_worker_and_never_more_than_possible() {
        assert_eq!(Scale::By(-9).from(3, 1024), 1);
        assert_eq!(Scale::By(2).from(3, 1024), 5);
        assert_eq!(Scale::To(5000).from(3, 1024), 1024);
    }

    #[test]
    fn a_reply_is_read_as_it_was_written_whatever_its_reason_holds() {
        for reply in [
            Reply::done("generation 2 serves"),
            Reply::refused("module a.so refused:\n\"quoted\" \u{1} ü"),
            Reply::status(serde_json::json!({ "workers": [] })),
        ] {
            let line = reply.line();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(Reply::read(line.as_bytes()), Ok(reply));
        }
        assert!(Reply::read(b"HTTP/1.1 400 Bad Request").is_err());
    }
}
