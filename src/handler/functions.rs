//! The functions behind the host table: each checks its pointers, makes them slices, and asks the [`Exchange`].
//!
//! Takes what a plugin passes, gives a status code. No decision is taken here.
//! Every pointer that a plugin must not leave null is checked; what cannot be checked (that it is valid) is the plugin's promise.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use appserver_handler::abi::{self, Call, Chunk, Field, File, Init, Iter, Status, Str, Wake};

use super::call::{Chunks, Exchange, FileRange, Waking, adopt};

/// The exchange behind a pointer.
///
/// # Safety
/// `call` must be a live call of kind `E`.
unsafe fn exchange<'a, E: Exchange>(call: *mut Call) -> &'a E {
    // SAFETY: promised by the caller: the pointer came from an `Arc<E>` that is still owned by someone.
    unsafe { &*call.cast::<E>() }
}

/// Borrowed fields of a plugin as an iterator; `None` when the pointer is null.
///
/// # Safety
/// `fields` must point at `len` fields that stay valid for `'a`.
unsafe fn fields<'a>(fields: *const Field, len: usize) -> Option<impl Iterator<Item = (&'a [u8], &'a [u8])>> {
    let slice: &'a [Field] = match (fields.is_null(), len) {
        (_, 0) => &[],
        (true, _) => return None,
        // SAFETY: promised by the caller.
        (false, _) => unsafe { std::slice::from_raw_parts(fields, len) },
    };
    // SAFETY: promised by the caller for each field.
    Some(
        slice
            .iter()
            .map(|field| unsafe { (field.name.bytes(), field.value.bytes()) }),
    )
}

/// Writes through an out pointer unless it is null.
///
/// # Safety
/// `out` must be null or valid for a write.
unsafe fn put<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: promised by the caller.
        unsafe { out.write(value) }
    }
}

/// # Safety
/// As in the header, which holds for every function of this file.
pub(super) unsafe extern "C" fn log<E: Exchange>(call: *mut Call, level: i32, message: Str) {
    // SAFETY: the plugin's promise.
    let message = unsafe { message.bytes() };
    if call.is_null() {
        super::log_line(level, message);
    } else {
        // SAFETY: the plugin's promise.
        unsafe { exchange::<E>(call) }.log(level, message);
    }
}

pub(super) unsafe extern "C" fn init_error(init: *const Init, message: Str) {
    if init.is_null() {
        return;
    }
    // SAFETY: the plugin's promise; the init struct is ours and outlives the init function.
    let (ctx, message) = unsafe { ((*init).host_ctx, message.bytes()) };
    if !ctx.is_null() {
        // SAFETY: `host_ctx` points at the loader's String during the init function, on this thread.
        let reason = unsafe { &mut *ctx.cast::<String>() };
        *reason = String::from_utf8_lossy(message).into_owned();
    }
}

pub(super) unsafe extern "C" fn call_retain<E: Exchange>(call: *mut Call) {
    // SAFETY: the plugin holds the call, so the count is at least one.
    unsafe {
        exchange::<E>(call).retained();
        Arc::increment_strong_count(call.cast::<E>());
    }
}

pub(super) unsafe extern "C" fn call_release<E: Exchange>(call: *mut Call) {
    // SAFETY: the plugin gives back a reference it took with call_retain.
    unsafe {
        exchange::<E>(call).released();
        Arc::decrement_strong_count(call.cast::<E>());
    }
}

pub(super) unsafe extern "C" fn environ_get<E: Exchange>(call: *mut Call, key: Str, value: *mut Str) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { exchange::<E>(call).environ_get(key.bytes()) } {
        Some(found) => {
            // SAFETY: the plugin's promise.
            unsafe { put(value, Str::of(found)) };
            abi::OK
        }
        None => abi::ABSENT,
    }
}

pub(super) unsafe extern "C" fn environ_at<E: Exchange>(
    call: *mut Call,
    index: usize,
    key: *mut Str,
    value: *mut Str,
) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { exchange::<E>(call) }.environ_at(index) {
        Some((k, v)) => {
            // SAFETY: the plugin's promise.
            unsafe {
                put(key, Str::of(k));
                put(value, Str::of(v));
            }
            abi::OK
        }
        None => abi::END,
    }
}

pub(super) unsafe extern "C" fn method<E: Exchange>(call: *mut Call, value: *mut Str) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { put(value, Str::of(exchange::<E>(call).method())) };
    abi::OK
}

