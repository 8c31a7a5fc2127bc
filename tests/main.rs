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
mod balance;
mod bench;
mod bodies;
mod cache;
mod capsule;
mod closing;
mod config;
mod control;
mod conversation;
mod crowds;
mod cut_off;
mod dispatch;
mod doors;
mod drain;
mod environ;
mod exchange;
mod faults;
mod floods;
mod forwarded;
mod golden;
mod handlers;
mod handover;
mod household;
mod kv;
mod leavers;
mod limits;
mod logs;
mod monitor;
mod mounts;
mod neighbours;
mod nginx;
mod nginx_calls;
mod notify;
mod outcomes;
mod ports;
mod proxy;
mod proxy_connections;
mod proxy_edges;
mod proxy_protocol;
mod readme;
mod refusals;
mod reload;
mod replay;
mod serving;
mod signals;
mod soak;
mod start_response;
mod streaming;
mod supervision;
mod systemd;
mod threads;
mod tidy;
mod timeouts;
mod upgrade;
mod upstreams;
mod uwsgi;
mod verbs;
mod watchdog;
