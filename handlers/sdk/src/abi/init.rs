//! What an init function is told: takes the server's struct, gives mount, arguments and numbers.
//!
//! Arguments are text as the configuration is; it parses none of them.
#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::null_mut;

use super::cache::CacheRef;
use super::{Field, Host, Str};
use crate::environ::Level;
use crate::key_value::KeyValue;

/// What [`Handler::init`](crate::Handler::init) is told.
pub struct Init<'a> {
    host: &'static Host,
    raw: &'a super::Init,
    image: Option<&'a (dyn Any + Send + Sync)>,
}

impl<'a> Init<'a> {
    /// # Safety
    /// `raw`, its strings and its arguments must stay valid for `'a`.
    pub(super) unsafe fn new(
        host: &'static Host,
        raw: &'a super::Init,
        image: Option<&'a (dyn Any + Send + Sync)>,
    ) -> Init<'a> {
        Init { host, raw, image }
    }

    /// The mount's URL prefix, which becomes `SCRIPT_NAME`; empty for the root.
    pub fn mount(&self) -> &'a str {
        text(self.raw.mount)
    }

    /// The mount's argument `name`: `args = { name = "value" }` or `--arg name=value`.
    pub fn arg(&self, name: &str) -> Option<&'a str> {
        self.args().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All arguments of the mount, sorted by name.
    pub fn args(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let fields: &'a [Field] = if self.raw.args_len == 0 {
            &[]
        } else {
            // SAFETY: promised to `new`.
            unsafe { std::slice::from_raw_parts(self.raw.args, self.raw.args_len) }
        };
        fields.iter().map(|field| (text(field.name), text(field.value)))
    }

    /// The worker's number, counted from 1, as in the logs.
    pub fn worker(&self) -> u32 {
        self.raw.worker
    }

    /// How many workers the server was asked to run.
    pub fn workers(&self) -> u32 {
        self.raw.workers
    }

    /// Most threads that may call at once.
    pub fn threads(&self) -> u32 {
        self.raw.threads
    }

    /// Generation of the module image, counted from 1.
    pub fn generation(&self) -> u64 {
        self.raw.generation
    }

    /// What this image's `module_init` built, if it is of this type.
    pub fn module<M: Any + Send + Sync>(&self) -> Option<&'a M> {
        self.image?.downcast_ref()
    }

    /// A named cache in the memory that all workers share; None where the server has none.
    pub fn cache(&self, name: &str) -> Option<KeyValue> {
        CacheRef::of(self.host).map(|cache| KeyValue::new(cache, name))
    }

    /// Writes a line to the error log.
    pub fn log(&self, level: Level, message: impl std::fmt::Display) {
        let message = message.to_string();
        // SAFETY: no call is allowed, and the message is valid until the server returns.
        unsafe { (self.host.log)(null_mut(), level.number(), Str::of(message.as_bytes())) }
    }
}

/// The server's configuration is UTF-8; anything else is as good as absent.
fn text<'a>(str: Str) -> &'a str {
    // SAFETY: only called with strings that `Init::new` was promised for 'a.
    std::str::from_utf8(unsafe { str.bytes() }).unwrap_or("")
}
