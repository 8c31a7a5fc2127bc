//! A descriptor that several processes wait on, in the epoll set of this thread's runtime, such that one of them is woken.
//!
//! Takes a descriptor; gives each time that there may be something to take. mio cannot wait exclusively (EPOLLEXCLUSIVE, epoll_ctl(2)):
//! with ten workers every connection would wake all ten. So what tokio has registered is found by way of /proc and put into its set
//! once more, with the same word and another flag. Nothing of tokio's memory is looked at. When to wait, and whose turn it is next, is
//! the caller's policy.
#![allow(unsafe_code)]

use super::fd::{check, duplicate, inode, watch};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;

/// What the link of an epoll set in /proc/self/fd says (proc(5)).
const EPOLL: &str = "anon_inode:[eventpoll]";

/// A shared descriptor, watched for something to read.
///
/// A process that is not waiting is passed over by the kernel and the wake-up goes to one that is; so whoever was woken is the one, and
/// has to take. Without an entry (no /proc) all of them are woken, and most find nothing.
#[derive(Debug)]
pub struct Shared {
    watched: AsyncFd<OwnedFd>,
    entry: Option<Entry>,
    /// The entry is in the set.
    inside: bool,
}

impl Shared {
    /// Watches a descriptor in the runtime of this thread, by a handle of its own.
    ///
    /// # Errors
    /// From epoll_ctl(2) and fcntl(2).
    pub fn watch(of: &impl std::os::fd::AsFd) -> io::Result<Self> {
        let watched = watch(of)?;
        let mut shared = Self {
            entry: Entry::of(&watched)?,
            watched,
            inside: true,
        };
        shared.step_back()?;
        Ok(shared)
    }

    /// Whether only one of those who wait is woken.
    pub fn is_exclusive(&self) -> bool {
        self.entry.is_some()
    }

    /// Waits no more: others are woken. Without an entry it is the caller who does not look.
    pub fn leave(&mut self) {
        if let Some(entry) = self.entry.as_ref().filter(|_| self.inside) {
            // It is there; and a set without it is what is wanted.
            let _ = entry.control(libc::EPOLL_CTL_DEL, &self.watched);
        }
        self.inside = false;
    }

    /// Waits again, at the end of the kernel's line. What is there already is told at once.
    ///
    /// # Errors
    /// From epoll_ctl(2).
    pub fn join(&mut self) -> io::Result<()> {
        if let Some(entry) = self.entry.as_ref().filter(|_| !self.inside) {
            entry.control(libc::EPOLL_CTL_ADD, &self.watched)?;
        }
        self.inside = true;
        Ok(())
    }

    /// Goes to the end of the line: the kernel wakes the first that waits, and never moves it.
    ///
    /// # Errors
    /// From epoll_ctl(2).
    pub fn step_back(&mut self) -> io::Result<()> {
        if self.entry.is_none() {
            return Ok(());
        }
        self.leave();
        self.join()
    }

    /// Calls `take` once, as soon as there may be something to take.
    pub fn poll_take<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce() -> io::Result<Option<T>>,
    ) -> Poll<io::Result<Option<T>>> {
        let mut ready = ready!(self.watched.poll_read_ready(cx))?;
        let taken = take();
        // Our entry is level-triggered: what is left is told again. Tokio's own is not: there it has to be taken until nothing is left.
        if self.entry.is_some() || matches!(taken, Ok(None)) {
            ready.clear_ready();
        }
        Poll::Ready(taken)
    }
}

/// Where tokio has registered a descriptor.
#[derive(Debug)]
struct Entry {
    /// A handle of our own on its epoll set.
    set: OwnedFd,
    /// What it wants to be told when the descriptor is ready.
    word: u64,
}

