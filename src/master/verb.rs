//! What the master does about a verb.
//!
//! Takes the requests that came in over the control socket; acts as upon the signal of the same meaning and replies.
//! Who may ask, and how the words are written, is decided in `control` and `verbs`.
#![forbid(unsafe_code)]

use super::control::Ticket;
use super::{Master, Phase};
use crate::exit::Exit;
use crate::status;
use crate::verbs::{Reply, Request};

impl Master {
    /// Hears what was asked over the control socket, and acts.
    pub(super) fn hear_verbs(&mut self) {
        let asked = self
            .control
            .as_mut()
            .map(|control| control.attend())
            .unwrap_or_default();
        for (ticket, request) in asked {
            if !matches!(request, Request::Status | Request::Ping) {
                tracing::info!("asked over the control socket: {}", request.verb());
            }
            if let Some(reply) = self.obey(request, ticket) {
                self.reply(ticket, &reply);
            }
        }
    }

    /// The reply; none when it is known only later, and then whoever knows it sends it.
    fn obey(&mut self, request: Request, ticket: Ticket) -> Option<Reply> {
        Some(match request {
            Request::Ping => Reply::done("here"),
            Request::Status => {
                // As of this moment, not of the last round of the loop.
                self.tell_house();
                Reply::status(serde_json::json!(status::status(self.board)))
            }
            _ if self.phase == Phase::Handed => Reply::refused("another master has taken over; ask again"),
            Request::Stop => {
                self.stop(Exit::Done, false);
                Reply::done("stopping")
            }
            _ if matches!(self.phase, Phase::Stopping { .. }) => Reply::refused("the server is stopping"),
            Request::Scale(_) | Request::Reload | Request::Rollback if self.upgrade.is_starting() => {
                Reply::refused("an upgrade is under way; try again when it is over")
            }
            Request::Purge(target) => return self.purge(&target, ticket),
            Request::Scale(scale) => {
                self.scale(scale, ticket);
                return None;
            }
            Request::Reload => {
                self.reload(vec![ticket]);
                return None;
            }
            Request::Rollback => {
                self.rollback(vec![ticket]);
                return None;
            }
            Request::Upgrade => {
                self.start_upgrade(vec![ticket]);
                return None;
            }
        })
    }

    /// Answers whoever asked, if they are still there.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: &Reply) {
        if let Some(control) = &mut self.control {
            control.reply(ticket, reply);
        }
    }
}
