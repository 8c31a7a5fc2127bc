//! Shows a request: takes any request, gives its environ as a page that people can read. It reads no body.
#![forbid(unsafe_code)]

use std::fmt::Write;

use appserver_handler::{Body, Environ, StartResponse, handler};

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>environ</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #222 }
  h1 { font-size: 1.4rem }
  h2 { font-size: 1rem; margin: 2rem 0 .5rem; color: #666 }
  table { border-collapse: collapse; width: 100% }
  tr:nth-child(odd) { background: #f5f5f2 }
  td { padding: .2rem .6rem; vertical-align: top; overflow-wrap: anywhere }
  td:first-child { white-space: nowrap; color: #555 }
  code { font: 14px/1.5 ui-monospace, monospace }
  @media (prefers-color-scheme: dark) {
    body { background: #1b1b1d; color: #ddd }
    tr:nth-child(odd) { background: #242427 }
    td:first-child { color: #aaa }
  }
</style>
"#;

fn app(environ: Environ, start_response: StartResponse) -> Body {
    let mut rows: Vec<(&[u8], &[u8])> = environ.iter().collect();
    rows.sort_unstable();
    let ours = |key: &[u8]| key.contains(&b'.');
    let sent = |key: &[u8]| key.starts_with(b"HTTP_");

    let mut page = String::from(HEAD);
    let (method, target) = (escape(environ.method()), escape(environ.target()));
    let _ = writeln!(page, "<h1>{method} <code>{target}</code></h1>");
    table(
        &mut page,
        "The request",
        rows.iter().filter(|(key, _)| !ours(key) && !sent(key)),
    );
    table(&mut page, "Its headers", rows.iter().filter(|(key, _)| sent(key)));
    table(&mut page, "The server", rows.iter().filter(|(key, _)| ours(key)));
    let _ = writeln!(
        page,
        "<p>Served by {}.</p>\n</html>",
        escape(environ.server().as_bytes())
    );

    let length = page.len().to_string();
    start_response(
        "200 OK",
        &[
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", &length),
            ("Cache-Control", "no-store"),
        ],
    );
    Body::from(page)
}
handler!(app);

fn table<'a>(page: &mut String, title: &str, rows: impl Iterator<Item = &'a (&'a [u8], &'a [u8])>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = writeln!(page, "<h2>{title}</h2>\n<table>");
    for (key, value) in rows {
        let (key, value) = (escape(key), escape(value));
        let _ = writeln!(
            page,
            "<tr><td><code>{key}</code></td><td><code>{value}</code></td></tr>"
        );
    }
    page.push_str("</table>\n");
}

/// Everything in an environ may come from a stranger.
fn escape(bytes: &[u8]) -> String {
    let mut safe = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            control if control.is_control() => safe.extend(control.escape_default()),
            other => safe.push(other),
        }
    }
    safe
}
