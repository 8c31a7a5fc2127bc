//! The fuzzer of `targets/uwsgi.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::uwsgi::check(bytes));
