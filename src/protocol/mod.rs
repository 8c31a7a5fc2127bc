//! Bytes on one side, requests on the other: one folder per protocol that a listener can speak.
#![forbid(unsafe_code)]

pub mod http;
pub mod proxy;
pub mod uwsgi;
