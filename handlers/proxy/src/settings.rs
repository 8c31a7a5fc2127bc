//! What the mount's arguments say: `origin` (the only one that must be there), `host`, `connect-timeout`, `timeout`, `idle`, `idle-time`.
//!
//! Takes names and values; gives settings, or a sentence about the first that will not do.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Where requests go, and how long is waited for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    /// What goes before each path; without a slash at its end.
    pub base: String,
    /// As in a Host field.
    pub authority: String,
    /// The origin is told its own name instead of the one that the client asked for.
    pub own_host: bool,
    /// Until there is a connection (1s).
    pub connect: Duration,
    /// Until the head of the answer, and from each piece of it to the next (50s: less than the server's own `timeouts.request`). Time in which
    /// the client is to send more of its request does not count.
    pub answer: Duration,
    /// Most connections that are kept open while nothing is asked over them (32).
    pub idle: usize,
    /// How long they are (60s).
    pub idle_time: Duration,
}

const NAMES: &str = "origin, host, connect-timeout, timeout, idle, idle-time";

impl Settings {
    /// Reads them.
    pub fn read<'a>(args: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut settings = Self {
            host: String::new(),
            port: 80,
            base: String::new(),
            authority: String::new(),
            own_host: false,
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(50),
            idle: 32,
            idle_time: Duration::from_secs(60),
        };
        for (name, value) in args {
            match name {
                "origin" => settings.set_origin(value)?,
                "host" => {
                    settings.own_host = match value {
                        "client" => false,
                        "origin" => true,
                        _ => return Err(format!("host = {value:?} is neither \"client\" nor \"origin\"")),
                    }
                }
                "connect-timeout" => settings.connect = time(name, value)?,
                "timeout" => settings.answer = time(name, value)?,
                "idle-time" => settings.idle_time = time(name, value)?,
                "idle" => {
                    settings.idle = value
                        .parse()
                        .map_err(|_| format!("idle = {value:?} is not a number of connections, like \"32\""))?;
                }
                _ => return Err(format!("there is no argument {name:?}; there are {NAMES}")),
            }
        }
        if settings.host.is_empty() {
            return Err("it needs an origin: args = { origin = \"http://127.0.0.1:9000\" }".into());
        }
        Ok(settings)
    }

    fn set_origin(&mut self, value: &str) -> Result<(), String> {
        let wrong = |why: &str| format!("origin = {value:?} {why}; write it like \"http://127.0.0.1:9000\"");
        let rest = value
            .strip_prefix("http://")
            .ok_or_else(|| wrong("does not begin with http://"))?;
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, base) = rest.split_at(slash);
        if base.contains(['?', '#']) || authority.contains('@') {
            return Err(wrong("has more than a host, a port and a path"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(|| wrong("has no port from 1 to 65535"))?)
            }
            _ => (authority, 80),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("names no host"));
        }
        self.host = host.to_owned();
        self.port = port;
        self.base = base.trim_end_matches('/').to_owned();
        self.authority = authority.to_owned();
        Ok(())
    }
}

/// `500ms`, `5s` or `2m`.
fn time(name: &str, value: &str) -> Result<Duration, String> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: Option<u64> = digits.parse().ok().filter(|number| *number > 0);
    let unit = match &value[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    match (number, unit) {
        (Some(number), Some(unit)) => Ok(Duration::from_millis(number.saturating_mul(unit))),
        _ => Err(format!(
            "{name} = {value:?} is no time; write it like \"500ms\" or \"5s\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(args.iter().copied())
    }

    #[test]
    fn an_origin_is_a_host_a_port_and_perhaps_a_path() {
        for (origin, host, port, base, authority) in [
            ("http://127.0.0.1:9000", "127.0.0.1", 9000, "", "127.0.0.1:9000"),
            ("http://[::1]:9000/", "::1", 9000, "", "[::1]:9000"),
            ("http://[::1]", "::1", 80, "", "[::1]"),
            ("http://backend/api/", "backend", 80, "/api", "backend"),
        ] {
            let found = read(&[("origin", origin)]).unwrap();
            let parts = (
                found.host.as_str(),
                found.port,
                found.base.as_str(),
                found.authority.as_str(),
            );
            assert_eq!(parts, (host, port, base, authority));
        }
    }

    #[test]
    fn what_will_not_do_is_told_by_its_name() {
        for (args, told) in [
            (&[][..], "it needs an origin"),
            (&[("origin", "https://a")], "http://"),
            (&[("origin", "http://")], "names no host"),
            (&[("origin", "http://a:0")], "no port"),
            (&[("origin", "http://a:b")], "no port"),
            (&[("origin", "http://a/?b")], "more than"),
            (&[("origin", "http://u@a")], "more than"),
            (
                &[("origin", "http://a"), ("timeout", "5")],
                "timeout = \"5\" is no time",
            ),
            (&[("origin", "http://a"), ("timeout", "0s")], "no time"),
            (&[("origin", "http://a"), ("idle", "few")], "idle"),
            (&[("origin", "http://a"), ("host", "b")], "neither"),
            (&[("orign", "http://a")], "there is no argument \"orign\""),
        ] {
            let error = read(args).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
