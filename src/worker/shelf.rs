//! What a worker has of the shared cache: the cache itself, the rules of its generation, and the bells that tell when another worker's answer
//! is there.
//!
//! Takes requests; gives their keys, and waits for others. What is done with what is found there is in `consult` and `fill`.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::cache::Cache;
use crate::cache::key::{self, Uri};
use crate::cache::making;
use crate::cache::policy::Wishes;
use crate::cache::response::Sought;
use crate::config;
use crate::config::cache::{Query, Rule, Scope};
use crate::gateway::Request;
use crate::sys::fd;

/// A bell may have been rung before it was heard, by a server that is gone: who waits looks this often without one.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Shelf {
    pub cache: Arc<Cache>,
    pub config: config::cache::Cache,
    /// What stands behind the URI in keys, where each generation has its own.
    scope: Vec<u8>,
    bells: RefCell<HashMap<usize, Rc<AsyncFd<OwnedFd>>>>,
}

impl Shelf {
    pub fn new(cache: Arc<Cache>, config: config::cache::Cache, generation: u64) -> Self {
        let scope = (config.scope == Scope::Generation).then(|| format!("\n@{generation}").into_bytes());
        Self {
            cache,
            config,
            scope: scope.unwrap_or_default(),
            bells: RefCell::default(),
        }
    }

    /// The rule that counts for a request.
    pub fn rule(&self, request: &Request) -> Option<&Rule> {
        self.rule_of(request, request.part(request.path), request.method())
    }

    /// The rule that would count for another path and method.
    pub fn rule_of(&self, request: &Request, path: &[u8], method: &[u8]) -> Option<&Rule> {
        if self.config.rules.is_empty() {
            return None;
        }
        let uri = Uri {
            scheme: request.scheme().name(),
            host: request.host(),
            path,
            query: &[],
        };
        key::rule(&self.config.rules, uri, method)
    }

    /// What a rule and the configuration wish.
    pub fn wishes(&self, rule: Option<&Rule>) -> Wishes {
        Wishes {
            ttl: rule.and_then(|rule| rule.ttl).map(|ttl| ttl.as_secs()),
            heuristic: self.config.heuristic,
        }
    }

    /// The key of a request's own URI.
    pub fn key(&self, request: &Request, rule: Option<&Rule>) -> Vec<u8> {
        self.key_of(request, rule, (request.part(request.path), request.part(request.query)))
    }

    /// The key of another path and query of the same host.
    pub fn key_of(&self, request: &Request, rule: Option<&Rule>, (path, query): (&[u8], &[u8])) -> Vec<u8> {
        let mut key = Vec::with_capacity(128);
        let prefix = request.front.as_ref().map_or(&[][..], |front| &front.prefix);
        let joined;
        let path = if prefix.is_empty() {
            path
        } else {
            joined = [prefix, path].concat();
            &joined
        };
        let uri = Uri {
            scheme: request.scheme().name(),
            host: request.host(),
            path,
            query,
        };
        key::primary(uri, rule.map_or(&Query::All, |rule| &rule.query), &mut key);
        key.extend_from_slice(&self.scope);
        // After a reload that has more tell responses apart, what was kept before is not found.
        for name in rule.iter().flat_map(|rule| rule.headers.iter().chain(&rule.cookies)) {
            key.extend_from_slice(b"\n%");
            key.extend_from_slice(name.as_bytes());
        }
        key
    }

    /// Looks for the answer to a request.
    pub fn look(&self, key: Vec<u8>, request: &Request) -> Sought {
        self.cache
            .look(key, |names, key| key::variant(names, request.fields(), key))
    }

    /// Looks once more.
    pub fn look_again(&self, sought: Sought, request: &Request) -> Sought {
        self.cache
            .look_again(sought, |names, key| key::variant(names, request.fields(), key))
    }

    /// Waits until nobody makes what a hash stands for; false when it is `until` first.
    pub async fn wait(&self, hash: u64, until: Instant) -> bool {
        let Ok(bell) = self.bell(hash) else { return false };
        loop {
            if !self.cache.is_making(hash) {
                return true;
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            if let Ok(Ok(mut rung)) = timeout_at(until.min(now + LOOK), bell.readable()).await {
                rung.clear_ready();
            }
        }
    }

    fn bell(&self, hash: u64) -> io::Result<Rc<AsyncFd<OwnedFd>>> {
        let number = making::bell(hash);
        let mut bells = self.bells.borrow_mut();
        if let Some(bell) = bells.get(&number) {
            return Ok(bell.clone());
        }
        let bell = Rc::new(fd::watch(self.cache.bell(hash))?);
        bells.insert(number, bell.clone());
        Ok(bell)
    }
}
