"""What the contenders are made of: takes the target folder; gives the binaries, building or installing what is missing
below target/bench. A peer that cannot be had is left out by name, with the reason; without wrk or the server itself there
is no bench."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Missing(Exception):
    """Something is not there; the sentence says what to do."""


class Supplies:
    """Every `need_…` gives a path, or raises Missing with the reason."""

    def __init__(self, binaries, store):
        self.binaries, self.store = binaries, store
        self.store.mkdir(parents=True, exist_ok=True)
        self.had = {}

    def prepare(self, tell):
        """Builds and installs all before the first measurement, so that nothing compiles beside one."""
        for make in (lambda: self.peer(""), lambda: self.python(""), self.symcall):
            try:
                make()
            except Missing as reason:
                tell(f"left out: {reason}")

    def once(self, name, make):
        """The outcome of `make` the first time, a reason not to be had included."""
        if name not in self.had:
            try:
                self.had[name] = make()
            except Missing as reason:
                self.had[name] = reason
        if isinstance(self.had[name], Missing):
            raise self.had[name]
        return self.had[name]

    def program(self, name, package):
        found = shutil.which(name, path=PATH)
        if not found:
            raise Missing(f"{name} is not installed: apt-get install {package}")
        return found

    def built(self, name):
        """A release build of this repository."""
        path = self.binaries / name
        if not path.exists():
            raise Missing(f"{path} is not there: `make bench` builds it, or name its folder with --bin")
        return path

    def peer(self, name):
        return self.once("peers", self.build_peers) / name

    def build_peers(self):
        target = self.store / "peers"
        if not (target / "release/peer-actix").exists():
            tell("building axum and actix-web")
        run([os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--quiet", "--manifest-path", HERE / "peers/Cargo.toml",
             "--target-dir", target], "cargo could not build tests/bench/peers")
        return target / "release"

    def python(self, name):
        """A command of the virtual environment that holds the WSGI servers."""
        return self.once("venv", self.build_venv) / name

    def build_venv(self):
        wanted = HERE / "peers/wsgi/requirements.txt"
        venv = self.store / "venv"
        mark = venv / "complete"
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
        if not mark.exists() or mark.read_text() != digest:
            tell("installing Gunicorn and Granian from PyPI")
            shutil.rmtree(venv, ignore_errors=True)
            run([sys.executable, "-m", "venv", venv],
                "python3 cannot make a virtual environment: apt-get install python3-venv")
            run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted],
                f"pip could not install {wanted.name}")
            mark.write_text(digest)
        return venv / "bin"

    def symcall(self):
        return self.once("symcall", self.build_symcall)

    def build_symcall(self):
        library = self.store / "symcall-hello.so"
        run(["gcc", "-O2", "-fPIC", "-shared", "-o", library, HERE / "peers/symcall/hello.c"],
            "gcc could not build the symcall handler")
        return library


def run(command, failure):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Missing(f"{failure}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Missing(f"{failure}: {' / '.join(last)}")


def tell(text):
    print(text, file=sys.stderr, flush=True)
