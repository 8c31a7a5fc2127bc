"""One contender: takes a recipe (commands, where it will listen, a sentence about it); gives a running server that has
answered, its CPU time and its memory. It measures nothing itself."""

import re
import socket
import tempfile
import time

import process

HELLO = re.compile(rb"\r\n\r\nHello, world!( \(lab [^)]+\))?\n\Z")


class Broken(Exception):
    """A contender or a client did not do its part; says what it printed."""


class Recipe:
    """How to start a contender. `commands` are started in turn; all of them are its tree. `note` is one sentence on what
    it does more or less than appserver."""

    def __init__(self, name, note, commands, port, env=None, keeps_alive=True, control=None):
        self.name, self.note, self.commands, self.port = name, note, commands, port
        self.env, self.keeps_alive, self.control = env, keeps_alive, control


class Contender:
    """A server that was started once and is measured many times."""

    def __init__(self, recipe, cores):
        self.name, self.note, self.port = recipe.name, recipe.note, recipe.port
        self.keeps_alive, self.control = recipe.keeps_alive, recipe.control
        self.output = tempfile.TemporaryFile()
        self.processes = []
        try:
            for command in recipe.commands:
                self.processes.append(process.spawn(command, cores, self.output, env=recipe.env))
            self.wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def wait_until_it_answers(self):
        end = time.monotonic() + 20
        while True:
            try:
                answer = get(self.port, "/")
                # The lab tells its version behind the words; all others send these bytes and no more.
                if answer.startswith(b"HTTP/1.1 200") and HELLO.search(answer):
                    return
                # 502: nginx is there before the server behind it.
                if not answer.startswith(b"HTTP/1.1 502") or time.monotonic() > end:
                    raise Broken(f"{self.name} answers something else: {answer!r}")
            except OSError as error:
                ended = any(each.poll() is not None for each in self.processes)
                if ended or time.monotonic() > end:
                    raise Broken(f"{self.name} does not answer ({error}):\n{self.printed()}") from error
            time.sleep(0.02)

    def printed(self):
        self.output.seek(0)
        return self.output.read().decode(errors="replace").strip()

    def pids(self):
        return [pid for each in self.processes for pid in process.tree(each.pid)]

    def workers(self):
        """The children that serve: of appserver those it calls workers, of the others all."""
        pids = process.tree(self.processes[-1].pid)[1:]
        return [pid for pid in pids if "monitor" not in title(pid)]

    def cpu(self):
        return process.cpu_seconds(self.pids())

    def pss_mib(self):
        return sum(process.pss_kib(pid) for pid in self.pids()) / 1024

    def stop(self):
        # The one in front first, so that it reports no dead upstream.
        for each in reversed(self.processes):
            process.stop(each)
        self.output.close()


def title(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def get(port, target):
    """One answer on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
