//! One request as seen across the boundary: takes a `*mut Call` and the server's table, gives safe methods.
//!
//! Every function of the table is called here and nowhere else. It keeps no state of its own and decides nothing.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

use super::cache::CacheRef;
use super::{Call, Chunk, Field, File, Host, Iter, OK, Status, Str};
use crate::error::Error;

/// Name and value of a field, or key and value of the environ.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// An owner of a call: a clone is one more, dropping it is one less.
pub(crate) struct CallRef {
    host: &'static Host,
    call: NonNull<Call>,
}

/// A call that somebody else owns for the time being.
pub(crate) struct BorrowedCall(ManuallyDrop<CallRef>);

// SAFETY: the ABI makes a call usable from any thread, at the same time from several.
unsafe impl Send for CallRef {}
// SAFETY: as above.
unsafe impl Sync for CallRef {}

impl BorrowedCall {
    /// # Safety
    /// `call` must be a live call of `host` for as long as the value is used.
    pub(crate) unsafe fn new(host: &'static Host, call: NonNull<Call>) -> BorrowedCall {
        BorrowedCall(ManuallyDrop::new(CallRef { host, call }))
    }
}

impl Deref for BorrowedCall {
    type Target = CallRef;

    fn deref(&self) -> &CallRef {
        &self.0
    }
}

impl Clone for CallRef {
    fn clone(&self) -> CallRef {
        // SAFETY: self keeps the call alive.
        unsafe { (self.host.call_retain)(self.call.as_ptr()) };
        CallRef {
            host: self.host,
            call: self.call,
        }
    }
}

impl Drop for CallRef {
    fn drop(&mut self) {
        // SAFETY: this owner's reference is given back once.
        unsafe { (self.host.call_release)(self.call.as_ptr()) }
    }
}

impl CallRef {
    /// One more owner that is not counted: it must not be dropped, nor outlive the call.
    pub(super) fn lend(&self) -> CallRef {
        CallRef {
            host: self.host,
            call: self.call,
        }
    }
}

/// The request.
impl CallRef {
    pub(crate) fn raw(&self) -> *mut Call {
        self.call.as_ptr()
    }

