//! The listeners of the server, across its generations.
//!
//! Takes the listeners that a configuration wants; gives those that are open already, opens what is new, and at the end
//! of a change shuts what nobody wants any more. A listener that stays is never touched, so no caller of it notices.
#![forbid(unsafe_code)]

use super::Master;
use crate::config::{self, Config};
use crate::generation::Generation;
use crate::listener::Listener;
use std::sync::Arc;

/// An open listener and what it was opened for.
#[derive(Debug)]
pub struct Door {
    /// What the configuration says of it.
    pub wanted: config::Listener,
    /// The socket.
    pub listener: Arc<Listener>,
}

impl Master {
    /// The listeners of a configuration: open ones where there are, new ones where not.
    ///
    /// # Errors
    /// The first that cannot be opened. Those before it stay until [`Master::forget_doors`].
    pub(super) fn listeners_for(
        &mut self,
        config: &Config,
        only_default_bind: bool,
    ) -> Result<Vec<Arc<Listener>>, String> {
        let handed_down = self.doors.iter().any(|door| !door.listener.has_door());
        if only_default_bind && handed_down && self.current.is_some() {
            // Nothing was asked for, so what the service manager handed over are the listeners (sd_listen_fds(3)).
            return Ok(self.doors.iter().map(|door| door.listener.clone()).collect());
        }
        config.listeners.iter().map(|wanted| self.open_door(wanted)).collect()
    }

    /// The listeners of the generation before: those that are open still, and the others opened anew.
    ///
    /// # Errors
    /// As [`Master::listeners_for`].
    pub(super) fn listeners_of(&mut self, previous: &Generation) -> Result<Vec<Arc<Listener>>, String> {
        let again = previous.listeners.iter().map(|listener| {
            let shut = self.shut.iter().find(|door| Arc::ptr_eq(&door.listener, listener));
            // What it was opened for says more than the configuration: without a [[listener]] the service manager's are served.
            match shut.map(|door| door.wanted.clone()) {
                Some(wanted) => self.open_door(&wanted),
                None => Ok(listener.clone()),
            }
        });
        again.collect()
    }

    /// The listener that is wanted: an open one where there is, a new one where not.
    fn open_door(&mut self, wanted: &config::Listener) -> Result<Arc<Listener>, String> {
        let is_it = |door: &Door| door.wanted.bind == wanted.bind;
        if let Some(door) = self.doors.iter().find(|door| is_it(door)) {
            return Ok(door.listener.clone());
        }
        // One that is not ours to shut is open still.
        let lent = self.shut.iter().find(|door| is_it(door) && !door.listener.has_door());
        let listener = match lent {
            Some(door) => door.listener.clone(),
            None => Arc::new(Listener::open(wanted).map_err(|error| error.to_string())?),
        };
        tracing::info!("listening on {}{}", listener.address(), wanted.protocol);
        self.manager.store(&listener);
        self.doors.push(Door {
            wanted: wanted.clone(),
            listener: listener.clone(),
        });
        Ok(listener)
    }

    /// Shuts the doors that `generation` does not want; true when there was one. Their queues are the leaving workers'.
    pub(super) fn shut_doors_but(&mut self, generation: &Generation) -> bool {
        let (stay, go): (Vec<Door>, Vec<Door>) = std::mem::take(&mut self.doors).into_iter().partition(|door| {
            generation
                .listeners
                .iter()
                .any(|kept| Arc::ptr_eq(kept, &door.listener))
        });
        self.doors = stay;
        for door in &mut self.doors {
            let wanted = generation
                .config
                .listeners
                .iter()
                .find(|wanted| wanted.bind == door.wanted.bind);
            if let Some(wanted) = wanted.filter(|wanted| **wanted != door.wanted) {
                if let Err(error) = door.listener.adjust(wanted) {
                    tracing::error!("{error}");
                }
                door.wanted = wanted.clone();
            }
        }
        for door in &go {
            tracing::info!("no longer listening on {}", door.listener.address());
            self.manager.remove(&door.listener);
            door.listener.close_door();
            door.listener.unlink();
            // The workers that leave have it open until they have emptied its queue; then it is free to be bound again.
            if door.listener.has_door() {
                door.listener.close();
            }
        }
        let shut = !go.is_empty();
        self.shut = go;
        shut
    }

    /// Closes what a change had opened that was refused.
    pub(super) fn forget_doors(&mut self) {
        let Some(current) = &self.current else { return };
        let manager = &mut self.manager;
        self.doors.retain(|door| {
            let kept = current.listeners.iter().any(|kept| Arc::ptr_eq(kept, &door.listener));
            if !kept {
                tracing::info!("no longer listening on {}", door.listener.address());
                manager.remove(&door.listener);
                door.listener.unlink();
            }
            kept
        });
    }
}
