//! What is thrown away on request: by URI, by beginning and by tag, over the control socket and by handlers.

use std::time::Duration;

use super::{cached, calls, get, is_hit, set};
use crate::support::verbs::{socket, told, verb};
use crate::support::wait::{until, within};

#[test]
fn what_is_purged_is_gone_for_all_workers() {
    let server = cached(3, "").start();
    let path = socket(&server);
    let fill = || {
        for target in [
            "/cache?max_age=60&n=1",
            "/cache?max_age=60&n=2",
            "/cache?max_age=60&n=1&tag=red,blue",
        ] {
            get(&server, target, "");
            assert!(is_hit(&get(&server, target, "")));
        }
        get(&server, "/cache?max_age=60&vary=x", "X: 1\r\n");
        get(&server, "/cache?max_age=60&vary=x", "X: 2\r\n");
    };
    for (what, count, gone) in [
        (
            "--key http://test/cache?max_age=60&n=1",
            "1 entry",
            "/cache?max_age=60&n=1",
        ),
        ("--key /cache?max_age=60&n=2", "1 entry", "/cache?max_age=60&n=2"),
        (
            "--key /cache?max_age=60&vary=x",
            "2 entries",
            "/cache?max_age=60&vary=x",
        ),
        ("--tag blue", "1 entry", "/cache?max_age=60&n=1&tag=red,blue"),
        ("--tag green", "0 entries", ""),
        ("--prefix /cache?max_age=60&n=1", "2 entries", "/cache?max_age=60&n=1"),
        ("--prefix http://test/", "6 entries", "/cache?max_age=60&n=2"),
        ("--all", "5 entries", "/cache?max_age=60&n=1"),
    ] {
        fill();
        let (code, said, error) = told(&verb(&path, &format!("cache purge {what}")));
        assert_eq!(
            (code, said.as_str()),
            (Some(0), format!("{count} thrown away\n").as_str()),
            "{what}: {error}"
        );
        if !gone.is_empty() {
            assert!(!is_hit(&get(&server, gone, "")), "{what}");
        }
    }
    let tagged = get(&server, "/cache?max_age=60&tag=red", "");
    assert_eq!(tagged.header("cache-tag"), None, "tags are not for clients");
    set(&server, "kept", "1");
    assert_eq!(
        told(&verb(&path, "cache purge --values lab")).1,
        "1 entry thrown away\n"
    );

    // Over the ABI, too.
    assert!(is_hit(&get(&server, "/cache?max_age=60&tag=red", "")));
    assert_eq!(server.get("/kv?op=purge&what=tag&key=red").text(), "1");
    assert!(!is_hit(&get(&server, "/cache?max_age=60&tag=red", "")));

    let stats = until("the numbers of the last second", || {
        let (_, stats, _) = told(&verb(&path, "cache stats --json"));
        stats.contains("\"entries\": 2,").then_some(stats)
    });
    assert!(stats.contains("\"purged\"") && stats.contains("\"hits\""), "{stats}");
    assert!(told(&verb(&path, "cache stats")).1.contains("% of requests answered"));
    assert!(told(&verb(&path, "status")).1.contains("cache: "));
    let none = crate::support::verbs::controlled().start();
    let (code, _, why) = told(&verb(&socket(&none), "cache purge --all"));
    assert_eq!(code, Some(1));
    assert!(why.contains("there is no cache"), "{why}");
}

#[test]
fn a_purge_while_an_answer_is_made_keeps_it_out() {
    let server = cached(2, "").start();
    let target = "/cache?max_age=60&delay_ms=1500&count=late";
    let slow = std::thread::scope(|scope| {
        let asked = scope.spawn(|| get(&server, target, ""));
        until("it is being made", || (calls(&server, "late") == 1).then_some(()));
        assert_eq!(told(&verb(&socket(&server), "cache purge --prefix /cache")).0, Some(0));
        asked.join().unwrap()
    });
    assert_eq!(slow.status, 200);
    assert!(
        !is_hit(&get(&server, target, "")),
        "it may be what the purge was to get rid of"
    );
    assert!(
        within(Duration::from_secs(5), || is_hit(&get(&server, target, ""))
            .then_some(()))
        .is_some()
    );
}
