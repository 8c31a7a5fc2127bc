//! What the kernel still holds of a connection that the server has not read.
//!
//! Takes the two ports of a loopback connection; gives the length of the server's receive queue from /proc/net/tcp
//! (proc(5)). An empty queue after a send is the only outside sign that a request has been taken; Unix sockets have none.

use std::fs;

/// Bytes that `client` has sent and `server` has not read, connections nobody accepted yet included; none when there is no
/// such connection.
pub fn unread(server: u16, client: u16) -> Option<u64> {
    // One after the other: what the client's side still held may be at the server's by then.
    let (under_way, _) = queues(client, server)?;
    let (_, waiting) = queues(server, client)?;
    Some(under_way + waiting)
}

/// What waits at `at` to be sent to `to`, or to be acknowledged, and what waits there to be read.
fn queues(at: u16, to: u16) -> Option<(u64, u64)> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, _state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let same = port(local)? == at && port(remote)? == to;
        let (sending, reading) = queues.split_once(':').filter(|_| same)?;
        let bytes = |hex| u64::from_str_radix(hex, 16).ok();
        Some((bytes(sending)?, bytes(reading)?))
    })
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.split_once(':')?.1, 16).ok()
}
