//! The written form of a bind address.
//!
//! Takes `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/app.sock` or `fd://3`; gives a [`Bind`], and writes one back in the
//! same form. Names are not resolved: a start must not wait for DNS.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::setting::PROTOCOLS;
use super::value::Refusal;
use super::{Bind, Protocol};

/// Longest path that fits sockaddr_un with its closing NUL (unix(7)).
pub(super) const UNIX_PATH_MAX: usize = 107;

impl Default for Bind {
    fn default() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(fd) => write!(f, "fd://{fd}"),
        }
    }
}

/// An address as it is written for a listener: with the protocol before it, or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub bind: Bind,
    /// The protocol, if it was named.
    pub protocol: Option<Protocol>,
}

impl FromStr for Place {
    type Err = Refusal;

    fn from_str(typed: &str) -> Result<Self, Refusal> {
        let text = typed.trim();
        for (name, protocol) in PROTOCOLS {
            let rest = text
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix("://").or(rest.strip_prefix('+')));
            if let Some(rest) = rest {
                return Ok(Self {
                    bind: rest.parse()?,
                    protocol: Some(*protocol),
                });
            }
        }
        Ok(Self {
            bind: text.parse()?,
            protocol: None,
        })
    }
}

impl FromStr for Bind {
    type Err = Refusal;

    fn from_str(typed: &str) -> Result<Self, Refusal> {
        let text = typed.trim();
        let text = text
            .strip_prefix("http://")
            .or(text.strip_prefix("http+"))
            .unwrap_or(text);
        if text.starts_with("uwsgi:") || text.starts_with("uwsgi+unix:") {
            return Err(
                Refusal::of(format!("cannot be {typed:?}: only HTTP is spoken here")).help("leave the protocol out")
            );
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(typed, path);
        }
        if let Some(number) = text.strip_prefix("fd://") {
            return inherited(typed, number);
        }
        let refusal = match text.parse() {
            Ok(address) => return Ok(Self::Tcp(address)),
            Err(_) => Refusal::of(format!(
                "must be an address like 127.0.0.1:8000, [::1]:8000, unix:/path or fd://3, not {typed:?}"
            )),
        };
        Err(match suggestion(text) {
            Some(better) => refusal.help(better),
            None => refusal,
        })
    }
}

fn unix(typed: &str, path: &str) -> Result<Bind, Refusal> {
    // `unix:///run/x` and `unix:/run/x` are one socket and must compare equal.
    let path = if path.starts_with("//") {
        path.trim_start_matches('/')
    } else {
        path
    };
    let path = if typed.contains("unix://") {
        format!("/{path}")
    } else {
        path.to_owned()
    };
    if path.is_empty() || path == "/" {
        return Err(Refusal::of("names no path after `unix:`").help("unix:/run/appserver/app.sock"));
    }
    if path.contains('\0') {
        return Err(Refusal::of("must not contain a NUL byte"));
    }
    if path.len() > UNIX_PATH_MAX {
        return Err(Refusal::of(format!(
            "is too long for a Unix socket: {} bytes, the kernel takes {UNIX_PATH_MAX} (unix(7))",
            path.len()
        )));
    }
    Ok(Bind::Unix(PathBuf::from(path)))
}

fn inherited(typed: &str, number: &str) -> Result<Bind, Refusal> {
    match number.parse::<i32>() {
        Ok(fd) if fd > 2 => Ok(Bind::Fd(fd)),
        Ok(0..=2) => Err(
            Refusal::of(format!("cannot be {typed:?}: 0, 1 and 2 are the standard streams"))
                .help("descriptors passed by systemd start at fd://3"),
        ),
        _ => Err(Refusal::of(format!("must name a descriptor number after `fd://`, not {typed:?}")).help("fd://3")),
    }
}

/// What was probably meant by an address that is none.
fn suggestion(text: &str) -> Option<String> {
    if text.starts_with('/') {
        return Some(format!("for a Unix socket write unix:{text}"));
    }
    if text.parse::<u16>().is_ok() {
        return Some(format!("write 127.0.0.1:{text}, or 0.0.0.0:{text} for every interface"));
    }
    let (host, port) = match text.rsplit_once(':') {
        // `::1:8000` is an address by itself, but hardly meant as one.
        Some((host, port)) if !host.contains(':') || host.parse::<Ipv6Addr>().is_ok() => (host, port),
        _ => {
            let address = text.parse::<IpAddr>().ok()?;
            return Some(format!("the port is missing: {}", SocketAddr::new(address, 8000)));
        }
    };
    port.parse::<u16>().ok()?;
    match host {
        "" | "*" => Some(format!("write 0.0.0.0:{port} for every interface")),
        "localhost" => Some(format!("names are not resolved: write 127.0.0.1:{port}")),
        _ if host.contains(':') => Some(format!("an IPv6 address stands in brackets: [{host}]:{port}")),
        _ => Some("names are not resolved: write the numeric address".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_read_and_written_back() {
        for text in [
            "127.0.0.1:8000",
            "[::1]:8000",
            "0.0.0.0:0",
            "unix:/run/app.sock",
            "unix:app.sock",
            "fd://3",
        ] {
            assert_eq!(text.parse::<Bind>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/a".parse::<Bind>().unwrap(), Bind::Unix("/run/a".into()));
        assert_eq!("unix://run/a".parse::<Bind>().unwrap(), Bind::Unix("/run/a".into()));
        assert_eq!("http://127.0.0.1:1".parse::<Bind>().unwrap().to_string(), "127.0.0.1:1");
        assert_eq!("http+unix:/a".parse::<Bind>().unwrap(), Bind::Unix("/a".into()));
    }

    #[test]
    fn a_wrong_address_is_answered_with_the_right_one() {
        for (wrong, help) in [
            ("8000", "127.0.0.1:8000"),
            (":8000", "0.0.0.0:8000"),
            ("localhost:8000", "127.0.0.1:8000"),
            ("::1:8000", "[::1]:8000"),
            ("0.0.0.0", "0.0.0.0:8000"),
            ("::1", "[::1]:8000"),
            ("/run/a.sock", "unix:/run/a.sock"),
            ("fd://0", "fd://3"),
            ("unix:", "unix:/run"),
        ] {
            let refusal = wrong.parse::<Bind>().unwrap_err();
            assert!(
                refusal.help.as_deref().is_some_and(|text| text.contains(help)),
                "{wrong}: {refusal:?}"
            );
        }
    }

    #[test]
    fn a_protocol_stands_before_an_address_where_there_is_a_choice() {
        for (text, bind, protocol) in [
            ("uwsgi://127.0.0.1:3031", "127.0.0.1:3031", Some(Protocol::Uwsgi)),
            ("uwsgi://[::1]:1", "[::1]:1", Some(Protocol::Uwsgi)),
            ("uwsgi+unix:/run/a.sock", "unix:/run/a.sock", Some(Protocol::Uwsgi)),
            ("uwsgi+fd://3", "fd://3", Some(Protocol::Uwsgi)),
            ("http+unix:/a", "unix:/a", Some(Protocol::Http)),
            ("unix:/a", "unix:/a", None),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(
                (place.bind.to_string(), place.protocol),
                (bind.to_owned(), protocol),
                "{text}"
            );
        }
        let refusal = "uwsgi://127.0.0.1:3031".parse::<Bind>().unwrap_err();
        assert!(refusal.message.contains("only HTTP is spoken here"));
        assert!("uwsgi://localhost:1".parse::<Place>().is_err());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_refused() {
        assert!(format!("unix:/{}", "a".repeat(120)).parse::<Bind>().is_err());
    }
}