impl Entry {
    /// Looks for the entry; None without a readable /proc.
    fn of(watched: &AsyncFd<OwnedFd>) -> io::Result<Option<Self>> {
        let (number, inode) = (watched.get_ref().as_raw_fd(), inode(watched.get_ref())?);
        let Ok(open) = fs::read_dir("/proc/self/fd") else {
            return Ok(None);
        };
        for entry in open.flatten() {
            if !fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == EPOLL) {
                continue;
            }
            let Some(set) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
                continue;
            };
            let Ok(entries) = fs::read_to_string(format!("/proc/self/fdinfo/{set}")) else {
                continue;
            };
            if let Some(word) = entries.lines().find_map(|line| word_of(line, number, inode)) {
                let set = duplicate(set)?;
                return Ok(Some(Self { set, word }));
            }
        }
        Ok(None)
    }

    fn control(&self, operation: i32, watched: &AsyncFd<OwnedFd>) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32,
            u64: self.word,
        };
        // SAFETY: `event` is live for the call; both descriptors are open while borrowed. Tokio takes the word back as what it registered
        // this very descriptor with, and keeps that alive as long as the registration, which `watched` holds and which ends, its
        // descriptor out of the set, before the value that calls this does.
        let done = unsafe {
            libc::epoll_ctl(
                self.set.as_raw_fd(),
                operation,
                watched.get_ref().as_raw_fd(),
                &mut event,
            )
        };
        check(done).map(|_| ())
    }
}

