//! What the master tells of a worker that died: one record, with the request, the module and the stack.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::Client;
use crate::support::memory_group::MemoryGroup;
use crate::support::modules::{self, module};
use crate::support::server::{Builder, Server};
use crate::support::wait::until;
use crate::support::{json, process};

const JSON_LOGS: &str = "[log]\nformat = \"json\"\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n";

fn lab() -> Builder {
    Server::lab().workers(1).config(JSON_LOGS)
}

/// The records so far.
fn records(server: &Server, message: &str) -> Vec<BTreeMap<String, String>> {
    let log = server.log();
    let told = log.lines().filter(|line| line.contains(message)).map(json::object);
    told.filter(|record| record["message"] == message).collect()
}

/// The one record of a worker's death.
fn record(server: &Server) -> BTreeMap<String, String> {
    until("the record is written", || records(server, "worker died").pop())
}

/// Has the server crash over this request and gives the record, of which there is just one.
fn crash(server: &Server, target: &str) -> BTreeMap<String, String> {
    let before = server.workers();
    assert!(
        server.try_get(target).is_none_or(|reply| reply.status >= 500),
        "{target} crashes"
    );
    let record = record(server);
    until("it serves again", || {
        server.try_get("/").filter(|reply| reply.status == 200)
    });
    assert_eq!(records(server, "worker died").len(), 1, "one record a death");
    assert_eq!(record["level"], "error");
    assert_eq!(record["worker_pid"], before[0].to_string());
    assert_eq!((record["worker"].as_str(), record["generation"].as_str()), ("1", "1"));
    assert_eq!(record["modules"].matches('@').count(), 1, "{record:?}");
    assert!(record["uptime_ms"].parse::<u64>().is_ok() && record["requests"].parse::<u64>().unwrap() >= 1);
    record
}

/// The request and its id in the record are those of the access log.
fn tells_of_the_call(server: &Server, record: &BTreeMap<String, String>, target: &str) {
    let calls = &record["calls"];
    assert!(calls.starts_with(&format!("\"GET {target}\" id=")), "{calls}");
    let line = until("the access log has the line", || {
        let log = server.read("access.log");
        let line = log.lines().find(|line| line.contains("killed"))?;
        Some(json::object(line))
    });
    assert_eq!((line["target"].as_str(), line["outcome"].as_str()), (target, "killed"));
    assert_eq!(line["method"], "GET");
    assert!(
        line["request_id"].len() > 8 && calls.contains(&line["request_id"]),
        "{calls} {line:?}"
    );
}

#[test]
fn a_segmentation_fault_is_told_with_its_request_its_module_and_its_stack() {
    let server = lab().start();
    let record = crash(&server, "/segv");
    assert_eq!(record["cause"], "killed by SIGSEGV");
    assert_eq!(record["fault"], "SIGSEGV at 0x8: address not mapped");
    assert!(record["thread"].starts_with("handler ("), "{record:?}");
    assert!(record["memory_bytes"].parse::<u64>().unwrap() > 1 << 20);
    tells_of_the_call(&server, &record, "/segv");
    let stack = &record["backtrace"];
    let first = stack.lines().next().unwrap();
    assert!(
        first.starts_with("#0 ") && first.contains("write_to_nowhere"),
        "{stack}"
    );
    assert!(first.contains("tests/handlers/lab/src/fault.rs:"), "{stack}");
    let id = record["modules"].split_once('@').unwrap().1;
    assert!(stack.contains(&format!("(liblab.so@{}+0x", &id[..12])), "{stack}");
    assert!(stack.contains("lab::fault::segv"), "{stack}");
    assert!(
        stack.contains("appserver::handler::loader::Module::handle"),
        "down to ours: {stack}"
    );
}

#[test]
fn an_abort_is_told_with_its_stack() {
    let server = lab().start();
    let record = crash(&server, "/abort");
    assert_eq!(record["cause"], "killed by SIGABRT");
    assert_eq!(record["fault"], "SIGABRT: raised or sent by a process");
    assert!(
        record["backtrace"].contains("lab::fault::abort"),
        "{}",
        record["backtrace"]
    );
    assert!(record["backtrace"].contains("(libc.so.6+0x"), "{}", record["backtrace"]);
    tells_of_the_call(&server, &record, "/abort");
}

#[test]
fn an_exit_is_told_with_its_code_and_without_a_stack() {
    let server = lab().start();
    let record = crash(&server, "/exit?code=42");
    assert_eq!(record["cause"], "exited with code 42");
    assert!(
        !record.contains_key("backtrace") && !record.contains_key("fault"),
        "{record:?}"
    );
    tells_of_the_call(&server, &record, "/exit?code=42");
}

