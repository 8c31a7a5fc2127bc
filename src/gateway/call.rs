//! One request and its answer, as the handler and the protocol share them.
//!
//! Takes a request, holds what both sides touch under one lock that is never held while handler code runs. The handler's side is in
//! `exchange.rs` (any thread), the protocol's in `answer.rs` (the worker's I/O thread), the asking of an iterator in `iterate.rs`.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use appserver_handler::abi;
use bytes::Bytes;
use hyper::header::HeaderMap;

use super::environ::Environ;
use super::input::Input;
use super::output::{Output, Source};
use super::request::Request;
use super::start_response::{Fault, Head};
use crate::handler::call::Waking;
use crate::scoreboard::CallMark;
use crate::sys::piece::Wire;

thread_local! {
    /// This is the I/O thread, and handler code is running on it.
    static INLINE: Cell<bool> = const { Cell::new(false) };
}

/// Runs handler code on the I/O thread: what would block it there answers at once instead.
pub fn inline<R>(run: impl FnOnce() -> R) -> R {
    INLINE.set(true);
    let result = run();
    INLINE.set(false);
    result
}

/// Whether waiting would make the I/O thread wait for itself.
pub(super) fn must_not_wait() -> bool {
    INLINE.get()
}

/// One request and its answer.
pub struct Call {
    /// What was asked.
    pub request: Request,
    /// When it began (ns, CLOCK_MONOTONIC), and how long the handler has to answer.
    pub bound: (u64, Duration),
    pub(super) environ: Environ,
    pub(super) trailers_in: OnceLock<Vec<(Vec<u8>, Vec<u8>)>>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    /// Its handler panicked, and the SDK caught it.
    pub(super) panicked: AtomicBool,
    /// Interim responses wait to be sent; a look that costs no lock.
    pub(super) has_interim: AtomicBool,
    /// Its handler was given the I/O thread.
    inline: AtomicBool,
    /// Nanoseconds of handler code so far, the longest piece for an iterator.
    took: AtomicU64,
    /// References the plugin holds.
    pub(super) held: AtomicUsize,
    /// The connection it came on, while there is one to answer on.
    pub wire: Wire,
    /// Its record on the scoreboard.
    pub mark: Option<CallMark>,
    /// The pool's thread that runs its handler code, 0 when none does.
    thread: AtomicI32,
    /// Status of the head that has left for the protocol.
    pub(super) status: AtomicU16,
    /// Bytes of its body that have left for the protocol.
    pub(super) sent: AtomicU64,
    /// An interim response has left.
    pub(super) spoke: AtomicBool,
    /// The watchdog has answered it and written its line.
    settled: AtomicBool,
}

/// How far the handler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// `handle` has not returned.
    Calling,
    /// It returned; the body may still come from its source, or from a thread that detached.
    Returned,
    /// The answer is complete.
    Done,
    /// The handler failed.
    Failed,
}

/// What both sides touch.
pub(super) struct State {
    pub input: Input,
    pub output: Output,
    pub source: Source,
    pub head: Option<Head>,
    /// Boxed, for few answers have any.
    pub trailers: Option<Box<HeaderMap>>,
    pub stage: Stage,
    /// The head has left for the protocol: it cannot change any more.
    pub committed: bool,
    pub detached: bool,
    pub upgraded: bool,
    pub client: abi::Status,
    pub interim: Vec<Bytes>,
    /// The protocol's side, when it waits for anything here.
    pub io: Option<Waker>,
    pub watching: Option<Waking>,
    /// The protocol was told to ask the iterator.
    pub asking: bool,
    /// No byte more can be sent.
    pub sated: bool,
    /// Handler threads that wait for a change: without one there is nobody to wake, and a wake is a system call.
    pub sleepers: usize,
}

