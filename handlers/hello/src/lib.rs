//! The first handler: takes any request, gives "Hello, world!" as text. It looks at nothing.
#![forbid(unsafe_code)]

use appserver_handler::{Body, Environ, StartResponse, handler};

fn app(_environ: Environ, start_response: StartResponse) -> Body {
    start_response("200 OK", &[("Content-Type", "text/plain")]);
    Body::from("Hello, world!\n")
}
handler!(app);