#[test]
fn a_kill_from_outside_is_told_as_such() {
    let server = lab().start();
    let mut client = server.client();
    let _ = client.send(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    // Another request of the same worker is answered when the first is in its handler.
    server.get("/pid");
    let pid = server.workers()[0];
    process::signal(pid, Signal::SIGKILL);
    let record = record(&server);
    assert_eq!(record["cause"], "killed by SIGKILL from outside");
    assert_eq!(record["worker_pid"], pid.to_string());
    tells_of_the_call(&server, &record, "/hang");
}

#[test]
fn a_stack_is_named_from_the_bytes_that_ran_whatever_lies_on_disk_now() {
    for replaced in [true, false] {
        let builder = Server::bare().workers(1);
        let path = builder.folder().join("lab.so");
        fs::copy(module("lab"), &path).unwrap();
        let server = builder
            .config(&format!("module = \"DIR/lab.so\"\nworkers = 1\n{JSON_LOGS}"))
            .start();
        if replaced {
            fs::copy(module("hello"), &path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let stack = &crash(&server, "/segv")["backtrace"];
        assert!(
            stack.contains("lab::fault::segv") && stack.contains("(lab.so@"),
            "{stack}"
        );
        assert!(stack.contains("lab/src/fault.rs:"), "{stack}");
    }
}

#[test]
fn a_person_reads_the_record_in_one_line() {
    let server = Server::lab().workers(1).start();
    assert!(server.try_get("/segv").is_none());
    let line = server.wait_for_log("worker died");
    for part in [
        "ERROR",
        "cause=\"killed by SIGSEGV\"",
        "fault=\"SIGSEGV at 0x8: address not mapped\"",
        "GET /segv",
        "lab::fault::segv",
        "uptime_ms=",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// A server of the C handler that goes wrong. On the pool its thread has the alternate stack that std gave it, inline the one of ours.
fn wrong(folder: &std::path::Path, dispatch: &str) -> Server {
    let module = modules::c(folder, "wrong", include_str!("handlers/c/wrong.c"));
    let mount = format!("[[mount]]\nmodule = {module:?}\npath = \"\"\ndispatch = \"{dispatch}\"\n");
    Server::bare()
        .workers(1)
        .config(&format!("workers = 1\n{mount}{JSON_LOGS}"))
        .start()
}

#[test]
fn a_module_without_line_tables_is_named_by_its_symbols() {
    let folder = tempfile::tempdir().unwrap();
    let server = wrong(folder.path(), "pool");
    let record = crash(&server, "/divide");
    assert_eq!(record["cause"], "killed by SIGFPE");
    assert_eq!(record["fault"], "SIGFPE: integer division by zero");
    let stack = &record["backtrace"];
    assert!(
        stack.starts_with("#0 divide_by") && stack.contains("#1 handle (wrong.so@"),
        "{stack}"
    );
}

#[test]
fn a_stack_that_overflowed_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    for dispatch in ["pool", "inline"] {
        let server = wrong(folder.path(), dispatch);
        let record = crash(&server, "/overflow");
        assert_eq!(record["cause"], "killed by SIGSEGV");
        assert!(
            record["fault"].ends_with(": the stack overflowed"),
            "{}",
            record["fault"]
        );
        let stack = &record["backtrace"];
        assert!(
            stack.contains("#1 dig_deeper (wrong.so@") && stack.ends_with(" more"),
            "{stack}"
        );
    }
}

#[test]
fn a_call_to_nowhere_is_told_with_who_made_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = wrong(folder.path(), "pool");
    let record = crash(&server, "/nowhere");
    assert_eq!(record["fault"], "SIGSEGV at 0x0: address not mapped");
    let stack = &record["backtrace"];
    assert!(stack.starts_with("#0 0x0\n#1 call_nowhere"), "{stack}");
}

#[test]
fn a_stack_that_was_written_over_still_leaves_a_record() {
    let folder = tempfile::tempdir().unwrap();
    for dispatch in ["pool", "inline"] {
        let server = wrong(folder.path(), dispatch);
        let record = crash(&server, "/smash");
        assert_eq!(record["cause"], "killed by SIGSEGV");
        assert!(
            record["fault"].starts_with("SIGSEGV") && record["backtrace"].starts_with("#0 "),
            "{record:?}"
        );
    }
}

#[test]
fn a_signal_of_a_crash_that_somebody_sent_is_told_as_such() {
    let server = lab().start();
    process::signal(server.workers()[0], Signal::SIGSEGV);
    let record = record(&server);
    assert_eq!(record["cause"], "killed by SIGSEGV");
    assert_eq!(record["fault"], "SIGSEGV: raised or sent by a process");
    assert!(
        record["backtrace"].contains("appserver::worker"),
        "{}",
        record["backtrace"]
    );
}

#[test]
fn a_record_outlives_the_master_that_was_to_write_it() {
    let mut server = lab().start();
    assert!(server.try_get("/segv").is_none());
    let told = || !records(&server, "worker died").is_empty();
    let reporter = until("the report is begun, or made", || {
        let reporter = process::children(server.master())
            .into_iter()
            .find(|&pid| process::title(pid).contains("crash report"));
        reporter.map(Some).or(told().then_some(None))
    });
    if let Some(reporter) = reporter {
        // Held up, it cannot have been done when its master goes.
        process::signal(reporter, Signal::SIGSTOP);
    }
    if !told() {
        server.signal(Signal::SIGKILL);
        server.wait_for_exit(Duration::from_secs(10));
        reporter.map(|reporter| process::signal(reporter, Signal::SIGCONT));
    }
    record(&server);
}

#[test]
fn a_stuck_call_is_told_with_the_stack_of_its_thread() {
    let server = Server::lab()
        .workers(1)
        .config(&format!("[timeouts]\nrequest = \"1s\"\n{JSON_LOGS}"))
        .start();
    let mut client = server.client();
    let _ = client.send(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    let record = until("the stuck call is told", || records(&server, "call stuck").pop());
    assert!(
        record["calls"].contains("GET /hang") && record["thread"].starts_with("handler ("),
        "{record:?}"
    );
    let stack = &record["backtrace"];
    assert!(
        stack.contains("lab::fault::never_return") && stack.contains("lab/src/fault.rs:"),
        "{stack}"
    );
}

#[test]
fn a_worker_killed_by_the_kernel_for_want_of_memory_is_told_as_that() {
    const LIMIT: u64 = 150 << 20;
    let Some(group) = MemoryGroup::new(LIMIT) else {
        return eprintln!("skipped: nobody may limit memory here (cgroups need root)");
    };
    let words = group.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    {
        let server = lab().wrap(&words).start();
        let record = crash(&server, "/leak?mib=300");
        assert_eq!(record["cause"], "killed by the kernel for want of memory (oom_kill)");
        let peak: u64 = record["peak_memory_bytes"].parse().unwrap();
        assert!(peak > LIMIT / 2 && peak <= 2 * LIMIT, "{record:?}");
        tells_of_the_call(&server, &record, "/leak?mib=300");
    }
    drop(group);
}

#[test]
fn a_crash_at_the_start_names_the_module() {
    for (boot, how) in [("segv", "was killed by SIGSEGV"), ("exit", "exited with code")] {
        let (code, log) = Server::lab().workers(1).arg("--arg").arg(format!("boot={boot}")).fail();
        assert_eq!(code, Some(5), "{log}");
        let told = log
            .lines()
            .find(|line| line.contains("before it was ready, in the init of module "));
        let told = told.unwrap_or_else(|| panic!("the module is named: {log}"));
        assert!(told.contains(how) && told.contains("liblab.so"), "{told}");
        let record = log.lines().find(|line| line.contains("worker died")).unwrap();
        assert_eq!(record.contains("backtrace="), boot == "segv", "{record}");
        assert!(record.contains("modules=") && record.contains("liblab.so@"), "{record}");
        if boot == "segv" {
            assert!(record.contains("lab/src/"), "{record}");
        }
    }
}

#[test]
fn a_storm_of_crashes_loses_no_record() {
    let server = Server::lab().workers(4).config(JSON_LOGS).start();
    const CRASHES: usize = 12;
    for _ in 0..CRASHES {
        // Each waits for its end, so that no two die in one worker.
        let mut client = until("a worker accepts", || Client::connect(server.address()).ok());
        assert!(client.get("/segv").is_err());
    }
    until("as many records as crashes", || {
        let told = records(&server, "worker died");
        let named = told
            .iter()
            .filter(|record| record["calls"].contains("GET /segv"))
            .count();
        (named >= CRASHES).then(|| assert_eq!(named, CRASHES))
    });
    until("no crash report is left", || {
        let titles: Vec<String> = process::children(server.master())
            .into_iter()
            .map(process::title)
            .collect();
        (!titles.iter().any(|title| title.contains("crash report"))).then_some(())
    });
    assert_eq!(process::zombies(server.master()), [0; 0]);
}
