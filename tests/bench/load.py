"""Load by wrk: takes a server's port, a number of connections and a time; gives requests, rate and latencies. Failed
requests are an error, not a figure."""

import json
import subprocess
import time
from pathlib import Path

import process
from contender import Broken

SCRIPT = Path(__file__).with_name("report.lua")


class Wrk:
    """One run under way; `result` waits for its end. It keeps its connections alive unless told to close them."""

    def __init__(self, port, connections, seconds, cores, target="/", close=False, threads=1, script=SCRIPT):
        command = [
            "wrk", "--threads", min(threads, connections), "--connections", connections, "--duration", f"{seconds}s",
            "--timeout", "10s", "--latency", "--script", script, f"http://127.0.0.1:{port}{target}",
        ]
        if close:
            command += ["--header", "Connection: close"]
        self.what = f"{connections} connections to {target}"
        self.process = process.spawn(command, cores, subprocess.PIPE, text=True)

    def result(self):
        try:
            printed, _ = self.process.communicate()
        except BaseException:
            process.stop(self.process)
            raise
        line = next((line for line in printed.splitlines() if line.startswith("REPORT ")), None)
        if self.process.returncode or not line:
            raise Broken(f"wrk with {self.what} failed:\n{printed}")
        found = json.loads(line.removeprefix("REPORT "))
        wrong = found["failed"] + found["refused"] + found["status"]
        # Not a single answer, or more than one in ten thousand that is missing.
        if not found["requests"] or wrong > found["requests"] / 10_000:
            raise Broken(f"wrk with {self.what}: requests failed:\n{printed}")
        found["rate"] = found["requests"] / (found["duration_us"] / 1e6)
        return found


def hammer(contender, connections, seconds, cores, close=False, target="/", threads=1, script=SCRIPT):
    """One sample: rate, latencies, CPU per request of the whole tree, and how busy a core was."""
    before, start = contender.cpu(), time.monotonic()
    found = Wrk(contender.port, connections, seconds, cores, target, close, threads, script).result()
    cpu, took = contender.cpu() - before, time.monotonic() - start
    return {
        "cpu_us": cpu * 1e6 / found["requests"], "rate": found["rate"], "busy": cpu / took,
        "p50_us": found["p50"], "p90_us": found["p90"], "p99_us": found["p99"], "p99.9_us": found["p99.9"],
        "max_us": found["max"], "requests": found["requests"], "failed": found["failed"],
    }
