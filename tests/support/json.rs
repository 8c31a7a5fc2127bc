//! One flat JSON object of strings, numbers and words, as the lab's `/environ` and the JSON logs write it.
//!
//! Takes a line; gives its members as text, numbers and words as they stand. Nested values are refused: nothing that is
//! read here has any.

use std::collections::BTreeMap;

/// Reads one object; fails the test on anything else.
pub fn object(text: &str) -> BTreeMap<String, String> {
    let mut reader = Reader {
        text: text.trim(),
        at: 0,
    };
    let object = reader.object();
    object.unwrap_or_else(|| panic!("not a flat JSON object (at byte {}): {text}", reader.at))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn object(&mut self) -> Option<BTreeMap<String, String>> {
        let mut members = BTreeMap::new();
        self.expect('{')?;
        if self.expect('}').is_some() {
            return self.end().then_some(members);
        }
        loop {
            let name = self.string()?;
            self.expect(':')?;
            let value = self.string().or_else(|| self.bare())?;
            members.insert(name, value);
            if self.expect(',').is_none() {
                self.expect('}')?;
                return self.end().then_some(members);
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn end(&self) -> bool {
        self.rest().trim().is_empty()
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        let blank = self.rest().len() - self.rest().trim_start().len();
        let found = self.rest()[blank..].starts_with(wanted);
        self.at += if found { blank + wanted.len_utf8() } else { 0 };
        found.then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.expect('"')?;
        let mut value = String::new();
        loop {
            let letter = self.take()?;
            match letter {
                '"' => return Some(value),
                '\\' => value.push(self.escape()?),
                other => value.push(other),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.take()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let code = u32::from_str_radix(self.rest().get(..4)?, 16).ok()?;
                self.at += 4;
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        })
    }

    fn bare(&mut self) -> Option<String> {
        let rest = self.rest().trim_start();
        let length = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !"+-.".contains(letter))?;
        let value = rest[..length].to_owned();
        self.at = self.text.len() - rest.len() + length;
        (!value.is_empty()).then_some(value)
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.rest().chars().next()?;
        self.at += letter.len_utf8();
        Some(letter)
    }
}

#[test]
fn a_flat_object_is_read() {
    let read = object(r#"{"a": "x\"\n\u00e9", "b":12.5, "c" : null}"#);
    assert_eq!(read["a"], "x\"\né");
    assert_eq!((read["b"].as_str(), read["c"].as_str()), ("12.5", "null"));
}
