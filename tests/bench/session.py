"""One run of the bench: takes the field, the cores and how many rounds; plays contenders against each other in interleaved
rounds and keeps every sample, every figure with what was expected of it, and who was left out and why."""

import contextlib
import subprocess
import sys
import time

from contender import Broken, Contender
from field import OURS
from result import Result, verdict
from supplies import Missing
from table import number


class Session:
    def __init__(self, field, cores, rounds, seconds, sweeps, quick):
        self.field, self.cores = field, cores
        # `sweeps` are the rounds of the works that measure many points and feed a plot.
        self.rounds, self.seconds, self.sweeps, self.quick = rounds, seconds, sweeps, quick
        self.results, self.figures, self.left_out, self.failed = [], [], {}, {}
        self.work, self.place, self.started = "", "", time.monotonic()

    def begin(self, work, number, count):
        self.work, self.place = work.NAME, f"{number}/{count} {work.NAME}"
        self.tell(work.TITLE)

    def play(self, work, number, count):
        """One work. When the server under test fails in it, the others are still worth having."""
        self.begin(work, number, count)
        try:
            work.run(self)
        except (Broken, OSError, subprocess.SubprocessError) as reason:
            self.failed[work.NAME] = str(reason)
            self.tell(f"failed: {reason}")

    def tell(self, text):
        took = int(time.monotonic() - self.started)
        print(f"{took // 60:3d}:{took % 60:02d} [{self.place}] {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def running(self, recipes, cores=None):
        """Starts the contenders that can be had; whatever happens, all are stopped. Each recipe is a function, for to
        write one down may already show that something is missing."""
        servers = []
        try:
            for recipe in recipes:
                server = self.start(recipe, cores or self.cores.server)
                if server:
                    servers.append(server)
            yield servers
        finally:
            for server in servers:
                server.stop()

    def start(self, recipe, cores):
        try:
            made = recipe()
        except Missing as reason:
            name = getattr(recipe, "peer", "a peer")
            if name == OURS:
                raise
            self.leave_out(name, reason)
            return None
        try:
            return Contender(made, cores)
        except Broken as reason:
            if made.name.startswith(OURS):
                raise
            self.leave_out(made.name, reason)
            return None

    def leave_out(self, name, reason):
        if name not in self.left_out:
            self.left_out[name] = str(reason)
            self.tell(f"without {name}: {reason}")

    def contend(self, name, setting, recipes, sample, show, rounds=None, cores=None, warm=None):
        """Interleaved rounds: each measures every contender once, the order moving on by one each time, so that a noisy
        moment falls on all. `sample` gives a dictionary of numbers, `show` a few words about it."""
        rounds = rounds or self.rounds
        result = Result(self.work, name, setting)
        with self.running(recipes, cores) as servers:
            for server in list(servers):
                self.attempt(servers, server, result, warm or sample)
                result.drop_samples()
            for number in range(rounds):
                turn = number % max(1, len(servers))
                for server in servers[turn:] + servers[:turn]:
                    found = self.attempt(servers, server, result, sample)
                    if found:
                        self.tell(f"round {number + 1}/{rounds}  {server.name:<20} {show(found)}")
        self.results.append(result)
        return result

    def weigh(self, result, recipes, load):
        """Memory after some load, each contender alone: pages shared with another instance would be counted by half."""
        for recipe in recipes:
            with self.running([recipe]) as servers:
                for server in servers:
                    if server.name in result.contenders:
                        load(server)
                        result.contenders[server.name]["pss_mib"] = server.pss_mib()
                        self.tell(f"memory  {server.name:<20} {server.pss_mib():8.1f} MiB")

    def attempt(self, servers, server, result, sample):
        """A sample, or nothing: a peer that fails leaves the round, the server under test must not."""
        try:
            found = sample(server)
        except (Broken, OSError) as reason:
            if server.name.startswith(OURS):
                raise
            self.leave_out(server.name, reason)
            servers.remove(server)
            server.stop()
            result.contenders.pop(server.name, None)
            return None
        result.add(server, found)
        return found

    def expect(self, text, value, unit, sign, bound, note=""):
        """A figure with what the issue expects of it: `sign` is <= or >=. A value that could not be had is told as such."""
        if value is None:
            return
        good = value <= bound if sign == "<=" else value >= bound
        figure = {
            "work": self.work, "text": text, "value": value, "unit": unit, "sign": sign, "bound": bound, "ok": good,
            "note": note,
        }
        self.figures.append(figure)
        self.tell(f"{text}: {number(value)}{unit} (expected {sign} {bound:g}{unit}): {verdict(figure)}")

    def remark(self, text, value, unit, note=""):
        """A figure of which nothing was expected beforehand."""
        if value is not None:
            self.figures.append({"work": self.work, "text": text, "value": value, "unit": unit, "note": note})
            self.tell(f"{text}: {number(value)}{unit}")


def peer(name, recipe):
    """A recipe with a name, for the case that it cannot even be written down."""

    def make():
        return recipe()

    make.peer = name
    return make
