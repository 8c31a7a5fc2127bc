"""Start, reload and idle memory of ten workers on two cores."""

import datetime
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time

import process
from contender import Broken, Contender
from field import OURS
from load import Wrk
from result import Result
from session import peer

NAME = "lifecycle"
TITLE = "ten workers on two cores: start, reload under load, idle memory"
WORKERS = 10
PHASES = {
    "listen_ms": "from the start until it listens", "module_ms": "until the module is read, sealed and tried",
    "fork_ms": "until the last worker is ready",
}
KINDS = {
    "anon_mib": ("Pss_Anon", "anonymous: heaps and stacks"), "file_mib": ("Pss_File", "mapped files: binary and libraries"),
    "shmem_mib": ("Pss_Shmem", "shared memory: module image and scoreboard"),
}


def run(session):
    result = Result(NAME, NAME, TITLE)
    rounds = session.rounds
    for number in range(rounds):
        found = start(session)
        recipe = session.field.ours(workers=WORKERS)
        server = Contender(recipe, session.cores.pair)
        try:
            found |= memory(server) | reload(session, server)
        finally:
            server.stop()
        result.add(server, found)
        session.tell(f"round {number + 1}/{rounds}  ready in {found['start_ms']:.0f} ms, reload in {found['reload_ms']:.0f} ms, "
                     f"{found['worker_mib']:.2f} MiB per idle worker, {found['tree_mib']:.1f} MiB in all")
    session.results.append(result)
    session.expect("10 workers ready", result.median(OURS, "start_ms"), " ms", "<=", 100)
    for key, phase in PHASES.items():
        session.remark(f"of it, {phase}", result.median(OURS, key), " ms")
    session.expect("reload of 10 workers under load", result.median(OURS, "reload_ms"), " ms", "<=", 500)
    session.expect("requests lost by the reloads", sum(each["failed"] for each in result.contenders[OURS]["samples"]), "", "<=", 0)
    session.expect("PSS per idle worker", result.median(OURS, "worker_mib"), " MiB", "<=", 1.5)
    for key, (_, kind) in KINDS.items():
        session.remark(f"of it, {kind}", result.median(OURS, key), " MiB")
    session.remark("PSS of the idle tree of 10 workers", result.median(OURS, "tree_mib"), " MiB")
    session.remark("threads of an idle worker", result.median(OURS, "worker_threads"), "")
    with session.running([peer("nginx", lambda: session.field.nginx(workers=WORKERS))], session.cores.pair) as servers:
        for nginx in servers:
            session.remark("PSS of nginx's idle tree with 10 workers", nginx.pss_mib(), " MiB")


def start(session):
    """From the fork of the master to its READY=1 (sd_notify(3)), which it sends when every worker is ready."""
    recipe = session.field.ours(workers=WORKERS, told=True)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"{folder}/notify")
        heard.settimeout(20)
        begin, clock = time.monotonic(), time.time()
        master = process.spawn(recipe.commands[0], session.cores.pair, env=os.environ | {"NOTIFY_SOCKET": f"{folder}/notify"})
        try:
            while b"READY=1" not in heard.recv(65536).split(b"\n"):
                pass
            took = (time.monotonic() - begin) * 1000
            # The last line of the start may come after the notice.
            log = recipe.control.with_name("error.log")
            process.wait_until("the log tells the start", lambda: '"message":"ready: ' in log.read_text())
            return {"start_ms": took} | phases(log, clock)
        except TimeoutError as error:
            raise Broken(f"{OURS} with {WORKERS} workers was not ready in 20 s") from error
        finally:
            process.stop(master)


def phases(log, clock):
    """Where the time went, by the times of the master's own log lines."""
    ends = {}
    for line in log.read_text().splitlines():
        told = json.loads(line)
        moment = datetime.datetime.fromisoformat(told["time"].replace("Z", "+00:00")).timestamp()
        for key, words in (("listen_ms", "listening on "), ("module_ms", "module "), ("fork_ms", "ready: ")):
            if told["message"].startswith(words):
                ends[key] = moment
    if list(ends) != list(PHASES):
        raise Broken(f"the log does not tell the phases of the start: {log.read_text()}")
    starts = [clock, *ends.values()]
    # The log's times are cut to milliseconds: the first phase may seem to end a part of one early.
    return {key: max(0, (end - begin) * 1000) for (key, end), begin in zip(ends.items(), starts)}


def memory(server):
    workers = server.workers()
    # A worker that has just started still settles.
    time.sleep(0.5)
    rollups = [process.rollup(pid) for pid in workers]
    return {
        "worker_mib": statistics.mean(rollup.get("Pss", 0) for rollup in rollups) / 1024,
        "tree_mib": server.pss_mib(),
        **{key: statistics.mean(rollup.get(name, 0) for rollup in rollups) / 1024 for key, (name, _) in KINDS.items()},
        "worker_threads": statistics.mean(process.threads(pid) for pid in workers),
    }


def reload(session, server):
    """From the command to its answer, which comes when the last old worker is replaced, beside 64 connections."""
    load = Wrk(server.port, 64, 2 if session.quick else 3, session.cores.pair_client)
    try:
        time.sleep(1)
        begin = time.monotonic()
        command = [session.field.supplies.built("appserver"), "reload", "--json", "--control", server.control]
        done = subprocess.run(command, capture_output=True, text=True)
        took = (time.monotonic() - begin) * 1000
    finally:
        found = load.result()
    if done.returncode:
        raise Broken(f"the reload failed: {done.stdout}{done.stderr}")
    return {"reload_ms": took, "failed": found["failed"]}
