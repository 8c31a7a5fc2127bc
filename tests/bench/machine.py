"""The machine under the bench: takes what the kernel tells of it; gives which cores the servers and the clients get, and
a description that stands beside the figures."""

import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Cores:
    """Who runs where. `server` and `client` are one core each; `pair` are the two cores of the works that need both,
    and `pair_client` is what their clients run on: other cores where there are any."""

    def __init__(self):
        cores = sorted(os.sched_getaffinity(0))
        self.count = len(cores)
        # The second core: interrupts and the machine's own chores prefer the first.
        self.server = {cores[min(1, len(cores) - 1)]}
        self.client = {cores[0]}
        self.pair = set(cores[:2])
        self.pair_client = set(cores[2:4]) or self.pair
        if self.server == self.client:
            print("one core only: servers and clients share it, and the throughput says little", file=sys.stderr)

    def describe(self):
        return {
            "server": sorted(self.server), "client": sorted(self.client), "pair": sorted(self.pair),
            "pair_client": sorted(self.pair_client),
        }


def describe():
    """What a reader must know to compare figures: they hold for one machine."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": system_name(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def system_name():
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return platform.system()
    return next((line.split("=", 1)[1].strip('"') for line in lines if line.startswith("PRETTY_NAME=")), "Linux")


def commit():
    """The commit that is measured, with a mark when the tree differs from it."""
    git = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True
    )
    return git.stdout.strip() or "unknown"


def today():
    return time.strftime("%Y-%m-%d")


def allow_many_descriptors():
    """A thousand connections and their servers need more than the usual 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536) if most != resource.RLIM_INFINITY else 65536, most))
