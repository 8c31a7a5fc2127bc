//! The function table of the server in `testing.rs`: takes the calls of the SDK, notes them in a [`Desk`].
//!
//! It checks as little as a test can do with; what the real server refuses is its own tests' affair.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::null;
use std::sync::Arc;

use super::testing::{Desk, Pulled};
use super::{
    ABI_MAJOR, ABI_MINOR, ABSENT, AGAIN, Call, Chunk, E_FAILED, E_INVALID, E_STATE, E_TRUNCATED, E_UNSUPPORTED, END,
    Field, File, Host, Init, Iter, OK, STATE_HERE, Status, Str, Wake,
};

/// # Safety
/// The pointer must be a live call of this file.
unsafe fn desk<'a>(call: *mut Call) -> &'a Desk {
    // SAFETY: calls are made by `Request::run` only.
    unsafe { &*call.cast::<Desk>() }
}

unsafe fn text(str: Str) -> String {
    // SAFETY: valid for the call, as every argument.
    String::from_utf8_lossy(unsafe { str.bytes() }).into_owned()
}

unsafe fn pairs(fields: *const Field, len: usize) -> Vec<(String, String)> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: valid for the call, as every argument.
    let fields = unsafe { std::slice::from_raw_parts(fields, len) };
    // SAFETY: as above.
    fields
        .iter()
        .map(|field| unsafe { (text(field.name), text(field.value)) })
        .collect()
}

// Every function below is called through TABLE with pointers that the SDK has checked.

unsafe extern "C" fn log(call: *mut Call, _level: i32, message: Str) {
    if !call.is_null() {
        // SAFETY: a live call and a message that is valid for the call.
        unsafe { desk(call).state().response.log.push(text(message)) };
    }
}

unsafe extern "C" fn init_error(_init: *const Init, _message: Str) {}

unsafe extern "C" fn call_retain(call: *mut Call) {
    // SAFETY: a live call is in an Arc.
    unsafe { Arc::increment_strong_count(call.cast::<Desk>().cast_const()) }
}

unsafe extern "C" fn call_release(call: *mut Call) {
    // SAFETY: gives back one call_retain.
    unsafe { Arc::decrement_strong_count(call.cast::<Desk>().cast_const()) }
}

unsafe extern "C" fn environ_get(call: *mut Call, key: Str, value: *mut Str) -> Status {
    // SAFETY: see above.
    let (desk, key) = unsafe { (desk(call), key.bytes()) };
    match desk.request.environ.iter().find(|(known, _)| known == key) {
        Some((_, found)) => {
            // SAFETY: a place of the SDK.
            unsafe { value.write(Str::of(found)) };
            OK
        }
        None => ABSENT,
    }
}

unsafe extern "C" fn environ_at(call: *mut Call, index: usize, key: *mut Str, value: *mut Str) -> Status {
    // SAFETY: see above.
    match unsafe { desk(call) }.request.environ.get(index) {
        Some((name, found)) => {
            // SAFETY: places of the SDK.
            unsafe { (key.write(Str::of(name)), value.write(Str::of(found))) };
            OK
        }
        None => END,
    }
}

unsafe extern "C" fn method(call: *mut Call, value: *mut Str) -> Status {
    // SAFETY: see above.
    unsafe { value.write(Str::of(&desk(call).request.method)) };
    OK
}

unsafe extern "C" fn target(call: *mut Call, value: *mut Str) -> Status {
    // SAFETY: see above.
    unsafe { value.write(Str::of(&desk(call).request.target)) };
    OK
}

unsafe extern "C" fn field_at(call: *mut Call, index: usize, field: *mut Field) -> Status {
    // SAFETY: see above.
    match unsafe { desk(call) }.request.fields.get(index) {
        Some((name, value)) => {
            let found = Field {
                name: Str::of(name),
                value: Str::of(value),
            };
            // SAFETY: a place of the SDK.
            unsafe { field.write(found) };
            OK
        }
        None => END,
    }
}

unsafe extern "C" fn trailer_at(_call: *mut Call, _index: usize, _field: *mut Field) -> Status {
    END
}

unsafe extern "C" fn deadline(_call: *mut Call) -> u64 {
    0
}

unsafe extern "C" fn state(_call: *mut Call) -> Status {
    STATE_HERE
}

unsafe extern "C" fn state_poll(_call: *mut Call, wake: Wake, ctx: *mut c_void) -> Status {
    if let Some(wake) = wake {
        // SAFETY: the once for this AGAIN.
        unsafe { wake(ctx) };
    }
    AGAIN
}

unsafe extern "C" fn input_read(call: *mut Call, buf: *mut u8, len: usize, got: *mut usize) -> Status {
    // SAFETY: see above.
    let desk = unsafe { desk(call) };
    let mut state = desk.state();
    let rest = desk.request.body.get(state.read..).unwrap_or_default();
    if rest.is_empty() {
        return if desk.request.truncated { E_TRUNCATED } else { END };
    }
    let taken = rest.len().min(len);
    // SAFETY: the SDK's buffer has room for `len` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(rest.as_ptr(), buf, taken);
        got.write(taken);
    }
    state.read += taken;
    OK
}

unsafe extern "C" fn input_poll(
    call: *mut Call,
    buf: *mut u8,
    len: usize,
    got: *mut usize,
    _wake: Wake,
    _ctx: *mut c_void,
) -> Status {
    // SAFETY: the same contract; it never blocks here.
    unsafe { input_read(call, buf, len, got) }
}

