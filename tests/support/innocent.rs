//! The innocent: a client of good habits beside a crowd that has none.
//!
//! Takes a server; gives whether each of its requests was answered, and how soon. It never asks again for what failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::client::{Address, Client};
use crate::support::server::Server;
use crate::support::wait::{pause, until};

/// Ten times what the innocent is expected to wait, for machines that do something else.
const AT_ONCE: Duration = Duration::from_millis(500);

/// A client that asks every 10 ms, by turns on a kept-alive and on a new connection.
pub struct Innocent {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<(Vec<Duration>, Vec<String>)>>,
}

impl Innocent {
    /// Lets it loose.
    pub fn beside(server: &Server) -> Self {
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (address, seen, counted) = (server.address().clone(), over.clone(), asked.clone());
        let thread = thread::spawn(move || attend(&address, &seen, &counted));
        Innocent {
            over,
            asked,
            thread: Some(thread),
        }
    }

    /// Waits until it has been answered so many times more.
    pub fn wait(&self, answers: usize) {
        let enough = self.asked.load(Ordering::Relaxed) + answers;
        until("the innocent is answered", || {
            (self.asked.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }

    /// Each of its requests must have been answered with 200, and 99 of 100 at once.
    pub fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        let (mut times, failures) = thread.join().expect("it only counts, it does not fail");
        assert!(
            failures.is_empty(),
            "{} failures: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        assert!(!times.is_empty(), "it was never answered");
        times.sort();
        let p99 = times[(times.len() - 1) * 99 / 100];
        assert!(p99 < AT_ONCE, "p99 of {} answers is {p99:?}", times.len());
    }
}

/// When a test fails its innocent ends too.
impl Drop for Innocent {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn attend(address: &Address, over: &AtomicBool, asked: &AtomicUsize) -> (Vec<Duration>, Vec<String>) {
    let (mut times, mut failures) = (Vec::new(), Vec::new());
    let mut kept = None;
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        let held = if turn % 2 == 0 { kept.take() } else { None };
        let who = if held.is_some() { "kept" } else { "new" };
        let outcome = match held.map_or_else(|| Client::connect(address), Ok) {
            Ok(mut client) => client
                .get("/")
                .map(|reply| (reply.status, client))
                .map_err(|failure| failure.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok((200, client)) => {
                times.push(start.elapsed());
                if turn % 2 == 0 {
                    kept = Some(client);
                }
            }
            Ok((status, _)) => failures.push(format!("{who}: {status}")),
            Err(failure) => failures.push(format!("{who}: {failure} after {:?}", start.elapsed())),
        }
        asked.fetch_add(1, Ordering::Relaxed);
        pause(Duration::from_millis(10));
    }
    (times, failures)
}
