//! PROXY headers good and bad, each whole and in every split.
//!
//! Takes headers built by hand; gives the ends they tell of, or the refusal.
#![forbid(unsafe_code)]

use super::*;

fn inet(source: &str, here: &str, tls: bool) -> Proxied {
    Proxied::Inet {
        source: source.parse().unwrap(),
        here: here.parse().unwrap(),
        tls,
    }
}

/// A header of version 2.
fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, kind], &length, rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// 203.0.113.7:4711 to 192.0.2.1:443.
const FOUR: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb];

/// Whole at once and in every split: nothing is judged differently when it comes in pieces, and nothing behind it matters.
fn taken(bytes: &[u8]) -> Result<Proxied, Refusal> {
    let whole = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    for end in 0..bytes.len() {
        match parse(&bytes[..end]) {
            Ok(Progress::Partial) => {}
            Err(refusal) => {
                assert_eq!(parse(&whole), Err(refusal), "{}", bytes.escape_ascii());
                return Err(refusal);
            }
            Ok(whole) => panic!("{whole:?} of {end} bytes of {}", bytes.escape_ascii()),
        }
    }
    match parse(&whole)? {
        Progress::Complete { length, proxied } => {
            assert_eq!(length, bytes.len(), "{}", bytes.escape_ascii());
            Ok(proxied)
        }
        Progress::Partial => panic!("{}", bytes.escape_ascii()),
    }
}

#[test]
fn version_one_tells_both_ends() {
    for (line, expected) in [
        (
            "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
            inet("203.0.113.7:4711", "192.0.2.1:443", false),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            inet("255.255.255.255:65535", "255.255.255.255:65535", false),
        ),
        (
            "PROXY TCP6 2001:db8::7 ::1 0 1\r\n",
            inet("[2001:db8::7]:0", "[::1]:1", false),
        ),
        (
            "PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            Proxied::No,
        ),
        ("PROXY UNKNOWN\r\n", Proxied::No),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Proxied::No,
        ),
    ] {
        if line.contains("f...f") {
            // The document abbreviates its own longest case so.
            assert_eq!(taken(line.as_bytes()), Err(Refusal::PROXY_MALFORMED));
            continue;
        }
        assert_eq!(taken(line.as_bytes()), Ok(expected), "{line}");
    }
}

#[test]
fn version_one_has_one_form() {
    for line in [
        "PROXY \r\n",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY UNKNOWN\n",
        "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
    ] {
        assert_eq!(taken(line.as_bytes()), Err(Refusal::PROXY_MALFORMED), "{line:?}");
    }
    let long = |length: usize| [b"PROXY UNKNOWN ".as_slice(), &vec![b'x'; length - 16], b"\r\n"].concat();
    assert_eq!(taken(&long(107)), Ok(Proxied::No));
    assert_eq!(taken(&long(108)), Err(Refusal::PROXY_TOO_LONG));
}

#[test]
fn what_begins_otherwise_is_told_from_the_first_byte_that_differs() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"POST",
        b"PROPFIND / HTTP/1.1\r\n",
        b"PROXYTCP4",
        b"proxy",
        b"\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"\x16\x03\x01",
        b"\0",
    ] {
        assert_eq!(parse(bytes), Err(Refusal::PROXY_MISSING), "{}", bytes.escape_ascii());
    }
    assert_eq!(parse(b"PRO"), Ok(Progress::Partial));
    assert_eq!(parse(b"\r\n\r"), Ok(Progress::Partial));
    assert_eq!(parse(b""), Ok(Progress::Partial));
}

#[test]
fn version_two_tells_both_ends_whatever_else_it_says() {
    let four = inet("203.0.113.7:4711", "192.0.2.1:443", false);
    assert_eq!(taken(&v2(0x21, 0x11, &FOUR)), Ok(four));
    let mut six = vec![0; 36];
    (six[0], six[1], six[15], six[31]) = (0x20, 0x01, 7, 1);
    (six[33], six[35]) = (80, 81);
    assert_eq!(
        taken(&v2(0x21, 0x21, &six)),
        Ok(inet("[2001::7]:80", "[::1]:81", false))
    );
    assert_eq!(taken(&v2(0x21, 0x31, &[0; 216])), Ok(Proxied::Unix { tls: false }));
    let with = |extra: &[u8]| taken(&v2(0x21, 0x11, &[&FOUR[..], extra].concat()));
    assert_eq!(with(&tlv(0x01, b"h2")), Ok(four));
    assert_eq!(with(&[tlv(0x04, &[0; 50]), tlv(0xea, b"vpce-1")].concat()), Ok(four));
    assert_eq!(
        with(&tlv(0x20, &[1, 0, 0, 0, 0])),
        Ok(inet("203.0.113.7:4711", "192.0.2.1:443", true))
    );
    assert_eq!(with(&tlv(0x20, &[0, 0, 0, 0, 0])), Ok(four));
}

#[test]
fn a_front_ends_own_connections_and_unknown_ones_keep_their_ends() {
    for header in [
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &FOUR),
        v2(0x20, 0xff, b"anything at all"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x00, b"not a tlv"),
    ] {
        assert_eq!(taken(&header), Ok(Proxied::No), "{}", header.escape_ascii());
    }
}

#[test]
fn version_two_is_checked_to_its_end() {
    let with = |extra: &[u8]| v2(0x21, 0x11, &[&FOUR[..], extra].concat());
    for (header, expected) in [
        (v2(0x11, 0x11, &FOUR), Refusal::PROXY_MALFORMED),
        (v2(0x22, 0x11, &FOUR), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x10, &FOUR), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x13, &FOUR), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x41, &FOUR), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x12, &FOUR), Refusal::PROXY_DATAGRAMS),
        (v2(0x21, 0x22, &[0; 36]), Refusal::PROXY_DATAGRAMS),
        (v2(0x21, 0x11, &FOUR[..11]), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x21, &FOUR), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x31, &[0; 215]), Refusal::PROXY_MALFORMED),
        (with(&[1]), Refusal::PROXY_MALFORMED),
        (with(&[1, 0]), Refusal::PROXY_MALFORMED),
        (with(&[1, 0, 3, 1, 2]), Refusal::PROXY_MALFORMED),
        (with(&[1, 0xff, 0xff]), Refusal::PROXY_MALFORMED),
        (with(&tlv(0x03, &[0; 4])), Refusal::PROXY_CHECKSUM),
        (with(&tlv(0x03, &[0; 3])), Refusal::PROXY_MALFORMED),
        (with(&tlv(0x20, &[1])), Refusal::PROXY_MALFORMED),
        (v2(0x21, 0x11, &[0; 4081]), Refusal::PROXY_TOO_LONG),
        (v2(0x20, 0x00, &[0; 65535]), Refusal::PROXY_TOO_LONG),
    ] {
        assert_eq!(taken(&header), Err(expected), "{}", header.escape_ascii());
    }
    assert_eq!(v2(0x20, 0, &[0; 4080]).len(), 4096);
    assert_eq!(taken(&v2(0x20, 0, &[0; 4080])), Ok(Proxied::No));
}

#[test]
fn a_checksum_is_that_of_rfc_3720() {
    // RFC 3720 appendix B.4 and the check value of the algorithm.
    assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32], 0..0), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32], 0..0), 0x62a8_ab43);
    let mut header = v2(0x21, 0x11, &[&FOUR[..], &tlv(0x03, &[0; 4])].concat());
    let at = header.len() - 4;
    let sum = crc32c(&header, at..at + 4);
    header[at..].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(taken(&header), Ok(inet("203.0.113.7:4711", "192.0.2.1:443", false)));
}
