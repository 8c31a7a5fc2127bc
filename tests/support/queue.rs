//! What the kernel still holds of a connection that the server has not read.
//!
//! Takes the two ports of a loopback connection; gives the length of the server's receive queue from /proc/net/tcp
//! (proc(5)). An empty queue after a send is the only outside sign that a request has been taken; Unix sockets have none.

use std::fs;

/// Bytes that wait at `server` from `client`, connections nobody accepted yet included; none when there is no such
/// connection.
pub fn unread(server: u16, client: u16) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, _state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let same = port(local)? == server && port(remote)? == client;
        same.then(|| u64::from_str_radix(queues.split_once(':')?.1, 16).ok())?
    })
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.split_once(':')?.1, 16).ok()
}
