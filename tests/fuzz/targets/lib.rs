//! What the fuzzers try, and `make test` tries again with the inputs that they have found: one file per noun, each with a
//! `check` that takes any bytes and panics where a promise is broken.
//!
//! It compares the server's pure parts with readers that are written here a second time, from the specifications, as
//! simply and as strictly as they can be. It opens no socket and no file.

pub mod answer;
mod authority;
pub mod body;
pub mod config;
mod decoded;
pub mod forwarded;
mod grammar;
mod pieces;
pub mod proxy;
pub mod request;
pub mod uwsgi;
