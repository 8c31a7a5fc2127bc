//! Clients of every habit that are at it during a whole fault, at a measured pace.
//!
//! Takes an address; gives an [`Account`] of every request they sent, by design.md's categories, with the worker each
//! broken connection had last heard from. The pace leaves the machine time for the fault itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::client::{Address, Client, Failure};
use crate::support::storm::Tally;
use crate::support::wait::pause;

/// What became of all requests of a crowd.
#[derive(Debug, Default, Clone)]
pub struct Account {
    /// Every request once.
    pub tally: Tally,
    /// For each lost request, the worker that its connection had last heard from, if it had heard from any, and when it
    /// was lost.
    pub broke_in: Vec<(Option<i32>, Instant)>,
    /// Idle connections that the server closed although nobody had told their clients.
    pub closed: u64,
    /// The longest that an answered request of a quick kind took.
    pub slowest: Duration,
}

impl Account {
    /// Both together.
    pub fn add(&mut self, other: Account) {
        self.tally.add(other.tally);
        self.broke_in.extend(other.broke_in);
        self.closed += other.closed;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
struct Habit {
    who: &'static str,
    target: &'static str,
    /// Requests on one connection before it opens the next.
    per_connection: usize,
    /// Time between an answer and the next request.
    pace: Duration,
    clients: usize,
}

const HABITS: [Habit; 4] = [
    Habit {
        who: "one-shot",
        target: "/pid",
        per_connection: 1,
        pace: Duration::from_millis(4),
        clients: 2,
    },
    Habit {
        who: "kept",
        target: "/pid",
        per_connection: 100,
        pace: Duration::from_millis(3),
        clients: 2,
    },
    Habit {
        who: "idle",
        target: "/pid",
        per_connection: usize::MAX,
        pace: Duration::from_millis(130),
        clients: 6,
    },
    Habit {
        who: "busy",
        target: "/sleep?ms=40",
        per_connection: usize::MAX,
        pace: Duration::from_millis(1),
        clients: 1,
    },
];

/// Clients at work in threads of their own.
pub struct Crowd {
    signs: Arc<Signs>,
    clients: Vec<JoinHandle<Account>>,
}

#[derive(Default)]
struct Signs {
    over: AtomicBool,
    answered: AtomicU64,
}

impl Crowd {
    /// Lets eleven clients loose.
    pub fn gather(address: &Address) -> Self {
        let signs = Arc::new(Signs::default());
        let mut clients = Vec::new();
        for habit in HABITS {
            for _ in 0..habit.clients {
                let (address, signs) = (address.clone(), signs.clone());
                clients.push(thread::spawn(move || attend(&address, habit, &signs)));
            }
        }
        Crowd { signs, clients }
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.signs.answered.load(Ordering::Relaxed)
    }

    /// Tells the clients to finish what they do; gives what they counted.
    pub fn disperse(mut self) -> Account {
        self.signs.over.store(true, Ordering::Relaxed);
        let mut all = Account::default();
        for client in std::mem::take(&mut self.clients) {
            all.add(client.join().expect("a client only counts, it does not fail"));
        }
        all
    }
}

/// When a crowd is left behind by a test that fails, its clients end too.
impl Drop for Crowd {
    fn drop(&mut self) {
        self.signs.over.store(true, Ordering::Relaxed);
    }
}

fn attend(address: &Address, habit: Habit, signs: &Signs) -> Account {
    let mut account = Account::default();
    while !signs.over.load(Ordering::Relaxed) {
        let mut client = match Client::connect(address) {
            Ok(client) => client,
            Err(error) => {
                // Nobody listens any more: more refusals would prove nothing.
                account.tally.count_refusal(&error);
                account
                    .broke_in
                    .resize(account.tally.lost.len(), (None, Instant::now()));
                return account;
            }
        };
        let mut worker = None;
        for turn in 0..habit.per_connection {
            if turn > 0 && client.ended() {
                account.closed += 1;
                break;
            }
            let start = Instant::now();
            let outcome = client.get(habit.target);
            if let Ok(reply) = &outcome {
                signs.answered.fetch_add(1, Ordering::Relaxed);
                worker = reply.text().trim().parse().ok().or(worker);
                if habit.who != "busy" {
                    account.slowest = account.slowest.max(start.elapsed());
                }
            }
            let crossing = turn > 0 && matches!(outcome, Err(Failure::Closed));
            let on = format!("{} connection, request {}, worker {worker:?}", habit.who, turn + 1);
            let kept = account.tally.count(&on, outcome, crossing);
            account
                .broke_in
                .resize(account.tally.lost.len(), (worker, Instant::now()));
            if kept.is_none() || signs.over.load(Ordering::Relaxed) {
                break;
            }
            pause(habit.pace);
        }
        if habit.per_connection == 1 {
            pause(habit.pace);
        }
    }
    account
}
