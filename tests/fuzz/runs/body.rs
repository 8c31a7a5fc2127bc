//! The fuzzer of `targets/body.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::body::check(bytes));
