//! How the lab misbehaves at start: takes the argument `boot` or the environment variable LAB_BOOT, gives nothing good.
//!
//! `fail panic segv abort exit exit:CODE hang slow:MS`; without either it starts as it should.
#![forbid(unsafe_code)]

use std::time::Duration;

use appserver_handler::{Init, Level};

use crate::fault;

pub fn misbehave(init: &Init<'_>) -> Result<(), String> {
    let variable = std::env::var("LAB_BOOT").ok();
    let Some(how) = init.arg("boot").or(variable.as_deref()).filter(|how| !how.is_empty()) else {
        return Ok(());
    };
    init.log(Level::Info, format_args!("the lab boots with boot={how}"));
    let (what, number) = how.split_once(':').unwrap_or((how, ""));
    let number = number.parse::<u64>();
    match what {
        "fail" => return Err("the lab refuses to start, as boot=fail asks".to_owned()),
        "panic" => panic!("the lab panics at start, as boot=panic asks"),
        "segv" => fault::write_to_nowhere(),
        "abort" => std::process::abort(),
        // 5 is what the server itself means by "module refused": the nastiest code to leave with.
        "exit" => std::process::exit(i32::try_from(number.unwrap_or(5)).unwrap_or(5)),
        "hang" => fault::never_return(),
        "slow" => std::thread::sleep(Duration::from_millis(
            number.map_err(|_| "boot=slow:MS needs a number")?,
        )),
        _ => return Err(format!("the lab does not know boot={how}")),
    }
    Ok(())
}
