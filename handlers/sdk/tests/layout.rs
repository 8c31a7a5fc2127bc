//! The C header against the Rust structs: takes what gcc says of `include/appserver.h`, gives the first difference.
//!
//! It compares sizes, offsets and constants; the types behind the function pointers are for the C handlers' tests.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::path::Path;
use std::process::Command;
use std::{env, fs, process};

use appserver_handler::abi;

/// What is compared: the lines of the C program, and the lines it must print.
#[derive(Default)]
struct Comparison {
    statements: Vec<String>,
    expected: Vec<String>,
}

impl Comparison {
    fn number(&mut self, shown: &str, c: &str, rust: i128) {
        self.statements
            .push(format!("    printf(\"{shown} %lld\\n\", (long long)({c}));"));
        self.expected.push(format!("{shown} {rust}"));
    }

    fn size(&mut self, name: &str, size: usize) {
        self.number(name, &format!("sizeof({name})"), size as i128);
    }

    fn field(&mut self, name: &str, field: &str, offset: usize) {
        self.number(
            &format!("{name}.{field}"),
            &format!("offsetof({name}, {field})"),
            offset as i128,
        );
    }

    fn program(&self) -> String {
        format!(
            "#include <stdio.h>\n#include \"appserver.h\"\n\nint main(void) {{\n{}\n    \
             printf(\"APPSERVER_ENTRY %s\\n\", APPSERVER_ENTRY);\n    return 0;\n}}\n",
            self.statements.join("\n")
        )
    }
}

macro_rules! structs {
    ($into:ident: $($c:ident = $rust:ident { $($field:ident),* $(,)? })*) => {
        $(
            $into.size(stringify!($c), size_of::<abi::$rust>());
            $($into.field(stringify!($c), stringify!($field), offset_of!(abi::$rust, $field));)*
            // A field that was added in Rust fails to compile here until it is listed, and so compared.
            #[allow(dead_code)]
            fn $c(it: &abi::$rust) {
                let abi::$rust { $($field: _),* } = it;
            }
        )*
    };
}

macro_rules! constants {
    ($into:ident: $($name:ident),* $(,)?) => {{
        $($into.number(
            concat!("APPSERVER_", stringify!($name)),
            concat!("APPSERVER_", stringify!($name)),
            i128::from(abi::$name),
        );)*
        [$(stringify!($name)),*]
    }};
}

fn structs(into: &mut Comparison) {
    structs! { into:
        appserver_str = Str { ptr, len }
        appserver_field = Field { name, value }
        appserver_chunk = Chunk { ptr, len, release, owner }
        appserver_iter = Iter { struct_size, ctx, next, close }
        appserver_file = File { struct_size, fd, offset, length, ctx, close }
        appserver_cache = Cache { struct_size, get, set, add, incr, delete_, purge }
        appserver_init = Init {
            struct_size, mount, args, args_len, worker, workers, threads, reserved, generation, host_ctx,
        }
        appserver_host = Host {
            struct_size, abi_major, abi_minor, features, server, log, init_error, call_retain, call_release, environ_get,
            environ_at, method, target, field_at, trailer_at, deadline, state, state_poll, input_read, input_poll,
            start_response, informational, trailers, write, write_poll, body_bytes, body_iter, body_file, detach, finish,
            upgrade, errors_write, cache, metrics, tasks, reserved,
        }
        appserver_module = Module {
            struct_size, magic, abi_major, abi_minor, min_host_minor, threads, panic_strategy, reserved, required_features,
            optional_features, name, version, sdk_version, compiler, module_init, worker_init, worker_shutdown, handle,
        }
    }
    into.size("appserver_status", size_of::<abi::Status>());
    into.size("appserver_wake", size_of::<abi::Wake>());
}

/// Compares the constants; gives the names of those that were.
fn constants(into: &mut Comparison) -> Vec<&'static str> {
    constants! { into:
        MAGIC, ABI_MAJOR, ABI_MINOR, OK, AGAIN, END, ABSENT, E_STATE, E_INVALID, E_TRUNCATED, E_TOO_LARGE, E_TIMEOUT, E_GONE,
        E_UNSUPPORTED, E_FAILED, E_PANIC, E_BUSY, THREADS_ONE, THREADS_MANY, THREADS_PINNED, PANIC_NONE, PANIC_UNWIND, PANIC_ABORT,
        FEATURE_TRAILERS, FEATURE_FILE, FEATURE_INFORMATIONAL, FEATURE_DETACH, FEATURE_UPGRADE, FEATURE_POLL, FEATURE_CACHE,
        PURGE_KEY, PURGE_PREFIX, PURGE_TAG, STATE_HERE,
        STATE_HALF_CLOSED, STATE_GONE, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE,
    }
    .to_vec()
}

fn run(command: &mut Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(
        out.status.success(),
        "{command:?} failed:\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn the_c_header_and_the_rust_structs_are_the_same() {
    let mut comparison = Comparison::default();
    structs(&mut comparison);
    constants(&mut comparison);
    comparison.expected.push(format!("APPSERVER_ENTRY {}", abi::ENTRY));

    let folder = env::temp_dir().join(format!("appserver-layout-{}", process::id()));
    fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let (source, program) = (folder.join("layout.c"), folder.join("layout"));
    fs::write(&source, comparison.program()).expect("the temporary folder is writable");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    run(Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(include)
        .arg("-o")
        .args([&program, &source]));
    let printed = run(&mut Command::new(&program));
    fs::remove_dir_all(&folder).expect("the temporary folder is ours");

    let printed: Vec<_> = printed.lines().collect();
    for (c, rust) in printed.iter().zip(&comparison.expected) {
        assert_eq!(c, rust, "left: include/appserver.h, right: src/abi");
    }
    assert_eq!(printed.len(), comparison.expected.len());
}

#[test]
fn every_constant_of_the_abi_is_compared() {
    let compared = constants(&mut Comparison::default());
    let declared = include_str!("../src/abi/mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| *name != "ENTRY");
    let missing: Vec<_> = declared.filter(|name| !compared.contains(name)).collect();
    assert!(missing.is_empty(), "list these in constants(): {missing:?}");
}
