//! Stacks of threads, asked for while others allocate.
#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};

fn installed() {
    static WORDS_OF_TEST: OnceLock<&'static [AtomicU64]> = OnceLock::new();
    let words = WORDS_OF_TEST.get_or_init(|| {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let words = &*Box::leak(words.into_boxed_slice());
        install(words).unwrap();
        words
    });
    assert_eq!(words.len(), WORDS);
}

#[inline(never)]
fn sleep_in_a_known_function(over: &mpsc::Receiver<()>) {
    let _ = over.recv();
    std::hint::black_box(());
}

#[test]
fn a_sleeping_thread_tells_its_stack_a_thousand_times_while_others_allocate() {
    installed();
    let over = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut kept: Vec<Vec<u8>> = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    kept.push(vec![1; 1 + kept.len() * 37 % 5000]);
                    if kept.len() > 300 {
                        kept.clear();
                    }
                }
            })
        })
        .collect();
    let (tell, told) = mpsc::channel();
    let (wake, woken) = mpsc::channel();
    let sleeper = std::thread::spawn(move || {
        arm_thread().unwrap();
        tell.send(tid()).unwrap();
        sleep_in_a_known_function(&woken);
    });
    let who = told.recv().unwrap();
    // A function of a test build is some hundred bytes long.
    let function = sleep_in_a_known_function as *const () as u64;
    let known = |frame: &u64| (function..function + 1024).contains(frame);
    // It may still be on its way from `send` to its sleep.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !stack_of(who).is_some_and(|stack| stack.iter().any(known)) {
        assert!(Instant::now() < deadline, "it never slept");
    }
    let mut late = 0;
    for _ in 0..1000 {
        match stack_of(who) {
            Some(stack) => assert!(stack.len() > 3 && stack.iter().any(known), "{stack:x?}"),
            None => late += 1,
        }
    }
    assert!(late < 20, "{late} of 1000 were late");
    over.store(true, Ordering::Relaxed);
    wake.send(()).unwrap();
    sleeper.join().unwrap();
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(stack_of(who), None, "a thread that has gone has no stack");
}

#[test]
fn a_stack_that_was_asked_for_is_left_for_others() {
    installed();
    leave(tid(), &[1, 2, 3]);
    let left = MINE.get().unwrap().left().unwrap();
    assert_eq!((left.signal, left.tid, left.frames), (0, tid(), vec![1, 2, 3]));
    assert!(!left.thread.is_empty());
}

#[test]
fn a_module_is_found_by_an_address_within_it() {
    let place = mapping::of(a_module_is_found_by_an_address_within_it as *const () as *const c_void).unwrap();
    let here = a_module_is_found_by_an_address_within_it as *const () as u64;
    assert!((place.base..place.base + place.len).contains(&here));
    assert_eq!(mapping::of(std::ptr::null()), None);
}
