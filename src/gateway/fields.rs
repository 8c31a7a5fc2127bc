//! The fields of an answer, written down as they are sent.
//!
//! Takes names and values, checks their syntax (RFC 9110 section 5), and keeps each as its line: the name in lower case, the value, CR LF.
//! Values of one name stand together in their order, as in hyper's map, which is made of them where hyper sends the answer. What a field means is not known here.
#![forbid(unsafe_code)]

use std::cell::Cell;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::octets;
use super::start_response::Fault;

/// Room for the first fields: bytes of their lines, and lines.
const ROOM: (usize, usize) = (256, 8);
/// A list with more room (bytes) is not kept.
const MOST_KEPT: usize = 4096;
/// As many names as hyper's map holds.
const MOST: usize = 24_000;

thread_local! {
    /// The emptied list of an answer that has left: most are made and sent on one thread.
    static SPARE: Cell<Option<Fields>> = const { Cell::new(None) };
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a field stands in the text.
#[derive(Debug, Clone, Copy)]
struct Line {
    start: usize,
    /// Where the name ends; `: ` follows.
    colon: usize,
    /// Behind the CR LF.
    end: usize,
}

/// Whether a field belongs to the connection and so to the server (RFC 9110 section 7.6.1, PEP 3333 "Other HTTP Features").
fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"te"
            | b"transfer-encoding"
            | b"upgrade"
    )
}

/// Whether a value holds neither a control character, HTAB excepted, nor DEL (RFC 9110 section 5.5).
fn is_sound(value: &[u8]) -> bool {
    let mut at = octets::text_run(value);
    while value.get(at) == Some(&b'\t') {
        at += 1;
        at += octets::text_run(&value[at..]);
    }
    at == value.len()
}

impl Fields {
    /// None yet, with the room of a list that was given back.
    pub fn take() -> Self {
        SPARE.take().unwrap_or_else(|| Self {
            text: Vec::with_capacity(ROOM.0),
            lines: Vec::with_capacity(ROOM.1),
        })
    }

    /// Keeps the room of a list that is needed no more.
    pub fn give_back(mut self) {
        if self.text.capacity() + self.lines.capacity() * size_of::<Line>() <= MOST_KEPT {
            self.text.clear();
            self.lines.clear();
            SPARE.set(Some(self));
        }
    }

    /// What a handler has passed.
    ///
    /// # Errors
    /// The handler's fault.
    pub fn read(fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<Self, Fault> {
        let mut read = Self::take();
        for (name, value) in fields {
            read.append(name, value)?;
        }
        Ok(read)
    }

    /// What [`Fields::text`] gave once, those lines left out whose name (in lower case) `without` says.
    pub fn of_text(text: &[u8], without: impl Fn(&[u8]) -> bool) -> Self {
        let mut fields = Self::take();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            if without(&line[..colon]) {
                continue;
            }
            let start = fields.text.len();
            fields.text.extend_from_slice(line);
            fields.lines.push(Line {
                start,
                colon: start + colon,
                end: start + line.len(),
            });
        }
        fields
    }

