//! Hello on actix-web, with one worker.
//!
//! Takes a port as its only argument; gives the body and the type that `hello.so` gives through appserver. It has no log
//! and no limits but actix-web's own timeouts.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use actix_web::{App, HttpResponse, HttpServer, web};

#[actix_web::main]
async fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1).and_then(|text| text.parse::<u16>().ok()) else {
        eprintln!("usage: peer-actix PORT");
        return ExitCode::from(2);
    };
    let server = HttpServer::new(|| App::new().route("/", web::get().to(hello)))
        .workers(1)
        .bind((Ipv4Addr::LOCALHOST, port));
    let served = match server {
        Ok(server) => server.run().await,
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-actix: cannot serve on port {port}: {error}");
            ExitCode::from(3)
        }
    }
}

async fn hello() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("Hello, world!\n")
}
