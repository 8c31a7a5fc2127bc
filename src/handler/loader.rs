//! Loads a module, shakes hands, and runs its init functions.
//!
//! Takes the path of a sealed image (`/proc/self/fd/N`) and gives a [`Module`] whose calls are safe to make, or a
//! [`Refusal`] that names what is wrong and what to do. A module is never unloaded: a new version is new processes.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use appserver_handler::abi::{self, Entry, Field, Init, Str};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::call::{Exchange, Table, lend};
use super::elf;
use crate::sys::fault;

/// Why a module was refused.
#[derive(Debug)]
pub struct Refusal {
    path: PathBuf,
    reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module {} refused: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for Refusal {}

/// How the calls of a module may meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Calls of one worker never overlap.
    One,
    /// Any thread, any number.
    Many,
    /// Always the thread that ran worker_init.
    Pinned,
}

/// A loaded module before its worker_init: the descriptor was read and accepted.
pub struct Loaded {
    path: PathBuf,
    descriptor: &'static abi::Module,
    /// See [`Threads`].
    pub threads: Threads,
    image: *mut c_void,
}

/// Where a module comes from. Its Display is for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Provenance {
    pub name: String,
    pub version: String,
    /// Major and minor.
    pub abi: (u32, u32),
    pub sdk: String,
    pub compiler: String,
    /// Built with panic=abort.
    pub aborts: bool,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.abi;
        write!(f, "{} {} (abi {major}.{minor}", self.name, self.version)?;
        write!(f, ", sdk {}, {}", self.sdk, self.compiler)?;
        f.write_str(if self.aborts {
            ", panic=abort: a panic ends its worker)"
        } else {
            ")"
        })
    }
}

/// What init functions are told of the server.
pub struct Boot<'a> {
    /// The mount's prefix.
    pub mount: &'a str,
    /// The mount's arguments.
    pub args: &'a BTreeMap<String, String>,
    /// The worker's number.
    pub worker: u32,
    /// Number of workers.
    pub workers: u32,
    /// Threads that may call at once.
    pub threads: u32,
    /// Generation number.
    pub generation: u64,
}

/// [`Boot`] for another thread.
pub struct OwnedBoot {
    mount: String,
    args: BTreeMap<String, String>,
    worker: u32,
    workers: u32,
    threads: u32,
    generation: u64,
}

impl Boot<'_> {
    /// A copy that can be moved.
    pub fn to_owned_boot(&self) -> OwnedBoot {
        let Boot {
            mount,
            args,
            worker,
            workers,
            threads,
            generation,
        } = *self;
        OwnedBoot {
            mount: mount.to_owned(),
            args: args.clone(),
            worker,
            workers,
            threads,
            generation,
        }
    }
}

impl OwnedBoot {
    /// The form the init functions take.
    pub fn as_boot(&self) -> Boot<'_> {
        let Self {
            mount,
            args,
            worker,
            workers,
            threads,
            generation,
        } = self;
        Boot {
            mount,
            args,
            worker: *worker,
            workers: *workers,
            threads: *threads,
            generation: *generation,
        }
    }
}

/// A module ready to serve in this worker, under one mount.
pub struct Module {
    descriptor: &'static abi::Module,
    image: *mut c_void,
    worker: *mut c_void,
    handle: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut abi::Call) -> abi::Status,
}

// SAFETY: the pointers are the plugin's own state; the ABI obliges the host to keep to the declared thread class, which
// worker/dispatch.rs does, and obliges a module of class `many` to bear calls on any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above; a pinned module's Loaded is moved to its thread before worker_init runs.
unsafe impl Send for Loaded {}

