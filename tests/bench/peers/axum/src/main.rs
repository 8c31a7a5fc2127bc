//! Hello on axum, with one thread; and a sink for uploads.
//!
//! Takes a port as its only argument; gives on `/` the body and the type that `hello.so` gives through appserver, and on
//! `/sink` how many bytes were sent to it, which it reads as they come and drops. It has no log, no limits and no end but
//! a signal.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use http_body_util::BodyExt;

fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1).and_then(|text| text.parse::<u16>().ok()) else {
        eprintln!("usage: peer-axum PORT");
        return ExitCode::from(2);
    };
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .and_then(|runtime| runtime.block_on(serve(port)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-axum: cannot serve on port {port}: {error}");
            ExitCode::from(3)
        }
    }
}

async fn serve(port: u16) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let listener = listener.tap_io(|stream| {
        // A socket that cannot be set is one that is closed already.
        let _ = stream.set_nodelay(true);
    });
    let routes = Router::new().route("/", get(hello)).route("/sink", post(sink));
    axum::serve(listener, routes).await
}

async fn hello() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain")], "Hello, world!\n")
}

async fn sink(mut body: Body) -> String {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, |bytes| bytes.len());
    }
    format!("{length}\n")
}
