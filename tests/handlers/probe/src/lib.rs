//! The probe handler: takes a path, gives an order of events that once put the server out of step.
//!
//! Whatever a sound handler may do is in the lab; what stands here is slow, late, contradictory or endless on purpose.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use appserver_handler::{Body, Environ, Handler, Init, StartResponse, from_fn, handler};

/// MiB that the detached writer of `/flood` could get rid of.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
/// What `/flood` tries to write.
const FLOOD: u64 = 400;

struct Probe {
    alive: AtomicBool,
}

impl Handler for Probe {
    fn init(_: &Init<'_>) -> Result<Probe, String> {
        Ok(Probe {
            alive: AtomicBool::new(true),
        })
    }

    fn call(&self, environ: Environ, start_response: StartResponse<'_>) -> Body {
        let query = environ.get_str("QUERY_STRING").unwrap_or_default();
        match environ.get_str("PATH_INFO").unwrap_or_default() {
            "/woken-later" => woken(&start_response, |cx| {
                let waker = cx.waker().clone();
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(100));
                    waker.wake();
                });
            }),
            "/woken-at-once" => woken(&start_response, |cx| cx.waker().wake_by_ref()),
            "/stall" => stall(&start_response),
            "/flood" => flood(start_response),
            "/written" => page(&start_response, &WRITTEN.load(Ordering::Relaxed).to_string()),
            "/linger" => self.linger(query, &start_response),
            "/declared-and-file" => written_then_file(query, &start_response, &[("Content-Length", "10")]),
            "/written-and-file" => written_then_file(query, &start_response, &[]),
            "/file" => {
                start_response("200 OK", &[]);
                file(query)
            }
            "/too-late" => too_late(&start_response),
            _ => page(&start_response, "probe\n"),
        }
    }

    fn shutdown(&self) {
        self.alive.store(false, Ordering::Relaxed);
        eprintln!("probe: worker_shutdown");
        // Long enough for a call that runs beside it to see it.
        thread::sleep(Duration::from_millis(50));
    }
}
handler!(Probe);

impl Probe {
    /// Runs for as many milliseconds as the query says, whatever becomes of its client, and tells when it is shut down meanwhile.
    fn linger(&self, query: &str, start_response: &StartResponse<'_>) -> Body {
        let end = Instant::now() + Duration::from_millis(query.parse().unwrap_or(0));
        eprintln!("probe: lingering");
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
            if !self.alive.load(Ordering::Relaxed) {
                eprintln!("probe: a call runs beside worker_shutdown");
                break;
            }
        }
        page(start_response, "done\n")
    }
}

fn page(start_response: &StartResponse<'_>, text: &str) -> Body {
    start_response("200 OK", &[("Content-Length", &text.len().to_string())]);
    Body::from(text.to_owned())
}

/// Two chunks, before each a Pending whose wake is brought about by `wake`.
fn woken(start_response: &StartResponse<'_>, wake: impl Fn(&mut Context<'_>) + Send + 'static) -> Body {
    start_response("200 OK", &[]);
    let mut polls = 0;
    Body::stream(from_fn(move |cx| {
        polls += 1;
        match polls {
            1 | 3 => {
                wake(cx);
                Poll::Pending
            }
            2 | 4 => Poll::Ready(Some(Ok(b"chunk\n".to_vec()))),
            _ => Poll::Ready(None),
        }
    }))
}

/// A chunk, and then nothing for ever.
fn stall(start_response: &StartResponse<'_>) -> Body {
    start_response("200 OK", &[]);
    let mut first = true;
    Body::iter(std::iter::from_fn(move || {
        while !std::mem::take(&mut first) {
            thread::sleep(Duration::from_secs(3600));
        }
        Some("first\n")
    }))
}

/// Writes [`FLOOD`] MiB from a thread of its own; `/written` tells how far it got.
fn flood(start_response: StartResponse<'_>) -> Body {
    start_response("200 OK", &[]);
    let response = start_response.detach();
    thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..FLOOD {
            if response.write(&piece).is_err() {
                return;
            }
            WRITTEN.fetch_add(1, Ordering::Relaxed);
        }
        // A client that has gone shows in the writes already.
        let _ = response.finish();
    });
    Body::empty()
}

/// Two bytes by the write callable, and then the file that the query names.
fn written_then_file(path: &str, start_response: &StartResponse<'_>, headers: &[(&str, &str)]) -> Body {
    let writer = start_response("200 OK", headers);
    // A refusal shows in the answer.
    let _ = writer.write("ab");
    file(path)
}

fn file(path: &str) -> Body {
    File::open(path).map_or_else(|_| Body::from("no such file\n"), Body::file)
}

/// A chunk; then start_response with exc_info, and the iterator ends as if all were well.
fn too_late(start_response: &StartResponse<'_>) -> Body {
    start_response("200 OK", &[]);
    let responder = start_response.responder();
    let mut first = true;
    Body::iter(std::iter::from_fn(move || {
        if std::mem::take(&mut first) {
            return Some("first\n");
        }
        // The refusal is the point; the server must remember it.
        let _ = responder.start_with_exc_info("500 Internal Server Error", &[] as &[(&str, &str)], "too late");
        None
    }))
}
