"""Fairness: a hundred connections opened one by one and held, with ten workers; gives how evenly they are spread. Then what
an accepted connection costs in context switches: of all the workers' threads, over a burst of connections that are opened
and held and say nothing, so that neither a request nor a close is in the figure."""

import socket

import process
from contender import Broken, get
from field import OURS
from session import peer

NAME = "balance"
TITLE = ("ten workers on two cores: 100 connections opened one by one and held; 2,000 opened in a burst and held, no request "
         "(switches/accept); 1,000 one at a time, a request each")
WORKERS, HELD, BURST, ONE_BY_ONE = 10, 100, 2000, 1000


def run(session):
    field = session.field
    result = session.contend(
        NAME, TITLE,
        [peer(OURS, lambda: field.ours(workers=WORKERS)), peer("nginx", lambda: field.nginx(workers=WORKERS))],
        lambda server: held(session, server) | burst(session, server) | one_by_one(server),
        lambda found: f"Jain {found['jain']:.3f}, from {found['least']:.0f} to {found['most']:.0f} a worker, "
                      f"{found['switches']:.2f} context switches per accepted connection, {found['request_switches']:.2f} "
                      "with request and end",
        cores=session.cores.pair,
    )
    session.expect("Jain's index of 100 held connections", result.median(OURS, "jain"), "", ">=", 0.95)
    session.remark("Jain's index of 100 held connections, nginx", result.median("nginx", "jain"), "")
    switches = result.median(OURS, "switches")
    session.expect("context switches per accepted connection, opened and held", switches, "", "<=", 2.5)
    session.remark("context switches per accepted connection, nginx", result.median("nginx", "switches"), "")
    for name in (OURS, "nginx"):
        session.remark(f"context switches per connection with its request and end, {name}",
                       result.median(name, "request_switches"), "")


def held(session, server):
    """Each connection sends a request, so that it is known to be accepted before the next one is opened."""
    count = counter(session, server)
    clients = []
    try:
        for _ in range(HELD):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            clients.append(client)
            client.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            answer = b""
            while not answer.endswith(b"Hello, world!\n"):
                more = client.recv(65536)
                if not more:
                    raise Broken(f"{server.name} closed a held connection after {answer!r}")
                answer += more
        counts = all_of(server, HELD, count)
    finally:
        for client in clients:
            client.close()
    all_of(server, 0, count)
    spread = {f"worker_{number}": each for number, each in enumerate(counts, 1)}
    return {"jain": jain(counts), "least": counts[-1], "most": counts[0]} | spread


def burst(session, server):
    """Connections as fast as one client opens them. The switches are read when the last one is accepted."""
    count = counter(session, server)
    clients, pids = [], server.workers()
    before = process.switches(pids)
    try:
        for _ in range(BURST):
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        all_of(server, BURST, count)
        switches = process.switches(pids) - before
    finally:
        for client in clients:
            client.close()
    all_of(server, 0, count)
    return {"switches": switches / BURST}


def one_by_one(server):
    """A connection, its request and its end, then the next."""
    pids = server.workers()
    before = process.switches(pids)
    for _ in range(ONE_BY_ONE):
        get(server.port, "/")
    return {"request_switches": (process.switches(pids) - before) / ONE_BY_ONE}


def counter(session, server):
    """How to ask how many connections each worker holds: a server that tells is asked, of others the open sockets count."""
    if server.control:
        return lambda: [worker["connections"] for worker in session.field.status(server)["workers"]]
    before = {pid: process.sockets(pid) for pid in server.workers()}
    return lambda: [process.sockets(pid) - before.get(pid, 0) for pid in server.workers()]


def all_of(server, wanted, count):
    """Waits until the workers hold so many connections; gives each one's number, the fullest first."""
    last = []

    def found():
        # A process that holds none of them and serves none is no worker: nginx's cache manager, a resource tracker.
        last[:] = sorted(count(), reverse=True)[:WORKERS]
        return sum(last) == wanted

    try:
        process.wait_until("the connections are counted", found, 5)
    except TimeoutError as error:
        raise Broken(f"{server.name} holds {sum(last)} connections, not {wanted}") from error
    return list(last)


def jain(counts):
    """1 when all have the same, 1/n when one has all (Jain, Chiu and Hawe 1984)."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))
