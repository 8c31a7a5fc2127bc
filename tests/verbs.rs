//! The verbs of the command line: what each answers, prints and leaves with.
//!
//! Takes the real binary as server and as command; gives exit codes and the text of both outputs. Who may ask, and how bad
//! callers fare, is in control.rs.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::client::Reply;
use crate::support::modules::{SERVER, module};
use crate::support::process;
use crate::support::server::{Builder, Listen, Server};
use crate::support::verbs::{controlled, socket, told, verb};
use crate::support::wait::{PATIENCE, until};

#[test]
fn status_shows_workers_modules_and_how_the_last_reload_ended() {
    let server = controlled().start();
    assert_eq!(server.get("/status?code=404").status, 404);
    let status = |line: &str| {
        let (code, page, error) = told(&verb(&socket(&server), line));
        assert_eq!(code, Some(0), "{error}");
        page
    };
    // It is counted a moment after its answer has left, and may have been the first worker's while the second began.
    let page = until("the request is counted and both are ready", || {
        Some(status("status")).filter(|page| page.contains("4xx 1") && page.contains("2 of 2 workers ready"))
    });
    for part in [
        &format!("master {}", server.master()),
        "2 of 2 workers ready",
        "listening on 127.0.0.1:",
        "WORKER",
        "ready",
        "GENERATION",
        "liblab.so",
        "0 lost",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    for pid in server.workers() {
        assert!(page.contains(&pid.to_string()), "{pid}: {page}");
    }
    assert!(!page.contains("last "), "{page}");
    assert_eq!(told(&verb(&socket(&server), "reload")).0, Some(0));
    let page = status("status");
    assert!(
        page.contains("last reload: done") && page.contains("generation 2 serves"),
        "{page}"
    );

    let document: serde_json::Value = serde_json::from_str(&status("status --json")).unwrap();
    assert_eq!(document["master_pid"], server.master());
    assert_eq!(document["wanted"], 2);
    assert_eq!(document["last"]["outcome"], "done");
    assert!(
        document["workers"].as_array().is_some_and(|workers| workers.len() >= 2),
        "{document}"
    );
}

#[test]
fn scale_changes_the_number_of_workers_to_or_by() {
    let server = controlled().start();
    for (line, wanted) in [("scale 4", 4), ("scale -2", 2), ("scale +1", 3), ("scale -9", 1)] {
        let (code, said, error) = told(&verb(&socket(&server), line));
        assert_eq!(code, Some(0), "{line}: {error}");
        assert_eq!(said, format!("{wanted} workers serve\n"), "when they do");
        let (_, page, _) = told(&verb(&socket(&server), "status"));
        assert!(page.contains(&format!("{wanted} of {wanted} workers ready")), "{page}");
        server.wait_for_workers(line, |pids| pids.len() == wanted);
    }
}

#[test]
fn stop_waits_until_the_master_has_ended() {
    let mut server = controlled().start();
    let master = server.master();
    let (code, said, error) = told(&verb(&socket(&server), "stop"));
    assert_eq!((code, said.as_str()), (Some(0), "stopped\n"), "{error}");
    assert!(!process::alive(master), "{}", server.log());
    assert_eq!(server.wait_for_exit(PATIENCE).code(), Some(0));
    assert!(!socket(&server).exists());
}

#[test]
fn a_stop_that_takes_longer_than_the_command_waits_is_told_to_be_under_way() {
    let mut server = controlled().start();
    let mut busy = server.client();
    busy.send("GET /sleep?ms=3000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    until("the call is in flight", || busy.taken().then_some(()));
    let (code, _, error) = told(&verb(&socket(&server), "stop --timeout 100ms"));
    assert_eq!(code, Some(1));
    assert!(error.contains("still under way"), "{error}");
    assert_eq!(server.wait_for_exit(PATIENCE).code(), Some(0));
}

#[test]
fn reload_replaces_the_workers() {
    let server = controlled().start();
    let old = server.workers();
    let (code, _, error) = told(&verb(&socket(&server), "reload"));
    assert_eq!(code, Some(0), "{error}");
    server.wait_for_workers("all are new", |pids| {
        pids.len() == 2 && pids.iter().all(|pid| !old.contains(pid))
    });
}

#[test]
fn a_reload_that_will_not_do_is_refused_with_the_reason_and_a_rollback_undoes_a_good_one() {
    let text = |module: &Path, args: &str| {
        format!(
            "workers = 2\n[[mount]]\npath = \"/\"\nmodule = {module:?}\nargs = {{ {args} }}\n[control]\nsocket = \"DIR/control.sock\"\n"
        )
    };
    let lab = module("lab");
    let server = Server::bare().config(&text(&lab, "")).start();
    let file = server.folder().join("appserver.toml");
    let rewrite = |text: String| fs::write(&file, text.replace("DIR", server.folder().to_str().unwrap())).unwrap();
    let (code, _, error) = told(&verb(&socket(&server), "rollback"));
    assert_eq!(code, Some(1), "there is nothing to return to");
    assert!(error.contains("appserver rollback: "), "{error}");
    let old = server.workers();
    for (broken, reason) in [
        ("workers = \n".to_owned(), "appserver.toml"),
        (text(Path::new("/nonexistent.so"), ""), "/nonexistent.so"),
        (text(&lab, "boot = \"fail\""), "worker_init"),
        (
            text(&lab, "").replace("[control]", "[reload]\nprobe = \"/status?code=503\"\n[control]"),
            "503",
        ),
    ] {
        rewrite(broken);
        let (code, said, error) = told(&verb(&socket(&server), "reload"));
        assert_eq!((code, said.as_str()), (Some(1), ""), "{reason}: {error}");
        assert!(
            error.starts_with("appserver reload: ") && error.contains(reason),
            "{reason}: {error}"
        );
        server.wait_for_workers("the old ones alone", |pids| pids == old);
    }
    let (_, page, _) = told(&verb(&socket(&server), "status"));
    assert!(
        page.contains("last reload: refused") && page.contains("answered 503"),
        "{page}"
    );
    let (code, said, _) = told(&verb(&socket(&server), "reload --json"));
    let reply: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, reply["outcome"].as_str()), (Some(1), Some("refused")));

    rewrite(text(&module("hello"), ""));
    let (code, said, error) = told(&verb(&socket(&server), "reload"));
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("generation"), "{said}");
    // An old worker may take a connection until it has heard that it is to leave.
    let all_say = |greeting: bool| {
        let says = |reply: &Reply| (reply.text() == "Hello, world!\n") == greeting;
        until("one generation alone answers", || {
            (0..20)
                .all(|_| server.try_get("/pid").is_some_and(|reply| says(&reply)))
                .then_some(())
        });
    };
    all_say(true);
    rewrite("not TOML at all".to_owned());
    let (code, _, error) = told(&verb(&socket(&server), "rollback"));
    assert_eq!(code, Some(0), "{error}");
    all_say(false);
}