impl Loaded {
    /// Opens an image and checks the handshake; runs `module_init`. `shown` is the path the user knows.
    ///
    /// # Errors
    /// A refusal, by name. dlopen runs the module's constructors, so this belongs in a process that may die.
    pub fn open<E: Exchange>(image: &Path, shown: &Path, generation: u64) -> Result<Self, Refusal> {
        let refuse = |reason: String| Refusal {
            path: shown.to_owned(),
            reason,
        };
        let bytes = std::fs::File::open(image).map_err(|error| refuse(format!("cannot be opened: {error}")))?;
        elf::check(bytes.as_fd()).map_err(refuse)?;
        // SAFETY: dlopen runs the constructors of the module the operator named; nothing else can vouch for it.
        let library =
            unsafe { Library::open(Some(image), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| refuse(explain(&error)))?;
        // Never dlclose: thread-local destructors and statics of the module may outlive any call.
        let library = std::mem::ManuallyDrop::new(library);
        // SAFETY: the ABI fixes the type of this one symbol.
        let entry = unsafe { library.get::<Entry>(abi::ENTRY.as_bytes()) }.map_err(|_| {
            refuse(format!(
                "it does not export `{}`: it is not an appserver handler; write `handler!(app);` (Rust) or define that function (C, appserver.h)",
                abi::ENTRY
            ))
        })?;
        // From here on code of the module runs, and may crash.
        fault::loaded(*entry as *const c_void);
        // SAFETY: the entry takes nothing and returns a static descriptor.
        let descriptor = unsafe { entry() };
        // SAFETY: null or a static descriptor, by the ABI.
        let descriptor = unsafe { descriptor.as_ref() }.ok_or_else(|| refuse("its descriptor is null".into()))?;
        check(descriptor).map_err(refuse)?;
        let mut loaded = Self {
            path: shown.to_owned(),
            descriptor,
            threads: match descriptor.threads {
                abi::THREADS_ONE => Threads::One,
                abi::THREADS_PINNED => Threads::Pinned,
                _ => Threads::Many,
            },
            image: std::ptr::null_mut(),
        };
        if let Some(init) = descriptor.module_init {
            let boot = Boot {
                mount: "",
                args: &BTreeMap::new(),
                worker: 0,
                workers: 0,
                threads: 1,
                generation,
            };
            let mut out = std::ptr::null_mut();
            // SAFETY: the table and the init struct are valid; `out` is a local.
            run_init(&boot, |told| unsafe { init(Table::<E>::host(), told, &mut out) })
                .map_err(|reason| refuse(format!("its module_init failed: {reason}")))?;
            loaded.image = out;
        }
        Ok(loaded)
    }

    /// What there is to say when it cannot be started for a reason outside of it.
    pub fn refusal(&self) -> impl Fn(String) -> Refusal + use<> {
        let path = self.path.clone();
        move |reason| Refusal {
            path: path.clone(),
            reason,
        }
    }

    /// Runs worker_init; after the fork, on the thread the class asks for.
    ///
    /// # Errors
    /// The reason the module gave.
    pub fn start<E: Exchange>(&self, boot: &Boot<'_>) -> Result<Module, Refusal> {
        let refuse = self.refusal();
        let handle = self
            .descriptor
            .handle
            .ok_or_else(|| refuse("its `handle` is null".into()))?;
        let mut worker = std::ptr::null_mut();
        if let Some(init) = self.descriptor.worker_init {
            // SAFETY: the table and the init struct are valid; `worker` is a local.
            run_init(boot, |told| unsafe {
                init(Table::<E>::host(), self.image, told, &mut worker)
            })
            .map_err(|reason| refuse(format!("its worker_init failed: {reason}")))?;
        }
        Ok(Module {
            descriptor: self.descriptor,
            image: self.image,
            worker,
            handle,
        })
    }

    /// What the module says of itself and of how it was built.
    pub fn provenance(&self) -> Provenance {
        // SAFETY: static strings of a static descriptor.
        let text = |part: Str| unsafe { String::from_utf8_lossy(part.bytes()).into_owned() };
        let d = self.descriptor;
        Provenance {
            name: text(d.name),
            version: text(d.version),
            abi: (d.abi_major, d.abi_minor),
            sdk: text(d.sdk_version),
            compiler: text(d.compiler),
            aborts: d.panic_strategy == abi::PANIC_ABORT,
        }
    }
}

impl Module {
    /// Serves one call on this thread.
    pub fn handle<E: Exchange>(&self, call: &Arc<E>) -> abi::Status {
        // SAFETY: the call outlives the function, and the pointers are those the module gave for this worker.
        lend(call, |raw| unsafe { (self.handle)(self.image, self.worker, raw) })
    }

