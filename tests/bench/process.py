"""Processes as /proc shows them: takes pids; gives trees, CPU time, memory and context switches, and ends what was
started. It never ends a process by name."""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def spawn(command, cores, output=subprocess.DEVNULL, **more):
    """Starts a process pinned to these cores. It is out of reach of the terminal's Ctrl-C, so that the bench ends it in
    order, and it is told to stop when the bench is killed."""

    def prepare():
        os.sched_setaffinity(0, cores)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        start_new_session=True, preexec_fn=prepare, **more,
    )


def stop(process, patience=10):
    """TERM, then KILL for it and all that is left below it."""
    below = tree(process.pid)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        below = tree(process.pid)
        process.kill()
        process.wait()
    for pid in below[1:]:
        if parent(pid) is not None and session(pid) == process.pid:
            kill(pid)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def tree(pid):
    """A process and all below it, parents first."""
    below = []
    for thread in listing(f"/proc/{pid}/task"):
        try:
            below += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            pass
    return [pid] + [each for child in below for each in tree(int(child))]


def cpu_seconds(pids):
    """User and system time of these processes and of their children that have ended."""
    return sum(sum(int(field) for field in stat(pid)[11:15]) for pid in pids) / TICKS


def stat(pid):
    """The fields of proc_pid_stat(5) from the third on; utime stime cutime cstime are 14 to 17."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["0"] * 50


def parent(pid):
    fields = stat(pid)
    return int(fields[1]) or None


def session(pid):
    return int(stat(pid)[3])


def pss_kib(pid):
    """Its share of memory: pages shared with others are divided among them."""
    return rollup(pid).get("Pss", 0)


def rollup(pid):
    """All of smaps_rollup, in KiB: Pss and what it consists of, Pss_Anon, Pss_File and Pss_Shmem."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines)}


def switches(pids):
    """Context switches of all threads of these processes, voluntary or not."""
    total = 0
    for pid in pids:
        for thread in listing(f"/proc/{pid}/task"):
            try:
                lines = Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return total


def threads(pid):
    return len(listing(f"/proc/{pid}/task"))


def sockets(pid):
    """How many sockets a process has open."""
    count = 0
    for number in listing(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:")
        except OSError:
            pass
    return count


def listing(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []


def wait_until(what, condition, patience=15):
    """Waits for a condition and gives what it gave."""
    end = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"in vain for {patience} s: {what}")
        time.sleep(0.01)