    pub(crate) fn host(&self) -> &'static Host {
        self.host
    }

    pub(crate) fn environ_get(&self, key: &[u8]) -> Option<&[u8]> {
        let mut value = Str::EMPTY;
        // SAFETY: the call lives; `value` is ours.
        let status = unsafe { (self.host.environ_get)(self.raw(), Str::of(key), &raw mut value) };
        // SAFETY: environ values stay valid until the call is freed, which self prevents.
        (status == OK).then(|| unsafe { value.bytes() })
    }

    pub(crate) fn environ_at(&self, index: usize) -> Option<Pair<'_>> {
        let (mut key, mut value) = (Str::EMPTY, Str::EMPTY);
        // SAFETY: the call lives; both places are ours.
        let status = unsafe { (self.host.environ_at)(self.raw(), index, &raw mut key, &raw mut value) };
        // SAFETY: as in environ_get.
        (status == OK).then(|| unsafe { (key.bytes(), value.bytes()) })
    }

    pub(crate) fn method(&self) -> &[u8] {
        let mut value = Str::EMPTY;
        // SAFETY: the call lives; `value` is ours and describes bytes of the call.
        unsafe {
            (self.host.method)(self.raw(), &raw mut value);
            value.bytes()
        }
    }

    pub(crate) fn target(&self) -> &[u8] {
        let mut value = Str::EMPTY;
        // SAFETY: the call lives; `value` is ours and describes bytes of the call.
        unsafe {
            (self.host.target)(self.raw(), &raw mut value);
            value.bytes()
        }
    }

    pub(crate) fn field_at(&self, index: usize) -> Option<Pair<'_>> {
        let mut field = NO_FIELD;
        // SAFETY: the call lives; `field` is ours.
        let status = unsafe { (self.host.field_at)(self.raw(), index, &raw mut field) };
        // SAFETY: fields are bytes of the call.
        (status == OK).then(|| unsafe { (field.name.bytes(), field.value.bytes()) })
    }

    pub(crate) fn trailer_at(&self, index: usize) -> Result<Option<Pair<'_>>, Error> {
        let mut field = NO_FIELD;
        // SAFETY: the call lives; `field` is ours.
        let status = unsafe { (self.host.trailer_at)(self.raw(), index, &raw mut field) };
        Error::check(status)?;
        // SAFETY: trailers are bytes of the call.
        Ok((status == OK).then(|| unsafe { (field.name.bytes(), field.value.bytes()) }))
    }

    pub(crate) fn deadline(&self) -> u64 {
        // SAFETY: the call lives.
        unsafe { (self.host.deadline)(self.raw()) }
    }

    pub(crate) fn state(&self) -> Status {
        // SAFETY: the call lives.
        unsafe { (self.host.state)(self.raw()) }
    }

    pub(crate) fn state_poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: the call lives; `poll` keeps the waker for as long as the server may use it.
        let status = poll(cx, |ctx| unsafe { (self.host.state_poll)(self.raw(), Some(wake), ctx) });
        if status == super::AGAIN {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    pub(crate) fn input_read(&self, buf: &mut [u8]) -> Result<usize, Error> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut got = 0;
        // SAFETY: the call lives; `buf` is ours to write.
        let status = unsafe { (self.host.input_read)(self.raw(), buf.as_mut_ptr(), buf.len(), &raw mut got) };
        Error::check(status)?;
        Ok(if status == OK { got.min(buf.len()) } else { 0 })
    }

    pub(crate) fn input_poll(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Error>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (ptr, len, mut got) = (buf.as_mut_ptr(), buf.len(), 0);
        // SAFETY: the call lives; the server fills `buf` before it returns or not at all.
        let status = poll(cx, |ctx| unsafe {
            (self.host.input_poll)(self.raw(), ptr, len, &raw mut got, Some(wake), ctx)
        });
        match status {
            super::AGAIN => Poll::Pending,
            OK => Poll::Ready(Ok(got.min(len))),
            status => Poll::Ready(Error::check(status).map(|()| 0)),
        }
    }
}

