//! Query parameters: takes a raw QUERY_STRING, gives names and values decoded, in their order.
//!
//! Bytes stay bytes; a lone `%` stays as it is.
#![forbid(unsafe_code)]

pub struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    pub fn parse(raw: &[u8]) -> Query {
        let pairs = raw.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
        Query(pairs.map(pair).collect())
    }

    pub fn pairs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.0
    }

    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(key, _)| key == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.bytes(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// A number, or `default` if it is absent or none.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.text(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// Whether it is there and neither empty nor `0`, `no` nor `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.bytes(name)
            .is_some_and(|value| !matches!(value, b"" | b"0" | b"no" | b"false"))
    }
}

fn pair(raw: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut parts = raw.splitn(2, |byte| *byte == b'=');
    let mut part = || decode(parts.next().unwrap_or_default());
    (part(), part())
}

fn decode(raw: &[u8]) -> Vec<u8> {
    let digit = |at: usize| raw.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut bytes = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', _, _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        at += 1;
    }
    bytes
}
