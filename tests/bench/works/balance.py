"""Fairness: a hundred connections opened one by one and held, with ten workers; gives how evenly they are spread, and what
an accepted connection costs in context switches."""

import json
import socket
import subprocess
import time

import process
from contender import Broken, get
from field import OURS
from session import peer

NAME = "balance"
TITLE = "ten workers on two cores: 100 connections opened one by one and held; then 2,000 one at a time, a request each"
WORKERS, HELD, ONE_BY_ONE = 10, 100, 2000


def run(session):
    field = session.field
    result = session.contend(
        NAME, TITLE,
        [peer(OURS, lambda: field.ours(workers=WORKERS)), peer("nginx", lambda: field.nginx(workers=WORKERS))],
        lambda server: held(session, server) | one_by_one(server),
        lambda found: f"Jain {found['jain']:.3f}, from {found['least']:.0f} to {found['most']:.0f} a worker, "
                      f"{found['switches']:.2f} context switches per connection",
        cores=session.cores.pair,
    )
    session.expect("Jain's index of 100 held connections", result.median(OURS, "jain"), "", ">=", 0.95)
    session.remark("Jain's index of 100 held connections, nginx", result.median("nginx", "jain"), "")
    switches = result.median(OURS, "switches")
    session.expect("context switches per accepted connection", switches, "", "<=", 2.5)
    session.remark("context switches per accepted connection, nginx", result.median("nginx", "switches"), "")


def held(session, server):
    """Each connection sends a request, so that it is known to be accepted before the next one is opened."""
    before = {pid: process.sockets(pid) for pid in server.workers()}
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
        if server.control:
            counts = process.wait_until("the status tells the held connections", lambda: told(session, server), 5)
        else:
            counts = [process.sockets(pid) - before.get(pid, 0) for pid in server.workers()]
            # A process that holds none of them and serves none: nginx's cache manager, a resource tracker.
            counts = sorted(counts)[-WORKERS:]
    finally:
        for client in clients:
            client.close()
    if sum(counts) != HELD:
        raise Broken(f"{server.name} holds {sum(counts)} connections, not {HELD}")
    counts = sorted(counts, reverse=True)
    spread = {f"worker_{number}": count for number, count in enumerate(counts, 1)}
    return {"jain": jain(counts), "least": counts[-1], "most": counts[0]} | spread


def told(session, server):
    """Connections of each worker, as the server tells them once those of the round before are gone."""
    appserver = session.field.supplies.built("appserver")
    command = [appserver, "status", "--json", "--control", server.control]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    status = answer.get("status", answer)
    counts = [worker["connections"] for worker in status["workers"]]
    return counts if sum(counts) == HELD else None


def one_by_one(server):
    """A connection, its request and its end, then the next."""
    time.sleep(0.2)
    pids = server.workers()
    before = process.switches(pids)
    for _ in range(ONE_BY_ONE):
        get(server.port, "/")
    return {"switches": (process.switches(pids) - before) / ONE_BY_ONE}


def jain(counts):
    """1 when all have the same, 1/n when one has all (Jain, Chiu and Hawe 1984)."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))
