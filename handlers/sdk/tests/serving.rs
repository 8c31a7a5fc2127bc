//! What the SDK promises, through the same table of functions that a server passes.

use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use appserver_handler::testing::{self, Request};
use appserver_handler::{Body, BodyStream, Environ, Error, Handler, Init, StartResponse, from_fn};

const TEXT: &[(&str, &str)] = &[("Content-Type", "text/plain")];

fn counter() -> (Arc<AtomicUsize>, impl FnOnce() + Send + 'static) {
    let count = Arc::new(AtomicUsize::new(0));
    let closed = count.clone();
    (count, move || {
        closed.fetch_add(1, Ordering::SeqCst);
    })
}

fn served_with(body: impl Fn() -> Body + Send + Sync + 'static) -> testing::Response {
    Request::get("/").run(&move |_: Environ, start_response: StartResponse<'_>| {
        start_response("200 OK", TEXT);
        body()
    })
}

#[test]
fn every_kind_of_body_arrives_whole() {
    assert_eq!(served_with(|| Body::from("text")).text(), "text");
    assert_eq!(served_with(|| Body::from(vec![7; 5000])).body, vec![7; 5000]);
    assert_eq!(served_with(Body::empty).body, b"");
    assert_eq!(served_with(|| Body::iter(["a", "b", ""])).text(), "ab");
    assert_eq!(
        served_with(|| Body::iter((0..3).map(|_| vec![1; 3000]))).body.len(),
        9000
    );
    assert_eq!(served_with(|| Body::reader(&b"read"[..])).text(), "read");
}

#[test]
fn a_file_is_sent_from_where_it_stands_or_by_range() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("served.txt");
    std::fs::write(&path, "0123456789").expect("the target folder can be written");
    let open = move || std::fs::File::open(&path).expect("just written");
    let range = open.clone();
    let mapped = open.clone();
    assert_eq!(served_with(move || Body::file_range(range(), 2, 3)).text(), "234");
    assert_eq!(
        served_with(move || Body::file_range(mapped(), 8, 100).map_chunks(|chunk| chunk)).text(),
        "89"
    );
    let from = served_with(move || {
        let mut file = open();
        file.seek(std::io::SeekFrom::Start(7)).expect("a regular file");
        Body::file(file)
    });
    assert_eq!(from.text(), "789");
}

