//! The listeners a master starts with: handed over, kept for us, or bound.
//!
//! Takes the `[[listener]]`s wanted, what a predecessor hands us and what the service manager passed (sd_listen_fds(3));
//! gives one open [`Door`] each. A socket that a predecessor bound and the manager kept comes back with all that waits in
//! its queue. What nobody wants is closed. Listeners that come and go later are the reload's business.
#![forbid(unsafe_code)]

use super::doors::Door;
use super::notify;
use crate::config::{self, Bind, Config};
use crate::listener::{Deed, Listener, ListenerError};
use crate::sys::{fd, socket};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

/// What a master starts with.
#[derive(Debug)]
pub struct Sockets {
    /// In the order of the configuration.
    pub doors: Vec<Door>,
    /// Names under which the manager keeps sockets that nobody wants any more.
    pub unwanted: Vec<String>,
    /// Indices of those that we bound just now.
    bound: Vec<usize>,
}

/// A socket that was passed to us and is not named by its number.
struct Passed {
    socket: OwnedFd,
    address: socket::Address,
    name: String,
}

impl Sockets {
    /// Opens every listener. When none was asked for (`only_default`) and the service manager hands over sockets of its
    /// own, those are the listeners.
    pub fn open(
        config: &Config,
        only_default: bool,
        env: &dyn Fn(&str) -> Option<String>,
        handed: &mut Vec<(Deed, OwnedFd)>,
    ) -> Result<Self, ListenerError> {
        let passed = fd::inherited(env);
        let lent = |name: &Option<String>| !name.as_deref().is_some_and(notify::is_ours);
        let mut wanted = config.listeners.clone();
        if only_default && passed.iter().any(|(_, name)| lent(name)) {
            let lent = passed.iter().filter(|(_, name)| lent(name));
            let named = |number| config::Listener {
                bind: Bind::Fd(number),
                ..wanted[0].clone()
            };
            wanted = lent.map(|(number, _)| named(*number)).collect();
        }
        // The sockets that a service manager passed to the first master came to us from the last.
        let numbers: Vec<RawFd> = handed.iter().filter_map(|(deed, _)| deed.passed_as()).collect();
        if only_default && !numbers.is_empty() {
            let named = |number| config::Listener {
                bind: Bind::Fd(number),
                ..config.listeners[0].clone()
            };
            wanted = numbers.into_iter().map(named).collect();
        }
        let mut sockets = Self {
            doors: Vec::new(),
            unwanted: Vec::new(),
            bound: Vec::new(),
        };
        sockets
            .open_all(&wanted, config.admin.as_ref(), passed, handed)
            .inspect_err(|_| sockets.undo())?;
        Ok(sockets)
    }

    fn open_all(
        &mut self,
        wanted: &[config::Listener],
        admin: Option<&Bind>,
        passed: Vec<(RawFd, Option<String>)>,
        handed: &mut Vec<(Deed, OwnedFd)>,
    ) -> Result<(), ListenerError> {
        let mut opened: Vec<Option<Listener>> = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let listener = Listener::handed(&wanted.bind, handed)?;
            listener.iter().for_each(|listener| listener.tell_sharing(wanted));
            opened.push(listener);
        }
        // Those named by number come first: no descriptor of ours may have taken it.
        let numbered = |bind: &Bind| matches!(bind, Bind::Fd(_));
        for (place, wanted) in opened
            .iter_mut()
            .zip(wanted)
            .filter(|(place, wanted)| place.is_none() && numbered(&wanted.bind))
        {
            *place = Some(Listener::open(wanted)?);
        }
        let named: Vec<&Bind> = wanted.iter().map(|wanted| &wanted.bind).chain(admin).collect();
        let mut passed: Vec<Passed> = passed
            .into_iter()
            .filter(|(number, _)| !named.contains(&&Bind::Fd(*number)))
            .filter_map(|(number, name)| Passed::take(number, name.unwrap_or_default()))
            .collect();
        for (place, wanted) in opened.iter_mut().zip(wanted).filter(|(place, _)| place.is_none()) {
            let found = passed.iter().position(|passed| passed.answers(&wanted.bind));
            *place = found
                .map(|index| passed.remove(index).into_listener(wanted))
                .transpose()?;
        }
        for passed in passed {
            passed.refuse(&mut self.unwanted);
        }
        for (index, (place, wanted)) in opened.into_iter().zip(wanted).enumerate() {
            let listener = match place {
                Some(listener) => listener,
                None => {
                    self.bound.push(index);
                    Listener::open(wanted)?
                }
            };
            self.doors.push(Door {
                wanted: wanted.clone(),
                listener: Arc::new(listener),
            });
        }
        Ok(())
    }

    /// Removes the files of the sockets that were bound just now, when the start fails. A kept one waits for the next try.
    pub fn undo(&self) {
        let bound = self.bound.iter().filter_map(|index| self.doors.get(*index));
        bound.for_each(|door| door.listener.unlink());
    }
}

impl Passed {
    fn take(number: RawFd, name: String) -> Option<Self> {
        let taken = fd::adopt(number).and_then(|socket| Ok((socket::local(&socket)?, socket)));
        match taken {
            Ok((address, socket)) => Some(Self { socket, address, name }),
            Err(error) => {
                tracing::warn!("descriptor {number} ({name}), passed by the service manager, is left alone: {error}");
                None
            }
        }
    }

    fn answers(&self, bind: &Bind) -> bool {
        // Without its file nobody can reach a Unix socket any more.
        let reachable = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let any_port = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        Listener::is_at(bind, &self.address)
            && (notify::is_ours(&self.name) || !any_port)
            && match bind {
                Bind::Unix(path) => reachable(path),
                _ => true,
            }
    }

    fn into_listener(self, wanted: &config::Listener) -> Result<Listener, ListenerError> {
        if notify::is_ours(&self.name) {
            tracing::info!("{} was kept by the service manager, with its queue", self.address);
            return Listener::kept(self.socket, wanted);
        }
        let failed = |error: io::Error| ListenerError::Bind(wanted.bind.to_string(), error);
        let listener = Listener::lent(self.socket).map_err(failed)?;
        listener.tell_sharing(wanted);
        Ok(listener)
    }

    fn refuse(self, unwanted: &mut Vec<String>) {
        if notify::is_ours(&self.name) {
            tracing::info!("{}, kept by the service manager, is not wanted any more", self.address);
            unwanted.push(self.name);
        } else {
            tracing::warn!(
                "{} ({}), passed by the service manager, is no listener of the configuration; name it by its address or as fd://N",
                self.address,
                self.name
            );
        }
    }
}
