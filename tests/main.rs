//! The one integration binary: the real server, real sockets, real clients; one file per concern.
//!
//! Test names are sentences of behaviour; read together they are the table of contents of what the server promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on stops with the reason"
)]

mod support;

mod aftermath;
mod bodies;
mod closing;
mod config;
mod conversation;
mod dispatch;
mod drain;
mod environ;
mod exchange;
mod faults;
mod golden;
mod handlers;
mod household;
mod limits;
mod logs;
mod mounts;
mod nginx;
mod outcomes;
mod readme;
mod refusals;
mod reload;
mod serving;
mod signals;
mod start_response;
mod streaming;
mod supervision;
mod systemd;
mod tidy;
