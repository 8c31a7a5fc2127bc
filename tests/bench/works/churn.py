"""Connection churn: every request on a connection of its own, one worker on one core."""

from field import OURS
from load import hammer
from session import peer

NAME = "churn"
TITLE = "a connection per request (Connection: close), one worker on one core, 64 at a time"
CONNECTIONS = 64


def run(session):
    field = session.field
    recipes = [
        peer(OURS, field.ours), peer("bare hyper", field.bare_hyper), peer("nginx", field.nginx),
        peer("uWSGI symcall", field.uwsgi),
    ]
    if not session.quick:
        recipes += [peer("axum", field.axum), peer("actix-web", field.actix)]
    result = session.contend(
        NAME, TITLE, recipes,
        lambda server: hammer(server, CONNECTIONS, session.seconds, session.cores.client, close=True),
        lambda found: f"{found['cpu_us']:8.2f} us{found['rate']:12,.0f}/s  p99 {found['p99_us'] / 1000:.2f} ms",
        warm=lambda server: hammer(server, CONNECTIONS, 1, session.cores.client, close=True),
    )
    cpu = result.ratio(OURS, "bare hyper", "cpu_us")
    session.expect(f"CPU per connection, {OURS} / bare hyper", cpu, " x", "<=", 1.10)
    for theirs in ("nginx", "uWSGI symcall"):
        session.remark(f"CPU per connection, {OURS} / {theirs}", result.ratio(OURS, theirs, "cpu_us"), " x")
