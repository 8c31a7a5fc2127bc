//! The pages of the admin listener.
//!
//! Takes method and path; gives status, kind and text. It is asked anew each time: nothing is cached, and nothing but the
//! scoreboard and /proc is looked at.
#![forbid(unsafe_code)]

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::scoreboard::Scoreboard;
use crate::status::{self, healthy, metrics, ready, status};
use crate::sys::process::Pid;

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "/healthz /readyz /status /metrics\n";

impl Page {
    /// The page of this path.
    pub fn of(method: &Method, path: &str, board: &'static Scoreboard, master: Pid) -> Self {
        let known = ["/healthz", "/readyz", "/status", "/metrics"];
        if !known.contains(&path) {
            return Self::text(StatusCode::NOT_FOUND, INDEX);
        }
        if method != Method::GET && method != Method::HEAD {
            return Self::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        let status = status(board);
        match path {
            "/healthz" if Pid::parent() != master => Self::verdict(Err("the master has gone".to_owned())),
            "/healthz" => Self::verdict(healthy(&status)),
            "/readyz" => Self::verdict(ready(&status)),
            "/status" => Self::json(&status),
            _ => Self {
                status: StatusCode::OK,
                kind: metrics::CONTENT_TYPE,
                text: metrics::render(&status),
            },
        }
    }

    /// As hyper sends it; of HEAD it sends the head alone.
    pub fn response(self) -> Response<String> {
        let mut response = Response::new(self.text);
        *response.status_mut() = self.status;
        let mut set = |name: HeaderName, value: &'static str| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        set(CONTENT_TYPE, self.kind);
        // What is true now need not be true in a moment.
        set(CACHE_CONTROL, "no-store");
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            set(ALLOW, "GET, HEAD");
        }
        response
    }

    fn text(status: StatusCode, text: &str) -> Self {
        Self {
            status,
            kind: TEXT,
            text: text.to_owned(),
        }
    }

    fn verdict(verdict: Result<(), String>) -> Self {
        match verdict {
            Ok(()) => Self::text(StatusCode::OK, "ok\n"),
            Err(reason) => Self::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n")),
        }
    }

    fn json(status: &status::Status) -> Self {
        match serde_json::to_string(status) {
            Ok(json) => Self {
                status: StatusCode::OK,
                kind: "application/json",
                text: json + "\n",
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(method: Method, path: &str) -> Page {
        let board = Scoreboard::create().unwrap();
        Page::of(&method, path, board, Pid::parent())
    }

    #[test]
    fn a_server_that_has_not_begun_lives_but_is_not_ready() {
        assert_eq!(page(Method::GET, "/healthz").text, "ok\n");
        let unready = page(Method::GET, "/readyz");
        assert_eq!(unready.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(unready.text.starts_with("starting"), "{}", unready.text);
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_name() {
        assert_eq!(page(Method::GET, "/").status, StatusCode::NOT_FOUND);
        let refused = page(Method::POST, "/metrics").response();
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers()[ALLOW], "GET, HEAD");
        assert_eq!(page(Method::HEAD, "/status").status, StatusCode::OK);
    }

    #[test]
    fn a_monitor_whose_master_has_gone_says_so() {
        let board = Scoreboard::create().unwrap();
        let orphan = Page::of(&Method::GET, "/healthz", board, Pid::this());
        assert_eq!(orphan.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
