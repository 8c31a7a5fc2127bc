//! Connections from another address of this machine than the usual one.
//!
//! Takes an address of the loopback network, such as 127.0.0.2; gives a client whose connection comes from there.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::support::client::{Address, Client};

/// A new connection to a server from `source`.
pub fn connect_from(source: Ipv4Addr, server: &Address) -> Client {
    let Address::Tcp(SocketAddr::V4(to)) = server else {
        panic!("{server:?} is no address of IPv4")
    };
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0))).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(*to)).unwrap();
    Client::over(TcpStream::from(socket)).unwrap()
}
