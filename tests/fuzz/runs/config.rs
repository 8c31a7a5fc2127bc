//! The fuzzer of `targets/config.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::config::check(bytes));
