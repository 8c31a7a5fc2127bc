//! Forwards each request to an HTTP origin: a reverse proxy as a handler, and with `[cache]` a caching one.
//!
//! `args = { origin = "http://127.0.0.1:9000" }`; `settings` has the others. A request is detached and handed to the one thread of the
//! module that does all the waiting, so no thread of the server is held, however slow the origin or the client. What cannot be had of the
//! origin is a 502, what comes too late a 504: to the cache both are a handler's failure.
#![forbid(unsafe_code)]

mod exchange;
mod fields;
mod inlet;
mod pool;
mod settings;

use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use appserver_handler::{Body, Detached, Environ, Handler, Init, StartResponse, handler};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

use pool::Pool;
use settings::Settings;

/// A request and where its answer goes.
struct Job {
    environ: Environ,
    response: Detached,
}

struct Proxy {
    jobs: UnboundedSender<Job>,
}

impl Handler for Proxy {
    fn init(init: &Init<'_>) -> Result<Self, String> {
        let settings = Settings::read(init.args())?;
        let (jobs, todo) = unbounded_channel();
        let (started, outcome) = mpsc::channel();
        let failed = |error| format!("its thread cannot be started: {error}");
        let thread = thread::Builder::new().name("proxy".into());
        thread.spawn(move || work(settings, todo, &started)).map_err(failed)?;
        outcome.recv().map_err(|error| error.to_string())?.map_err(failed)?;
        Ok(Self { jobs })
    }

    fn call(&self, environ: Environ, start_response: StartResponse<'_>) -> Body {
        let response = start_response.detach();
        // Where the thread has gone the response goes with the job: the server answers 500 and says why.
        let _ = self.jobs.send(Job { environ, response });
        Body::empty()
    }
}

/// The life of the module's thread: until the handler goes and the last exchange is over.
fn work(settings: Settings, mut todo: UnboundedReceiver<Job>, started: &mpsc::Sender<io::Result<()>>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let (runtime, outcome) = match runtime {
        Ok(runtime) => (Some(runtime), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = started.send(outcome);
    let Some(runtime) = runtime else { return };
    let pool = Rc::new(Pool::new(settings));
    runtime.block_on(async {
        while let Some(Job { environ, response }) = todo.recv().await {
            spawn_local(exchange::run(pool.clone(), environ, response));
        }
    });
}

handler!(Proxy);
