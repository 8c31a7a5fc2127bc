//! Modules: from a file on disk to calls that are safe to make.
//!
//! `image` holds the sealed bytes of a generation, `elf` refuses early what cannot be a module, `loader` opens one and shakes
//! hands, `symbols` names the functions of a stack, `call` and `functions` are the table of what a handler may ask of the
//! server. This is the only code that crosses into a plugin; it knows neither HTTP nor sockets.

pub mod cache;
pub mod call;
pub mod elf;
mod functions;
pub mod image;
pub mod loader;
pub mod symbols;

use appserver_handler::abi;

/// Name and version of the server, as SERVER_SOFTWARE and in the handshake.
pub const SERVER: &str = concat!("appserver/", env!("CARGO_PKG_VERSION"));

/// What this server offers to modules.
pub const FEATURES: u64 = abi::FEATURE_TRAILERS
    | abi::FEATURE_FILE
    | abi::FEATURE_INFORMATIONAL
    | abi::FEATURE_DETACH
    | abi::FEATURE_UPGRADE
    | abi::FEATURE_POLL;

/// The same, with what the configuration adds.
pub fn features() -> u64 {
    FEATURES | if cache::is_there() { abi::FEATURE_CACHE } else { 0 }
}

/// Writes a handler's words to the error log, outside of any request.
fn log_line(level: i32, message: &[u8]) {
    let text = String::from_utf8_lossy(message);
    match level {
        abi::LOG_ERROR => tracing::error!(target: "handler", "{text}"),
        abi::LOG_WARN => tracing::warn!(target: "handler", "{text}"),
        abi::LOG_INFO => tracing::info!(target: "handler", "{text}"),
        abi::LOG_DEBUG => tracing::debug!(target: "handler", "{text}"),
        _ => tracing::trace!(target: "handler", "{text}"),
    }
}
