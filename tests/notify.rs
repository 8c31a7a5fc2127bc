//! What a service manager is told, and what it gives back: sd_notify(3), the watchdog and the store of descriptors.
//!
//! Takes a server with a notify socket that the test reads; gives the order of messages around start, reload, stop and
//! hang, and the fate of a queue whose master was killed. The same under a real systemd is `make systemd-test`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use appserver::sys::time;
use nix::sys::signal::Signal;

use crate::support::client::{Address, Client};
use crate::support::manager::Manager;
use crate::support::modules::{self, SERVER, module};
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::{self, until};

/// The lab with a copy of its file in the server's folder, so that a test can spoil it.
fn with_own_module() -> crate::support::server::Builder {
    let builder = Server::bare();
    let path = builder.folder().join("app.so");
    fs::copy(module("lab"), path).unwrap();
    builder
        .config("module = \"DIR/app.so\"\nworkers = 2\n")
        .listen(Listen::Tcp)
}

#[test]
fn ready_is_told_when_every_worker_is_ready_and_not_before() {
    let mut manager = Manager::new();
    let begin = Instant::now();
    let server = manager.manage(Server::lab().arg("--arg").arg("boot=slow:800")).launch();
    let ready = manager.wait_for("READY=1");
    assert_eq!(ready.value("STATUS"), Some("2 workers, generation 1"));
    assert!(
        begin.elapsed() >= Duration::from_millis(800),
        "no worker can be ready yet"
    );
    assert!(server.log().contains("ready: 2 workers"), "{}", server.log());
    let asked = manager
        .heard()
        .iter()
        .take_while(|message| message.value("READY").is_none());
    assert!(
        asked
            .into_iter()
            .any(|message| message.value("EXTEND_TIMEOUT_USEC").is_some())
    );
}

#[test]
fn a_server_that_cannot_start_is_never_ready() {
    let mut manager = Manager::new();
    let (code, log) = manager.manage(Server::lab().arg("--arg").arg("boot=fail")).fail();
    assert_eq!(code, Some(5), "{log}");
    assert!(manager.heard().iter().all(|message| message.value("READY").is_none()));
    assert!(manager.heard().iter().any(|message| message.text == "STOPPING=1"));
}

#[test]
fn a_reload_is_told_at_its_begin_and_at_its_end_whichever_way_it_ends() {
    let mut manager = Manager::new();
    let mut server = manager.manage(with_own_module()).start();
    manager.wait_for("READY=1");
    let begin = time::monotonic_ns() / 1000;
    server.signal(Signal::SIGHUP);
    let moment: u64 = manager
        .wait_for("RELOADING=1")
        .value("MONOTONIC_USEC")
        .unwrap()
        .parse()
        .unwrap();
    assert!((begin..=time::monotonic_ns() / 1000).contains(&moment));
    let ready = manager.wait_for("READY=1");
    assert_eq!(ready.value("STATUS"), Some("2 workers, generation 2"));

    // Renamed into place: the file that is loaded must stay whole for this test.
    let spoilt = server.folder().join("spoilt");
    fs::write(&spoilt, "no library").unwrap();
    fs::rename(&spoilt, server.folder().join("app.so")).unwrap();
    server.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    let status = manager.wait_for("READY=1").value("STATUS").unwrap().to_owned();
    assert!(status.starts_with("reload refused: module"), "{status}");
    assert!(status.ends_with("generation 2 serves on"), "{status}");
    assert_eq!(server.get("/").status, 200);

    fs::write(server.folder().join("appserver.toml"), "modul = 1\n").unwrap();
    server.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    server.stop(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
}

#[test]
fn the_number_of_workers_is_in_the_status() {
    let mut manager = Manager::new();
    let server = manager.manage(Server::lab().workers(1)).start();
    manager.wait_for("READY=1");
    server.signal(Signal::SIGTTIN);
    manager.wait_for("STATUS=2 workers, generation 1");
}

#[test]
fn a_drain_asks_for_time() {
    let mut manager = Manager::new();
    let mut server = manager.manage(Server::lab()).start();
    manager.wait_for("READY=1");
    let mut client = server.client();
    client.send("GET /sleep?ms=1000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the server has read the request", || client.taken().then_some(()));
    server.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    let asked: u64 = manager
        .wait_for("EXTEND_TIMEOUT_USEC=")
        .value("EXTEND_TIMEOUT_USEC")
        .unwrap()
        .parse()
        .unwrap();
    assert!(asked >= 1_000_000, "in microseconds");
    assert_eq!(client.reply().unwrap().status, 200);
    server.wait_for_exit(wait::PATIENCE);
    assert!(manager.news().iter().all(|message| message.value("READY").is_none()));
}

#[test]
fn the_heart_beats_while_a_worker_hangs_and_stops_with_the_master() {
    let mut manager = Manager::new();
    let server = manager
        .manage(Server::lab().workers(1).env("WATCHDOG_USEC", "200000"))
        .start();
    manager.wait_for("READY=1");
    let mut client = server.client();
    client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the server has read the request", || client.taken().then_some(()));
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
    server.signal(Signal::SIGSTOP);
    until("the master stands still", || {
        (process::state(server.master()) == Some('T')).then_some(())
    });
    let before = manager.heard().len();
    // Three intervals: what came in this time would have calmed the manager.
    let more = wait::within(Duration::from_millis(600), || {
        (manager.heard().len() > before).then_some(())
    });
    assert!(more.is_none(), "{:?}", manager.heard());
    server.signal(Signal::SIGCONT);
    until("it beats again", || (manager.heard().len() > before).then_some(()));
}

/// Serves at `bind`, has its master killed with a request in the queue, and has a second server answer it.
fn survive(bind: impl Fn(&Server) -> String, listen: Listen) {
    let mut manager = Manager::new();
    let mut first = manager.manage(Server::lab().listen(listen)).start();
    let bind = bind(&first);
    let address = first.address().clone();
    let stored = manager.wait_for("FDSTORE=1");
    let name = stored.value("FDNAME").unwrap().to_owned();
    assert_eq!(stored.value("FDPOLL"), Some("0"));
    let socket: OwnedFd = stored.passed.take().expect("a descriptor comes along");
    let workers = first.workers();
    first.signal(Signal::SIGKILL);
    first.wait_for_exit(wait::PATIENCE);
    until("its workers have left", || {
        workers.iter().all(|&pid| !process::alive(pid)).then_some(())
    });
    let mut queued = Client::connect(&address).expect("the queue is still there");
    queued.send("GET /count HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();

    let second = Server::lab().arg("--bind").arg(&bind);
    let mut second = manager.manage(second.pass(&name, socket.try_clone().unwrap())).start();
    assert_eq!(queued.reply().unwrap().status, 200);
    assert!(second.log().contains("kept by the service manager"), "{}", second.log());
    let again = manager.wait_for("FDSTORE=1").value("FDNAME").unwrap().to_owned();
    assert_eq!(again, name, "the same socket, the same name");
    second.stop(Signal::SIGTERM);
    let removed = manager.wait_for("FDSTOREREMOVE=1");
    assert_eq!(removed.value("FDNAME"), Some(name.as_str()));
    // Ours again, so its door was shut, although the store still holds the socket here.
    let late = match &address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_millis(300)).map(|_| ()),
        Address::Unix(path) => {
            assert!(!path.exists(), "its file is gone");
            UnixStream::connect(path).map(|_| ())
        }
    };
    assert!(late.is_err());
}

