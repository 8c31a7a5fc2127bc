//! What the server answers when it refuses something; takes a status of the ABI, gives an [`Error`].
//!
//! It carries no detail: the server has logged the reason with the request by the time a handler sees the code.
#![forbid(unsafe_code)]

use std::{fmt, io};

use crate::abi;

/// Why the server refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Not allowed at this point of the call.
    State,
    /// A malformed status, header or argument.
    Invalid,
    /// The client ended its request body early.
    Truncated,
    /// The request body is over `limits.body`.
    TooLarge,
    /// A deadline passed.
    Timeout,
    /// The client is gone, or the call has ended.
    Gone,
    /// The server cannot do that on this connection.
    Unsupported,
    /// The handler itself failed.
    Failed,
    /// The handler itself panicked.
    Panicked,
    /// Another writer to the shared cache does not get on: worth trying again.
    Busy,
    /// A status that this version of the SDK does not know.
    Unknown(i32),
}

impl Error {
    /// `Ok` for every status that is not a failure.
    pub(crate) fn check(status: abi::Status) -> Result<(), Error> {
        if status >= 0 { Ok(()) } else { Err(Error::of(status)) }
    }

    /// The error of a failure status.
    pub(crate) fn of(status: abi::Status) -> Error {
        match status {
            abi::E_STATE => Error::State,
            abi::E_INVALID => Error::Invalid,
            abi::E_TRUNCATED => Error::Truncated,
            abi::E_TOO_LARGE => Error::TooLarge,
            abi::E_TIMEOUT => Error::Timeout,
            abi::E_GONE => Error::Gone,
            abi::E_UNSUPPORTED => Error::Unsupported,
            abi::E_FAILED => Error::Failed,
            abi::E_PANIC => Error::Panicked,
            abi::E_BUSY => Error::Busy,
            other => Error::Unknown(other),
        }
    }

    /// The failure status that says the same to the server.
    pub(crate) fn status(self) -> abi::Status {
        match self {
            Error::State => abi::E_STATE,
            Error::Invalid => abi::E_INVALID,
            Error::Truncated => abi::E_TRUNCATED,
            Error::TooLarge => abi::E_TOO_LARGE,
            Error::Timeout => abi::E_TIMEOUT,
            Error::Gone => abi::E_GONE,
            Error::Unsupported => abi::E_UNSUPPORTED,
            Error::Panicked => abi::E_PANIC,
            Error::Busy => abi::E_BUSY,
            Error::Failed | Error::Unknown(_) => abi::E_FAILED,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Error::State => "the server does not allow this at this point of the call; see its error log",
            Error::Invalid => "the server refused a malformed status, header or argument; see its error log",
            Error::Truncated => "the client ended its request body early",
            Error::TooLarge => "the request body is larger than limits.body allows",
            Error::Timeout => "a deadline of the server passed",
            Error::Gone => "the client is gone or the call has ended",
            Error::Unsupported => "the server cannot do that on this connection",
            Error::Failed => "the handler failed",
            Error::Panicked => "the handler panicked",
            Error::Busy => "another writer to the shared cache does not get on; try again",
            Error::Unknown(status) => return write!(f, "the server answered with the unknown status {status}"),
        };
        f.write_str(sentence)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error {
            Error::Truncated => io::ErrorKind::UnexpectedEof,
            Error::TooLarge => io::ErrorKind::FileTooLarge,
            Error::Timeout => io::ErrorKind::TimedOut,
            Error::Gone => io::ErrorKind::ConnectionAborted,
            Error::Invalid => io::ErrorKind::InvalidInput,
            Error::Unsupported => io::ErrorKind::Unsupported,
            Error::Busy => io::ErrorKind::WouldBlock,
            Error::State | Error::Failed | Error::Panicked | Error::Unknown(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