#[test]
fn where_no_server_is_every_verb_leaves_with_six_and_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let dead = folder.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    for path in [&absent, &dead] {
        for line in ["status", "reload", "rollback", "upgrade", "stop", "scale +1"] {
            let (code, said, error) = told(&verb(path, line));
            assert_eq!((code, said.as_str()), (Some(6), ""), "{line}: {error}");
            assert!(
                error.contains(path.to_str().unwrap()) && error.contains("--control"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_verb_finds_its_server_by_the_configuration_even_when_that_is_broken_by_now() {
    let server = Server::bare()
        .config(&format!(
            "module = {:?}\nworkers = 2\n[control]\nsocket = \"DIR/control.sock\"\n",
            module("lab")
        ))
        .start();
    let file = server.folder().join("appserver.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("wrokers = 3\n{text}")).unwrap();
    let by_flag = Command::new(SERVER)
        .args(["status", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(told(&by_flag).0, Some(0), "{by_flag:?}");
    let by_variable = Command::new(SERVER)
        .arg("status")
        .env("APPSERVER_CONFIG", &file)
        .output()
        .unwrap();
    assert_eq!(told(&by_variable).0, Some(0), "{by_variable:?}");
    let by_path = Command::new(SERVER)
        .arg("status")
        .env("APPSERVER_CONTROL_SOCKET", socket(&server))
        .output()
        .unwrap();
    assert_eq!(told(&by_path).0, Some(0), "{by_path:?}");
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let server = controlled().start();
    let line = format!(
        "exec 3>&1; ({SERVER} status --control {}; echo $? >&3) | true",
        socket(&server).display()
    );
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
}

#[test]
fn check_tells_what_a_module_is_or_why_it_is_refused() {
    let lab = module("lab");
    let check =
        |path: &Path, more: &[&str]| told(&Command::new(SERVER).arg("check").arg(path).args(more).output().unwrap());
    let (code, page, error) = check(&lab, &[]);
    assert_eq!(code, Some(0), "{error}");
    for part in ["name", "handler-lab", "version", "abi       1.", "build id", "sha256"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let (code, page, _) = check(&lab, &["--json"]);
    let facts: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((code, facts["name"].as_str()), (Some(0), Some("handler-lab")));
    assert_eq!(facts["sha256"].as_str().map(str::len), Some(64));

    let (code, page, error) = check(&lab, &["--probe", "/status?code=302", "--arg", "a=b"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(page.contains("GET /status?code=302 is answered"), "{page}");
    for (args, told) in [
        (&["--probe", "/status?code=500"][..], "answered 500"),
        (&["--probe", "/segv"], "refused: the process that"),
        (&["--probe", "/", "--arg", "boot=fail"], "worker_init"),
    ] {
        let (code, page, error) = check(&lab, args);
        assert_eq!((code, page.as_str()), (Some(1), ""), "{args:?}: {error}");
        assert!(error.contains(told), "{args:?}: {error}");
    }

    let (code, page, error) = check(Path::new("/etc/passwd"), &[]);
    assert_eq!((code, page.as_str()), (Some(1), ""));
    assert!(error.contains("ELF"), "{error}");
    assert_eq!(check(Path::new("/nonexistent.so"), &[]).0, Some(1));
}

#[test]
fn a_call_that_was_answered_in_its_stead_is_not_counted_as_lost() {
    let timeouts = "[timeouts]\nrequest = \"200ms\"\ndrain = \"1s\"\n";
    let server = controlled().config(timeouts).start();
    assert_eq!(server.get("/hang").status, 504);
    let document = until("the worker that hung has gone", || {
        let (_, text, _) = told(&verb(&socket(&server), "status --json"));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        (document["totals"]["exits"]["stuck"] == 1).then_some(document)
    });
    assert_eq!(document["totals"]["lost"], 0);
    assert_eq!(document["totals"]["timeouts"]["request"], 1);
    assert_eq!(document["totals"]["timeouts"]["boot"], 0);
}

/// A server whose workers, and whose check of a module, need `ms` to start.
fn slow(workers: usize, ms: u64) -> Builder {
    let lab = module("lab");
    let builder = Server::bare().workers(workers);
    builder.listen(Listen::Tcp).config(&format!(
        "workers = {workers}\n[[mount]]\npath = \"/\"\nmodule = {lab:?}\nargs = {{ boot = \"slow:{ms}\" }}\n[reload]\nprobe = \"/\"\n\
         [control]\nsocket = \"DIR/control.sock\"\n"
    ))
}

/// Says a verb without waiting for its outcome.
fn begin(server: &Server, line: &str) -> Child {
    let mut command = Command::new(SERVER);
    command.args(line.split(' ')).arg("--control").arg(socket(server));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_rollback_before_the_first_generation_serves_is_refused_and_stops_nothing() {
    let server = slow(1, 1500).launch();
    server.wait_for_log("the lab boots");
    let (code, _, error) = told(&verb(&socket(&server), "rollback"));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("still being started"), "{error}");
    server.wait_for_log("ready: 1 workers");
}

#[test]
fn a_rollback_takes_back_the_reload_under_way_and_the_one_that_was_to_follow() {
    let server = slow(1, 1000).start();
    let first = begin(&server, "reload");
    server.wait_for_log("reloading");
    let second = begin(&server, "reload");
    server.wait_for_log("another one follows it");
    let (code, said, error) = told(&verb(&socket(&server), "rollback"));
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("generation 1 serves"), "{said}");
    for asked in [first, second] {
        let (code, _, error) = told(&asked.wait_with_output().unwrap());
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("a rollback took it back"), "{error}");
    }
    assert_eq!(server.log().matches("reloading").count(), 1, "{}", server.log());
}

#[test]
fn who_asked_for_the_reload_that_was_to_follow_hears_that_the_workers_were_stopped() {
    let server = slow(1, 1000).start();
    let first = begin(&server, "reload");
    server.wait_for_log("reloading");
    let second = begin(&server, "reload --timeout 10s");
    server.wait_for_log("another one follows it");
    server.signal(Signal::SIGWINCH);
    for asked in [first, second] {
        let (code, _, error) = told(&asked.wait_with_output().unwrap());
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("WINCH stopped the workers"), "{error}");
    }
}
