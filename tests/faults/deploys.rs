//! Deploys that are broken: each is refused with the reason, and whoever served before serves on.
//!
//! Takes one way to spoil the module or the configuration; asks for a reload under load, then for one worker more,
//! which must run the old bytes, mends what was spoilt and reloads well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::faults::crashes::CROWD;
use crate::faults::fault::{Fault, faults};
use crate::faults::scene::Scene;
use crate::support::modules::{self, module, root};
use crate::support::process;
use crate::support::wait::until;

faults! {
    a_deploy_without_the_file_changes_nothing => spoilt("app.so", |_| ());
    a_deploy_of_an_empty_file_changes_nothing => spoilt("app.so", |app| fs::write(app, "").unwrap());
    a_deploy_of_a_text_file_changes_nothing => spoilt("ELF", |app| fs::write(app, "these are my notes\n").unwrap());
    a_deploy_of_half_a_library_changes_nothing => spoilt("truncated", half);
    a_deploy_for_another_machine_changes_nothing => spoilt("app.so", other_machine);
    a_deploy_of_a_folder_changes_nothing => spoilt("app.so", folder);
    a_deploy_of_a_pipe_that_nobody_writes_changes_nothing => spoilt("app.so", pipe);
    a_deploy_of_a_library_without_our_symbol_changes_nothing => spoilt("appserver_module_v1", |app| c(app, "no_symbol"));
    a_deploy_of_another_abi_major_changes_nothing => spoilt("ABI", |app| c(app, "wrong_major"));
    a_deploy_that_requires_an_unknown_feature_changes_nothing => spoilt("feature", |app| c(app, "unknown_feature"));
    a_deploy_without_a_handle_function_changes_nothing => spoilt("app.so", |app| c(app, "no_handle"));
    a_deploy_whose_init_fails_changes_nothing => spoilt("the database is away", |app| c(app, "init_fails"));
    a_deploy_that_needs_a_library_nobody_has_changes_nothing => spoilt("libgone.so", needy);
    a_deploy_whose_workers_die_before_all_are_ready_changes_nothing => dies_soon();
    a_deploy_that_says_no_at_start_changes_nothing => boot("fail", "the lab refuses to start");
    a_deploy_that_panics_at_start_changes_nothing => boot("panic", "panic");
    a_deploy_that_crashes_at_start_changes_nothing => boot("segv", "SIGSEGV");
    a_deploy_that_exits_with_our_own_code_at_start_changes_nothing => boot("exit", "code 5");
    a_deploy_that_exits_with_0_at_start_changes_nothing => boot("exit:0", "code 0");
    a_deploy_that_aborts_at_start_changes_nothing => boot("abort", "SIGABRT");
    a_deploy_that_hangs_at_start_changes_nothing => boot("hang", "timeouts.boot").set("timeouts", "boot", "\"1s\"");
    a_deploy_that_fails_its_probe_changes_nothing => probe("/status?code=500", "probe");
    a_deploy_that_panics_in_its_probe_changes_nothing => probe("/panic", "probe");
    a_deploy_that_crashes_in_its_probe_changes_nothing => probe("/segv", "SIGSEGV");
    a_deploy_that_hangs_in_its_probe_changes_nothing => probe("/hang", "within 1s").set("timeouts", "boot", "\"1s\"");
    a_deploy_of_broken_toml_changes_nothing => configured("appserver.toml", |scene| { scene.site.raw("workers = "); });
    a_deploy_of_an_unknown_key_changes_nothing => configured("wokers", |scene| { scene.site.raw("wokers = 3"); });
    a_deploy_without_its_configuration_changes_nothing => Fault::new(no_configuration);
    a_deploy_of_a_listener_whose_port_is_in_use_changes_nothing => Fault::new(port_in_use).own_listeners();
}

/// The server must refuse what `spoil` has done to the module's file, and name `reason`.
fn spoilt(reason: &'static str, spoil: impl Fn(&Path) + 'static) -> Fault {
    let fault = Fault::new(move |scene| {
        let (app, good) = (scene.app(), scene.path("good.so"));
        fs::rename(&app, &good).unwrap();
        spoil(&app);
        refused_and_mended(scene, reason, |_| {
            if app.is_dir() {
                fs::remove_dir(&app).unwrap();
            }
            fs::rename(&good, &app).unwrap();
        });
    });
    fault.set("timeouts", "boot", "\"2s\"")
}

