"""The main figure: CPU per hello request of appserver and of every peer, one worker on one core, connections kept alive."""

from field import OURS
from load import hammer
from session import peer

NAME = "hello"
TITLE = "`Hello, world!`, one worker on one core, 64 kept-alive connections"
CONNECTIONS = 64
INLINE, LOGGED, LOGGED_JSON = f"{OURS} inline", f"{OURS} + log", f"{OURS} + json log"


def run(session):
    field = session.field
    # A quick run has no time for the variants and for memory.
    recipes = [
        peer(OURS, field.ours),
        peer("bare hyper", field.bare_hyper),
        peer(OURS, lambda: field.ours(LOGGED, access="combined")),
        peer("nginx", field.nginx),
        peer("axum", field.axum),
        peer("actix-web", field.actix),
        peer("uWSGI symcall", field.uwsgi),
        peer("Granian WSGI", field.granian),
        peer("Gunicorn gthread", lambda: field.gunicorn("gthread")),
    ]
    if not session.quick:
        recipes += [
            peer(OURS, lambda: field.ours(INLINE, dispatch="inline")),
            peer("nginx + appserver", field.proxied),
            peer("Gunicorn sync", lambda: field.gunicorn("sync")),
            peer(OURS, lambda: field.ours(LOGGED_JSON, access="json")),
        ]
    result = session.contend(
        NAME, TITLE, recipes,
        lambda server: hammer(server, CONNECTIONS, session.seconds, session.cores.client),
        lambda found: f"{found['cpu_us']:8.2f} us{found['rate']:12,.0f}/s  p99 {found['p99_us'] / 1000:.2f} ms",
        warm=lambda server: hammer(server, CONNECTIONS, 1, session.cores.client),
    )

    if not session.quick:
        session.weigh(result, recipes, lambda server: hammer(server, CONNECTIONS, 1, session.cores.client))

    def cpu(ours, theirs, bound):
        session.expect(f"CPU per request, {ours} / {theirs}", result.ratio(ours, theirs, "cpu_us"), " x", "<=", bound)

    for theirs in ("bare hyper", "nginx", "axum", "actix-web"):
        cpu(OURS, theirs, 1.10)
    cpu(LOGGED, "bare hyper", 1.20)
    cpu(OURS, "uWSGI symcall", 0.5)
    cpu(OURS, "Gunicorn gthread", 0.05)
    cpu(OURS, "Granian WSGI", 0.5)
    cpu(OURS, INLINE, 1.05)
