"""Hello for the WSGI servers: takes any path; gives the body and the type that hello.so gives through appserver, and on
/sleep the same after 50 ms."""

import time

BODY = b"Hello, world!\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def app(environ, start_response):
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(0.05)
    start_response("200 OK", HEADERS)
    return [BODY]