pub(super) unsafe extern "C" fn target<E: Exchange>(call: *mut Call, value: *mut Str) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { put(value, Str::of(exchange::<E>(call).target())) };
    abi::OK
}

/// Gives one field, or the end.
///
/// # Safety
/// `field` must be null or valid for a write.
unsafe fn put_field(field: *mut Field, found: Option<(&[u8], &[u8])>) -> Status {
    match found {
        Some((name, value)) => {
            // SAFETY: promised by the caller.
            unsafe {
                put(
                    field,
                    Field {
                        name: Str::of(name),
                        value: Str::of(value),
                    },
                )
            };
            abi::OK
        }
        None => abi::END,
    }
}

pub(super) unsafe extern "C" fn field_at<E: Exchange>(call: *mut Call, index: usize, field: *mut Field) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { put_field(field, exchange::<E>(call).field_at(index)) }
}

pub(super) unsafe extern "C" fn trailer_at<E: Exchange>(call: *mut Call, index: usize, field: *mut Field) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { exchange::<E>(call) }.trailer_at(index) {
        // SAFETY: the plugin's promise.
        Ok(found) => unsafe { put_field(field, found) },
        Err(status) => status,
    }
}

pub(super) unsafe extern "C" fn deadline<E: Exchange>(call: *mut Call) -> u64 {
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call) }.deadline()
}

pub(super) unsafe extern "C" fn state<E: Exchange>(call: *mut Call) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call) }.state()
}

pub(super) unsafe extern "C" fn state_poll<E: Exchange>(call: *mut Call, wake: Wake, ctx: *mut c_void) -> Status {
    match Waking::new(wake, ctx) {
        // SAFETY: the plugin's promise.
        Some(waking) => unsafe { exchange::<E>(call) }.state_poll(waking),
        None => abi::E_INVALID,
    }
}

/// Reports how much was read, or the end of it.
///
/// # Safety
/// `got` must be null or valid for a write.
unsafe fn put_read(got: *mut usize, outcome: Result<usize, Status>) -> Status {
    match outcome {
        Ok(0) => abi::END,
        Ok(n) => {
            // SAFETY: promised by the caller.
            unsafe { put(got, n) };
            abi::OK
        }
        Err(status) => status,
    }
}

pub(super) unsafe extern "C" fn input_read<E: Exchange>(
    call: *mut Call,
    buf: *mut u8,
    len: usize,
    got: *mut usize,
) -> Status {
    if buf.is_null() || len == 0 {
        return abi::E_INVALID;
    }
    // SAFETY: the plugin's promise: `len` writable bytes. They are only written to by the exchange.
    let buf = unsafe { std::slice::from_raw_parts_mut(buf, len) };
    // SAFETY: the plugin's promise.
    unsafe { put_read(got, exchange::<E>(call).input_read(buf)) }
}

pub(super) unsafe extern "C" fn input_poll<E: Exchange>(
    call: *mut Call,
    buf: *mut u8,
    len: usize,
    got: *mut usize,
    wake: Wake,
    ctx: *mut c_void,
) -> Status {
    if buf.is_null() || len == 0 {
        return abi::E_INVALID;
    }
    // SAFETY: as in input_read.
    let buf = unsafe { std::slice::from_raw_parts_mut(buf, len) };
    // SAFETY: the plugin's promise.
    unsafe { put_read(got, exchange::<E>(call).input_poll(buf, Waking::new(wake, ctx))) }
}

pub(super) unsafe extern "C" fn start_response<E: Exchange>(
    call: *mut Call,
    status: Str,
    list: *const Field,
    len: usize,
    exc_info: *const Str,
) -> Status {
    // SAFETY: the plugin's promise.
    let Some(mut list) = (unsafe { fields(list, len) }) else {
        return abi::E_INVALID;
    };
    // SAFETY: the plugin's promise.
    let exc_info = unsafe { exc_info.as_ref().map(|text| text.bytes()) };
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call).start_response(status.bytes(), &mut list, exc_info) }
}

pub(super) unsafe extern "C" fn informational<E: Exchange>(
    call: *mut Call,
    status: u32,
    list: *const Field,
    len: usize,
) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { fields(list, len) } {
        // SAFETY: the plugin's promise.
        Some(mut list) => unsafe { exchange::<E>(call) }.informational(status, &mut list),
        None => abi::E_INVALID,
    }
}

