"""The command: takes options; runs the works, then writes bench.json, table.md and the plots, and prints the table."""

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import machine
import plots
import table
import works
from field import Field
from session import Session
from supplies import Missing, Supplies

# Rounds and seconds of a full and of a quick run, and the works that a quick run leaves to the full one.
FULL, QUICK = (9, 3, 3), (3, 1, 1)
NOT_QUICK = ("connections", "workers")
# The plots that stand in the README.
PUBLISHED = ("connections", "workers", "balance")


def main():
    options = read_line()
    if options.list:
        for work in works.ALL:
            print(f"{work.NAME:<13}{work.TITLE}")
        return
    if options.redraw:
        data = json.loads(options.redraw.read_text())
        write(data, options.out)
        if options.publish:
            publish(data, options.publish)
        return
    # A bench that is told to end ends its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        data = measure(options)
    except Missing as reason:
        raise SystemExit(f"bench: {reason}") from reason
    except KeyboardInterrupt:
        raise SystemExit("bench: interrupted; the servers are stopped") from None
    write(data, options.out)
    if data["failed"]:
        raise SystemExit(f"bench: these works failed: {', '.join(data['failed'])}")
    missed = [figure["text"] for figure in data["figures"] if figure.get("ok") is False]
    if options.strict and missed:
        raise SystemExit(f"bench: {len(missed)} figures miss what is expected: {'; '.join(missed)}")


def read_line():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="Measures appserver against the field.")
    names = [work.NAME for work in works.ALL]
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="folder of the release binaries")
    parser.add_argument("--out", type=Path, default=Path("target/bench"), help="where figures, table and plots go")
    parser.add_argument("--quick", action="store_true", help="the main ratios in under three minutes, and less exact")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}; may be repeated")
    parser.add_argument("--rounds", type=int, help=f"rounds of each work [default: {FULL[0]}; quick: {QUICK[0]}]")
    parser.add_argument("--seconds", type=int, help=f"of each measurement [default: {FULL[1]}; quick: {QUICK[1]}]")
    parser.add_argument("--strict", action="store_true", help="fail when a figure misses what is expected")
    parser.add_argument("--list", action="store_true", help="tell the works and leave")
    parser.add_argument("--redraw", type=Path, metavar="JSON", help="measure nothing; make table and plots of a bench.json")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="with --redraw: also put the short table and three plots there")
    options = parser.parse_args()
    if options.publish and not options.redraw:
        parser.error("--publish shows a run that is over: name its bench.json with --redraw")
    return options


def measure(options):
    """Plays every chosen work; a scratch folder holds what the servers write."""
    rounds, seconds, sweeps = QUICK if options.quick else FULL
    chosen = [
        work for work in works.ALL
        if (work.NAME in options.only if options.only else not (options.quick and work.NAME in NOT_QUICK))
    ]
    machine.allow_many_descriptors()
    description, started = machine.describe(), time.monotonic()
    if description["load_before"] > 0.5:
        tell(f"this machine does something else (load {description['load_before']:g}): do not trust the figures")
    binaries = options.bin.resolve()
    # Beside the server's own build, wherever the figures go.
    supplies = Supplies(binaries, binaries.parent / "bench")
    for name, package in (("wrk", "wrk"), ("gcc", "gcc")):
        supplies.program(name, package)
    for name in ("appserver", "libhello.so", "liblab.so"):
        supplies.built(name)
    supplies.prepare(tell)
    with tempfile.TemporaryDirectory(prefix="appserver-bench-") as folder:
        session = Session(Field(supplies, folder), machine.Cores(), options.rounds or rounds, options.seconds or seconds,
                          sweeps if options.rounds is None else rounds_of_sweeps(options, sweeps), options.quick)
        for number, work in enumerate(chosen, 1):
            session.play(work, number, len(chosen))
    return {
        "date": machine.today(), "commit": machine.commit(), "command": command(options),
        "quick": options.quick, "rounds": session.rounds, "seconds": session.seconds, "machine": description,
        "cores": session.cores.describe(), "took_seconds": round(time.monotonic() - started),
        "results": [result.as_data() for result in session.results], "figures": session.figures,
        "left_out": session.left_out, "failed": session.failed,
    }


def rounds_of_sweeps(options, sweeps):
    """More rounds than usual would make a whole run endless, but works that were chosen have as many as were asked for."""
    return options.rounds if options.only else min(options.rounds, sweeps)


def command(options):
    """What a reader types to have the same measured, whatever folders were named here."""
    chosen = [word for name in options.only or () for word in ("--only", name)]
    for name in ("rounds", "seconds"):
        value = getattr(options, name)
        if value is not None:
            chosen += [f"--{name}", str(value)]
    make = "make bench-quick" if options.quick else "make bench"
    return make + (f' BENCH_ARGS="{shlex.join(chosen)}"' if chosen else "")


def publish(data, folder):
    """What the README shows: the short table and three plots, always the same files."""
    lacking = [name for name in PUBLISHED if not any(name == result["name"] for result in data["results"])]
    if lacking or data["quick"] or data["failed"]:
        reason = "a quick run" if data["quick"] else f"a run without {', '.join([*lacking, *data['failed']])}"
        raise SystemExit(f"bench: {reason} is not published: run `make bench` to its end")
    folder.mkdir(parents=True, exist_ok=True)
    shown = [result for result in data["results"] if result["name"] in PUBLISHED]
    plots.draw(data | {"results": shown}, folder)
    (folder / "table.md").write_text(table.short(data))
    print(f"published {', '.join(str(folder / name) for name in ['table.md', *(f'{name}.svg' for name in PUBLISHED)])}")


def write(data, out):
    out.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(data, out)
    (out / "bench.json").write_text(json.dumps(data, indent=1) + "\n")
    (out / "table.md").write_text(table.markdown(data))
    width = shutil.get_terminal_size((120, 40)).columns
    print(table.text(data, max(100, min(width, 140))))
    print(f"wrote {', '.join(str(out / name) for name in ['bench.json', 'table.md', *drawn])}")


def tell(text):
    print(text, file=sys.stderr, flush=True)
