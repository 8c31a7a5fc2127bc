//! The shared cache, as clients of the real server see it.
//!
//! Takes servers with the lab handler, whose `/cache` differs at each call; gives who was answered from what is kept. `rules` is what HTTP
//! says, `stale` what comes of what is old, `together` what many ask at once, `purges` what is thrown away, `lasting` what outlives workers, deploys and stops.

mod lasting;
mod purges;
mod rules;
mod soak;
mod stale;
mod together;

use crate::support::client::{Client, Reply};
use crate::support::server::{Builder, Server};

/// A server with a cache; `more` stands below `[cache]`.
fn cached(workers: usize, more: &str) -> Builder {
    let builder = Server::lab().workers(workers);
    let control = builder.folder().join("control.sock");
    builder.arg("--control").arg(control).config(&format!(
        "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n[cache]\nenabled = true\nsize = \"8MiB\"\nmax-entry = \"512KiB\"\n{more}"
    ))
}

/// Asks with fields of one's own, each ended by CR LF.
fn ask(client: &mut Client, method: &str, target: &str, fields: &str) -> Reply {
    client
        .send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"))
        .unwrap();
    client.reply_to(method).unwrap()
}

fn get(server: &Server, target: &str, fields: &str) -> Reply {
    ask(&mut server.client(), "GET", target, fields)
}

/// Whether the cache says that the answer was kept already.
fn is_hit(reply: &Reply) -> bool {
    reply
        .header("cache-status")
        .is_some_and(|status| status.contains("; hit"))
}

fn status(reply: &Reply) -> &str {
    reply.header("cache-status").unwrap_or_default()
}

/// Sets a value in the lab's own cache, where all workers find it.
fn set(server: &Server, key: &str, value: &str) {
    assert_eq!(server.get(&format!("/kv?op=set&key={key}&value={value}")).status, 200);
}

/// How often `/cache?count=KEY` was called, over all workers.
fn calls(server: &Server, key: &str) -> u64 {
    let reply = server.get(&format!("/kv?op=get&key={key}"));
    if reply.status == 404 {
        0
    } else {
        reply.text().parse().unwrap()
    }
}
