"""Throughput by connections: from one to a thousand kept alive, one worker on one core."""

from field import OURS
from load import hammer
from session import peer

NAME = "connections"
TITLE = "hello by the number of kept-alive connections, one worker on one core"
POINTS = (1, 4, 16, 64, 256, 1000)
KEYS = ("rate", "p99_us", "cpu_us")


def run(session):
    field = session.field

    def sample(server):
        found = {}
        for point in POINTS:
            one = hammer(server, point, min(session.seconds, 2), session.cores.client)
            found |= {f"{key}@{point}": one[key] for key in KEYS}
        return found

    result = session.contend(
        NAME, TITLE,
        [peer(OURS, field.ours), peer("bare hyper", field.bare_hyper), peer("nginx", field.nginx),
         peer("uWSGI symcall", field.uwsgi), peer("Granian WSGI", field.granian)],
        sample,
        lambda found: "  ".join(f"{point}: {found[f'rate@{point}'] / 1000:.0f}k/s" for point in POINTS),
        rounds=session.sweeps, warm=lambda server: hammer(server, 64, 1, session.cores.client),
    )
    for point in (1, 1000):
        session.remark(f"throughput with {point} connection{'s' * (point > 1)} / bare hyper",
                       result.ratio(OURS, "bare hyper", f"rate@{point}"), " x")
