//! The lab handler: takes a path and its query parameters, gives every behaviour that a test of the server needs.
//!
//! The paths are those of design.md section 5. It misbehaves only when asked.

mod answer;
mod boot;
mod cached;
mod fault;
mod kv;
mod later;
mod output;
mod protocol;
mod query;
mod upload;

use std::sync::atomic::{AtomicU64, Ordering};

use appserver_handler::{Body, Environ, Handler, Init, StartResponse, handler};
use query::Query;

/// Calls that this process served, whatever the mount.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Bodies that were closed in this process.
static CLOSED: AtomicU64 = AtomicU64::new(0);

const VERSION: &str = match option_env!("LAB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

struct Lab {
    generation: u64,
}

/// One path: everything that a page may look at.
type Page = fn(&Lab, Environ, &Query, StartResponse) -> Body;

const PAGES: &[(&str, Page)] = &[
    ("/", answer::hello),
    ("/environ", answer::environ),
    ("/status", answer::status),
    ("/headers", answer::headers),
    ("/pid", answer::pid),
    ("/generation", answer::generation),
    ("/count", answer::count),
    ("/closed", answer::closed),
    ("/version", answer::version),
    ("/kv", kv::kv),
    ("/bytes", output::bytes),
    ("/stream", output::stream),
    ("/write", output::write),
    ("/file", output::file),
    ("/short", output::short),
    ("/long", output::long),
    ("/cache", cached::cache),
    ("/echo", upload::echo),
    ("/hash", upload::hash),
    ("/read", upload::read),
    ("/early", upload::early),
    ("/taste", upload::taste),
    ("/sleep", later::sleep),
    ("/spin", later::spin),
    ("/pace", later::pace),
    ("/paced", later::paced),
    ("/paced-chunks", later::paced_chunks),
    ("/detach", later::detach),
    ("/state", later::state),
    ("/trailers", protocol::trailers),
    ("/hints", protocol::hints),
    ("/upgrade", protocol::upgrade),
    ("/bad-header", protocol::bad_header),
    ("/bad-status", protocol::bad_status),
    ("/twice", protocol::twice),
    ("/none", protocol::none),
    ("/panic", fault::panic),
    ("/panic-midway", fault::panic_midway),
    ("/segv", fault::segv),
    ("/abort", fault::abort),
    ("/exit", fault::exit),
    ("/hang", fault::hang),
    ("/leak", fault::leak),
];

impl Handler for Lab {
    fn init(init: &Init<'_>) -> Result<Lab, String> {
        boot::misbehave(init)?;
        Ok(Lab {
            generation: init.generation(),
        })
    }

    fn call(&self, environ: Environ, start_response: StartResponse<'_>) -> Body {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let query = Query::parse(environ.get("QUERY_STRING").unwrap_or_default());
        let path = environ.get("PATH_INFO").unwrap_or_default();
        let path: &[u8] = match path {
            b"" => b"/",
            // Any path below it shows how that path arrives.
            below if below.starts_with(b"/environ/") => b"/environ",
            // Each is a path of its own to whoever learns how long they take.
            below if below.starts_with(b"/paced/") => b"/paced",
            path => path,
        };
        match PAGES.iter().find(|(name, _)| name.as_bytes() == path) {
            Some((name, page)) => {
                let body = page(self, environ, &query, start_response);
                if *name == "/closed" { body } else { counted(body) }
            }
            None => answer::text(&start_response, "404 Not Found", "the lab has no such path\n"),
        }
    }
}
handler!(Lab, version = VERSION);

/// Every body but the empty one tells `/closed` when it was closed.
fn counted(body: Body) -> Body {
    if body.len_hint() == Some(0) {
        return body;
    }
    body.on_close(|| {
        CLOSED.fetch_add(1, Ordering::Relaxed);
    })
}
