//! Asking a handler's iterator for its next chunk, and closing it once, whatever happens.
//!
//! Takes a call whose body is an iterator, on the thread where handler code may run; moves one chunk into the output. The iterator
//! is taken out of the call while it is asked, so the call's lock is free meanwhile and nobody asks it twice at once.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::task::{Wake, Waker};

use appserver_handler::abi;

use super::call::{Call, Stage};
use super::output::Source;
use super::start_response::Fault;
use crate::handler::call::Next;
use crate::sys::time;

impl Call {
    /// Asks the iterator for a chunk, or closes it when nobody wants one any more. Runs handler code.
    pub fn advance(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        loop {
            let mut state = self.lock();
            state.asking = false;
            let over = state.client == abi::STATE_GONE || state.stage == Stage::Failed;
            let sated = std::mem::take(&mut state.sated);
            let mut chunks = match std::mem::replace(&mut state.source, Source::Asked { woken: false }) {
                Source::Idle(chunks) => chunks,
                Source::Waiting(chunks) if over => chunks,
                other => {
                    state.source = other;
                    return;
                }
            };
            if over {
                state.source = Source::Ended;
                drop(state);
                // The declared length has been sent: a body that is right says now that it has ended.
                if sated
                    && let Next::Chunk(bytes) = chunks.next(Waker::noop())
                    && !bytes.is_empty()
                {
                    self.complain("its body is longer than its Content-Length; the rest was dropped");
                }
                drop(chunks);
                return;
            }
            drop(state);
            let began = time::monotonic_ns();
            let next = chunks.next(&waker);
            // Before anybody hears of the chunk: where the path's next call runs depends on it.
            self.add_time(time::monotonic_ns().saturating_sub(began));
            let mut state = self.lock();
            let woken = matches!(state.source, Source::Asked { woken: true });
            match next {
                Next::Chunk(bytes) if bytes.is_empty() => {
                    state.source = Source::Idle(chunks);
                    continue;
                }
                Next::Chunk(bytes) => {
                    if state.head.is_none() && !state.committed {
                        self.fail(
                            &mut state,
                            &Fault("it yielded a body before start_response was called".into()),
                        );
                    }
                    state.output.push(bytes);
                    state.source = Source::Idle(chunks);
                }
                Next::Again if woken => {
                    state.source = Source::Idle(chunks);
                }
                Next::Again => state.source = Source::Waiting(chunks),
                ended => {
                    state.source = Source::Ended;
                    match ended {
                        Next::Failed(status) => self.fail(&mut state, &Fault(format!("its body failed with {status}"))),
                        _ if state.stage == Stage::Failed => {}
                        _ => state.stage = Stage::Done,
                    }
                    // close() is handler code: not under the lock, but before the protocol hears of the end.
                    drop(state);
                    drop(chunks);
                    state = self.lock();
                }
            }
            // The client may have gone while the iterator was asked: then nobody else closes it.
            let abandoned = state.client == abi::STATE_GONE;
            self.notify(state);
            if !abandoned {
                return;
            }
        }
    }

    /// All that the declared length allows has been handed over.
    pub fn set_sated(&self) {
        let mut state = self.lock();
        state.sated = true;
        if !state.output.is_empty() {
            drop(state);
            self.complain("its body is longer than its Content-Length; the rest was dropped");
        }
    }
}

impl Wake for Call {
    /// The iterator has something: it may be asked again.
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        match std::mem::take(&mut state.source) {
            Source::Waiting(chunks) => state.source = Source::Idle(chunks),
            Source::Asked { .. } => state.source = Source::Asked { woken: true },
            other => state.source = other,
        }
        self.notify(state);
    }
}