/// The response.
impl CallRef {
    pub(crate) fn start_response<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        status: &[u8],
        headers: &[(N, V)],
        exc_info: Option<&str>,
    ) -> Result<(), Error> {
        let message = exc_info.map(|message| Str::of(message.as_bytes()));
        let message = message.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        with_fields(headers, |fields, len| {
            // SAFETY: the call lives; the server copies what it keeps before it returns.
            unsafe { (self.host.start_response)(self.raw(), Str::of(status), fields, len, message) }
        })
    }

    pub(crate) fn informational<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        status: u16,
        headers: &[(N, V)],
    ) -> Result<(), Error> {
        with_fields(headers, |fields, len| {
            // SAFETY: as in start_response.
            unsafe { (self.host.informational)(self.raw(), status.into(), fields, len) }
        })
    }

    pub(crate) fn trailers<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, headers: &[(N, V)]) -> Result<(), Error> {
        with_fields(headers, |fields, len| {
            // SAFETY: as in start_response.
            unsafe { (self.host.trailers)(self.raw(), fields, len) }
        })
    }

    pub(crate) fn upgrade<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, headers: &[(N, V)]) -> Result<(), Error> {
        with_fields(headers, |fields, len| {
            // SAFETY: as in start_response.
            unsafe { (self.host.upgrade)(self.raw(), fields, len) }
        })
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: the call lives; the bytes are valid until the server returns.
        Error::check(unsafe { (self.host.write)(self.raw(), bytes.as_ptr(), bytes.len()) })
    }

    pub(crate) fn write_poll(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut taken = 0;
        // SAFETY: the call lives; the server takes the bytes before it returns or not at all.
        let status = poll(cx, |ctx| unsafe {
            (self.host.write_poll)(self.raw(), bytes.as_ptr(), bytes.len(), &raw mut taken, Some(wake), ctx)
        });
        match status {
            super::AGAIN => Poll::Pending,
            status => Poll::Ready(Error::check(status).map(|()| taken.min(bytes.len()))),
        }
    }

    /// # Safety
    /// As `appserver_chunk` asks: with a `release`, the bytes must stay until it is called.
    pub(super) unsafe fn body_bytes(&self, chunk: &Chunk) -> Status {
        // SAFETY: the call lives; the rest is promised by the caller.
        unsafe { (self.host.body_bytes)(self.raw(), chunk) }
    }

    /// # Safety
    /// The iterator's functions must accept its `ctx`, from any thread, until `close`.
    pub(super) unsafe fn body_iter(&self, iter: &Iter) -> Status {
        // SAFETY: the call lives; the rest is promised by the caller.
        unsafe { (self.host.body_iter)(self.raw(), iter) }
    }

    /// # Safety
    /// The descriptor must stay open until `close` is called.
    pub(super) unsafe fn body_file(&self, file: &File) -> Status {
        // SAFETY: the call lives; the rest is promised by the caller.
        unsafe { (self.host.body_file)(self.raw(), file) }
    }

    pub(crate) fn detach(&self) -> Result<(), Error> {
        // SAFETY: the call lives.
        Error::check(unsafe { (self.host.detach)(self.raw()) })
    }

    pub(crate) fn finish(&self, outcome: Status) -> Result<(), Error> {
        // SAFETY: the call lives.
        Error::check(unsafe { (self.host.finish)(self.raw(), outcome) })
    }

    pub(crate) fn errors_write(&self, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: the call lives; the bytes are valid until the server returns.
        Error::check(unsafe { (self.host.errors_write)(self.raw(), Str::of(bytes)) })
    }

    pub(crate) fn log(&self, level: i32, message: &str) {
        // SAFETY: the call lives; the message is valid until the server returns.
        unsafe { (self.host.log)(self.raw(), level, Str::of(message.as_bytes())) }
    }

    pub(crate) fn cache(&self) -> Option<CacheRef> {
        CacheRef::of(self.host)
    }
}

const NO_FIELD: Field = Field {
    name: Str::EMPTY,
    value: Str::EMPTY,
};

/// Most responses have fewer fields than this and allocate nothing.
const FIELDS_ON_STACK: usize = 16;

fn with_fields<N, V>(headers: &[(N, V)], call: impl FnOnce(*const Field, usize) -> Status) -> Result<(), Error>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let field = |(name, value): &(N, V)| Field {
        name: Str::of(name.as_ref()),
        value: Str::of(value.as_ref()),
    };
    if headers.len() > FIELDS_ON_STACK {
        let fields: Vec<Field> = headers.iter().map(field).collect();
        return Error::check(call(fields.as_ptr(), fields.len()));
    }
    let mut fields = [const { MaybeUninit::<Field>::uninit() }; FIELDS_ON_STACK];
    for (place, header) in fields.iter_mut().zip(headers) {
        place.write(field(header));
    }
    // As many as there are headers have been written.
    Error::check(call(fields.as_ptr().cast(), headers.len()))
}

/// Hands a waker to the server for the time of an `AGAIN`; with any other status the server did not keep it.
fn poll(cx: &mut Context<'_>, call: impl FnOnce(*mut c_void) -> Status) -> Status {
    let ctx = Box::into_raw(Box::new(cx.waker().clone()));
    let status = call(ctx.cast());
    if status != super::AGAIN {
        // SAFETY: made three lines above and not kept by the server.
        drop(unsafe { Box::from_raw(ctx) });
    }
    status
}

/// What the server calls once for an `AGAIN`: wakes the task and frees its waker.
unsafe extern "C" fn wake(ctx: *mut c_void) {
    // SAFETY: the server passes back, once, what `poll` gave it.
    let waker = unsafe { Box::from_raw(ctx.cast::<Waker>()) };
    super::guard::contain(|| waker.wake());
}
