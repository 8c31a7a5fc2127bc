//! What a handler returns: takes text, bytes, an iterator, a stream or a file, gives a [`Body`] that is closed once.
//!
//! It sends nothing; the server pulls it, chunk by chunk, when the previous one has left.
#![forbid(unsafe_code)]

use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::task::{Context, Poll};

/// An error of any type, as body streams and iterators may end in.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A body that is made as it is sent, without holding a thread while there is nothing to send.
pub trait BodyStream: Send {
    /// The next chunk; `None` is the end and an error cuts the response. When pending, the waker of `cx` must be woken.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, BoxError>>>;
}

/// A response body.
#[must_use = "a body that is not returned is closed unsent"]
pub struct Body {
    source: Source,
    closers: Closers,
}

/// Where the bytes come from.
pub(crate) enum Source {
    Empty,
    Static(&'static [u8]),
    Bytes(Vec<u8>),
    Stream(Box<dyn BodyStream>),
    File { file: File, offset: u64, length: u64 },
}

/// What to run when the body is closed: once, in the order added, also when one of them panics.
#[derive(Default)]
pub(crate) struct Closers(Vec<Box<dyn FnOnce() + Send>>);

impl Body {
    /// No bytes; also what a handler returns after the write callable, `detach` or `upgrade`.
    pub const fn empty() -> Body {
        Body::of(Source::Empty)
    }

    /// The items one by one; `next` runs only when the previous item has left.
    pub fn iter<I>(items: I) -> Body
    where
        I: IntoIterator,
        I::IntoIter: Send + 'static,
        I::Item: Into<Vec<u8>>,
    {
        Body::stream(Items(items.into_iter().map(|item| Ok(item.into()))))
    }

    /// As [`iter`](Body::iter), for items that can fail: an error is logged and cuts the response.
    pub fn try_iter<I, T, E>(items: I) -> Body
    where
        I: IntoIterator<Item = Result<T, E>>,
        I::IntoIter: Send + 'static,
        T: Into<Vec<u8>>,
        E: Into<BoxError>,
    {
        Body::stream(Items(
            items.into_iter().map(|item| item.map(Into::into).map_err(Into::into)),
        ))
    }

    /// A stream that may have to wait; it holds no thread while it does.
    pub fn stream(stream: impl BodyStream + 'static) -> Body {
        Body::of(Source::Stream(Box::new(stream)))
    }

    /// Whatever the reader gives until its end, 64 KiB at most at a time.
    pub fn reader(mut reader: impl Read + Send + 'static) -> Body {
        Body::try_iter(std::iter::from_fn(move || {
            read_chunk(&mut reader, u64::MAX).transpose()
        }))
    }

    /// A file from its current position to its end: `wsgi.file_wrapper`, sent by sendfile(2) where that is possible.
    pub fn file(mut file: File) -> Body {
        let offset = file.stream_position().unwrap_or(0);
        Body::file_range(file, offset, u64::MAX)
    }

    /// `length` bytes of a file from `offset`; `u64::MAX` means all to its end.
    pub fn file_range(file: File, offset: u64, length: u64) -> Body {
        Body::of(Source::File { file, offset, length })
    }

    /// Runs `close` when the server has done with the body, whatever happens: once, in the order added.
    pub fn on_close(mut self, close: impl FnOnce() + Send + 'static) -> Body {
        self.closers.0.push(Box::new(close));
        self
    }

    /// Changes every chunk on its way out, for middleware. What has to be closed still is. Mind Content-Length.
    pub fn map_chunks(self, mut change: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) -> Body {
        let (source, closers) = self.take_apart();
        let source = match source {
            Source::Empty => Source::Empty,
            Source::Static(bytes) => Source::Bytes(change(bytes.to_vec())),
            Source::Bytes(bytes) => Source::Bytes(change(bytes)),
            other => {
                let mut chunks = Chunks::of(other);
                Source::Stream(Box::new(from_fn(move |cx| {
                    chunks
                        .poll_next(cx)
                        .map(|next| next.map(|chunk| chunk.map(&mut change)))
                })))
            }
        };
        Body { source, closers }
    }

