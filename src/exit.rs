//! The exit codes: what a supervisor, a script or our own master may conclude from each.
//!
//! Takes nothing; gives one [`Exit`] and its number. The numbers are a protocol: systemd units
//! (`RestartPreventExitStatus=`) and deploy scripts rely on them, so none ever changes its meaning. They speak of the
//! server and its verbs only: of a *worker* the master concludes nothing from a number alone, because a handler may
//! call `exit(5)` itself; what a worker has to say it says over its boot pipe.
#![forbid(unsafe_code)]

use std::fmt;
use std::process::ExitCode;

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: stopped as asked, or a verb is done. Nothing to do.
    Done,
    /// 1: a verb was refused or failed, and said why. The server it spoke to runs on.
    Refused,
    /// 2: bad command line. Starting again without another command line is of no use.
    CommandLine,
    /// 3: could not bind, start or become who it should be. May pass: trying again later makes sense.
    Start,
    /// 4: bad configuration. Starting again without an edit is of no use.
    Config,
    /// 5: a module was refused at first boot. Starting again without another module is of no use. A reload never exits.
    Module,
    /// 6: a verb found no server to speak to.
    NoServer,
}

impl Exit {
    /// The number given to exit(3).
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::CommandLine => 2,
            Self::Start => 3,
            Self::Config => 4,
            Self::Module => 5,
            Self::NoServer => 6,
        }
    }
}

impl Exit {
    /// The one of this number, which a master says of itself.
    pub fn of(code: i32) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Refused,
            Self::CommandLine,
            Self::Start,
            Self::Config,
            Self::Module,
            Self::NoServer,
        ];
        all.into_iter().find(|exit| i32::from(exit.code()) == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "stopped as asked",
            Self::Refused => "refused or failed",
            Self::CommandLine => "bad command line",
            Self::Start => "could not bind or start",
            Self::Config => "bad configuration",
            Self::Module => "module refused at first boot",
            Self::NoServer => "no server there",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn the_numbers_are_those_of_the_manual() {
        let all = [
            Exit::Done,
            Exit::Refused,
            Exit::CommandLine,
            Exit::Start,
            Exit::Config,
            Exit::Module,
            Exit::NoServer,
        ];
        let codes: Vec<u8> = all.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
    }
}
