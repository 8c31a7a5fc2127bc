"""The field: takes the supplies and a scratch folder; gives the recipe of each contender, with one sentence on what it
does more or less than appserver. All answer `/` with `Hello, world!` and a newline, as text/plain."""

import json
import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import nginx
from contender import Recipe, free_port
from supplies import HERE

OURS = "appserver"


class Field:
    def __init__(self, supplies, folder):
        self.supplies, self.folder = supplies, Path(folder)
        self.made = 0

    def scratch(self):
        self.made += 1
        folder = self.folder / str(self.made)
        folder.mkdir()
        return folder

    def ours(self, name=OURS, workers=1, module="hello", access=None, threads=None, dispatch=None, bind=None, told=False,
             boot=None, more=""):
        """`bind` replaces the TCP address, for a server that stands behind nginx; `told` has the master log what it does,
        with times, into `error.log`; `boot` is how long a worker may take to start; `more` stands at the end of its configuration."""
        folder, port = self.scratch(), free_port()
        library = self.supplies.built(f"lib{module}.so")
        settings = [f"workers = {workers}", "[control]", f'socket = "{folder}/control.sock"', "[log]", 'level = "warn"']
        if told:
            settings[-1:] = ['level = "info"', 'format = "json"', f'file = "{folder}/error.log"']
        if access:
            settings += [f'access = "{folder}/access.log"', f'access-format = "{access}"']
        if boot:
            settings += ["[timeouts]", f'boot = "{boot}"']
        settings += ["[[listener]]", f'bind = "{bind or f"127.0.0.1:{port}"}"']
        settings += ["[[mount]]", f'module = "{library}"']
        if dispatch:
            settings.append(f'dispatch = "{dispatch}"')
        if threads:
            settings.insert(0, f"threads = {threads}")
        config = folder / "appserver.toml"
        config.write_text("\n".join(settings) + f"\n{more}")
        command = [self.supplies.built("appserver"), "--config", config]
        notes = {
            None: "the server under test: limits, timeouts, counters and the handler in a shared library behind a C ABI.",
            "combined": "the same with an access log to a file, one line a request in the combined format.",
            "json": "the same with an access log to a file, one JSON object a request.",
        }
        note = f"the same with `dispatch = \"{dispatch}\"`." if dispatch else notes[access]
        return Recipe(name, note, [command], port, control=folder / "control.sock")

    def status(self, server):
        """What a server of ours tells of itself."""
        command = [self.supplies.built("appserver"), "status", "--json", "--control", server.control]
        answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return answer.get("status", answer)

    def bare_hyper(self):
        port = free_port()
        note = ("less: hyper and tokio alone in one process with one thread; no limits, timeouts, log or supervision, "
                "and the handler is compiled in.")
        return Recipe("bare hyper", note, [[self.supplies.built("bare-hyper"), port]], port)

    def axum(self):
        port = free_port()
        note = ("less: a framework on hyper with the handler compiled in, one thread; a router, but no limits, timeouts, "
                "log or supervision.")
        return Recipe("axum", note, [[self.supplies.peer("peer-axum"), port]], port)

    def actix(self):
        port = free_port()
        note = ("less: a framework with an HTTP engine of its own and the handler compiled in, one worker thread; "
                "timeouts and a router, but no log or supervision.")
        return Recipe("actix-web", note, [[self.supplies.peer("peer-actix"), port]], port)

    def nginx(self, workers=1, files=None):
        port = free_port()
        note = "less: `return 200` from its configuration, no application is called; it supervises its workers as we do."
        return Recipe("nginx", note, [self.nginx_command(nginx.config(self.scratch(), port, workers, files))], port)

    def nginx_command(self, config):
        program = self.supplies.once("nginx", lambda: self.supplies.program("nginx", "nginx-light"))
        return [program, "-e", config.parent / "error.log", "-p", config.parent, "-c", config]

    def proxied(self, name="nginx + appserver", module="hello"):
        folder = self.scratch()
        behind = self.ours(module=module, bind=f"unix:{folder}/app.sock")
        port = free_port()
        config = nginx.config(folder, port, upstream=f"{folder}/app.sock")
        note = "more: nginx proxies each request to appserver over kept-alive Unix connections; both are counted."
        return Recipe(name, note, [behind.commands[0], self.nginx_command(config)], port)

    def nginx_cache(self, size):
        """Pages from nginx's own cache, whose files lie in memory; ours makes what is missing."""
        folder, port = self.scratch(), free_port()
        behind = self.ours(module="lab", bind=f"unix:{folder}/app.sock")
        stored = Path(tempfile.mkdtemp(prefix="appserver-bench-cache-", dir="/dev/shm"))
        weakref.finalize(self, shutil.rmtree, stored, ignore_errors=True)
        config = nginx.config(folder, port, upstream=f"{folder}/app.sock", cache=(stored, size))
        note = ("more: it revalidates by files, here in memory; appserver behind it makes what is missing; both are counted. "
                "Its open_file_cache is on.")
        return Recipe("nginx proxy_cache", note, [behind.commands[0], self.nginx_command(config)], port, control=behind.control)

    def varnish(self, size):
        """Pages from Varnish's memory; ours makes what is missing."""
        folder, port = self.scratch(), free_port()
        behind = self.ours(module="lab")
        program = self.supplies.once("varnish", lambda: self.supplies.program("varnishd", "varnish"))
        bytes_ = size.replace("MiB", "m")
        command = [
            program, "-F", "-n", folder / "varnish", "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{behind.port}", "-T", "none",
            "-s", f"default=malloc,{bytes_}", "-p", "thread_pools=1", "-p", "thread_pool_min=100", "-p", "timeout_idle=75",
            "-p", "vsl_reclen=200",
        ]
        note = ("more: its configuration is a program, and it logs to shared memory, which cannot be turned off; appserver behind it makes "
                "what is missing; both are counted.")
        return Recipe("Varnish", note, [behind.commands[0], command], port, control=behind.control)

    def uwsgi_cache(self):
        """One page from uWSGI's cache."""
        folder, port = self.scratch(), free_port()
        program = self.supplies.once("uwsgi", lambda: self.supplies.program("uwsgi-core", "uwsgi-core"))
        page = folder / "page"
        page.write_text("Hello, world!\n")
        command = [
            program, "--plugin", "router_cache", "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "1", "--disable-logging",
            "--cache2", "name=pages,items=100,blocksize=65536", "--load-file-in-cache", page, "--route-run",
            "addheader:Connection: close", "--route-run", f"cache:key={page},name=pages,content_type=text/plain", "--die-on-term",
        ]
        note = "less: it keeps bodies alone, checks little of HTTP, and takes a connection for each request."
        return Recipe("uWSGI cache router", note, [command], port, keeps_alive=False)

    def uwsgi(self, processes=1, threads=None):
        port = free_port()
        program = self.supplies.once("uwsgi", lambda: self.supplies.program("uwsgi-core", "uwsgi-core"))
        backlog = min(1024, int(Path("/proc/sys/net/core/somaxconn").read_text()))
        command = [
            program, "--plugin", "symcall,http", "--dlopen", self.supplies.symcall(), "--symcall", "hello",
            "--http-socket", f"127.0.0.1:{port}", "--http-socket-modifier1", "18", "--master", "--processes", processes,
            "--disable-logging", "--listen", backlog, "--die-on-term",
        ]
        if threads:
            command += ["--threads", threads]
        # http11-socket keeps alive, but a process then serves one connection until it ends; it costs twice as much a request too.
        note = ("less: a C function in a shared library, as ours, but its http-socket (its best mode: http11-socket keeps "
                "alive, one connection at a time) takes a connection per request and one request at a time per thread, "
                "checks little of HTTP and sends no Date.")
        return Recipe("uWSGI symcall", note, [command], port, keeps_alive=False)

    def gunicorn(self, kind, threads=4):
        port = free_port()
        command = [
            self.supplies.python("gunicorn"), "--bind", f"127.0.0.1:{port}", "--workers", "1", "--worker-class", kind,
            "--log-level", "warning", "--backlog", "1024",
        ]
        if kind == "gthread":
            command += ["--threads", threads, "--keep-alive", "75"]
            note = (f"more: it runs a Python application (WSGI) where we call a function, on {threads} threads of one worker, kept "
                    "alive; it supervises its workers as we do.")
        else:
            note = ("more: it runs a Python application (WSGI) where we call a function; less: one request at a time and a "
                    "connection per request. It supervises its workers as we do.")
        command.append("hello:app")
        return Recipe(f"Gunicorn {kind}", note, [command], port, self.python_path(), kind == "gthread")

    def granian(self, threads=1):
        port = free_port()
        command = [
            self.supplies.python("granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", port, "--workers", "1",
            "--http", "1", "--no-ws", "--blocking-threads", threads, "--backlog", "1024", "--log-level", "warning",
            "hello:app",
        ]
        note = ("more: it runs a Python application (WSGI) where we call a function, behind hyper in Rust; it supervises its "
                "workers as we do.")
        return Recipe("Granian WSGI", note, [command], port, self.python_path())

    def python_path(self):
        return os.environ | {"PYTHONPATH": str(HERE / "peers/wsgi"), "PYTHONDONTWRITEBYTECODE": "1"}
