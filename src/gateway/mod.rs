//! HTTP on one side, the handler ABI on the other.
//!
//! `request` is what was asked, `front` what a trusted front-end says of it (in the fields that `forwarded` reads), `environ` shows it the WSGI way, `input` is its body; `start_response` is the head of the
//! answer (of `fields`) and `output` its body (`iterate` asks for its chunks); `call` puts them together, `answer` is its protocol's side
//! and `exchange` shows it as the [`Exchange`](crate::handler::call::Exchange) a handler works with.
//! Nothing here knows a socket, a process or how a call gets its thread.
#![forbid(unsafe_code)]

pub mod answer;
pub mod call;
pub mod environ;
mod exchange;
pub mod fields;
pub mod forwarded;
mod forwarded_element;
pub mod front;
mod hop;
pub mod input;
mod iterate;
pub mod octets;
pub mod output;
pub mod request;
pub mod start_response;

pub use answer::{Answer, Body};
pub use call::Call;
pub use front::Front;
pub use request::{Mount, Peer, Request};