    /// Adds a field of the server's that is not there yet, or may be there twice. The name is in lower case, the value fit to be sent.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.write(name.as_bytes(), value);
    }

    /// Adds a field of a handler's; gives its name in lower case.
    ///
    /// # Errors
    /// The handler's fault.
    pub fn append(&mut self, name: &[u8], value: &[u8]) -> Result<&[u8], Fault> {
        if name.is_empty() || name.len() > usize::from(u16::MAX) || octets::run(octets::TOKEN, name) < name.len() {
            let shown = String::from_utf8_lossy(name);
            return Err(Fault(format!("its header name {shown:?} is not a token")));
        }
        let line = self.write(name, value);
        let name = self.name_of(line);
        if is_hop_by_hop(name) {
            return Err(Fault(format!(
                "it set the hop-by-hop header {}, which belongs to the server",
                String::from_utf8_lossy(name)
            )));
        }
        if !is_sound(value) {
            return Err(Fault(format!(
                "the value of its header {} holds a control character: {:?}",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value)
            )));
        }
        if self.lines.len() > MOST {
            return Err(Fault("it set more headers than a response can have".into()));
        }
        let others = &self.lines[..self.lines.len() - 1];
        let line = match others.iter().rposition(|other| self.name_of(*other) == name) {
            Some(before) => self.bring_to(before + 1),
            None => line,
        };
        Ok(self.name_of(line))
    }

    /// Sets a field of the server's, in place of all others of that name. The name is in lower case, the value fit to be sent.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let place = self.place_of(name);
        self.remove(name);
        self.write(name.as_bytes(), value);
        if let Some(place) = place {
            self.bring_to(place);
        }
    }

    /// Sets a field whose value is a number.
    pub fn set_number(&mut self, name: &str, value: u64) {
        self.set(name, value.to_string().as_bytes());
    }

    /// Takes all fields of a name (in lower case) out.
    pub fn remove(&mut self, name: &str) {
        while let Some(place) = self.place_of(name) {
            let gone = self.lines.remove(place);
            self.text.drain(gone.start..gone.end);
            for line in &mut self.lines[place..] {
                line.shift_back(gone.end - gone.start);
            }
        }
    }

    /// Whether there is a field of that name (in lower case).
    pub fn contains(&self, name: &str) -> bool {
        self.place_of(name).is_some()
    }

    /// Names, values, and their lines, in the order they are sent.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
        self.lines.iter().map(|line| {
            let value = &self.text[line.colon + 2..line.end - 2];
            (self.name_of(*line), value, &self.text[line.start..line.end])
        })
    }

    /// All lines, as they are sent.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// As hyper's map.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for (name, value, _) in self.iter() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }

    fn name_of(&self, line: Line) -> &[u8] {
        &self.text[line.start..line.colon]
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        self.lines
            .iter()
            .position(|line| self.name_of(*line) == name.as_bytes())
    }

    /// Writes a line behind all others.
    fn write(&mut self, name: &[u8], value: &[u8]) -> Line {
        let start = self.text.len();
        let colon = start + name.len();
        let end = colon + value.len() + 4;
        self.text.reserve(end - start);
        self.text
            .extend(name.iter().map(|byte| octets::LOWER[usize::from(*byte)]));
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(b"\r\n");
        let line = Line { start, colon, end };
        self.lines.push(line);
        line
    }

    /// Brings the last line to a place before it.
    fn bring_to(&mut self, place: usize) -> Line {
        let last = self.lines.len() - 1;
        let (start, length) = (self.lines[place].start, self.text.len() - self.lines[last].start);
        self.text[start..].rotate_right(length);
        let name = self.lines[last].colon - self.lines[last].start;
        for line in &mut self.lines[place..last] {
            line.start += length;
            line.colon += length;
            line.end += length;
        }
        let line = Line {
            start,
            colon: start + name,
            end: start + length,
        };
        self.lines[last] = line;
        self.lines[place..].rotate_right(1);
        line
    }
}

impl Line {
    fn shift_back(&mut self, by: usize) {
        self.start -= by;
        self.colon -= by;
        self.end -= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut list = list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Fields::read(&mut list).expect("valid")
    }

    fn text(fields: &Fields) -> &str {
        std::str::from_utf8(fields.text()).expect("ASCII")
    }

    const LIST: &[(&str, &str)] = &[
        ("Set-Cookie", "a"),
        ("X-Y", ""),
        ("set-cookie", "b"),
        ("X-Z", "1"),
        ("x-y", "2"),
    ];

    #[test]
    fn fields_of_one_name_stand_together_as_in_hypers_map() {
        let fields = fields(LIST);
        assert_eq!(
            text(&fields),
            "set-cookie: a\r\nset-cookie: b\r\nx-y: \r\nx-y: 2\r\nx-z: 1\r\n"
        );
        let mapped: Vec<u8> = fields
            .to_map()
            .iter()
            .flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat())
            .collect();
        assert_eq!(mapped, fields.text());
        let read: Vec<u8> = fields.iter().flat_map(|(_, _, line)| line.to_vec()).collect();
        assert_eq!(read, fields.text());
        assert!(fields.iter().any(|(name, value, _)| (name, value) == (b"x-y", b"2")));
    }

    #[test]
    fn a_list_of_as_many_fields_as_there_may_be_still_becomes_hypers_map() {
        let names: Vec<String> = (0..).map(|number| format!("x-{number}")).take(MOST + 1).collect();
        let mut all = names.iter().map(|name| (name.as_bytes(), &b"1"[..]));
        assert!(Fields::read(&mut all).is_err());
        let mut all = names[1..].iter().map(|name| (name.as_bytes(), &b"1"[..]));
        let mut fields = Fields::read(&mut all).unwrap();
        for own in ["date", "content-length", "content-type", "connection"] {
            fields.set(own, b"1");
        }
        assert_eq!(fields.to_map().len(), MOST + 4);
    }

    #[test]
    fn a_field_is_set_where_it_stood_and_removed_from_anywhere() {
        let mut fields = fields(LIST);
        fields.set("x-y", b"new");
        assert_eq!(
            text(&fields),
            "set-cookie: a\r\nset-cookie: b\r\nx-y: new\r\nx-z: 1\r\n"
        );
        fields.remove("set-cookie");
        fields.set_number("content-length", 0);
        assert_eq!(text(&fields), "x-y: new\r\nx-z: 1\r\ncontent-length: 0\r\n");
        assert!(fields.contains("x-z") && !fields.contains("set-cookie"));
        assert_eq!(fields.iter().count(), 3);
    }
}
