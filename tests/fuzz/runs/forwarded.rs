//! The fuzzer of `targets/forwarded.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::forwarded::check(bytes));