#[test]
fn a_body_is_closed_once_whatever_kind_it_is() {
    let kinds: [fn() -> Body; 5] = [
        Body::empty,
        || Body::from("static"),
        || Body::from(vec![0; 10]),
        || Body::iter(["a", "b"]),
        || Body::iter(["a", "b"]).map_chunks(|chunk| chunk),
    ];
    for kind in kinds {
        let (count, close) = counter();
        let close = std::sync::Mutex::new(Some(close));
        served_with(move || kind().on_close(close.lock().expect("not poisoned").take().expect("served once")));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_panicking_iterator_and_a_panicking_close_still_close_the_rest() {
    let (count, close) = counter();
    let close = std::sync::Mutex::new(Some(close));
    let response = served_with(move || {
        let items = (0..2).map(|index| if index == 0 { "begun" } else { panic!("midway") });
        Body::iter(items)
            .on_close(|| panic!("in close"))
            .on_close(close.lock().expect("not poisoned").take().expect("served once"))
    });
    assert!(response.failed);
    assert_eq!(response.text(), "begun");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(
        response.log[0].contains("midway") && response.log[0].contains("serving.rs"),
        "{:?}",
        response.log
    );
    assert_eq!(response.log.len(), 2, "{:?}", response.log);
}

#[test]
fn a_panic_is_caught_logged_with_its_place_and_not_sent() {
    let response = Request::get("/").run(&|_: Environ, _: StartResponse<'_>| -> Body { panic!("secret {}", 7) });
    assert!(response.failed && response.body.is_empty());
    assert_eq!(response.log.len(), 1);
    assert!(
        response.log[0].contains("secret 7") && response.log[0].contains("serving.rs"),
        "{:?}",
        response.log
    );
}

#[test]
fn an_item_that_fails_cuts_the_response_and_is_logged() {
    let response = served_with(|| Body::try_iter([Ok("some"), Err("no more")]));
    assert!(response.failed && response.text() == "some");
    assert!(response.log[0].contains("no more"));
}

#[test]
fn a_stream_may_wait_and_be_woken_from_another_thread_early_or_twice() {
    let response = served_with(|| {
        let mut polls = 0;
        Body::stream(from_fn(move |cx: &mut Context<'_>| {
            polls += 1;
            match polls {
                1 => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                2 => {
                    let waker = cx.waker().clone();
                    std::thread::spawn(move || {
                        waker.wake_by_ref();
                        waker.wake();
                    });
                    Poll::Pending
                }
                3 => {
                    cx.waker().wake_by_ref();
                    Poll::Ready(Some(Ok(b"done".to_vec())))
                }
                _ => Poll::Ready(None),
            }
        }))
    });
    assert!(!response.failed);
    assert_eq!(response.text(), "done");
}

#[test]
fn a_refused_body_is_closed_once() {
    let kinds: [fn() -> Body; 3] = [
        || Body::from("static"),
        || Body::from(vec![0; 5000]),
        || Body::iter(["never pulled"]),
    ];
    for kind in kinds {
        let (count, close) = counter();
        let close = std::sync::Mutex::new(Some(close));
        let response = Request::get("/").run(&move |_: Environ, start_response: StartResponse<'_>| {
            let response = start_response.detach();
            response
                .start("200 OK", TEXT)
                .and_then(|()| response.finish())
                .expect("nothing came before");
            kind().on_close(close.lock().expect("not poisoned").take().expect("served once"))
        });
        assert!(response.failed && response.body.is_empty());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_taken_apart_body_closes_when_its_stream_is_dropped() {
    let (count, close) = counter();
    let mut stream = Body::from("whole").on_close(close).into_stream();
    let next = stream.poll_next(&mut Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(next, Poll::Ready(Some(Ok(bytes))) if bytes == b"whole"));
    assert_eq!(count.load(Ordering::SeqCst), 0);
    drop(stream);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_set_in_the_environ_hides_what_the_server_says() {
    let response = Request::get("/a?x=1")
        .header("X-Twice", "one")
        .header("x-twice", "two")
        .run(&|mut environ: Environ, start_response: StartResponse<'_>| {
            environ.set("PATH_INFO", "/b");
            environ.set("mine", "yes");
            environ.remove("QUERY_STRING");
            assert_eq!(environ.insert(7_u32), None);
            assert_eq!(environ.insert(8_u32), Some(7));
            assert_eq!(
                (environ.extension::<u32>(), environ.extension::<u8>()),
                (Some(&8), None)
            );
            assert_eq!(environ.get_str("PATH_INFO"), Some("/b"));
            assert_eq!(environ.get("QUERY_STRING"), None);
            let keys: Vec<&[u8]> = environ.iter().map(|(key, _)| key).collect();
            assert_eq!(keys.iter().filter(|key| **key == b"PATH_INFO").count(), 1);
            assert!(keys.contains(&b"mine".as_slice()) && !keys.contains(&b"QUERY_STRING".as_slice()));
            assert_eq!(
                (environ.method(), environ.target()),
                (b"GET".as_slice(), b"/a?x=1".as_slice())
            );
            assert_eq!(environ.header("X-TWICE"), Some(b"one".as_slice()));
            assert_eq!(environ.fields().count(), 2);
            writeln!(environ.errors(), "noted").expect("the log takes everything");
            start_response("204 No Content", &[]);
            Body::empty()
        });
    assert!(!response.failed, "{:?}", response.log);
    assert!(response.log.concat().contains("noted"));
}

#[test]
fn a_truncated_request_body_is_an_error_and_not_an_end() {
    let response = Request::post("/", "half")
        .truncated()
        .run(&|environ: Environ, start: StartResponse<'_>| {
            let error = environ.input().read_to_end(&mut Vec::new()).expect_err("it was cut");
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            start("400 Bad Request", &[]);
            Body::empty()
        });
    assert_eq!((response.status.as_str(), response.failed), ("400 Bad Request", false));
}

#[test]
fn a_limit_on_the_input_is_kept_to_the_byte() {
    Request::post("/", "12345").run(&|environ: Environ, _: StartResponse<'_>| {
        assert_eq!(environ.input().read_all(5).expect("it fits"), b"12345");
        Body::empty()
    });
    let response = Request::post("/", "12345").run(&|environ: Environ, _: StartResponse<'_>| {
        let error = environ.input().read_all(4).expect_err("one too many");
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
        Body::empty()
    });
    assert!(!response.failed, "{:?}", response.log);
}

