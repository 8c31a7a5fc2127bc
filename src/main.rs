//! The life of the process, on one screen.
//!
//! Takes the command line and the environment; gives an exit code. Everything that happens is decided elsewhere.
#![forbid(unsafe_code)]

use appserver::config::{self, Cli};
use appserver::exit::Exit;
use appserver::master::Inheritance;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::typed();
    live(&cli).into()
}

fn live(cli: &Cli) -> Exit {
    if let Some(verb) = &cli.verb {
        return appserver::obey(verb);
    }
    // First of all: what a master of an older binary hands over has descriptor numbers that must not be taken meanwhile.
    let inheritance = match Inheritance::find() {
        Ok(inheritance) => inheritance,
        Err(error) => {
            eprintln!("{error}");
            return Exit::Start;
        }
    };
    let loaded = match config::load(cli, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            if let Some(inheritance) = &inheritance {
                inheritance.line.refuse(&error.to_string());
            }
            return error.exit();
        }
    };
    if cli.print_config {
        print!("{}", config::print(&loaded));
        return Exit::Done;
    }
    if cli.check_config {
        return appserver::check(&loaded);
    }
    appserver::serve(cli, loaded, inheritance)
}
