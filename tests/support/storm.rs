//! Clients by the dozen that account for every request they send.
//!
//! Takes an address and how the clients behave; gives a [`Tally`] in the terms of design.md: answered, refused at
//! connect, honest error, raced (the server closed an idle connection in good order while the request was under way),
//! lost (anything else). A request counts once, by what its sender saw.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::support::client::{Address, Client, Failure, Reply};

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Full answers below 500.
    pub answered: u64,
    /// Connections the kernel turned away.
    pub refused: u64,
    /// Full answers of 500 and above.
    pub honest: u64,
    /// Sent on an idle connection that the server was closing.
    pub raced: u64,
    /// Accepted by the kernel and never answered in full, with what was seen instead.
    pub lost: Vec<String>,
}

impl Tally {
    /// Counts one outcome of this kind of client; gives the reply if the connection can be used again.
    pub fn count(&mut self, who: &str, outcome: Result<Reply, Failure>, raced_is_possible: bool) -> Option<Reply> {
        match outcome {
            Ok(reply) => {
                *if reply.status < 500 {
                    &mut self.answered
                } else {
                    &mut self.honest
                } += 1;
                return Some(reply).filter(|reply| !reply.closes());
            }
            Err(Failure::Closed) if raced_is_possible => self.raced += 1,
            Err(failure) => self.lost.push(format!("{who}: {failure}")),
        }
        None
    }

    /// Counts a connect that failed.
    pub fn count_refusal(&mut self, error: &io::Error) {
        match error.kind() {
            // A Unix socket's path goes away with its server. A TCP listener that is closed between the handshake and our
            // look at it resets; no byte of a request was sent, so it is a refusal all the same.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::NotFound => {
                self.refused += 1;
            }
            _ => self.lost.push(format!("connect: {error}")),
        }
    }

    /// Both together.
    pub fn add(&mut self, other: Tally) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.honest += other.honest;
        self.raced += other.raced;
        self.lost.extend(other.lost);
    }
}

/// How one client of a storm behaves.
#[derive(Debug, Clone)]
pub struct Habit {
    /// What it asks for.
    pub target: String,
    /// Requests on one connection before it opens the next.
    pub per_connection: usize,
}

/// Clients at work in threads of their own.
pub struct Storm {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Storm {
    /// Lets `clients` loose.
    pub fn start(address: &Address, clients: usize, habit: &Habit) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let spawn = |_| {
            let (address, habit, over) = (address.clone(), habit.clone(), over.clone());
            thread::spawn(move || blow(&address, &habit, &over))
        };
        Storm {
            clients: (0..clients).map(spawn).collect(),
            over,
        }
    }

    /// Tells the clients to finish what they do; gives what they counted.
    pub fn end(self) -> Tally {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            all.add(client.join().expect("a client only counts, it does not fail"));
        }
        all
    }
}

fn blow(address: &Address, habit: &Habit, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !over.load(Ordering::Relaxed) {
        let mut client = match Client::connect(address) {
            Ok(client) => client,
            Err(error) => {
                // Nobody listens any more: more refusals would prove nothing.
                tally.count_refusal(&error);
                return tally;
            }
        };
        for turn in 0..habit.per_connection {
            // Only a connection that waits for its next request can be closed in good order under our feet; a client
            // that sees the end before it sends has lost nothing.
            if turn > 0 && client.ended() {
                break;
            }
            let who = if turn > 0 { "kept" } else { "new" };
            if tally.count(who, client.get(&habit.target), turn > 0).is_none() {
                break;
            }
        }
    }
    tally
}
