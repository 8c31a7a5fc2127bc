"""Large bodies of 100 MiB, four clients, one worker on one core: a file, an answer that is made as it is sent, an upload."""

import json
import subprocess
import sys
import threading

import process
from contender import Broken
from field import OURS
from session import peer
from supplies import HERE

NAME = "bulk"
TITLE = "100 MiB files, streams and uploads, four clients, one worker on one core"
SIZE = 100 << 20
CLIENTS = 4
PROXIED = "nginx + appserver"
# Seconds: each client has one body or two.
WARM = 0.1


def run(session):
    download(session)
    stream(session)
    upload(session)


def download(session):
    field = session.field
    folder = field.scratch()
    file = folder / "file"
    # Written, not only sized: a hole would be read from nowhere.
    piece = bytes(range(256)) * 4096
    with file.open("wb") as out:
        for _ in range(SIZE // len(piece)):
            out.write(piece)
    targets = {OURS: f"/file?path={file}", "nginx": "/files/file"}
    result = session.contend(
        "file", "a file of 100 MiB, four clients, one worker on one core",
        [peer(OURS, lambda: field.ours(module="lab")), peer("nginx", lambda: field.nginx(files=folder))],
        lambda server: transfer(session, server, "get", targets[server.name]), show,
        warm=lambda server: transfer(session, server, "get", targets[server.name], WARM),
    )
    file.unlink()
    session.expect("throughput of a 100 MiB file / nginx sendfile", result.ratio(OURS, "nginx", "rate"), " x", ">=", 0.9)
    session.remark("CPU per byte of a 100 MiB file / nginx sendfile", result.ratio(OURS, "nginx", "cpu_ms_per_gib"), " x")


def stream(session):
    field = session.field
    result = session.contend(
        "stream", "answers of 100 MiB that the handler makes as they are sent, 64 KiB at a time, four clients, one worker on one core",
        [peer(OURS, lambda: field.ours(module="lab")), peer(PROXIED, lambda: field.proxied(module="lab"))],
        lambda server: transfer(session, server, "get", f"/bytes?n={SIZE}"), show,
        warm=lambda server: transfer(session, server, "get", f"/bytes?n={SIZE}", WARM),
    )
    session.expect("throughput of streams / nginx proxying the same", result.ratio(OURS, PROXIED, "rate"), " x", ">=", 1.0)
    session.remark("memory that four streams of 100 MiB add, at most", result.median(OURS, "grown_mib"), " MiB")


def upload(session):
    field = session.field
    targets = {"axum": "/sink"}
    result = session.contend(
        "upload", "uploads of 100 MiB, four clients, one worker on one core; the handler reads all of it",
        [peer(OURS, lambda: field.ours(module="lab")), peer(PROXIED, lambda: field.proxied(module="lab")),
         peer("axum", field.axum)],
        lambda server: transfer(session, server, "put", targets.get(server.name, "/read?n=65536")), show,
        warm=lambda server: transfer(session, server, "put", targets.get(server.name, "/read?n=65536"), WARM),
    )
    session.expect("throughput of uploads / nginx proxying the same", result.ratio(OURS, PROXIED, "rate"), " x", ">=", 1.0)
    session.remark("throughput of uploads / axum reading the same", result.ratio(OURS, "axum", "rate"), " x")
    session.remark("memory that four uploads of 100 MiB add, at most", result.median(OURS, "grown_mib"), " MiB")


def transfer(session, server, action, target, seconds=None):
    """One sample; a client that began a body ends it. Memory is watched meanwhile, for a body must not be held."""
    before, memory = server.cpu(), server.pss_mib()
    client = process.spawn(
        [sys.executable, HERE / "stream.py", action, server.port, target, CLIENTS, seconds or session.seconds, SIZE],
        session.cores.client, subprocess.PIPE, text=True,
    )
    most, done = [memory], threading.Event()

    def watch():
        while not done.wait(0.2):
            most[0] = max(most[0], server.pss_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        printed, _ = client.communicate(timeout=session.seconds + 120)
    except BaseException:
        process.stop(client)
        raise
    finally:
        done.set()
        watcher.join()
    cpu = server.cpu() - before
    if client.returncode:
        raise Broken(f"the bulk client failed with {server.name}:\n{printed}")
    found = json.loads(printed)
    if found["failures"] or not found["bytes"]:
        raise Broken(f"{server.name} failed a transfer: {found['failures']}")
    gib = found["bytes"] / 2**30
    return {
        "rate": gib / found["seconds"], "cpu_ms_per_gib": cpu * 1000 / gib, "busy": cpu / found["seconds"],
        "grown_mib": most[0] - memory,
    }


def show(found):
    return f"{found['rate']:8.2f} GiB/s  {found['cpu_ms_per_gib']:.0f} ms CPU per GiB, {found['grown_mib']:.1f} MiB more memory"
