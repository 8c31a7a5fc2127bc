//! Everything at once, for long: reads, stores, evictions, invalidations, purges and values, while workers are killed at random.
//!
//! Takes SOAK_SECONDS (6 unless told) and SOAK_SEED; gives bytes that were not their key's, requests that hung, and those that a dead worker
//! may have delayed. `make soak-cache` runs it for ten minutes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::client::{Client, Reply};
use crate::support::server::Server;
use crate::support::verbs::{socket, told, verb};
use crate::support::wait::pause;

/// No request may take longer, whoever dies.
const HANG: Duration = Duration::from_secs(5);
/// What a dead worker may cost a living one's clients; a busy machine alone costs more now and then, so a test allows ten times that.
const DELAY: Duration = Duration::from_millis(100);
const WORKERS: usize = 4;
const CLIENTS: u64 = 6;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// splitmix64
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    hits: AtomicU64,
    lost: AtomicU64,
    slow: AtomicU64,
    slowest: AtomicU64,
}

/// A client that connects again when its worker is gone.
struct Asker<'a> {
    server: &'a Server,
    client: Option<Client>,
    seen: &'a Seen,
}

impl Asker<'_> {
    fn ask(&mut self, method: &str, target: &str) -> Option<Reply> {
        let began = Instant::now();
        let mut client = self
            .client
            .take()
            .or_else(|| Client::connect(self.server.address()).ok())?;
        client.patience(HANG * 2);
        let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        let sent = client.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{length}\r\n"));
        let reply = sent.ok().and_then(|()| client.reply_to(method).ok());
        let took = began.elapsed();
        assert!(took < HANG, "{method} {target} took {took:?}");
        let Some(reply) = reply else {
            self.seen.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.client = Some(client);
        self.seen.answered.fetch_add(1, Ordering::Relaxed);
        self.seen.slow.fetch_add(u64::from(took > DELAY), Ordering::Relaxed);
        self.seen.slowest.fetch_max(took.as_millis() as u64, Ordering::Relaxed);
        Some(reply)
    }

    /// A page whose every byte follows from its key.
    fn page(&mut self, key: u64) {
        let size = 20 + key * 7919 % if key.is_multiple_of(40) { 60_000 } else { 3_000 };
        let text = format!("<{key}>");
        let stream = if key.is_multiple_of(7) { "&chunks=3" } else { "" };
        let target = format!(
            "/cache?max_age=2&swr=2&text={text}&size={size}&tag=t{}{stream}",
            key % 10
        );
        if let Some(reply) = self.ask("GET", &target) {
            assert_eq!(reply.status, 200, "{target}: {:?}", reply.headers);
            let wanted: Vec<u8> = text.bytes().cycle().take(size as usize).collect();
            assert!(
                reply.body == wanted,
                "{target} was answered with other bytes: {reply:?}"
            );
            self.seen
                .hits
                .fetch_add(u64::from(super::is_hit(&reply)), Ordering::Relaxed);
        }
    }

    fn value(&mut self, dice: &mut Dice) {
        let key = dice.below(500);
        let value = format!("{key}.{}.", dice.below(9)).repeat(1 + dice.below(60) as usize);
        if dice.below(3) == 0 {
            self.ask("GET", &format!("/kv?op=set&key=v{key}&value={value}&ttl_ms=3000"));
        } else if let Some(found) = self
            .ask("GET", &format!("/kv?op=get&key=v{key}"))
            .filter(|found| found.status == 200)
        {
            let text = found.text();
            let piece = text.split_inclusive('.').take(2).collect::<String>();
            assert!(
                piece.starts_with(&format!("{key}.")) && piece.repeat(text.len() / piece.len()) == text,
                "v{key}: {text}"
            );
        }
    }
}

#[test]
fn nothing_wrong_is_served_while_workers_are_killed_at_random() {
    let time = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(6));
    let long = time > Duration::from_secs(60);
    let seed = number("SOAK_SEED").unwrap_or(u64::from(std::process::id()));
    println!("soak of {} s; SOAK_SEED={seed} repeats it", time.as_secs());
    // So small that most of it gives way to others all the time.
    let config = "[control]\nsocket = \"DIR/control.sock\"\n[cache]\nenabled = true\nsize = \"2MiB\"\nmax-entry = \"128KiB\"\nwait = \"1s\"\n";
    let server = Server::lab().workers(WORKERS).config(config).start();
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    let mut kills = 0;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (seen, over, server) = (&seen, &over, &server);
            scope.spawn(move || {
                let mut dice = Dice(seed * 31 + number);
                let mut asker = Asker {
                    server,
                    client: None,
                    seen,
                };
                while !over.load(Ordering::Relaxed) {
                    // Tests run beside each other, and others measure.
                    if !long {
                        pause(Duration::from_millis(4));
                    }
                    // Few keys are asked for often, many seldom.
                    let key = dice.below(60) * dice.below(50);
                    match dice.below(40) {
                        0 => drop(asker.ask("POST", &format!("/cache?max_age=2&swr=2&text=<{key}>&size=20"))),
                        1..10 => asker.value(&mut dice),
                        10 => drop(asker.ask("GET", &format!("/kv?op=purge&what=tag&key=t{}", key % 10))),
                        _ => asker.page(key),
                    }
                }
            });
        }
        let mut dice = Dice(seed);
        let end = Instant::now() + time;
        let mut minute = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            // Not so often that the master holds successors back, as it does with what dies at once each time.
            pause(Duration::from_millis(200 + dice.below(800)));
            match dice.below(8) {
                0 => {
                    let what = ["--prefix /cache", "--all", "--tag t3"][dice.below(3) as usize];
                    let (code, _, error) = told(&verb(&socket(&server), &format!("cache purge {what}")));
                    assert_eq!(code, Some(0), "{error}");
                }
                _ => {
                    let workers = server.workers();
                    if let Some(worker) = workers.get(dice.below(WORKERS as u64) as usize) {
                        kills += u32::from(kill(Pid::from_raw(*worker), Signal::SIGKILL).is_ok());
                    }
                }
            }
            if Instant::now() >= minute {
                println!(
                    "{kills} killed, {} answered, {} ms the slowest",
                    seen.answered.load(Ordering::Relaxed),
                    seen.slowest.load(Ordering::Relaxed)
                );
                minute += Duration::from_secs(60);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (answered, hits, lost) = (of(&seen.answered), of(&seen.hits), of(&seen.lost));
    let (slow, slowest) = (of(&seen.slow), of(&seen.slowest));
    let stats = told(&verb(&socket(&server), "cache stats")).1;
    println!(
        "{kills} workers killed: {answered} requests answered, {hits} from the cache, every byte its key's; {lost} died with their workers; \
         {slow} took over {} ms, the slowest {slowest} ms\n{stats}",
        DELAY.as_millis()
    );
    assert!(kills >= 3 && hits > 100, "{kills} kills, {hits} hits");
    assert!(
        long || slowest < DELAY.as_millis() as u64 * 20,
        "the slowest took {slowest} ms"
    );
}