unsafe extern "C" fn start_response(
    call: *mut Call,
    status: Str,
    fields: *const Field,
    fields_len: usize,
    exc_info: *const Str,
) -> Status {
    // SAFETY: see above.
    let (desk, status) = unsafe { (desk(call), text(status)) };
    let mut state = desk.state();
    // SAFETY: null or a message that is valid for the call.
    if let Some(message) = unsafe { exc_info.as_ref() } {
        // SAFETY: as above.
        state.response.log.push(unsafe { text(*message) });
        if !state.response.body.is_empty() {
            state.response.failed = true;
            return E_STATE;
        }
    } else if state.started {
        return E_STATE;
    }
    if status.len() < 4 || !status.as_bytes()[..3].iter().all(u8::is_ascii_digit) {
        return E_INVALID;
    }
    state.started = true;
    state.response.status = status;
    // SAFETY: see above.
    state.response.headers = unsafe { pairs(fields, fields_len) };
    OK
}

unsafe extern "C" fn informational(call: *mut Call, status: u32, _fields: *const Field, _fields_len: usize) -> Status {
    let Ok(status) = u16::try_from(status) else {
        return E_INVALID;
    };
    // SAFETY: see above.
    unsafe { desk(call) }.state().response.informational.push(status);
    OK
}

unsafe extern "C" fn trailers(call: *mut Call, fields: *const Field, fields_len: usize) -> Status {
    // SAFETY: see above.
    unsafe { desk(call).state().response.trailers = pairs(fields, fields_len) };
    OK
}

unsafe extern "C" fn write(call: *mut Call, bytes: *const u8, len: usize) -> Status {
    // SAFETY: see above.
    let (desk, bytes) = unsafe { (desk(call), Str { ptr: bytes, len }.bytes()) };
    let mut state = desk.state();
    if !state.started {
        return E_STATE;
    }
    state.response.body.extend_from_slice(bytes);
    OK
}

unsafe extern "C" fn write_poll(
    call: *mut Call,
    bytes: *const u8,
    len: usize,
    taken: *mut usize,
    _wake: Wake,
    _ctx: *mut c_void,
) -> Status {
    // SAFETY: the same contract; it never blocks here.
    unsafe {
        taken.write(len);
        write(call, bytes, len)
    }
}

unsafe extern "C" fn body_bytes(call: *mut Call, chunk: *const Chunk) -> Status {
    // SAFETY: see above.
    let (desk, chunk) = unsafe { (desk(call), &*chunk) };
    let state = desk.state();
    if state.detached || !state.started {
        return E_STATE;
    }
    drop(state);
    desk.take(chunk);
    OK
}

unsafe extern "C" fn body_iter(call: *mut Call, iter: *const Iter) -> Status {
    // SAFETY: see above.
    let (desk, iter) = unsafe { (desk(call), *iter) };
    let mut state = desk.state();
    if state.detached {
        return E_STATE;
    }
    state.body = Some(Pulled(iter));
    OK
}

unsafe extern "C" fn body_file(call: *mut Call, file: *const File) -> Status {
    // SAFETY: see above.
    let (desk, file) = unsafe { (desk(call), *file) };
    // SAFETY: open until close; ManuallyDrop leaves it so.
    let open = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(file.fd) });
    let size = open.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; size.saturating_sub(file.offset).min(file.length) as usize];
    if open.read_exact_at(&mut bytes, file.offset).is_err() {
        return E_FAILED;
    }
    desk.state().response.body.extend(bytes);
    if let Some(close) = file.close {
        // SAFETY: once, after the last use.
        unsafe { close(file.ctx) };
    }
    OK
}

unsafe extern "C" fn detach(call: *mut Call) -> Status {
    // SAFETY: see above.
    unsafe { desk(call) }.state().detached = true;
    OK
}

unsafe extern "C" fn finish(call: *mut Call, outcome: Status) -> Status {
    // SAFETY: see above.
    let desk = unsafe { desk(call) };
    let mut state = desk.state();
    state.finished = true;
    state.response.failed |= outcome != OK;
    desk.finished.notify_all();
    OK
}

unsafe extern "C" fn upgrade(_call: *mut Call, _fields: *const Field, _fields_len: usize) -> Status {
    E_UNSUPPORTED
}

unsafe extern "C" fn errors_write(call: *mut Call, bytes: Str) -> Status {
    // SAFETY: see above.
    unsafe { desk(call).state().response.log.push(text(bytes)) };
    OK
}

pub(super) static TABLE: Host = Host {
    struct_size: size_of::<Host>(),
    abi_major: ABI_MAJOR,
    abi_minor: ABI_MINOR,
    features: 0,
    server: Str::of(b"appserver-handler/testing"),
    log,
    init_error,
    call_retain,
    call_release,
    environ_get,
    environ_at,
    method,
    target,
    field_at,
    trailer_at,
    deadline,
    state,
    state_poll,
    input_read,
    input_poll,
    start_response,
    informational,
    trailers,
    write,
    write_poll,
    body_bytes,
    body_iter,
    body_file,
    detach,
    finish,
    upgrade,
    errors_write,
    cache: null(),
    metrics: null(),
    tasks: null(),
    reserved: [null(); 5],
};