    /// Takes the body apart for middleware that pulls it itself. Dropping the stream closes the body.
    pub fn into_stream(self) -> impl BodyStream + use<> {
        let (source, closers) = self.take_apart();
        let mut chunks = Chunks::of(source);
        from_fn(move |cx| {
            let _held_until_dropped = &closers;
            chunks.poll_next(cx)
        })
    }

    /// The length, if it is known without making the body.
    pub fn len_hint(&self) -> Option<u64> {
        match &self.source {
            Source::Empty => Some(0),
            Source::Static(bytes) => Some(bytes.len() as u64),
            Source::Bytes(bytes) => Some(bytes.len() as u64),
            Source::Stream(_) => None,
            Source::File { file, offset, length } => {
                let left = file.metadata().ok()?.len().saturating_sub(*offset);
                Some(left.min(*length))
            }
        }
    }

    pub(crate) fn take_apart(self) -> (Source, Closers) {
        (self.source, self.closers)
    }

    const fn of(source: Source) -> Body {
        Body {
            source,
            closers: Closers(Vec::new()),
        }
    }
}

impl Closers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Closers {
    fn drop(&mut self) {
        for close in self.0.drain(..) {
            crate::abi::guard::contain(close);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Empty => "Empty",
            Source::Static(_) | Source::Bytes(_) => "Bytes",
            Source::Stream(_) => "Stream",
            Source::File { .. } => "File",
        };
        f.debug_struct("Body")
            .field("source", &source)
            .field("length", &self.len_hint())
            .field("closers", &self.closers.0.len())
            .finish()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::from(text.as_bytes())
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Body {
        Body::of(Source::Static(bytes))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Body {
    fn from(bytes: &'static [u8; N]) -> Body {
        Body::from(bytes.as_slice())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::from(text.into_bytes())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::of(Source::Bytes(bytes))
    }
}

impl From<File> for Body {
    fn from(file: File) -> Body {
        Body::file(file)
    }
}

struct Items<I>(I);

impl<I: Iterator<Item = Result<Vec<u8>, BoxError>> + Send> BodyStream for Items<I> {
    fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, BoxError>>> {
        Poll::Ready(self.0.next())
    }
}

struct PollFn<F>(F);

impl<F> BodyStream for PollFn<F>
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Vec<u8>, BoxError>>> + Send,
{
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, BoxError>>> {
        (self.0)(cx)
    }
}

/// A stream from a function, as `std::iter::from_fn` is an iterator from one.
pub fn from_fn<F>(next: F) -> impl BodyStream + use<F>
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Vec<u8>, BoxError>>> + Send,
{
    PollFn(next)
}

/// Any source, pulled.
enum Chunks {
    Once(Option<Vec<u8>>),
    Stream(Box<dyn BodyStream>),
    File(FileChunks),
}

struct FileChunks {
    file: File,
    /// Where to start; taken at the first read, so that nothing is read of a body that is not sent.
    seek: Option<u64>,
    left: u64,
}

impl Chunks {
    fn of(source: Source) -> Chunks {
        match source {
            Source::Empty => Chunks::Once(None),
            Source::Static(bytes) => Chunks::Once(Some(bytes.to_vec())),
            Source::Bytes(bytes) => Chunks::Once(Some(bytes)),
            Source::Stream(stream) => Chunks::Stream(stream),
            Source::File { file, offset, length } => Chunks::File(FileChunks {
                file,
                seek: Some(offset),
                left: length,
            }),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, BoxError>>> {
        match self {
            Chunks::Once(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Chunks::Stream(stream) => stream.poll_next(cx),
            Chunks::File(chunks) => Poll::Ready(chunks.next().map_err(BoxError::from).transpose()),
        }
    }
}

impl FileChunks {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if let Some(offset) = self.seek.take() {
            self.file.seek(SeekFrom::Start(offset))?;
        }
        let chunk = read_chunk(&mut self.file, self.left)?;
        self.left -= chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Ok(chunk)
    }
}

/// As large as a pipe, and small enough to hold one per connection.
const CHUNK: usize = 64 * 1024;

fn read_chunk(reader: &mut impl Read, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; usize::try_from(most).unwrap_or(CHUNK).min(CHUNK)];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(got) => {
                bytes.truncate(got);
                return Ok(Some(bytes));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
