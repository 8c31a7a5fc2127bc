//! The fuzzer of `targets/request.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::request::check(bytes));