impl Call {
    /// A call for this request, with the input as far as it is known; `bound` and `mark` as its fields.
    pub fn new(request: Request, input: Input, bound: (u64, Duration), mark: Option<CallMark>) -> Arc<Self> {
        Arc::new(Self {
            request,
            bound,
            environ: Environ::default(),
            trailers_in: OnceLock::new(),
            state: Mutex::new(State {
                input,
                output: Output::default(),
                source: Source::Written,
                head: None,
                trailers: None,
                stage: Stage::Calling,
                committed: false,
                detached: false,
                upgraded: false,
                client: abi::STATE_HERE,
                interim: Vec::new(),
                io: None,
                watching: None,
                asking: false,
                sated: false,
                sleepers: 0,
            }),
            changed: Condvar::new(),
            panicked: AtomicBool::new(false),
            has_interim: AtomicBool::new(false),
            inline: AtomicBool::new(false),
            took: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            wire: Wire::cut(),
            mark,
            thread: AtomicI32::new(0),
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            spoke: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a bug of ours that already ended its thread; the state is plain data and stays usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its handler was given the I/O thread.
    pub fn is_inline(&self) -> bool {
        self.inline.load(Ordering::Relaxed)
    }

    /// Says where its handler code runs from now on.
    pub fn set_inline(&self, inline: bool) {
        self.inline.store(inline, Ordering::Relaxed);
    }

    /// Notes how long a piece of handler code ran (ns).
    pub fn add_time(&self, took: u64) {
        self.took.fetch_max(took.max(1), Ordering::Relaxed);
    }

    /// The longest piece of handler code so far (ns); zero when none has ended.
    pub fn time(&self) -> u64 {
        self.took.load(Ordering::Relaxed)
    }

    /// Wakes everyone who waits for a change; both sides look again.
    pub(super) fn notify(&self, mut state: MutexGuard<'_, State>) {
        let io = state.io.take();
        self.wake_sleepers(state);
        if let Some(io) = io {
            io.wake();
        }
    }

    /// `handle` has returned. An iterator is asked for its first chunk at once, on this thread.
    pub fn returned(self: &Arc<Self>, status: abi::Status) {
        let mut state = self.lock();
        if status == abi::E_PANIC {
            self.panicked.store(true, Ordering::Relaxed);
        }
        if status != abi::OK {
            let why = if status == abi::E_PANIC {
                "it panicked".to_owned()
            } else {
                format!("it returned {status}")
            };
            self.fail(&mut state, &Fault(why));
        } else if state.stage == Stage::Calling {
            state.stage = match state.source {
                Source::Written if !state.detached => Stage::Done,
                Source::Written if self.held.load(Ordering::Acquire) == 0 => {
                    self.fail(
                        &mut state,
                        &Fault("it detached and let go of the call without finishing it".into()),
                    );
                    Stage::Failed
                }
                Source::Bytes(_) | Source::File(_) => Stage::Done,
                _ => Stage::Returned,
            };
        }
        let ask = matches!(state.source, Source::Idle(_));
        state.asking = ask;
        self.notify(state);
        if ask {
            self.advance();
        }
    }

    /// Ends the lock and wakes the handler threads that wait, if any do.
    pub(super) fn wake_sleepers(&self, state: MutexGuard<'_, State>) {
        let sleepers = state.sleepers;
        drop(state);
        if sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits, on a handler's thread, until something has changed.
    pub(super) fn sleep<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.sleepers += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleepers -= 1;
        state
    }

    /// Marks the handler as failed and says why in the log.
    pub(super) fn fail(&self, state: &mut State, fault: &Fault) {
        // Once is enough: a handler that was told of its fault mostly fails because of that.
        if state.stage == Stage::Failed || (state.stage == Stage::Done && state.committed) {
            return;
        }
        state.stage = Stage::Failed;
        let request = &self.request;
        let path = String::from_utf8_lossy(request.part(request.path)).into_owned();
        let method = String::from_utf8_lossy(request.method()).into_owned();
        tracing::error!(request_id = %request.shown_id(), method, path, "handler fault: {fault}");
    }

    /// The time for an answer is over: whatever the handler says now comes too late. False when it has answered.
    pub fn expire(&self) -> bool {
        let mut state = self.lock();
        if state.committed {
            return false;
        }
        state.stage = Stage::Failed;
        state.committed = true;
        true
    }

    /// The time for the next chunk is over, on whichever side that was noticed: nothing more is sent.
    pub fn cut_off(&self) {
        self.lock().stage = Stage::Failed;
    }

    /// Runs handler code on a thread of the pool, and shows which for as long as it runs.
    pub fn on_thread(&self, thread: i32, run: impl FnOnce()) {
        // While the handler is still running, another thread may close the iterator it gave: the one that came first is shown.
        let first = self
            .thread
            .compare_exchange(0, thread, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        run();
        if first {
            self.thread.store(0, Ordering::Release);
        }
    }

    /// The pool's thread that runs its handler code now.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Acquire)).filter(|thread| *thread != 0)
    }

    /// Whether any byte of its answer, or before its answer, may have left.
    pub fn has_spoken(&self) -> bool {
        self.spoke.load(Ordering::Acquire)
    }

    /// What has left of its answer: the status, and bytes of the body.
    pub fn told(&self) -> (u16, u64) {
        (self.status.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// Says that its exchange is over but for what only the connection's own task can do.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Whether somebody else than the connection's task has answered it, counted it and written its line.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Tells the log what the handler did wrong, when the answer is too far gone to be changed.
    pub fn complain(&self, fault: &str) {
        tracing::error!(request_id = %self.request.shown_id(), "handler fault: {fault}");
    }

    /// Whether the handler finishes its answer later, from another thread.
    pub fn is_detached(&self) -> bool {
        self.lock().detached
    }

    /// Whether its handler panicked.
    pub fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Whether the exchange is over.
    pub fn is_gone(&self) -> bool {
        self.lock().client == abi::STATE_GONE
    }
}