pub(super) unsafe extern "C" fn trailers<E: Exchange>(call: *mut Call, list: *const Field, len: usize) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { fields(list, len) } {
        // SAFETY: the plugin's promise.
        Some(mut list) => unsafe { exchange::<E>(call) }.trailers(&mut list),
        None => abi::E_INVALID,
    }
}

/// Borrowed bytes of a plugin; `None` when null with a length.
///
/// # Safety
/// `ptr` must be null or point at `len` bytes that stay valid for `'a`.
unsafe fn slice<'a>(ptr: *const u8, len: usize) -> Option<&'a [u8]> {
    if ptr.is_null() && len != 0 {
        return None;
    }
    // SAFETY: promised by the caller.
    Some(unsafe { Str { ptr, len }.bytes() })
}

pub(super) unsafe extern "C" fn write<E: Exchange>(call: *mut Call, bytes: *const u8, len: usize) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { slice(bytes, len) } {
        // SAFETY: the plugin's promise.
        Some(bytes) => unsafe { exchange::<E>(call) }.write(bytes),
        None => abi::E_INVALID,
    }
}

pub(super) unsafe extern "C" fn write_poll<E: Exchange>(
    call: *mut Call,
    bytes: *const u8,
    len: usize,
    taken: *mut usize,
    wake: Wake,
    ctx: *mut c_void,
) -> Status {
    // SAFETY: the plugin's promise.
    let Some(bytes) = (unsafe { slice(bytes, len) }) else {
        return abi::E_INVALID;
    };
    // SAFETY: the plugin's promise.
    match unsafe { exchange::<E>(call) }.write_poll(bytes, Waking::new(wake, ctx)) {
        Ok(n) => {
            // SAFETY: the plugin's promise.
            unsafe { put(taken, n) };
            abi::OK
        }
        Err(status) => status,
    }
}

pub(super) unsafe extern "C" fn body_bytes<E: Exchange>(call: *mut Call, chunk: *const Chunk) -> Status {
    // SAFETY: the plugin's promise.
    let Some(chunk) = (unsafe { chunk.as_ref() }) else {
        return abi::E_INVALID;
    };
    if chunk.ptr.is_null() && chunk.len != 0 {
        return abi::E_INVALID;
    }
    // A refused chunk stays the plugin's, unreleased, as a refused iterator stays unclosed.
    // SAFETY: the plugin's promise; called at most once.
    let mut take = || unsafe { adopt(chunk) }.unwrap_or_default();
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call) }.body_bytes(&mut take)
}

pub(super) unsafe extern "C" fn body_iter<E: Exchange>(call: *mut Call, iter: *const Iter) -> Status {
    // SAFETY: the plugin's promise.
    let Some(iter) = (unsafe { iter.as_ref() }) else {
        return abi::E_INVALID;
    };
    // SAFETY: the plugin's promise.
    match unsafe { exchange::<E>(call) }.body_iter(Chunks::new(*iter)) {
        Ok(()) => abi::OK,
        Err((status, chunks)) => {
            chunks.disown();
            status
        }
    }
}

pub(super) unsafe extern "C" fn body_file<E: Exchange>(call: *mut Call, file: *const File) -> Status {
    // SAFETY: the plugin's promise.
    let Some(file) = (unsafe { file.as_ref() }) else {
        return abi::E_INVALID;
    };
    if file.fd < 0 {
        return abi::E_INVALID;
    }
    // SAFETY: the plugin's promise.
    match unsafe { exchange::<E>(call) }.body_file(FileRange::new(*file)) {
        Ok(()) => abi::OK,
        Err((status, file)) => {
            file.disown();
            status
        }
    }
}

pub(super) unsafe extern "C" fn detach<E: Exchange>(call: *mut Call) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call) }.detach()
}

pub(super) unsafe extern "C" fn finish<E: Exchange>(call: *mut Call, outcome: Status) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call) }.finish(outcome)
}

pub(super) unsafe extern "C" fn upgrade<E: Exchange>(call: *mut Call, list: *const Field, len: usize) -> Status {
    // SAFETY: the plugin's promise.
    match unsafe { fields(list, len) } {
        // SAFETY: the plugin's promise.
        Some(mut list) => unsafe { exchange::<E>(call) }.upgrade(&mut list),
        None => abi::E_INVALID,
    }
}

pub(super) unsafe extern "C" fn errors_write<E: Exchange>(call: *mut Call, bytes: Str) -> Status {
    // SAFETY: the plugin's promise.
    unsafe { exchange::<E>(call).errors_write(bytes.bytes()) }
}
