//! Rust text with everything that is not code blanked out.
//!
//! Takes a file's text; gives text with the same lines in which comments, string and character literals are
//! spaces. It knows nothing of syntax beyond that.

/// Blanks comments and literals, keeping line breaks.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + skipped(&text[at..], bytes.get(at.wrapping_sub(1)).copied());
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        }
        // Only whole characters are skipped or copied; a multi-byte character outside literals is copied whole.
        while at < bytes.len() && !text.is_char_boundary(at) {
            out.push(b' ');
            at += 1;
        }
    }
    String::from_utf8(out).expect("only spaces replaced whole characters")
}

/// Length of the comment or literal that `rest` starts with, 0 when it starts with code.
fn skipped(rest: &str, before: Option<u8>) -> usize {
    let after_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if !after_word && let Some(length) = raw_string(rest) {
        return length;
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        let mut inside = inside.chars();
        return match (inside.next(), inside.next()) {
            (Some('\\'), _) => quoted(rest, '\''),
            (Some(letter), Some('\'')) => 2 + letter.len_utf8(),
            _ => 0, // a lifetime
        };
    }
    0
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix) && rest[prefix.len()..].trim_start_matches('#').starts_with('"'))?;
    let hashes = rest[prefix.len()..].bytes().take_while(|&byte| byte == b'#').count();
    let open = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(
        rest[open..]
            .find(&close)
            .map_or(rest.len(), |end| open + end + close.len()),
    )
}

#[test]
fn comments_and_literals_are_blanked_and_code_is_kept() {
    let text = "a(\"unsafe \\\" x\"); // unsafe\nb('\"', r#\"unsafe \" x\"#, 'é'); /* unsafe\n */ c::<'static>();\n";
    let code = code_only(text);
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(!code.contains("unsafe"), "{code}");
    assert!(
        code.contains("a(") && code.contains("b(") && code.contains("c::<'static>()"),
        "{code}"
    );
}
