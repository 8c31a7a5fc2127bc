//! Every rule of the forwarding fields, one test each.
//!
//! Takes fields as a trusted front-end sends them; gives what they say, or why they are doubted.
#![forbid(unsafe_code)]

use super::*;

const TRUSTED: &str = "127.0.0.0/8, 10.0.0.0/8, ::1";

fn told_to(trusted: &str, fields: &[(&str, &str)]) -> Result<Option<Front>, Doubt> {
    let trusted: Trusted = trusted.parse().unwrap();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    told(&trusted, fields, b"inner.example")
}

fn front(fields: &[(&str, &str)]) -> Front {
    told_to(TRUSTED, fields).unwrap().unwrap()
}

fn doubt(fields: &[(&str, &str)]) -> Doubt {
    told_to(TRUSTED, fields).unwrap_err()
}

fn text(value: &Option<Vec<u8>>) -> Option<&str> {
    value.as_deref().map(|bytes| str::from_utf8(bytes).unwrap())
}

#[test]
fn no_field_of_ours_says_nothing() {
    assert_eq!(
        told_to(TRUSTED, &[("Host", "a"), ("X-Other", "b"), ("X-Forwarded-For", "")]),
        Ok(None)
    );
}

#[test]
fn the_right_most_address_that_is_not_trusted_is_the_client() {
    for (lists, address, port) in [
        (&["203.0.113.7"][..], "203.0.113.7", ""),
        (&["203.0.113.7, 10.0.0.1"], "203.0.113.7", ""),
        (&["6.6.6.6, 203.0.113.7, 10.0.0.1,10.9.9.9"], "203.0.113.7", ""),
        (&["6.6.6.6", "203.0.113.7", "10.0.0.1"], "203.0.113.7", ""),
        (&["nonsense, 203.0.113.7"], "203.0.113.7", ""),
        (&["10.0.0.3, 10.0.0.2, 127.0.0.1"], "10.0.0.3", ""),
        (&["203.0.113.7:567"], "203.0.113.7", "567"),
        (&["[2001:db8::7]:567, 10.0.0.1:9"], "2001:db8::7", "567"),
        (&["[2001:db8::7]"], "2001:db8::7", ""),
        (&["2001:db8::7"], "2001:db8::7", ""),
        (&["2001:0db8:0:0::7, ::1"], "2001:db8::7", ""),
        (&["::ffff:203.0.113.7, ::ffff:10.0.0.1"], "203.0.113.7", ""),
        (&[",, 203.0.113.7 ,\t,"], "203.0.113.7", ""),
        (&["203.0.113.7, unknown"], "", ""),
        (&["203.0.113.7, _hidden, 10.0.0.1"], "", ""),
        (&["203.0.113.7, UNKNOWN:80, 10.0.0.1"], "", ""),
        (&["203.0.113.7, unix:"], "", ""),
        (&["unknown, 203.0.113.7"], "203.0.113.7", ""),
    ] {
        let fields: Vec<_> = lists.iter().map(|list| ("X-Forwarded-For", *list)).collect();
        let front = front(&fields);
        assert_eq!(front.remote_addr.as_deref(), Some(address), "{lists:?}");
        assert_eq!(front.remote_port.as_deref(), Some(port), "{lists:?}");
    }
    let chain = [("X-Forwarded-For", "203.0.113.7, unix:")];
    let front = told_to("unix", &chain).unwrap().unwrap();
    assert_eq!(
        front.remote_addr.as_deref(),
        Some("203.0.113.7"),
        "a trusted hop over a Unix socket"
    );
}

#[test]
fn what_a_trusted_hop_says_has_to_be_an_address() {
    for entry in [
        "nonsense",
        "203.0.113.7, nonsense, 10.0.0.1",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:x",
        "1.2.3.4:99999",
        "1.2.3.4:123456",
        "[1.2.3.4]",
        "[::1",
        "[::1]x",
        "fe80::1%eth0",
        "_",
        "_a b",
        "unix:/run/x",
        "a.example",
    ] {
        assert_eq!(doubt(&[("X-Forwarded-For", entry)]), Doubt::Address, "{entry}");
    }
}