/// The word in a line of an epoll set's fdinfo (proc(5)), if it is about this descriptor and has not been left behind by another that
/// had its number: `tfd:        9 events:        1 data:     7f0a  pos:0 ino:1c3 sdev:8`.
fn word_of(line: &str, number: RawFd, inode: u64) -> Option<u64> {
    let mut fields = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    if fields.next()?.parse() != Ok(number) {
        return None;
    }
    let mut word = None;
    while let Some(field) = fields.next() {
        if field == "data:" {
            word = u64::from_str_radix(fields.next()?, 16).ok();
        } else if let Some(found) = field.strip_prefix("ino:") {
            // Linux 5.14 and older do not tell it.
            if u64::from_str_radix(found, 16) != Ok(inode) {
                return None;
            }
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::EventFd;
    use crate::sys::{poll::readable, time::monotonic_ns};
    use std::os::fd::AsFd;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::runtime::{Builder, Runtime};
    use tokio::time::{sleep, timeout};

    const SOON: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// One of several that wait for the same counter: tells each time it has taken it.
    fn waiter(counter: &EventFd, told: &mpsc::Sender<usize>, number: usize, fair: bool) -> std::thread::JoinHandle<()> {
        let (counter, told) = (counter.try_clone().unwrap(), told.clone());
        std::thread::spawn(move || {
            runtime().block_on(async {
                let mut shared = Shared::watch(&counter).unwrap();
                assert!(shared.is_exclusive());
                told.send(usize::MAX).unwrap();
                let _ = timeout(PATIENCE, async {
                    loop {
                        let take = || Ok(Some(counter.clear()));
                        let taken = std::future::poll_fn(|cx| shared.poll_take(cx, take)).await;
                        if told
                            .send(if taken.unwrap().unwrap() { number } else { 1000 + number })
                            .is_err()
                        {
                            return;
                        }
                        if fair {
                            shared.step_back().unwrap();
                        }
                    }
                })
                .await;
            });
        })
    }

    #[test]
    fn one_is_woken_and_the_next_time_another() {
        let counter = EventFd::new().unwrap();
        let (told, news) = mpsc::channel();
        for number in 0..4 {
            waiter(&counter, &told, number, true);
        }
        (0..4).for_each(|_| assert_eq!(news.recv_timeout(PATIENCE), Ok(usize::MAX)));
        // They are in the line; now they have to be asleep.
        assert!(news.recv_timeout(SOON).is_err());
        let (mut taken, mut in_vain) = ([0; 4], 0);
        for _ in 0..40 {
            counter.wake();
            loop {
                match news.recv_timeout(PATIENCE).unwrap() {
                    number @ 0..4 => break taken[number] += 1,
                    _ => in_vain += 1,
                }
            }
            // Whoever took it has to be asleep again too.
            in_vain += usize::from(news.recv_timeout(Duration::from_millis(5)).is_ok());
        }
        // One that was not asleep in time may look before another has taken it. A herd would have come in vain 120 times.
        assert!(in_vain < 20, "{in_vain} were woken for nothing");
        assert!(taken.iter().all(|count| *count >= 4), "all had their turns: {taken:?}");
    }

    #[test]
    fn one_that_does_not_wait_is_passed_over() {
        let counter = EventFd::new().unwrap();
        let (told, news) = mpsc::channel();
        let busy = runtime();
        // First in the line, and not in epoll_wait.
        let shared = busy.block_on(async { Shared::watch(&counter).unwrap() });
        waiter(&counter, &told, 1, false);
        assert_eq!(news.recv_timeout(PATIENCE), Ok(usize::MAX));
        assert!(news.recv_timeout(SOON).is_err());
        counter.wake();
        assert_eq!(news.recv_timeout(PATIENCE), Ok(1));
        drop(shared);
    }

    #[test]
    fn who_has_left_is_told_nothing_until_it_joins_again() {
        runtime().block_on(async {
            let counter = EventFd::new().unwrap();
            let mut shared = Shared::watch(&counter).unwrap();
            shared.leave();
            shared.leave();
            counter.wake();
            let wait = |shared: &mut Shared, cx: &mut Context<'_>| shared.poll_take(cx, || Ok(Some(())));
            let soon = timeout(SOON, std::future::poll_fn(|cx| wait(&mut shared, cx))).await;
            assert!(soon.is_err());
            shared.join().unwrap();
            shared.join().unwrap();
            // Not taken: told again and again.
            for _ in 0..3 {
                timeout(PATIENCE, std::future::poll_fn(|cx| wait(&mut shared, cx)))
                    .await
                    .unwrap()
                    .unwrap();
            }
            shared.leave();
            drop(shared);
            // What tokio registers next is none of its business.
            let mut next = Shared::watch(&counter).unwrap();
            timeout(PATIENCE, std::future::poll_fn(|cx| wait(&mut next, cx)))
                .await
                .unwrap()
                .unwrap();
            drop(next);
            sleep(Duration::from_millis(1)).await;
        });
    }

    #[test]
    fn without_an_entry_it_waits_with_the_herd() {
        runtime().block_on(async {
            let counter = EventFd::new().unwrap();
            let mut shared = Shared {
                watched: watch(&counter).unwrap(),
                entry: None,
                inside: true,
            };
            shared.step_back().unwrap();
            counter.wake();
            counter.wake();
            let mut left = 2;
            for expected in [Some(1), Some(0), None] {
                let mut take = || {
                    if left == 0 {
                        counter.clear();
                        return Ok(None);
                    }
                    left -= 1;
                    Ok(Some(left))
                };
                let taken = timeout(
                    PATIENCE,
                    std::future::poll_fn(|cx| poll_once(&mut shared, cx, &mut take)),
                )
                .await;
                assert_eq!(
                    taken.unwrap().unwrap(),
                    expected,
                    "told once, it is taken until nothing is left"
                );
            }
            assert!(readable(&[counter.as_fd()], Some(monotonic_ns())).unwrap().is_empty());
            let mut take = || Ok(Some(0));
            let soon = timeout(SOON, std::future::poll_fn(|cx| poll_once(&mut shared, cx, &mut take))).await;
            assert!(soon.is_err());
        });
    }

    fn poll_once(
        shared: &mut Shared,
        cx: &mut Context<'_>,
        take: impl FnMut() -> io::Result<Option<i32>>,
    ) -> Poll<io::Result<Option<i32>>> {
        shared.poll_take(cx, take)
    }

    #[test]
    fn a_line_of_fdinfo_is_read_only_if_it_is_about_this_descriptor() {
        let line = "tfd:        9 events: 80002019 data:     7f0a1c3d5e40  pos:0 ino:1c3 sdev:8";
        assert_eq!(word_of(line, 9, 0x1c3), Some(0x7f0a_1c3d_5e40));
        assert_eq!(word_of(line, 90, 0x1c3), None);
        assert_eq!(word_of(line, 9, 0x1c4), None, "left behind by another");
        let old = "tfd:        9 events:       19 data: ffffffffffffffff";
        assert_eq!(word_of(old, 9, 0x1c3), Some(u64::MAX));
        for broken in [
            "pos:\t0",
            "tfd:",
            "tfd:        9",
            "tfd: 9 events: 1 data:",
            "tfd: 9 data: xyz",
            "",
        ] {
            assert_eq!(word_of(broken, 9, 0x1c3), None, "{broken}");
        }
    }
}
