//! Signals: the master hears its own, a worker hears TERM and QUIT and is deaf to what is meant for the group.
//!
//! Takes registrations; gives counted [`Signal`]s over a descriptor that wakes a loop. A handler counts and wakes, and
//! does nothing else. What a signal means is decided above.
#![allow(unsafe_code)]

use super::fd::{EventFd, wake_raw};
use super::process::Pid;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, pthread_sigmask};
use signal_hook::SigId;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// What the master listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Signal {
    Term,
    Quit,
    Int,
    Hup,
    Ttin,
    Ttou,
    Usr1,
    Usr2,
    Winch,
    Child,
}

/// In the order in which they are handed out: a stop comes before all else.
const HEARD: [(Signal, libc::c_int); 10] = [
    (Signal::Term, libc::SIGTERM),
    (Signal::Quit, libc::SIGQUIT),
    (Signal::Int, libc::SIGINT),
    (Signal::Hup, libc::SIGHUP),
    (Signal::Ttin, libc::SIGTTIN),
    (Signal::Ttou, libc::SIGTTOU),
    (Signal::Usr1, libc::SIGUSR1),
    (Signal::Usr2, libc::SIGUSR2),
    (Signal::Winch, libc::SIGWINCH),
    (Signal::Child, libc::SIGCHLD),
];

static COUNTS: [AtomicU32; HEARD.len()] = [const { AtomicU32::new(0) }; HEARD.len()];

/// The master's ear; readable when a signal came.
#[derive(Debug)]
pub struct Ear {
    wake: Option<EventFd>,
    registered: Vec<SigId>,
}

impl Ear {
    /// Starts to listen to everything in [`Signal`].
    pub fn open() -> io::Result<Self> {
        // Whoever started us may have blocked some, and blocked they would stay for ever.
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        let wake = EventFd::new()?;
        let fd = wake.as_raw_fd();
        let mut registered = Vec::with_capacity(HEARD.len());
        for (index, (_, number)) in HEARD.into_iter().enumerate() {
            let heard = move || {
                COUNTS[index].fetch_add(1, Ordering::Relaxed);
                wake_raw(fd);
            };
            // SAFETY: the handler does an atomic addition and a write(2), both async-signal-safe. The descriptor
            // outlives the registration: `close` unregisters before it is dropped, and the master keeps its ear.
            registered.push(unsafe { signal_hook::low_level::register(number, heard) }?);
        }
        Ok(Self {
            wake: Some(wake),
            registered,
        })
    }

    /// What came since the last time, stops first, each as often as it came.
    pub fn take(&self) -> Vec<Signal> {
        self.wake.as_ref().map(EventFd::clear);
        let counted = HEARD.iter().zip(&COUNTS);
        counted
            .flat_map(|((signal, _), count)| std::iter::repeat_n(*signal, count.swap(0, Ordering::Relaxed) as usize))
            .collect()
    }

    /// Stops listening, in a forked child whose signals are still blocked, so that it never wakes its parent.
    pub fn close(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
        for count in &COUNTS {
            count.store(0, Ordering::Relaxed);
        }
        self.wake = None;
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake
            .as_ref()
            .expect("only a forked child closes its ear, and it never listens")
            .as_fd()
    }
}

/// In a worker: ignores what a terminal or an init system may send to the whole group.
pub fn ignore_group_signals() -> io::Result<()> {
    use nix::sys::signal::Signal as S;
    for signal in [
        S::SIGINT,
        S::SIGHUP,
        S::SIGUSR1,
        S::SIGUSR2,
        S::SIGWINCH,
        S::SIGTTIN,
        S::SIGTTOU,
    ] {
        // SAFETY: ignoring installs no handler. These are never registered with signal-hook in this process again.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    }
    ignore_broken_pipes()
}

/// A write to a closed connection is an error, not a death.
pub fn ignore_broken_pipes() -> io::Result<()> {
    // SAFETY: ignoring installs no handler.
    unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// In a worker: on TERM or QUIT runs `ask`, which must be async-signal-safe (an atomic store), and then wakes `wake`.
pub fn on_stop(ask: impl Fn() + Send + Sync + Copy + 'static, wake: &EventFd) -> io::Result<()> {
    // A handle of its own, never closed: were the caller's closed and its number reused, a signal would write to a
    // stranger.
    let fd = wake.try_clone()?.leak();
    for number in [libc::SIGTERM, libc::SIGQUIT] {
        let heard = move || {
            ask();
            wake_raw(fd);
        };
        // SAFETY: `ask` is an atomic store by the contract above, write(2) is async-signal-safe, and the descriptor is
        // never closed.
        unsafe { signal_hook::low_level::register(number, heard) }?;
    }
    Ok(())
}

/// Before another program is executed: every signal does again what it does by default. Signals are still blocked.
pub(super) fn all_to_default() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the default installs no handler. The two that cannot be changed, and those of glibc, are refused.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Passes a signal on to a process that was not reaped yet.
pub fn send(pid: Pid, signal: Signal) {
    if let Some((_, number)) = HEARD.into_iter().find(|(heard, _)| *heard == signal)
        && let Ok(number) = nix::sys::signal::Signal::try_from(number)
    {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.as_raw()), number);
    }
}

/// All signals blocked; dropping it restores the mask that was.
#[derive(Debug)]
pub struct Blocked(SigSet);

impl Blocked {
    /// Blocks every signal of this thread.
    pub fn all() -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        Ok(Self(before))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}