#[test]
fn forwarded_is_walked_alike_and_its_element_tells_scheme_and_host() {
    let seen = front(&[
        ("Forwarded", "for=6.6.6.6;proto=http;host=evil.example"),
        (
            "Forwarded",
            "for=\"203.0.113.7:567\";proto=https;host=\"shop.example:8443\", for=10.0.0.1;proto=http;host=inner",
        ),
        ("forwarded", "for=\"[::1]\""),
    ]);
    assert_eq!(seen.remote_addr.as_deref(), Some("203.0.113.7"));
    assert_eq!(seen.remote_port.as_deref(), Some("567"));
    assert_eq!(seen.scheme, Some(Scheme::Https));
    assert_eq!(text(&seen.host), Some("shop.example:8443"));
    assert_eq!(text(&seen.server_name), Some("shop.example"));
    assert_eq!(text(&seen.server_port), Some("8443"));
    let hidden = front(&[(
        "Forwarded",
        "for=203.0.113.7;proto=http, for=\"_secret:_port\";proto=https",
    )]);
    assert_eq!(hidden.remote_addr.as_deref(), Some(""));
    assert_eq!(hidden.scheme, Some(Scheme::Https));
    let inner = front(&[("Forwarded", "for=10.0.0.2;proto=https, for=10.0.0.1;proto=http")]);
    assert_eq!(
        (inner.remote_addr.as_deref(), inner.scheme),
        (Some("10.0.0.2"), Some(Scheme::Https))
    );
    let silent = front(&[("Forwarded", "for=6.6.6.6, proto=https, for=10.0.0.1")]);
    assert_eq!(
        (silent.remote_addr.as_deref(), silent.scheme),
        (Some("10.0.0.1"), Some(Scheme::Https)),
        "a hop that names nobody: the last one known"
    );
    let only = front(&[("Forwarded", "proto=https;by=_me")]);
    assert_eq!((only.remote_addr, only.scheme), (None, Some(Scheme::Https)));
}

#[test]
fn a_malformed_forwarded_is_refused_whoever_wrote_its_part() {
    // Quotes can hold commas: what a client left open would swallow what the front-end has added.
    for value in [
        "for=\"",
        "for=\", for=203.0.113.7",
        "203.0.113.7",
        "for=203.0.113.7;for=1.1.1.1",
        "for=::1",
    ] {
        assert_eq!(doubt(&[("Forwarded", value)]), Doubt::Forwarded, "{value}");
    }
    for value in ["for=nonsense", "for=\"\"", "for=\"::1\"", "for=\"[1.2.3.4]\""] {
        assert_eq!(doubt(&[("Forwarded", value)]), Doubt::Address, "{value}");
    }
    assert_eq!(doubt(&[("Forwarded", "for=1.1.1.1;proto=ftp")]), Doubt::Scheme);
    assert_eq!(doubt(&[("Forwarded", "for=1.1.1.1;host=\"a b\"")]), Doubt::Host);
    let seen = front(&[("Forwarded", "for=nonsense;proto=ftp, for=203.0.113.7")]);
    assert_eq!(
        seen.remote_addr.as_deref(),
        Some("203.0.113.7"),
        "left of the client is its own claim"
    );
}

#[test]
fn the_scheme_is_one_of_four_and_the_last_of_a_list() {
    for (value, expected) in [
        ("http", Scheme::Http),
        ("https", Scheme::Https),
        ("HTTPS", Scheme::Https),
        ("ws", Scheme::Http),
        ("wss", Scheme::Https),
        ("http, https", Scheme::Https),
        ("https,http", Scheme::Http),
    ] {
        assert_eq!(front(&[("X-Forwarded-Proto", value)]).scheme, Some(expected), "{value}");
    }
    for value in ["ftp", "https:", "on", ",", "https http"] {
        assert_eq!(doubt(&[("X-Forwarded-Proto", value)]), Doubt::Scheme, "{value}");
    }
    let same = [("X-Forwarded-Proto", "https"), ("x-forwarded-proto", "https")];
    assert_eq!(front(&same).scheme, Some(Scheme::Https));
}

#[test]
fn the_host_is_that_of_urls_and_its_port_is_the_servers() {
    for (fields, host, name, port) in [
        (
            &[("X-Forwarded-Host", "shop.example")][..],
            "shop.example",
            "shop.example",
            "80",
        ),
        (
            &[("X-Forwarded-Host", "shop.example"), ("X-Forwarded-Proto", "https")],
            "shop.example",
            "shop.example",
            "443",
        ),
        (
            &[("X-Forwarded-Host", "shop.example:8080")],
            "shop.example:8080",
            "shop.example",
            "8080",
        ),
        (
            &[("X-Forwarded-Host", "shop.example"), ("X-Forwarded-Port", "8443")],
            "shop.example:8443",
            "shop.example",
            "8443",
        ),
        (
            &[
                ("X-Forwarded-Host", "shop.example"),
                ("X-Forwarded-Port", "443"),
                ("X-Forwarded-Proto", "https"),
            ],
            "shop.example",
            "shop.example",
            "443",
        ),
        (
            &[("X-Forwarded-Host", "a.example, b.example")],
            "b.example",
            "b.example",
            "80",
        ),
        (
            &[("X-Forwarded-Host", "[2001:db8::1]:81")],
            "[2001:db8::1]:81",
            "[2001:db8::1]",
            "81",
        ),
    ] {
        let front = front(fields);
        assert_eq!(
            (text(&front.host), text(&front.server_name), text(&front.server_port)),
            (Some(host), Some(name), Some(port)),
            "{fields:?}"
        );
    }
    let port = front(&[("X-Forwarded-Port", "8443")]);
    assert_eq!(
        (text(&port.host), text(&port.server_port)),
        (Some("inner.example:8443"), Some("8443"))
    );
    assert_eq!(port.server_name, None, "nobody told of it");
    let usual = front(&[("X-Forwarded-Port", "443"), ("X-Forwarded-Proto", "https")]);
    assert_eq!((usual.host, text(&usual.server_port)), (None, Some("443")));
    for value in [
        "a b",
        "a/b",
        "user@a",
        "a:",
        "a:0",
        "a:x",
        "a:99999",
        "[::1",
        "[1.2.3.4]",
        "%4",
        "\u{e9}",
    ] {
        assert_eq!(doubt(&[("X-Forwarded-Host", value)]), Doubt::Host, "{value}");
    }
    for value in ["0", "65536", "+80", "80x", "123456", ","] {
        assert_eq!(doubt(&[("X-Forwarded-Port", value)]), Doubt::Port, "{value}");
    }
}

