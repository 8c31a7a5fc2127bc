//! The fuzzer of `targets/proxy.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::proxy::check(bytes));
