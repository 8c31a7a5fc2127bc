//! The fuzzer of `targets/answer.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appserver_targets::answer::check(bytes));