    /// Runs worker_shutdown; no call may follow.
    pub fn shutdown(&self) {
        if let Some(shutdown) = self.descriptor.worker_shutdown {
            // SAFETY: the worker calls it once, after the drain.
            unsafe { shutdown(self.image, self.worker) }
        }
    }
}

/// Refuses what this server cannot run, by name.
fn check(module: &abi::Module) -> Result<(), String> {
    let major_seen = std::mem::offset_of!(abi::Module, abi_minor);
    if module.struct_size < major_seen || module.magic != abi::MAGIC {
        return Err(format!(
            "its descriptor does not begin with the magic of `appserver_module` ({:#018x})",
            module.magic
        ));
    }
    if module.abi_major != abi::ABI_MAJOR {
        return Err(format!(
            "it was built for ABI {}, this server speaks ABI {}: rebuild it with the appserver-handler of this server's release",
            module.abi_major,
            abi::ABI_MAJOR
        ));
    }
    if module.struct_size < size_of::<abi::Module>() {
        return Err(format!(
            "its descriptor is {} bytes long, ABI 1.0 has {}: set struct_size to sizeof(appserver_module)",
            module.struct_size,
            size_of::<abi::Module>()
        ));
    }
    if module.min_host_minor > abi::ABI_MINOR {
        return Err(format!(
            "it needs a server of ABI {}.{} or later, this one is {}.{}: update appserver",
            abi::ABI_MAJOR,
            module.min_host_minor,
            abi::ABI_MAJOR,
            abi::ABI_MINOR
        ));
    }
    let unknown = module.required_features & !super::features();
    if unknown == abi::FEATURE_CACHE {
        return Err("it needs the shared cache, and there is none: write `enabled = true` under [cache]".into());
    }
    if unknown != 0 {
        return Err(format!(
            "it requires features this server does not have (bits {unknown:#x}): update appserver"
        ));
    }
    if module.threads > abi::THREADS_PINNED {
        return Err(format!(
            "its thread class {} is unknown: use one, many or pinned (0 to 2)",
            module.threads
        ));
    }
    if module.handle.is_none() {
        return Err("its `handle` is null: there is nothing to call".into());
    }
    Ok(())
}

/// Builds the init struct, runs an init function and fetches the reason of a failure.
fn run_init(boot: &Boot<'_>, init: impl FnOnce(*const Init) -> abi::Status) -> Result<(), String> {
    let args: Vec<Field> = boot
        .args
        .iter()
        .map(|(name, value)| Field {
            name: Str::of(name.as_bytes()),
            value: Str::of(value.as_bytes()),
        })
        .collect();
    let mut reason = String::new();
    let told = Init {
        struct_size: size_of::<Init>(),
        mount: Str::of(boot.mount.as_bytes()),
        args: args.as_ptr(),
        args_len: args.len(),
        worker: boot.worker,
        workers: boot.workers,
        threads: boot.threads,
        reserved: 0,
        generation: boot.generation,
        host_ctx: std::ptr::from_mut(&mut reason).cast(),
    };
    match init(&told) {
        abi::OK => Ok(()),
        status if reason.is_empty() => Err(format!("it returned {status} without giving a reason (init_error)")),
        _ => Err(reason),
    }
}

/// The linker's sentence, and what to do about it where we know.
fn explain(error: &libloading::Error) -> String {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    if text.contains("cannot open shared object file") {
        text.push_str(
            " (a library it needs was not found; it is loaded from memory, so $ORIGIN does not point at its folder: install the \
             library where ldconfig sees it, set LD_LIBRARY_PATH, or link it statically)",
        );
    } else if text.contains("undefined symbol") {
        text.push_str(" (it was linked without a library it uses)");
    }
    format!("the dynamic linker says: {text}")
}
