//! A client that sends exactly the bytes it is told and reads one framed response at a time.
//!
//! Takes an address and raw bytes; gives replies, or how the server failed to reply, told apart finely enough to count
//! lost requests. It corrects nothing: what a browser would hide must be seen here.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::support::queue;
use crate::support::wait::PATIENCE;

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// What nginx and a browser call it.
    pub fn url(&self, path: &str) -> String {
        match self {
            Address::Tcp(address) => format!("http://{address}{path}"),
            Address::Unix(_) => format!("http://localhost{path}"),
        }
    }
}

/// One response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// Fields in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// Body with its framing taken off.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Status codes of interim responses before it.
    pub interim: Vec<u16>,
}

impl Reply {
    /// The value of a field that must not stand twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} stands twice in {self:?}");
        first
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// True when the server said that it closes the connection.
    pub fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// How a reply failed to arrive.
#[derive(Debug)]
pub enum Failure {
    /// An orderly end before the first byte.
    Closed,
    /// An end in the middle of a response.
    Cut(String),
    /// The connection was reset or broke.
    Broken(io::Error),
    /// Nothing came within the patience of a test.
    Silent,
    /// What came is not HTTP.
    Malformed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Closed => write!(out, "closed in good order before the first byte"),
            Failure::Cut(seen) => write!(out, "cut in the middle: {seen}"),
            Failure::Broken(error) => write!(out, "broken: {error}"),
            Failure::Silent => write!(out, "nothing came in time"),
            Failure::Malformed(what) => write!(out, "not HTTP: {what}"),
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection.
pub struct Client {
    stream: Stream,
    ahead: Vec<u8>,
}

impl Client {
    /// Connects; reads give up after [`PATIENCE`].
    pub fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Self::over(TcpStream::connect(address)?),
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Client {
                    stream: Stream::Unix(stream),
                    ahead: Vec::new(),
                })
            }
        }
    }

    /// Takes a TCP connection that is open.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream: Stream::Tcp(stream),
            ahead: Vec::new(),
        })
    }

    /// How long a read waits from now on.
    pub fn patience(&self, time: Duration) {
        let set = match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
        };
        set.expect("a positive time is accepted");
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes.as_ref()),
            Stream::Unix(stream) => stream.write_all(bytes.as_ref()),
        }
    }

    /// Sends a GET with a Host and nothing else.
    pub fn get(&mut self, target: &str) -> Result<Reply, Failure> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .map_err(Failure::Broken)?;
        self.reply()
    }

    /// True when the server has ended its side already and nothing is left to read.
    pub fn ended(&self) -> bool {
        let fd = match &self.stream {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        let look = recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        self.ahead.is_empty() && look == Ok(0)
    }

    /// True when the server has read everything that was sent; TCP only.
    pub fn taken(&self) -> bool {
        let Stream::Tcp(stream) = &self.stream else {
            panic!("a Unix socket does not tell what was read")
        };
        let (server, client) = (stream.peer_addr().unwrap().port(), stream.local_addr().unwrap().port());
        queue::unread(server, client) == Some(0)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        let shut = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        shut.expect("the connection is open");
    }

    /// Leaves with a reset instead of an orderly end; TCP only (SO_LINGER of socket(7)).
    pub fn reset(self) {
        let Stream::Tcp(stream) = &self.stream else {
            panic!("a Unix socket knows no reset")
        };
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(stream, sockopt::Linger, &at_once).unwrap();
    }

    /// Reads the reply to a GET or POST.
    pub fn reply(&mut self) -> Result<Reply, Failure> {
        self.reply_to("GET")
    }

    /// Reads the reply to this method: one to HEAD has no body whatever its fields say (RFC 9112 section 6.3).
    pub fn reply_to(&mut self, method: &str) -> Result<Reply, Failure> {
        let mut interim = Vec::new();
        let mut reply = loop {
            let head = self.head(interim.is_empty())?;
            if !(100..200).contains(&head.status) || head.status == 101 {
                break head;
            }
            interim.push(head.status);
        };
        reply.interim = interim;
        let coding = reply.header("transfer-encoding").map(str::to_ascii_lowercase);
        let length = reply.header("content-length").map(str::to_owned);
        if method == "HEAD" || matches!(reply.status, 101 | 204 | 304) {
            return Ok(reply);
        }
        if coding.as_deref() == Some("chunked") {
            self.chunks(&mut reply)?;
        } else if let Some(length) = length {
            let length = length
                .parse()
                .map_err(|_| Failure::Malformed(format!("Content-Length: {length}")))?;
            reply.body = self.take(length)?;
        } else {
            reply.body = self.rest()?;
        }
        Ok(reply)
    }

    /// Reads to the end of the connection.
    pub fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Reads and forgets `length` bytes, without holding more than a piece of them.
    pub fn skip(&mut self, mut length: u64) -> Result<(), Failure> {
        while length > 0 {
            if self.ahead.is_empty() && self.fill()? == 0 {
                return Err(Failure::Cut(format!("{length} bytes were still to come")));
            }
            let have = (self.ahead.len() as u64).min(length);
            self.ahead.drain(..have as usize);
            length -= have;
        }
        Ok(())
    }

    /// Reads a head alone, the body left to the caller.
    pub fn head(&mut self, first: bool) -> Result<Reply, Failure> {
        let end = loop {
            if let Some(end) = find(&self.ahead, b"\r\n\r\n") {
                break end;
            }
            if self.fill()? == 0 {
                let nothing = self.ahead.is_empty() && first;
                return Err(if nothing {
                    Failure::Closed
                } else {
                    Failure::Cut(self.seen())
                });
            }
        };
        let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
        parse_head(&String::from_utf8_lossy(&head[..end]))
    }

    /// Reads a chunked body to its end without keeping it; tells `seen` the total after each chunk.
    pub fn count_chunks(&mut self, mut seen: impl FnMut(u64)) -> Result<u64, Failure> {
        let mut total = 0;
        loop {
            let size = self.chunk_size()? as u64;
            // The line end after each chunk, and the empty trailer section after the last.
            self.skip(size + 2)?;
            total += size;
            if size == 0 {
                return Ok(total);
            }
            seen(total);
        }
    }

    fn chunk_size(&mut self) -> Result<usize, Failure> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        usize::from_str_radix(digits, 16).map_err(|_| Failure::Malformed(format!("chunk {line:?}")))
    }

    fn chunks(&mut self, reply: &mut Reply) -> Result<(), Failure> {
        loop {
            let size = self.chunk_size()?;
            if size == 0 {
                break;
            }
            let chunk = self.take(size)?;
            reply.body.extend(chunk);
            let end = self.take(2)?;
            if end != b"\r\n" {
                return Err(Failure::Malformed(format!("a chunk ends with {end:?}")));
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            reply.trailers.push(field(&line)?);
        }
    }

    fn line(&mut self) -> Result<String, Failure> {
        let end = loop {
            if let Some(end) = find(&self.ahead, b"\r\n") {
                break end;
            }
            if self.fill()? == 0 {
                return Err(Failure::Cut(self.seen()));
            }
        };
        let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
        Ok(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.ahead.len() < length {
            if self.fill()? == 0 {
                return Err(Failure::Cut(format!("{} of {length} bytes", self.ahead.len())));
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.ahead).into_owned()
    }

    fn fill(&mut self) -> Result<usize, Failure> {
        let mut piece = [0; 64 * 1024];
        loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut piece),
                Stream::Unix(stream) => stream.read(&mut piece),
            };
            match read {
                Ok(got) => {
                    self.ahead.extend_from_slice(&piece[..got]);
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Failure::Silent);
                }
                Err(error) => return Err(Failure::Broken(error)),
            }
        }
    }
}

fn parse_head(head: &str) -> Result<Reply, Failure> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.splitn(3, ' ');
    let (version, status, reason) = (words.next(), words.next(), words.next());
    let status = status
        .and_then(|code| code.parse().ok())
        .filter(|_| version.is_some_and(|version| version.starts_with("HTTP/1.")));
    Ok(Reply {
        status: status.ok_or_else(|| Failure::Malformed(first.to_owned()))?,
        reason: reason.unwrap_or_default().to_owned(),
        headers: lines.map(field).collect::<Result<_, _>>()?,
        body: Vec::new(),
        trailers: Vec::new(),
        interim: Vec::new(),
    })
}

fn field(line: &str) -> Result<(String, String), Failure> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| Failure::Malformed(line.to_owned()))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
