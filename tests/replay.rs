//! What the fuzzers have found, tried again: every input of every corpus, in its order.
//!
//! Takes tests/fuzz/corpus, packed by tests/fuzz/corpora; gives a failure that names the input. To look for more is
//! `make fuzz`, which nobody waits for.

use std::fs;
use std::panic;
use std::path::Path;

#[path = "fuzz/targets/lib.rs"]
mod targets;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target)
        .with_extension("bin");
    let mut packed = &fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))[..];
    let mut inputs = Vec::new();
    while let Some((length, rest)) = packed.split_first_chunk() {
        let (input, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        inputs.push(input.to_vec());
        packed = rest;
    }
    assert!(packed.is_empty(), "{}: bytes left over", file.display());
    inputs
}

/// Tries all inputs of a target and each again from its beginning without its last bytes, which costs little and is new.
fn replay(target: &str, check: fn(&[u8])) {
    let inputs = corpus(target);
    assert!(inputs.len() > 50, "the corpus of {target} has {} inputs", inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        for end in [input.len(), input.len() * 2 / 3] {
            if panic::catch_unwind(|| check(&input[..end])).is_err() {
                panic!("{target}, input {at}, {end} bytes: {}", input[..end].escape_ascii());
            }
        }
    }
}

macro_rules! replays {
    ($($sentence:ident: $target:ident;)*) => {
        $(
            #[test]
            fn $sentence() {
                replay(stringify!($target), targets::$target::check);
            }
        )*

        #[test]
        fn every_fuzzer_is_replayed() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/runs");
            let mut found: Vec<String> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            found.sort();
            let mut replayed = vec![$(stringify!($target)),*];
            replayed.sort_unstable();
            assert_eq!(found, replayed);
        }
    };
}

replays! {
    requests_of_the_fuzzer_come_out_as_the_grammar_says: request;
    bodies_of_the_fuzzer_come_out_as_the_grammar_says: body;
    heads_of_answers_of_the_fuzzer_are_one_head_each: answer;
    configurations_of_the_fuzzer_are_refused_or_printed_as_they_are: config;
    proxy_headers_of_the_fuzzer_tell_what_a_second_reader_finds: proxy;
    forwarding_fields_of_the_fuzzer_tell_what_a_second_reader_finds: forwarded;
    uwsgi_packets_of_the_fuzzer_become_the_heads_that_they_describe: uwsgi;
}
