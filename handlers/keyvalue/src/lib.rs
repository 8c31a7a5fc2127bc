//! What the shared cache is for, one recipe a path: cache-aside, a lock against stampedes, write-through, a limit of visits.
//!
//! Takes requests; gives pages whose making is slow on purpose. It needs `[cache] enabled = true`. Whatever lies in the cache can vanish at any
//! time, and a write is turned away while another process holds that part of it ([`Error::Busy`]), so every recipe works without it too, only
//! slower.

#![allow(
    clippy::disallowed_methods,
    reason = "a page that takes its time to be made, and one who waits for it"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use appserver_handler::{Body, Environ, Error, KeyValue, StartResponse, handler};

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
/// Visits that a client may make in a minute.
const VISITS: i64 = 100;

/// What the cache saves: a query, a template, a call of another service.
fn slow_page(name: &str) -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    sleep(Duration::from_millis(100));
    let number = MADE.fetch_add(1, Ordering::Relaxed) + 1;
    format!(
        "the page {name}, number {number} that process {} has made\n",
        std::process::id()
    )
}

/// Cache-aside: what is there is used, what is not is made and kept.
fn cached(pages: &KeyValue, name: &str) -> Result<Vec<u8>, Error> {
    if let Some(page) = pages.get(name)? {
        return Ok(page);
    }
    let page = slow_page(name);
    // Nobody is refused a page because it could not be kept.
    let _ = pages.set(name, &page, MINUTE);
    Ok(page.into())
}

/// The same where many ask at once: one makes the page, the others wait for it, but not for ever.
fn cached_once(pages: &KeyValue, name: &str) -> Result<Vec<u8>, Error> {
    for _ in 0..200 {
        if let Some(page) = pages.get(name)? {
            return Ok(page);
        }
        // A lock with an end of its own: whoever holds it may die.
        if pages.add(format!("{name}.lock"), "", Some(Duration::from_secs(1))) == Ok(true) {
            let page = cached(pages, name);
            let _ = pages.delete(format!("{name}.lock"));
            return page;
        }
        sleep(Duration::from_millis(10));
    }
    Ok(slow_page(name).into())
}

/// Write-through: what is written to the store is what the cache says from then on, or nothing, so that the store is asked.
fn save(notes: &KeyValue, key: &str, text: &[u8]) -> Result<(), Error> {
    std::fs::write(note_file(key), text).map_err(|_| Error::Failed)?;
    notes.set(key, text, MINUTE).or_else(|_| notes.delete(key).map(drop))
}

fn note(notes: &KeyValue, key: &str) -> Result<Option<Vec<u8>>, Error> {
    if let Some(text) = notes.get(key)? {
        return Ok(Some(text));
    }
    let text = std::fs::read(note_file(key)).ok();
    if let Some(text) = &text {
        let _ = notes.set(key, text, MINUTE);
    }
    Ok(text)
}

/// The store behind the cache: a file for each note.
fn note_file(key: &str) -> std::path::PathBuf {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    std::env::temp_dir().join(format!("appserver-note-{plain}"))
}

fn page(environ: &Environ) -> Result<(&'static str, Vec<u8>), Error> {
    let cache = |name| environ.cache(name).ok_or(Error::Unsupported);
    let client = environ.get_lossy("REMOTE_ADDR");
    // One window of a minute for each client, counted by all workers together.
    // One that cannot be counted now is let in.
    let visits = cache("visits")?.incr(format!("from {client}"), 1, MINUTE);
    if visits.is_ok_and(|visits| visits > VISITS) {
        return Ok(("429 Too Many Requests", b"come back in a minute\n".to_vec()));
    }
    let path = environ.get_lossy("PATH_INFO");
    let done = |bytes| Ok(("200 OK", bytes));
    match (environ.get_lossy("REQUEST_METHOD").as_ref(), path.as_ref()) {
        ("GET", "/") => done(cached(&cache("pages")?, "front")?),
        ("GET", name) if name.starts_with("/busy") => done(cached_once(&cache("pages")?, name)?),
        ("PUT", "/note") => {
            let text = environ.input().read_all(1 << 16).map_err(|_| Error::TooLarge)?;
            save(&cache("notes")?, "note", &text)?;
            done(text)
        }
        ("GET", "/note") => match note(&cache("notes")?, "note")? {
            Some(text) => done(text),
            None => Ok(("404 Not Found", b"no note yet\n".to_vec())),
        },
        _ => Ok(("404 Not Found", b"no such page\n".to_vec())),
    }
}

fn app(environ: Environ, start_response: StartResponse) -> Body {
    let (status, text) = page(&environ).unwrap_or_else(|error| {
        let text = format!("the cache cannot be used: {error}\n");
        ("503 Service Unavailable", text.into_bytes())
    });
    start_response(status, &[("Content-Type", "text/plain")]);
    Body::from(text)
}

handler!(app);
