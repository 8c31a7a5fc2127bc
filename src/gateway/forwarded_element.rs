//! The elements of a Forwarded field (RFC 7239 section 4).
//!
//! Takes one field's value, gives an [`Element`] for each hop in the order sent. It follows the grammar to the letter, with one leave
//! that the RFC's own examples take: white space around the semicolons. What a value means is not looked at.
#![forbid(unsafe_code)]

/// Most parameters of one hop: there are four of them, and extensions. Each is compared with all before it.
const MOST: usize = 16;

/// What one hop says. Each value without its quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// `for`
    pub client: Option<Vec<u8>>,
    /// `proto`
    pub scheme: Option<Vec<u8>>,
    /// `host`
    pub host: Option<Vec<u8>>,
    /// `by`
    pub own: Option<Vec<u8>>,
}

/// Adds the elements of a field; None when it is malformed.
pub fn elements(field: &[u8], all: &mut Vec<Element>) -> Option<()> {
    let mut rest = Rest(field);
    loop {
        rest.skip_white();
        // Empty elements are allowed in any list (RFC 9110 section 5.6.1.2).
        if !matches!(rest.0.first(), None | Some(b',')) {
            all.push(rest.element()?);
        }
        match rest.0.split_first() {
            None => return Some(()),
            Some((b',', after)) => rest.0 = after,
            Some(_) => return None,
        }
    }
}

/// What has not been read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip_white(&mut self) {
        let white = self.0.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        self.0 = &self.0[white..];
    }

    fn element(&mut self) -> Option<Element> {
        let mut element = Element::default();
        let mut seen: Vec<&'a [u8]> = Vec::new();
        loop {
            self.skip_white();
            if !matches!(self.0.first(), None | Some(b',' | b';')) {
                let name = self.token()?;
                self.0 = self.0.strip_prefix(b"=")?;
                let value = match self.0.first() {
                    Some(b'"') => self.quoted()?,
                    _ => self.token()?.to_vec(),
                };
                // "Each parameter MUST NOT occur more than once per field-value" of a hop; section 4.
                if seen.len() == MOST || seen.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    return None;
                }
                seen.push(name);
                let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
                if is("for") {
                    element.client = Some(value);
                } else if is("proto") {
                    element.scheme = Some(value);
                } else if is("host") {
                    element.host = Some(value);
                } else if is("by") {
                    element.own = Some(value);
                }
                self.skip_white();
            }
            match self.0.split_first() {
                Some((b';', after)) => self.0 = after,
                // The end, or what the caller judges.
                _ => return Some(element),
            }
        }
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let length = self.0.iter().take_while(|byte| of_token(byte)).count();
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A quoted string (RFC 9110 section 5.6.4), without quotes and escapes.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let mut rest = self.0.strip_prefix(b"\"")?;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            let byte = match byte {
                b'"' => break,
                b'\\' => {
                    let (escaped, after) = rest.split_first()?;
                    rest = after;
                    escaped
                }
                other => other,
            };
            if byte.is_ascii_control() && *byte != b'\t' {
                return None;
            }
            text.push(*byte);
        }
        self.0 = rest;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{Element, elements};

    fn read(field: &str) -> Option<Vec<Element>> {
        let mut all = Vec::new();
        elements(field.as_bytes(), &mut all).map(|()| all)
    }

    fn element(client: &str, scheme: &str, host: &str, own: &str) -> Element {
        let part = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        Element {
            client: part(client),
            scheme: part(scheme),
            host: part(host),
            own: part(own),
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (field, expected) in [
            ("for=\"_gazonk\"", vec![element("_gazonk", "", "", "")]),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                vec![element("[2001:db8:cafe::17]:4711", "", "", "")],
            ),
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                vec![element("192.0.2.60", "http", "", "203.0.113.43")],
            ),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec![element("192.0.2.43", "", "", ""), element("198.51.100.17", "", "", "")],
            ),
            (
                "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
                vec![
                    element("192.0.2.43", "", "", ""),
                    element("[2001:db8:cafe::17]", "", "", ""),
                    element("unknown", "", "", ""),
                ],
            ),
            (
                "for=192.0.2.43, for=198.51.100.17;by=203.0.113.60;proto=http;host=example.com",
                vec![
                    element("192.0.2.43", "", "", ""),
                    element("198.51.100.17", "http", "example.com", "203.0.113.60"),
                ],
            ),
        ] {
            assert_eq!(read(field), Some(expected), "{field}");
        }
    }

    #[test]
    fn quotes_hold_anything_and_extensions_are_passed_over() {
        assert_eq!(
            read(r#"secret="a,b;for=c\"\\";FOR=1.2.3.4 ; pRoto=https ,, "#),
            Some(vec![element("1.2.3.4", "https", "", "")])
        );
        assert_eq!(
            read(r#"host="a.example:80""#),
            Some(vec![element("", "", "a.example:80", "")])
        );
        assert_eq!(read(";for=a;"), Some(vec![element("a", "", "", "")]));
        assert_eq!(read(""), Some(vec![]));
    }

    #[test]
    fn a_hop_has_no_more_to_say_than_is_cheap_to_compare() {
        let of = |count: usize| (0..count).map(|number| format!("x{number}=y;")).collect::<String>();
        assert_eq!(read(&of(16)).unwrap().len(), 1);
        assert_eq!(read(&of(17)), None);
        assert_eq!(read(&format!("{},{}", of(16), of(16))).unwrap().len(), 2);
    }

    #[test]
    fn what_breaks_the_grammar_is_nothing() {
        for field in [
            "for",
            "for=",
            "for =a",
            "for= a",
            "=a",
            "for=a b",
            "for=[::1]",
            "for=1.2.3.4:80",
            "for=\"a",
            "for=\"a\\",
            "for=\"a\"b",
            "for=\"a\"\"b\"",
            "for=a;for=b",
            "for=a;For=a",
            "ext=1;EXT=2",
            "for=\"\x01\"",
            "1.2.3.4",
            "for=a;;=",
        ] {
            assert_eq!(read(field), None, "{field}");
        }
    }
}
