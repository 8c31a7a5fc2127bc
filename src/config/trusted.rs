//! `[proxy] trusted`: the front-ends whose word about a client is taken.
//!
//! Takes networks in CIDR notation, addresses and the word `unix`; gives a [`Trusted`] that tells whether an address is among
//! them. What is believed of whom it lists, and what such a front-end says, is decided elsewhere.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml::de::DeValue;

use super::value::{Given, Read, Refusal};

/// Whom to believe; nobody unless told otherwise. A neighbour on the same machine is not always the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted {
    networks: Vec<Network>,
    /// Whoever can connect to a Unix socket of ours.
    unix: bool,
}

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    /// How many bits, as [`IpAddr`] has them: up to 32 or 128.
    bits: u8,
}

impl Trusted {
    /// Whether there is nobody to believe, which makes all the rest needless.
    pub fn is_nobody(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether an address is listed; None is that of a client of a Unix socket. One of IPv4 mapped into IPv6 (RFC 4291 section
    /// 2.5.5.2) is one of IPv4.
    pub fn holds(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else { return self.unix };
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.holds(address))
    }
}

impl std::str::FromStr for Trusted {
    type Err = String;

    /// Reads a list as an environment variable holds it, with commas between.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(Given::Typed(text)).map_err(|refusal| refusal.message)
    }
}

impl Network {
    fn holds(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(mine), IpAddr::V4(theirs)) => mine == masked4(theirs, self.bits),
            (IpAddr::V6(mine), IpAddr::V6(theirs)) => mine == masked6(theirs, self.bits),
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        write!(out, "{}", self.address)?;
        if self.bits < whole {
            write!(out, "/{}", self.bits)?;
        }
        Ok(())
    }
}

fn masked4(address: Ipv4Addr, bits: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

fn masked6(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    Ipv6Addr::from(u128::from(address) & mask)
}

/// Reads the list: an array of strings, or typed with commas between.
pub(super) fn read(given: Given<'_>) -> Read<Trusted> {
    let mut trusted = Trusted::default();
    match given {
        Given::Typed(text) => {
            for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                add(&mut trusted, entry)?;
            }
        }
        Given::Toml(DeValue::Array(entries)) => {
            for entry in entries {
                match entry.get_ref() {
                    DeValue::String(text) => add(&mut trusted, text)?,
                    _ => return Err(Refusal::of("must hold strings").help("\"10.0.0.0/8\", \"::1\" or \"unix\"")),
                }
            }
        }
        Given::Toml(DeValue::String(text)) => {
            return Err(Refusal::of("must be a list").help(format!("trusted = [\"{text}\"]")));
        }
        Given::Toml(_) => {
            return Err(Refusal::of("must be a list of networks, addresses and \"unix\"")
                .help("trusted = [\"10.0.0.0/8\", \"::1\", \"unix\"]"));
        }
    }
    Ok(trusted)
}

fn add(trusted: &mut Trusted, entry: &str) -> Read<()> {
    if entry == "unix" {
        trusted.unix = true;
        return Ok(());
    }
    let network = network(entry)?;
    if !trusted.networks.contains(&network) {
        trusted.networks.push(network);
    }
    Ok(())
}

fn network(entry: &str) -> Read<Network> {
    let wrong = || {
        let refusal = Refusal::of(format!(
            "must hold networks like \"10.0.0.0/8\", addresses and \"unix\", not {entry:?}"
        ));
        match entry {
            "*" => refusal.help("to believe whoever connects, write \"0.0.0.0/0\", \"::/0\" and \"unix\""),
            "localhost" => refusal.help("names are not resolved: \"127.0.0.1\", \"::1\""),
            _ if entry.starts_with("unix") => refusal.help("did you mean \"unix\"? It stands for every Unix socket"),
            _ => refusal,
        }
    };
    let (address, length) = match entry.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (entry, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let bits = match length {
        None => whole,
        Some(digits) if digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            match digits.parse::<u8>() {
                Ok(bits) if bits <= whole => bits,
                _ => {
                    return Err(Refusal::of(format!(
                        "must not hold {entry:?}: such an address has {whole} bits"
                    )));
                }
            }
        }
        Some(_) => return Err(wrong()),
    };
    // A mapped network is the one it is mapped from, as a mapped peer is.
    let (address, bits) = match address.to_canonical() {
        IpAddr::V4(mapped) if address.is_ipv6() && bits >= 96 => (IpAddr::V4(mapped), bits - 96),
        _ => (address, bits),
    };
    let begin = match address {
        IpAddr::V4(address) => IpAddr::V4(masked4(address, bits)),
        IpAddr::V6(address) => IpAddr::V6(masked6(address, bits)),
    };
    let network = Network { address: begin, bits };
    if begin != address {
        return Err(
            Refusal::of(format!("must not hold {entry:?}: that address lies inside the network"))
                .help(format!("did you mean \"{network}\" or \"{address}\"?")),
        );
    }
    Ok(network)
}

/// The list as TOML; None when it is empty, which is as good as not set.
#[allow(clippy::unnecessary_wraps, reason = "the shape that the table of settings wants")]
pub(super) fn show(trusted: &Trusted) -> Option<String> {
    let networks = trusted.networks.iter().map(Network::to_string);
    let all: Vec<String> = networks
        .chain(trusted.unix.then(|| "unix".to_owned()))
        .map(|entry| format!("\"{entry}\""))
        .collect();
    Some(format!("[{}]", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Trusted {
        text.parse().unwrap()
    }

    fn holds(list: &str, address: &str) -> bool {
        typed(list).holds(Some(address.parse().unwrap()))
    }

    #[test]
    fn a_network_holds_what_begins_with_its_bits() {
        for (list, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1/32", "127.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "1.2.3.4", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
            ("192.168.0.0/16, ::1", "192.168.3.4", true),
        ] {
            assert_eq!(holds(list, address), expected, "{address} in {list}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_one_it_is_mapped_from() {
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(holds("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(holds("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!holds("::ffff:10.0.0.1", "10.0.0.2"));
    }

    #[test]
    fn unix_stands_for_peers_without_an_address_and_nobody_is_trusted_unasked() {
        assert!(typed("unix").holds(None) && !typed("127.0.0.1").holds(None));
        assert!(typed("").is_nobody() && !typed("unix").is_nobody() && !typed("::1").is_nobody());
        assert!(!Trusted::default().holds(None));
    }

    #[test]
    fn what_is_no_network_is_refused_with_help() {
        let help = |text: &str| read(Given::Typed(text)).unwrap_err();
        let slip = help("10.1.2.3/8");
        assert_eq!(
            slip.help.unwrap(),
            "did you mean \"10.0.0.0/8\" or \"10.1.2.3\"?",
            "{}",
            slip.message
        );
        assert!(help("*").help.unwrap().contains("0.0.0.0/0"));
        assert!(help("localhost").help.unwrap().contains("127.0.0.1"));
        assert!(help("unix:/run/x").help.unwrap().contains("\"unix\""));
        for text in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::1%lo",
            "1.2.3.4:80",
            "10.0.0.0/0008",
            "010.0.0.0/8",
        ] {
            assert!(read(Given::Typed(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let list = typed("10.0.0.0/8, ::1, unix, 10.0.0.0/8");
        assert_eq!(show(&list).unwrap(), r#"["10.0.0.0/8", "::1", "unix"]"#);
        assert_eq!(show(&Trusted::default()).unwrap(), "[]");
    }
}
