"""The shared cache: CPU of a hit against nginx's proxy_cache and Varnish, what is found again when there is too little room, and the memory
by itself, without a server around it."""

import json
import os
import subprocess

from contender import Broken, get
from field import OURS
from load import hammer
from session import peer
from supplies import HERE

NAME = "cache"
TITLE = "pages from the cache, one worker on one core, 64 kept-alive connections"
CONNECTIONS = 64
NGINX, VARNISH, UWSGI = "nginx proxy_cache", "Varnish", "uWSGI cache router"
ZIPF = HERE / "zipf.lua"


def run(session):
    hits(session)
    pressure(session)
    memory(session)


def hits(session):
    """Everything has room: what a hit costs, for pages of 1 KiB and of 16 KiB."""
    for size, keys in ((1024, 1000), (16384, 200)):
        result = session.contend(
            f"cache-{size // 1024}k", f"{keys} pages of {size // 1024} KiB by Zipf's law, all of them cached",
            recipes(session, "64MiB"), lambda server: ask(session, server, size, keys), show,
            warm=lambda server: fill(session, server, size, keys),
        )
        for theirs in (NGINX, VARNISH):
            session.expect(f"CPU per cached page of {size // 1024} KiB / {theirs}", result.ratio(OURS, theirs, "cpu_us"), " x", "<=", 1.0)
    if session.quick:
        return
    result = session.contend(
        "cache-hello", "one cached page of 14 bytes, a connection for each request (uWSGI keeps none alive)",
        [peer(OURS, lambda: ours(session, "64MiB")), peer(UWSGI, lambda: session.field.uwsgi_cache())],
        lambda server: hammer(server, CONNECTIONS, session.seconds, session.cores.client, close=True, target=hello(server)), show,
    )
    session.remark(f"CPU per cached page, a connection each / {UWSGI}", result.ratio(OURS, UWSGI, "cpu_us"), " x")


def hello(server):
    return "/" if server.name == UWSGI else "/cache?max_age=3600&text=x&size=14"


def pressure(session):
    """A tenth of the pages has room."""
    size, keys = 4096, 20000
    result = session.contend(
        "cache-pressure", f"{keys} pages of 4 KiB by Zipf's law in a cache of 8 MiB",
        recipes(session, "8MiB"), lambda server: ask(session, server, size, keys), show,
        warm=lambda server: ask(session, server, size, keys),
    )
    for name in (OURS, NGINX, VARNISH):
        session.remark(f"found again with room for a tenth: {name}", result.median(name, "found"), "")
        session.remark(f"p99 with room for a tenth: {name}", (result.median(name, "p99_us") or 0) / 1000, " ms")


def memory(session):
    """In one process, on all cores of this machine."""
    program = session.field.supplies.built("cache-memory")
    found = json.loads(subprocess.run([program], capture_output=True, text=True, check=True).stdout)
    session.expect("two readers / one", found["two_readers"], " x", ">=", 1.8)
    session.remark("two readers, each with a cache of its own / one: what these cores can do", found["two_apart"], " x")
    session.expect("two readers of one cache / of a cache each", found["two_readers"] / found["two_apart"], " x", ">=", 0.95)
    session.expect("CPU per hit beside 10,000 stores a second / without", found["storm"], " x", "<=", 1.2)
    session.remark("a hit of 1 KiB in memory", found["hit_ns"], " ns")
    for trace in ("zipf", "scan"):
        session.expect(f"found again of the trace {trace} / least recently used", found[trace] / found[f"{trace}_lru"], " x", ">=", 1.0)


def ours(session, size):
    return session.field.ours(module="lab", more=f'[cache]\nenabled = true\nsize = "{size}"\nmax-entry = "256KiB"\n')


def recipes(session, size):
    field = session.field
    return [
        peer(OURS, lambda: ours(session, size)),
        peer(NGINX, lambda: field.nginx_cache(size)),
        peer(VARNISH, lambda: field.varnish(size)),
    ]


def fill(session, server, size, keys):
    """Every page once, so that none is missing later."""
    for key in range(1, keys + 1):
        answer = get(server.port, f"/cache?max_age=3600&text=k&size={size}&n={key}")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise Broken(f"{server.name} answers something else: {answer[:200]!r}")
    return ask(session, server, size, keys)


def ask(session, server, size, keys):
    """One sample; `found` is the share of requests for which the origin, or our handler, was not asked."""
    os.environ |= {"KEYS": str(keys), "SIZE": str(size)}
    before = asked(session, server)
    found = hammer(server, CONNECTIONS, session.seconds, session.cores.client, script=ZIPF)
    found["found"] = 1 - (asked(session, server) - before) / found["requests"]
    return found


def asked(session, server):
    """How often the handler was."""
    status = session.field.status(server)
    return status["cache"]["misses"] if "cache" in status else status["totals"]["requests"]


def show(found):
    share = f"  {found['found'] * 100:.1f} % found" if "found" in found else ""
    return f"{found['cpu_us']:8.2f} us{found['rate']:12,.0f}/s  p99 {found['p99_us'] / 1000:.2f} ms{share}"