#[test]
fn a_refused_start_makes_the_writer_fail() {
    let response = Request::get("/").run(&|_: Environ, start_response: StartResponse<'_>| {
        let writer = start_response("bad", &[]);
        assert_eq!(writer.started(), Err(Error::Invalid));
        assert_eq!(writer.write("never sent"), Err(Error::Invalid));
        Body::empty()
    });
    assert!(response.status.is_empty() && response.body.is_empty());
}

#[test]
fn exc_info_replaces_status_and_headers() {
    let response = Request::get("/").run(&|_: Environ, start_response: StartResponse<'_>| {
        start_response("200 OK", TEXT);
        assert_eq!(start_response("201 Created", TEXT).started(), Err(Error::State));
        start_response.with_exc_info("500 Oops", &[("X-A", "b")], "why");
        Body::from("sorry")
    });
    assert_eq!(
        (response.status.as_str(), response.header("x-a")),
        ("500 Oops", Some("b"))
    );
    assert_eq!(response.log, ["why"]);
}

#[test]
fn more_fields_than_fit_on_the_stack_arrive_in_order() {
    let response = Request::get("/").run(&|_: Environ, start_response: StartResponse<'_>| {
        let headers: Vec<(String, String)> = (0..40).map(|n| (format!("X-{n}"), n.to_string())).collect();
        start_response.raw("200 OK", &headers);
        Body::empty()
    });
    assert_eq!(response.headers.len(), 40);
    assert_eq!(response.header("x-39"), Some("39"));
}

#[test]
fn a_detached_response_is_finished_from_another_thread_and_fails_when_dropped() {
    let response = Request::get("/").run(&|_: Environ, start_response: StartResponse<'_>| {
        let response = start_response.detach();
        std::thread::spawn(move || {
            response.start("200 OK", TEXT).expect("the first");
            response.write("later").expect("someone reads");
            response.finish().expect("unfinished until now");
        });
        Body::empty()
    });
    assert_eq!((response.text().as_str(), response.failed), ("later", false));
    let response = Request::get("/").run(&|_: Environ, start_response: StartResponse<'_>| {
        drop(start_response.detach());
        Body::empty()
    });
    assert!(response.failed);
}

#[test]
fn interceptors_see_the_head_from_the_inside_out_also_when_detached() {
    let response = Request::get("/").run(&|environ: Environ, start_response: StartResponse<'_>| {
        start_response.intercept(
            |head| head.push("X-Order", "outer"),
            |start_response| {
                start_response.intercept(
                    |head| head.push("X-Order", "inner"),
                    |start_response| {
                        let response = start_response.detach();
                        std::thread::spawn(move || {
                            let _environ = environ;
                            response.start("200 OK", TEXT).and_then(|()| response.finish())
                        });
                        Body::empty()
                    },
                )
            },
        )
    });
    let order: Vec<&str> = response.headers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(order, ["text/plain", "inner", "outer"]);
}

#[test]
fn a_body_may_start_the_response_at_its_first_chunk_and_set_trailers_at_its_end() {
    let response = Request::get("/").run(&|_: Environ, start_response: StartResponse<'_>| {
        let responder = start_response.responder();
        let mut step = 0;
        Body::iter(std::iter::from_fn(move || {
            step += 1;
            match step {
                1 => responder.start("200 OK", TEXT).ok().map(|()| "late"),
                _ => {
                    responder.trailers(&[("X-Sum", "4")]).expect("before the end");
                    None
                }
            }
        }))
    });
    assert_eq!((response.status.as_str(), response.text().as_str()), ("200 OK", "late"));
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "4".to_owned())]);
}

#[test]
fn a_handler_is_built_from_the_arguments_of_its_mount() {
    struct Greeter(String);
    impl Handler for Greeter {
        fn init(init: &Init<'_>) -> Result<Greeter, String> {
            Ok(Greeter(
                init.arg("name").ok_or("the argument `name` is missing")?.to_owned(),
            ))
        }
        fn call(&self, _environ: Environ, start_response: StartResponse<'_>) -> Body {
            start_response("200 OK", TEXT);
            Body::from(self.0.clone())
        }
    }
    assert_eq!(
        testing::init::<Greeter>(&[]).err().as_deref(),
        Some("the argument `name` is missing")
    );
    let greeter = testing::init::<Greeter>(&[("name", "Ada")]).expect("it has its argument");
    let response =
        Request::get("/").run(&move |environ: Environ, start: StartResponse<'_>| greeter.call(environ, start));
    assert_eq!(response.text(), "Ada");
}
