"""Fast calls beside slow ones: one worker with eight threads, 61 kept-alive connections that say hello as fast as they
are answered and 3 that always ask for a call of 50 ms; gives the latency of hello, alone and in that company."""

from field import OURS
from load import Wrk, hammer
from session import peer

NAME = "mixed"
TITLE = "one worker, 8 threads: 61 connections of hello beside 3 of a call of 50 ms"
FAST, SLOW = 61, 3
THREADS = 8
TARGETS = {OURS: "/sleep?ms=50"}


def run(session):
    field, client = session.field, session.cores.client

    def sample(server):
        alone = hammer(server, FAST, session.seconds, client)
        # A second longer, so that the slow ones are there from the first hello to the last.
        slow = Wrk(server.port, SLOW, session.seconds + 1, client, TARGETS.get(server.name, "/sleep"))
        try:
            among = hammer(server, FAST, session.seconds, client)
        finally:
            beside = slow.result()
        found = {f"alone_{key}": alone[key] for key in ("p50_us", "p90_us", "p99_us", "p99.9_us", "max_us", "rate")}
        return found | {
            key: among[key] for key in ("p50_us", "p90_us", "p99_us", "p99.9_us", "max_us", "rate")
        } | {"slow_p50_us": beside["p50"]}

    recipes = [peer(OURS, lambda: field.ours(module="lab", threads=THREADS))]
    if not session.quick:
        recipes += [
            peer("Granian WSGI", lambda: field.granian(THREADS)),
            peer("Gunicorn gthread", lambda: field.gunicorn("gthread", THREADS)),
            peer("uWSGI symcall", lambda: field.uwsgi(threads=THREADS)),
        ]
    result = session.contend(
        NAME, TITLE, recipes, sample,
        lambda found: f"hello p99 {found['p99_us'] / 1000:.2f} ms (alone {found['alone_p99_us'] / 1000:.2f}), "
                      f"{found['rate']:,.0f}/s (alone {found['alone_rate']:,.0f})",
    )
    p99 = result.median(OURS, "p99_us")
    session.expect("p99 of hello beside slow calls", p99 / 1000, " ms", "<=", 5)
    for theirs in ("Granian WSGI", "Gunicorn gthread"):
        session.remark(f"p99 of hello beside slow calls / {theirs}", result.ratio(OURS, theirs, "p99_us"), " x")