/// The same of its configuration.
fn configured(reason: &'static str, spoil: impl Fn(&mut Scene) + 'static) -> Fault {
    Fault::new(move |scene| {
        let good = scene.site.clone();
        spoil(scene);
        scene.rewrite();
        refused_and_mended(scene, reason, |scene| {
            scene.site = good;
            scene.rewrite();
        });
    })
}

fn boot(how: &'static str, reason: &'static str) -> Fault {
    configured(reason, move |scene| {
        scene.site.argument("boot", how);
    })
}

fn probe(target: &'static str, reason: &'static str) -> Fault {
    configured(reason, move |scene| {
        scene.site.set("reload", "probe", &format!("{target:?}"));
    })
}

/// Some of its workers do serve for a moment, and take the place of old ones, before the whole is undone.
fn dies_soon() -> Fault {
    let fault = Fault::new(|scene| {
        let (app, good) = (scene.app(), scene.path("good.so"));
        fs::rename(&app, &good).unwrap();
        c(&app, "dies_soon");
        let line = scene.hup_is_refused();
        assert!(line.contains("before all were ready"), "{line}");
        until("the old generation serves alone", || {
            (scene.generations() == [1, 1]).then_some(())
        });
        fs::rename(&good, &app).unwrap();
        scene.hup();
    });
    fault.loses(CROWD).honest()
}

fn refused_and_mended(scene: &mut Scene, reason: &str, mend: impl FnOnce(&mut Scene)) {
    let before = scene.workers();
    let line = scene.hup_is_refused();
    assert!(line.contains(reason), "the reason is told, {reason}: {line}");
    scene.work(60);
    // Workers of the attempt leave; those from before are all there.
    let after = scene.workers_are(2);
    assert_eq!(after, before, "{}", scene.server.log());
    // What lies on the disk is no matter to one worker more.
    process::signal(scene.server.master(), Signal::SIGTTIN);
    scene.workers_are(3);
    assert_eq!(scene.generations(), [1, 1, 1]);
    process::signal(scene.server.master(), Signal::SIGTTOU);
    scene.workers_are(2);
    mend(scene);
    scene.hup();
}

fn half(app: &Path) {
    let mut bytes = fs::read(module("hello")).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(app, bytes).unwrap();
}

fn other_machine(app: &Path) {
    let mut bytes = fs::read(module("hello")).unwrap();
    // e_machine (elf(5)): 243 is RISC-V.
    bytes[18] = 243;
    fs::write(app, bytes).unwrap();
}

fn folder(app: &Path) {
    fs::create_dir(app).unwrap();
}

fn pipe(app: &Path) {
    nix::unistd::mkfifo(app, Mode::S_IRWXU).unwrap();
}

/// Builds one of tests/handlers/c in the module's place.
fn c(app: &Path, name: &str) {
    let build = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join(format!("tests/handlers/c/{name}.c"))).unwrap();
    put(&modules::c(build.path(), name, &source), app);
}

fn put(library: &Path, app: &Path) {
    fs::copy(library, app).unwrap();
}

fn needy(app: &Path) {
    let build = tempfile::tempdir().unwrap();
    let gone = "int gone(void);\nint gone(void) { return 1; }\n";
    let gone: PathBuf = modules::c(build.path(), "libgone", gone);
    let source = build.path().join("needy.c");
    let text = "int gone(void);\nint need(void);\nint need(void) { return gone(); }\n";
    fs::write(&source, text).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-fPIC", "-shared", "-o"]).arg(app).arg(&source).arg(&gone);
    modules::run(&mut gcc);
}

fn no_configuration(scene: &mut Scene) {
    fs::remove_file(scene.path("appserver.toml")).unwrap();
    refused_and_mended(scene, "appserver.toml", |scene| scene.rewrite());
}

fn port_in_use(scene: &mut Scene) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    scene.site.listeners(&["unix:DIR/app.sock".to_owned(), address.clone()]);
    scene.rewrite();
    refused_and_mended(scene, &address, |scene| {
        scene.site.listeners(&["unix:DIR/app.sock".to_owned()]);
        scene.rewrite();
    });
}
