//! Someone who looks all the time how many workers are ready.
//!
//! Takes the admin address of a server; gives the fewest ready workers that were seen. It judges nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::faults::scene::Scene;
use crate::support::client::{Address, Client};
use crate::support::wait::{pause, until};

/// Looks until it is told to stop.
pub struct Watch {
    over: Arc<AtomicBool>,
    watcher: JoinHandle<Vec<usize>>,
}

impl Watch {
    /// Begins to look, once the first look has shown `scene.wanted` ready workers.
    pub fn begin(scene: &Scene) -> Self {
        let socket = scene.path("admin.sock");
        until(&format!("all are ready; log:\n{}", scene.server.log()), || {
            look(&mut Client::connect(&Address::Unix(socket.clone())).ok()?).filter(|&ready| ready == scene.wanted)
        });
        let over = Arc::new(AtomicBool::new(false));
        let signal = over.clone();
        Watch {
            over,
            watcher: thread::spawn(move || watch(socket, &signal)),
        }
    }

    /// Stops; gives the fewest that two looks running have shown. A single look reads one worker after the other, and so
    /// may meet a successor just before it is ready and the one it replaces just after it is told to leave.
    pub fn fewest(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        let seen = self.watcher.join().expect("it only looks");
        assert!(seen.len() > 10, "it has looked: {seen:?}");
        let pairs = seen.windows(2).map(|pair| pair[0].max(pair[1]));
        pairs.min().expect("more than one look")
    }
}

fn watch(socket: PathBuf, over: &AtomicBool) -> Vec<usize> {
    let address = Address::Unix(socket);
    let mut seen = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(&address) else {
            pause(Duration::from_millis(1));
            continue;
        };
        while let Some(ready) = look(&mut client) {
            seen.push(ready);
            if over.load(Ordering::Relaxed) {
                break;
            }
            pause(Duration::from_millis(2));
        }
    }
    seen
}

/// Ready workers, by `/status`.
fn look(client: &mut Client) -> Option<usize> {
    let reply = client.get("/status").ok()?;
    let status: serde_json::Value = serde_json::from_slice(&reply.body).expect("/status is JSON");
    let workers = status["workers"].as_array().expect("with workers");
    Some(workers.iter().filter(|worker| worker["state"] == "ready").count())
}
