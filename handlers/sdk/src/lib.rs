//! Write handlers for appserver: an `app(environ, start_response)` in Rust, in the shape of [PEP 3333].
//!
//! # Hello
//!
//! A handler is a function in a crate with `crate-type = ["cdylib"]` in its `[lib]` and this crate as a dependency:
//!
//! ```standalone_crate
//! use appserver_handler::{handler, Body, Environ, StartResponse};
//!
//! fn app(environ: Environ, start_response: StartResponse) -> Body {
//!     start_response("200 OK", &[("Content-Type", "text/plain")]);
//!     Body::from("Hello, world!\n")
//! }
//! handler!(app);
//! # fn main() {}
//! ```
//!
//! `cargo build --release` makes the module; `appserver --module target/release/libhello.so` serves it. The server sets
//! Content-Length for a body that is one piece, and leaves the body away for HEAD.
//!
//! # The request
//!
//! [`Environ`] has the keys of PEP 3333. Values are bytes; [`get_str`](Environ::get_str) gives those that are UTF-8. A
//! value is built when it is asked for. The request as it was sent is there too.
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse, testing::Request};
//! fn app(environ: Environ, start_response: StartResponse) -> Body {
//!     let path = environ.get_lossy("PATH_INFO");                   // decoded, without the mount's prefix
//!     let agent = environ.get_str("HTTP_USER_AGENT").unwrap_or("somebody");
//!     let first = environ.header("accept");                        // as sent, before repeats were joined
//!     let text = format!("{path} for {agent}, who accepts {}\n", first.map_or(0, <[u8]>::len));
//!     start_response("200 OK", &[("Content-Type", "text/plain; charset=utf-8")]);
//!     Body::from(text)
//! }
//! # let response = Request::get("/a").header("User-Agent", "me").header("Accept", "*/*").run(&app);
//! # assert_eq!(response.text(), "/a for me, who accepts 3\n");
//! ```
//!
//! # Reading the body
//!
//! [`Environ::input`] is a [`std::io::Read`]. Its end is the end that the client announced: a body cut short is an
//! error, never an end. Nothing is buffered; a handler that does not read holds the client back.
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse, testing::Request};
//! fn app(environ: Environ, start_response: StartResponse) -> Body {
//!     match environ.input().read_all(1 << 20) {
//!         Ok(body) => {
//!             start_response("200 OK", &[("Content-Type", "text/plain")]);
//!             Body::from(format!("{} bytes\n", body.len()))
//!         }
//!         Err(error) => {
//!             start_response("400 Bad Request", &[("Content-Type", "text/plain")]);
//!             Body::from(format!("{error}\n"))
//!         }
//!     }
//! }
//! # assert_eq!(Request::post("/", "12345").run(&app).text(), "5 bytes\n");
//! # assert_eq!(Request::post("/", "12345").truncated().run(&app).status, "400 Bad Request");
//! ```
//!
//! # Streaming
//!
//! [`Body::iter`] takes any iterator; its next item is asked for when the previous one has left, and
//! [`on_close`](Body::on_close) runs once, whatever happens. Leave Content-Length away if you do not know it.
//! [`Body::reader`] streams a [`std::io::Read`], [`Body::file`] a file without copying it.
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse, testing::Request};
//! fn count(_: Environ, start_response: StartResponse) -> Body {
//!     start_response("200 OK", &[("Content-Type", "text/plain")]);
//!     Body::iter((1..=3).map(|n| format!("{n}\n"))).on_close(|| println!("sent, or the client left"))
//! }
//!
//! fn manual(_: Environ, start_response: StartResponse) -> Body {
//!     match std::fs::File::open("/usr/share/manual.pdf") {
//!         Ok(file) => {
//!             start_response("200 OK", &[("Content-Type", "application/pdf")]);
//!             Body::file(file)
//!         }
//!         Err(_) => {
//!             start_response("404 Not Found", &[("Content-Type", "text/plain")]);
//!             Body::from("no such manual\n")
//!         }
//!     }
//! }
//! # assert_eq!(Request::get("/").run(&count).text(), "1\n2\n3\n");
//! # assert_eq!(Request::get("/").run(&manual).status, "404 Not Found");
//! ```
//!
//! An iterator holds a thread while it thinks. A [`BodyStream`] does not: it says that it has nothing yet and wakes the
//! server when it has. That is the way of server-sent events, and of any async runtime the handler brings along:
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse, testing::Request};
//! # use std::sync::{Arc, Mutex};
//! use std::task::{Context, Poll, Waker};
//!
//! #[derive(Default)]
//! struct Mailbox {
//!     news: Option<Vec<u8>>,
//!     closed: bool,
//!     reader: Option<Waker>,
//! }
//!
//! fn events(_: Environ, start_response: StartResponse) -> Body {
//!     let mailbox = Arc::new(Mutex::new(Mailbox::default()));
//!     let writer = mailbox.clone();
//!     std::thread::spawn(move || {
//!         let mut mailbox = writer.lock().unwrap();
//!         (mailbox.news, mailbox.closed) = (Some(b"data: it is done\n\n".to_vec()), true);
//!         mailbox.reader.take().map(Waker::wake);
//!     });
//!     start_response("200 OK", &[("Content-Type", "text/event-stream")]);
//!     Body::stream(appserver_handler::from_fn(move |cx: &mut Context<'_>| {
//!         let mut mailbox = mailbox.lock().unwrap();
//!         match mailbox.news.take() {
//!             Some(news) => Poll::Ready(Some(Ok(news))),
//!             None if mailbox.closed => Poll::Ready(None),
//!             None => {
//!                 mailbox.reader = Some(cx.waker().clone());
//!                 Poll::Pending
//!             }
//!         }
//!     }))
//! }
//! # assert_eq!(Request::get("/").run(&events).text(), "data: it is done\n\n");
//! ```
//!
//! # The write callable
//!
//! `start_response` gives a [`Writer`]. It blocks while the client does not read, so prefer an iterator.
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse, testing::Request};
//! use std::io::Write;
//!
//! fn app(_: Environ, start_response: StartResponse) -> Body {
//!     let mut out = start_response("200 OK", &[("Content-Type", "text/plain")]);
//!     // An error means that the client is gone.
//!     let _ = (0..3).try_for_each(|n| writeln!(out, "line {n}"));
//!     Body::empty()
//! }
//! # assert_eq!(Request::get("/").run(&app).text(), "line 0\nline 1\nline 2\n");
//! ```
//!
//! # Answering later
//!
//! [`StartResponse::detach`] takes the response along; the call returns its thread to the server. A [`Detached`] that is
//! dropped without [`finish`](Detached::finish) has failed. [`StartResponse::upgrade`] does the same for a protocol of
//! raw bytes after a 101.
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse, testing::Request};
//! fn app(_: Environ, start_response: StartResponse) -> Body {
//!     let response = start_response.detach();
//!     std::thread::spawn(move || {
//!         response.start("200 OK", &[("Content-Type", "text/plain")])?;
//!         response.write("it took a while\n")?;
//!         response.finish()
//!     });
//!     Body::empty()
//! }
//! # assert_eq!(Request::get("/").run(&app).text(), "it took a while\n");
//! ```
//!
//! # State and arguments
//!
//! A type that implements [`Handler`] is built once per worker and mount, after the fork, from the mount's arguments
//! (`args = { greeting = "Ahoy" }` in the file, `--arg greeting=Ahoy` on the command line). An `Err` from
//! [`init`](Handler::init) is shown to whoever starts or reloads the server, and a running server keeps its old workers.
//!
//! ```standalone_crate
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use appserver_handler::{handler, Body, Environ, Handler, Init, StartResponse, Threads};
//!
//! struct Greeter {
//!     greeting: String,
//!     served: AtomicU64,
//! }
//!
//! impl Handler for Greeter {
//!     const THREADS: Threads = Threads::Many;
//!
//!     fn init(init: &Init) -> Result<Greeter, String> {
//!         let greeting = init.arg("greeting").ok_or("set the argument `greeting`")?.to_owned();
//!         Ok(Greeter { greeting, served: AtomicU64::new(0) })
//!     }
//!
//!     fn call(&self, _: Environ, start_response: StartResponse) -> Body {
//!         let n = self.served.fetch_add(1, Ordering::Relaxed) + 1;
//!         start_response("200 OK", &[("Content-Type", "text/plain")]);
//!         Body::from(format!("{}, number {n}\n", self.greeting))
//!     }
//! }
//! handler!(Greeter);
//!
//! # use appserver_handler::testing;
//! # fn main() {
//! # assert_eq!(testing::init::<Greeter>(&[]).err().unwrap(), "set the argument `greeting`");
//! # let greeter = testing::init::<Greeter>(&[("greeting", "Ahoy")]).unwrap();
//! # let app = move |environ: Environ, start: StartResponse<'_>| greeter.call(environ, start);
//! # assert_eq!(testing::Request::get("/").run(&app).text(), "Ahoy, number 1\n");
//! # }
//! ```
//!
//! What is expensive and never changes can be built once per image (in each worker today, before any fork one day), with
//! `handler!(Greeter, module_init = load);`; it must start no thread:
//!
//! ```standalone_crate
//! use appserver_handler::{handler, Body, Environ, Handler, Init, StartResponse};
//!
//! struct Words(Vec<&'static str>);
//! struct Reader(usize);
//!
//! fn load(_: &Init) -> Result<Words, String> {
//!     Ok(Words(vec!["many", "words"]))
//! }
//!
//! impl Handler for Reader {
//!     fn init(init: &Init) -> Result<Reader, String> {
//!         Ok(Reader(init.module::<Words>().map_or(0, |words| words.0.len())))
//!     }
//!
//!     fn call(&self, _: Environ, start_response: StartResponse) -> Body {
//!         start_response("200 OK", &[("Content-Type", "text/plain")]);
//!         Body::from(format!("{} words\n", self.0))
//!     }
//! }
//! handler!(Reader, module_init = load);
//! # fn main() {}
//! ```
//!
//! # Middleware
//!
//! An [`App`] is anything that can be called like a handler, functions and closures included. Middleware wraps one and
//! is one: it may change the environ, look at status and headers with [`intercept`](StartResponse::intercept), and
//! change the body. `handler!(init = build)` takes the finished stack.
//!
//! ```standalone_crate
//! use std::time::Instant;
//! use appserver_handler::{handler, App, Body, Environ, Init, StartResponse};
//!
//! /// Tells in a header how long the inner app took to start its response.
//! fn timed(inner: impl App) -> impl App {
//!     move |environ: Environ, start_response: StartResponse<'_>| {
//!         let begun = Instant::now();
//!         start_response.intercept(
//!             move |head| head.push("Server-Timing", format!("app;dur={}", begun.elapsed().as_millis())),
//!             |start_response| inner.call(environ, start_response),
//!         )
//!     }
//! }
//!
//! /// Answers in capitals.
//! fn loud(inner: impl App) -> impl App {
//!     move |environ: Environ, start_response: StartResponse<'_>| {
//!         inner.call(environ, start_response).map_chunks(|chunk| chunk.to_ascii_uppercase())
//!     }
//! }
//!
//! fn hello(_: Environ, start_response: StartResponse) -> Body {
//!     start_response("200 OK", &[("Content-Type", "text/plain")]);
//!     Body::from("hello\n")
//! }
//!
//! fn build(_: &Init) -> Result<Box<dyn App>, String> {
//!     Ok(Box::new(timed(loud(hello))))
//! }
//! handler!(init = build);
//! # fn main() {
//! # let response = appserver_handler::testing::Request::get("/").run(&timed(loud(hello)));
//! # assert_eq!(response.text(), "HELLO\n");
//! # assert!(response.header("Server-Timing").is_some());
//! # }
//! ```
//!
//! # A URL map
//!
//! The same idea routes: the map shifts what it matched from PATH_INFO to SCRIPT_NAME, so that the inner app need not
//! know where it is mounted. (Several modules in one server need no map: write several `[[mount]]`.)
//!
//! ```
//! # use appserver_handler::{testing::Request};
//! use appserver_handler::{App, Body, Environ, StartResponse};
//!
//! /// Prefixes without a slash at the end; the longest that fits wins.
//! struct Map(Vec<(&'static str, Box<dyn App>)>);
//!
//! impl App for Map {
//!     fn call(&self, mut environ: Environ, start_response: StartResponse<'_>) -> Body {
//!         let path = environ.get("PATH_INFO").unwrap_or_default().to_vec();
//!         let fits = |prefix: &str| {
//!             path.strip_prefix(prefix.as_bytes()).filter(|rest| rest.is_empty() || rest[0] == b'/')
//!         };
//!         let found = self.0.iter().filter_map(|(prefix, app)| Some((prefix, app, fits(prefix)?)));
//!         let Some((prefix, app, rest)) = found.max_by_key(|(prefix, ..)| prefix.len()) else {
//!             start_response("404 Not Found", &[("Content-Type", "text/plain")]);
//!             return Body::from("nothing is mounted here\n");
//!         };
//!         let script = [environ.get("SCRIPT_NAME").unwrap_or_default(), prefix.as_bytes()].concat();
//!         environ.set("SCRIPT_NAME", script);
//!         environ.set("PATH_INFO", rest);
//!         app.call(environ, start_response)
//!     }
//! }
//!
//! fn show(environ: Environ, start_response: StartResponse) -> Body {
//!     start_response("200 OK", &[("Content-Type", "text/plain")]);
//!     Body::from(format!("{} + {}", environ.get_lossy("SCRIPT_NAME"), environ.get_lossy("PATH_INFO")))
//! }
//!
//! let map = Map(vec![("/shop", Box::new(show)), ("/shop/cart", Box::new(show))]);
//! assert_eq!(Request::get("/shop/cart/7").run(&map).text(), "/shop/cart + /7");
//! assert_eq!(Request::get("/shopping").run(&map).status, "404 Not Found");
//! ```
//!
//! Values of any type (the user who has logged in) pass to the inner app with [`Environ::insert`].
//!
//! # Errors
//!
//! A panic is a 500; its message and place go to the server's error log with the id of the request, never to the
//! client, and the worker lives. So is a status or header that the server refuses: `start_response` need not be checked,
//! the [`Writer`] fails and the log says why. When something goes wrong after the response was started,
//! [`with_exc_info`](StartResponse::with_exc_info) replaces status and headers if nothing has been sent yet. Lines of
//! your own: [`Environ::log`], or [`Environ::errors`] for something that wants to write.
//!
//! ```
//! # use appserver_handler::{Body, Environ, Level, StartResponse, testing::Request};
//! fn app(environ: Environ, start_response: StartResponse) -> Body {
//!     start_response("200 OK", &[("Content-Type", "text/plain")]);
//!     match "seven".parse::<u32>() {
//!         Ok(number) => Body::from(number.to_string()),
//!         Err(error) => {
//!             environ.log(Level::Warn, format_args!("no number: {error}"));
//!             let headers = [("Content-Type", "text/plain")];
//!             start_response.with_exc_info("503 Service Unavailable", &headers, "the number is missing");
//!             Body::from("come back later\n")
//!         }
//!     }
//! }
//! # let response = Request::get("/").run(&app);
//! # assert_eq!((response.status.as_str(), response.log.len()), ("503 Service Unavailable", 2));
//! ```
//!
//! # Testing
//!
//! [`testing`] serves one request in the process of a test, through the same table of functions that a server passes.
//! Make the crate `crate-type = ["cdylib", "rlib"]` if the tests are not inside it.
//!
//! ```
//! # use appserver_handler::{Body, Environ, StartResponse};
//! # fn app(_: Environ, start_response: StartResponse) -> Body {
//! #     start_response("200 OK", &[("Content-Type", "text/plain")]);
//! #     Body::from("Hello, world!\n")
//! # }
//! use appserver_handler::testing::Request;
//!
//! let response = Request::get("/?who=me").header("Accept", "text/plain").run(&app);
//! assert_eq!(response.status, "200 OK");
//! assert_eq!(response.header("content-type"), Some("text/plain"));
//! assert_eq!(response.text(), "Hello, world!\n");
//! ```
//!
//! # What crosses
//!
//! The boundary is plain C: [`abi`] and `include/appserver.h` say the same, and a handler in C needs the header only. A
//! module may be built with another compiler, SDK version and allocator than the server; it has its own copy of the
//! standard library, so thread locals, loggers and runtimes of the server do not exist in it. Values that may be sent to
//! another thread ([`Environ`], [`Input`], [`Detached`], …) keep the call alive until they are dropped. Build with unwinding panics; with `panic = "abort"` a panic ends the worker.
//!
//! [PEP 3333]: https://peps.python.org/pep-3333/

pub mod abi;
mod body;
mod detached;
mod environ;
mod error;
#[doc(hidden)]
pub mod export;
mod handler;
mod input;
mod key_value;
mod start_response;

/// A server for one request, so that a handler can be tested without one.
pub mod testing {
    pub use crate::abi::testing::{Request, Response, init};
}

pub use abi::{call::Pair, init::Init};
pub use body::{Body, BodyStream, BoxError, from_fn};
pub use detached::{Detached, Duplex};
pub use environ::{Environ, Level, State};
pub use error::Error;
pub use handler::{App, Handler, Threads};
pub use input::{Errors, Input};
pub use key_value::{KeyValue, Purge};
pub use start_response::{Head, Responder, StartFn, StartResponse, Writer};