#[test]
fn a_prefix_is_a_plain_path_and_is_decoded() {
    for (value, expected) in [
        ("/app", "/app"),
        ("/app/", "/app"),
        ("/a/b", "/a/b"),
        ("/", ""),
        ("/caf%C3%A9", "/caf\u{e9}"),
        ("/a%20b", "/a b"),
        ("/a%2Cb", "/a,b"),
        ("/...", "/..."),
    ] {
        assert_eq!(
            front(&[("X-Forwarded-Prefix", value)]).prefix,
            expected.as_bytes(),
            "{value}"
        );
    }
    for value in [
        "app",
        "//app",
        "/a//b",
        "/a//",
        "/.",
        "/../a",
        "/a/%2e%2e",
        "/%2E",
        "/a%2Fb",
        "/a,/b",
        "/a?b",
        "/a#b",
        "/a%00",
        "/a%0d",
        "/a%",
        "/a%zz",
        "/a%25",
        "/a\\b",
        "/a b",
        "http://x/",
    ] {
        assert_eq!(doubt(&[("X-Forwarded-Prefix", value)]), Doubt::Prefix, "{value}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (fields, expected) in [
        (
            &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")][..],
            Doubt::Schemes,
        ),
        (&[("X-Forwarded-Host", "a"), ("X-Forwarded-Host", "b")], Doubt::Hosts),
        (&[("X-Forwarded-Port", "80"), ("X-Forwarded-Port", "81")], Doubt::Ports),
        (
            &[("X-Forwarded-Prefix", "/a"), ("X-Forwarded-Prefix", "/b")],
            Doubt::Prefixes,
        ),
        (
            &[("X-Forwarded-Host", "a:81"), ("X-Forwarded-Port", "80")],
            Doubt::Ports,
        ),
        (
            &[("Forwarded", "host=\"a:81\""), ("X-Forwarded-Port", "80")],
            Doubt::Ports,
        ),
        (
            &[("Forwarded", "for=1.1.1.1"), ("X-Forwarded-For", "1.1.1.2")],
            Doubt::Clients,
        ),
        (
            &[("Forwarded", "for=_a"), ("X-Forwarded-For", "1.1.1.2")],
            Doubt::Clients,
        ),
        (
            &[("Forwarded", "for=\"1.1.1.1:1\""), ("X-Forwarded-For", "1.1.1.1:2")],
            Doubt::Clients,
        ),
        (
            &[("Forwarded", "proto=http"), ("X-Forwarded-Proto", "https")],
            Doubt::Schemes,
        ),
        (&[("Forwarded", "host=a"), ("X-Forwarded-Host", "b")], Doubt::Hosts),
    ] {
        assert_eq!(doubt(fields), expected, "{fields:?}");
    }
    let both = front(&[
        ("Forwarded", "for=\"203.0.113.7:9\";proto=https;host=Shop.example"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "wss"),
        ("X-Forwarded-Host", "shop.example"),
    ]);
    assert_eq!(both.remote_addr.as_deref(), Some("203.0.113.7"));
}

#[test]
fn a_request_id_is_taken_when_it_can_be_shown_as_it_is() {
    let hex = front(&[("X-Request-Id", "0123456789abcdef00fe00009a0ff0a9")]);
    assert_eq!(hex.id.unwrap().to_string(), "0123456789abcdef00fe00009a0ff0a9");
    for id in [
        "7b0ba1b2-5d4c-4a0e-9a53-c2d8f1a0e001",
        "Root=1-67891233-abcdef012345678912345678",
        "A0123456789ABCDEF0123456789ABCDE",
        "a",
    ] {
        assert_eq!(front(&[("X-Request-Id", id)]).request_id.as_deref(), Some(id), "{id}");
    }
    let long = "a".repeat(65);
    for fields in [
        &[("X-Request-Id", "a b")][..],
        &[("X-Request-Id", "a\"b")],
        &[("X-Request-Id", &long)],
        &[("X-Request-Id", "a"), ("X-Request-Id", "b")],
    ] {
        assert_eq!(front(fields), Front::default(), "{fields:?}");
    }
}
