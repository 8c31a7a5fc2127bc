//! The life of the process, on one screen.
//!
//! Takes the command line and the environment; gives an exit code. Everything that happens is decided elsewhere.
#![forbid(unsafe_code)]

use appserver::config::{self, Cli};
use appserver::exit::Exit;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    live(&cli).into()
}

fn live(cli: &Cli) -> Exit {
    let loaded = match config::load(cli, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
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
    appserver::serve(cli, loaded)
}