#[test]
fn a_killed_master_loses_no_queued_connection_over_tcp() {
    let bind = |server: &Server| match server.address() {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => unreachable!("it was asked for TCP"),
    };
    survive(bind, Listen::Tcp);
}

#[test]
fn a_killed_master_loses_no_queued_connection_over_a_unix_socket() {
    let bind = |server: &Server| format!("unix:{}", server.folder().join("app.sock").display());
    survive(bind, Listen::Unix);
}

#[test]
fn an_upgrade_names_the_new_master_whose_watchdog_and_listeners_are_its_own() {
    let mut manager = Manager::new();
    let server = Server::lab().env("WATCHDOG_USEC", "400000");
    let mut server = manager.manage(server).start();
    let name = manager.wait_for("FDSTORE=1").value("FDNAME").unwrap().to_owned();
    manager.wait_for("READY=1");
    server.signal(Signal::SIGUSR2);
    let named = manager.wait_for("MAINPID=");
    assert_eq!(named.value("STATUS"), Some("2 workers, generation 2"));
    let new: i32 = named.value("MAINPID").unwrap().parse().unwrap();
    assert!(new != server.master() && process::alive(new));
    assert_eq!(server.get("/").status, 200);
    // The old one has nothing to say any more, so whoever beats and stores now is the new one.
    manager.wait_for("WATCHDOG=1");
    assert_eq!(manager.wait_for("FDSTORE=1").value("FDNAME"), Some(name.as_str()));
    process::signal(new, Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    server.wait_for_exit(wait::PATIENCE);
    until("the new one has gone", || (!process::alive(new)).then_some(()));
}

#[test]
fn a_listener_that_a_reload_brings_is_stored_and_one_that_it_takes_is_removed() {
    let mut manager = Manager::new();
    let config = |more: &str| {
        format!(
            "module = {:?}\nworkers = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n{more}",
            module("lab")
        )
    };
    let server = Server::bare()
        .workers(1)
        .config(&config(""))
        .listen(Listen::AsConfigured);
    let server = manager.manage(server).start();
    let first = manager.wait_for("FDSTORE=1").value("FDNAME").unwrap().to_owned();
    let file = server.folder().join("appserver.toml");
    fs::write(&file, config("[[listener]]\nbind = \"unix:second.sock\"\n")).unwrap();
    server.signal(Signal::SIGHUP);
    let second = manager.wait_for("FDSTORE=1").value("FDNAME").unwrap().to_owned();
    assert_ne!(first, second);
    manager.wait_for("READY=1");
    fs::write(&file, config("")).unwrap();
    server.signal(Signal::SIGHUP);
    let removed = manager.wait_for("FDSTOREREMOVE=1");
    assert_eq!(removed.value("FDNAME"), Some(second.as_str()));
    manager.wait_for("READY=1");
}

#[test]
fn a_kept_socket_that_nobody_wants_is_closed_and_removed_from_the_store() {
    let mut manager = Manager::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::lab().arg("--bind").arg("127.0.0.2:0");
    let _server = manager
        .manage(server.pass("appserver-listener-77", listener.into()))
        .start();
    let removed = manager.wait_for("FDSTOREREMOVE=1");
    assert_eq!(removed.value("FDNAME"), Some("appserver-listener-77"));
    assert!(TcpStream::connect(address).is_err(), "nobody holds it any more");
}

#[test]
fn a_socket_of_the_manager_is_taken_by_its_address_and_stays_open() {
    let mut manager = Manager::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ours = listener.as_fd().try_clone_to_owned().unwrap();
    let server = Server::lab().arg("--bind").arg(address.to_string());
    let mut server = manager.manage(server.pass("web.socket", listener.into())).start();
    assert_eq!(server.get("/").status, 200);
    server.stop(Signal::SIGTERM);
    assert!(TcpStream::connect(address).is_ok(), "it is the manager's");
    let stored = |text: &str| text.starts_with("FDSTORE");
    assert!(!manager.heard().iter().any(|message| stored(&message.text)));
    drop(ours);
}

#[test]
fn systemd_socket_activate_starts_it_with_the_first_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let mut child = Command::new("systemd-socket-activate")
        .args(["--fdname=web", "-l"])
        .arg(&path)
        .arg(SERVER)
        .args(["--workers", "1", "--module"])
        .arg(module("hello"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .expect("systemd-socket-activate is installed by `make test`");
    let log = || fs::read_to_string(folder.path().join("log")).unwrap();
    let mut client = until("the socket is there", || {
        Client::connect(&Address::Unix(path.clone())).ok()
    });
    assert_eq!(
        client
            .get("/")
            .unwrap_or_else(|failure| panic!("{failure}\n{}", log()))
            .text(),
        "Hello, world!\n"
    );
    process::signal(child.id() as i32, Signal::SIGTERM);
    let status = until("it leaves", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", log());
}

#[test]
fn handlers_do_not_see_what_the_manager_says_to_the_master() {
    let folder = tempfile::tempdir().unwrap();
    let source = r#"
        use appserver_handler::{handler, Body, Environ, StartResponse};

        fn app(_: Environ, start_response: StartResponse) -> Body {
            start_response("200 OK", &[("Content-Type", "text/plain")]);
            let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
            Body::from(names.join(" "))
        }
        handler!(app);
    "#;
    let module = modules::rust(folder.path(), "variables", source);
    let manager = Manager::new();
    let server = manager.manage(Server::with(module).env("WATCHDOG_USEC", "60000000").env("KEPT", "yes"));
    let server = server.listen(Listen::InheritedTcp).start();
    let names = server.get("/").text();
    let names: Vec<&str> = names.split(' ').collect();
    assert!(names.contains(&"KEPT"), "{names:?}");
    for gone in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"] {
        assert!(!names.contains(&gone), "{names:?}");
    }
}

#[test]
fn an_upgrade_that_is_refused_because_of_a_reload_does_not_end_the_reload_for_the_manager() {
    let mut manager = Manager::new();
    let lab = module("lab");
    let text = format!("workers = 1\n[[mount]]\npath = \"/\"\nmodule = {lab:?}\nargs = {{ boot = \"slow:1500\" }}\n");
    let server = manager
        .manage(Server::bare().workers(1).config(&text).listen(Listen::Tcp))
        .start();
    manager.wait_for("READY=1");
    server.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    server.signal(Signal::SIGUSR2);
    server.wait_for_log("upgrade refused");
    let ready = manager.wait_for("READY=1");
    assert_eq!(ready.value("STATUS"), Some("1 workers, generation 2"));
}

#[test]
fn a_rollback_keeps_the_sockets_of_the_manager() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = with_own_module()
        .listen(Listen::AsConfigured)
        .arg("--control")
        .arg(folder.path().join("control.sock"))
        .pass("unused", listener.into())
        .launch();
    let ask = || Client::connect(&Address::Unix(path.clone())).map(|mut client| client.get("/").unwrap().status);
    assert_eq!(ask().unwrap(), 200);
    for (line, generation) in [("reload", 2), ("rollback", 3)] {
        let told = crate::support::verbs::told(&crate::support::verbs::verb(&folder.path().join("control.sock"), line));
        assert_eq!(told.0, Some(0), "{}\n{}", told.2, server.log());
        server.wait_for_log(&format!("(generation {generation}), {line} complete"));
        assert_eq!(ask().unwrap(), 200, "{line}");
    }
    assert_eq!(server.log().matches("listening on").count(), 1, "{}", server.log());
}
