"""What a process does for each request, counted and not timed: takes a server and a kept-alive connection to it; gives system
calls by strace and heap allocations and instructions by callgrind, per request. Whoever else runs on the machine changes
little of it.

The server is warm when counting begins. What comes with the clock (a tick, a new Date) falls between the requests and adds
some hundredths to a count, so counts of events are rounded to a tenth."""

import collections
import re
import signal
import socket
import subprocess
from pathlib import Path

import process
from contender import Broken

WARM, TRACED = 500, 2000
# Callgrind writes down what it has by then after every slice. The leanest one counts: a thread that lost its core in the
# middle of a call only ever adds to what the request takes.
SLICES, SLICE = 6, 200
# wrk's head, so that these figures belong to those that are timed, and Firefox's.
PLAIN = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
BROWSER = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\n\r\n"
)
RECEIVE = {"read", "readv", "recvfrom", "recvmsg"}
SEND = {"write", "writev", "sendto", "sendmsg", "sendfile"}
POLL = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"}
# The guard of our own path: from the bytes of a head to its checked parts. It is kept out of line, so that callgrind sees it.
GUARD = "appserver::protocol::http::head::Head::parse"
ALLOCATE = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}


class Client:
    """One kept-alive connection. It is warm from the start."""

    def __init__(self, server):
        self.name = server.name
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask(WARM)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, times, head=PLAIN):
        """Requests one after the other; each is sent when the one before is answered."""
        for _ in range(times):
            self.socket.sendall(head)
            answer = b""
            while not answer.endswith(b"Hello, world!\n"):
                more = self.socket.recv(65536)
                if not more:
                    raise Broken(f"{self.name} closed a kept-alive connection after {answer!r}")
                answer += more


def system_calls(server, pid, cores, folder):
    """Of all threads of the process, by kind."""
    told = folder / "strace"
    with Client(server) as client:
        tracer = process.spawn(
            ["strace", "--follow-forks", "--summary-only", "--summary-columns=calls,name", "--output", told, "--attach", pid],
            cores, subprocess.PIPE, text=True,
        )
        try:
            process.wait_until("strace is attached", lambda: tracer.poll() is not None or traced(pid))
            client.ask(TRACED)
            # It lets go of the process and writes its summary.
            tracer.send_signal(signal.SIGINT)
            printed, _ = tracer.communicate(timeout=10)
        finally:
            process.stop(tracer)
    if not told.exists():
        raise Broken(f"strace counted nothing: {' '.join(printed.split())}")
    found = collections.Counter()
    for line in told.read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[0].isdigit() and words[1] != "total":
            kinds = {"receive": RECEIVE, "send": SEND, "poll": POLL}
            found[next((kind for kind, names in kinds.items() if words[1] in names), "other")] += int(words[0])
    return {kind: round(found[kind] / TRACED, 1) for kind in ("receive", "send", "other", "poll")}


def traced(pid):
    """Whether all of its threads have a tracer."""
    states = [Path(f"/proc/{pid}/task/{thread}/status").read_text() for thread in process.listing(f"/proc/{pid}/task")]
    return bool(states) and all("\nTracerPid:\t0\n" not in state for state in states)


def under_callgrind(recipe, folder):
    """The recipe, with all of its processes under callgrind."""
    recipe.commands = [
        ["valgrind", "--quiet", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/callgrind.%p", *command]
        for command in recipe.commands
    ]
    return recipe


def instructions(server, pid, folder):
    """User instructions and heap allocations of a request, of a server under callgrind; and of one with a browser's headers. Of
    a server of ours the instructions of the guard too."""
    found, written = {}, 1
    with Client(server) as client:
        # What was counted until here is the start's and the first requests'.
        dump(pid)
        for prefix, head in (("", PLAIN), ("browser_", BROWSER)):
            slices = []
            for _ in range(SLICES):
                client.ask(SLICE, head)
                dump(pid)
                written += 1
                slices.append(read(folder / f"callgrind.{pid}.{written}"))
            executed, allocations, guard = min(slices)
            found |= {f"{prefix}instructions": executed / SLICE, f"{prefix}allocations": round(allocations / SLICE, 1)}
            if guard:
                found[f"{prefix}guard"] = guard / SLICE
    return found


def dump(pid):
    """Has callgrind write down what it counted since the last time, and count from zero."""
    done = subprocess.run(["vgdb", f"--pid={pid}", "dump"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if done.returncode:
        raise Broken(f"callgrind does not answer: {' '.join(done.stderr.split())}")


def read(path):
    """Instructions, calls of the allocator that do not come from itself, and the guard's instructions with all that it calls. The
    format is callgrind's own: a function is `fn=(number) name`, the name only the first time; `cfn=` is one that it calls, and
    `calls=` says how often; every other line ends with a cost, which is the callee's in the line behind `calls=`."""
    names, caller, called, total, allocations, guard = {}, "", "", None, 0, 0
    for line in path.read_text().splitlines():
        found = re.match(r"(c?fn)=\((\d+)\)(?: (.+))?", line)
        if found:
            kind, number, name = found.groups()
            if name:
                # A recursion's second level has a mark: malloc'2.
                names[number] = name.split("'")[0]
            if kind == "fn":
                caller = names[number]
            else:
                called = names[number]
        elif line.startswith("calls=") and called in ALLOCATE and caller not in ALLOCATE:
            allocations += int(line.removeprefix("calls=").split()[0])
        elif line.startswith(("summary:", "totals:")):
            total = int(line.split()[1])
        elif caller == GUARD and re.match(r"[-+*\d]\S* \d+$", line):
            guard += int(line.split()[1])
    if total is None:
        raise Broken(f"callgrind left no total in {path}")
    return total, allocations, guard
