//! Hosts, ports and addresses by the grammar of RFC 3986, a second time and without the standard library's readers.
//!
//! Takes text; tells whether it is one.

/// `uri-host [ ":" port ]` (RFC 3986 section 3.2), the host not empty, the port one that there is.
pub fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !text[colon..].contains(&b']') => (&text[..colon], &text[colon + 1..]),
        _ => (text, &b""[..]),
    };
    let number = port.iter().try_fold(0u32, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    let right_port = port.len() <= 5 && number.is_some_and(|number| number <= 65535);
    let right_host = match host {
        [b'[', inner @ .., b']'] => is_ipv6(inner),
        _ => is_name(host),
    };
    right_port && right_host
}

/// reg-name (RFC 3986 section 3.2.2) that is not empty.
fn is_name(text: &[u8]) -> bool {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return !text.is_empty(),
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        };
    }
}

/// IPv6address (RFC 3986 section 3.2.2).
pub fn is_ipv6(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    // Sixteen bits each; the last may be an IPv4 address, of two.
    let groups = |side: &str, last: bool| -> Option<usize> {
        if side.is_empty() {
            return Some(0);
        }
        let parts: Vec<&str> = side.split(':').collect();
        let mut count = 0;
        for (at, part) in parts.iter().enumerate() {
            let hex = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            count += match hex {
                true => 1,
                false if last && at + 1 == parts.len() && is_ipv4(part) => 2,
                false => return None,
            };
        }
        Some(count)
    };
    match text.split_once("::") {
        None => groups(text, true) == Some(8),
        Some((before, behind)) => match (groups(before, false), groups(behind, true)) {
            (Some(one), Some(other)) => one + other < 8,
            _ => false,
        },
    }
}

/// IPv4address (RFC 3986 section 3.2.2).
pub fn is_ipv4(text: &str) -> bool {
    let octets: Vec<&str> = text.split('.').collect();
    let is_octet = |octet: &&str| {
        let digits = (1..=3).contains(&octet.len()) && octet.bytes().all(|byte| byte.is_ascii_digit());
        digits && (octet.len() == 1 || !octet.starts_with('0')) && octet.parse::<u16>().is_ok_and(|octet| octet < 256)
    };
    octets.len() == 4 && octets.iter().all(is_octet)
}
