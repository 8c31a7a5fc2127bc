"""The request path of hello on one warm connection, counted: what a request costs in system calls, heap allocations and user
instructions. These figures hold on a busy machine too, and a single round tells them."""

import counts
from contender import Contender
from field import OURS
from result import Result
from supplies import Missing

NAME = "path"
TITLE = "a hello on one warm kept-alive connection, one worker: counted by strace and callgrind, not timed"
INLINE = f"{OURS} inline"
ATTEMPTS = 3
TOOLS = (("strace", "strace"), ("valgrind", "valgrind"), ("vgdb", "valgrind"))


def run(session):
    try:
        for program, package in TOOLS:
            session.field.supplies.program(program, package)
    except Missing as reason:
        session.leave_out(NAME, reason)
        return
    field, result = session.field, Result(NAME, NAME, TITLE)
    # Under callgrind a start takes seconds.
    recipes = {
        INLINE: lambda: field.ours(INLINE, dispatch="inline", boot="60s"), OURS: lambda: field.ours(boot="60s"),
        "bare hyper": field.bare_hyper,
    }
    if not session.quick:
        recipes["nginx"] = field.nginx
    for name, recipe in recipes.items():
        try:
            server, found = counted(session, recipe, result.median(INLINE, "instructions") if name == OURS else None)
        except Missing as reason:
            session.leave_out(name, reason)
            continue
        result.add(server, found)
        session.tell(
            f"{name:<20} {found['receive']:.1f} receive, {found['send']:.1f} send, {found['other']:.1f} other and "
            f"{found['poll']:.1f} poll calls, {found['allocations']:.1f} allocations, {found['instructions']:,.0f} instructions "
            f"({found['browser_instructions']:,.0f} with a browser's headers)"
            + (f", {found['guard']:,.0f} of them ({found['browser_guard']:,.0f}) the guard's" if "guard" in found else "")
        )
    # Inline was first because ours is measured by it; ours is shown first.
    result.contenders = dict(sorted(result.contenders.items(), key=lambda entry: entry[0] != OURS))
    session.results.append(result)
    publish(session, result)


def publish(session, result):
    calls = result.median(OURS, "calls")
    session.expect("system calls per request, the poll not counted", calls, "", "<=", 2)
    session.expect("heap allocations per request", result.median(OURS, "allocations"), "", "<=", 6)
    guard = result.median(OURS, "guard")
    if guard is None:
        session.leave_out("guard", "callgrind does not see the function: is it inlined?")
    else:
        session.expect("user instructions of the guard", guard, "", "<=", 600)
        session.remark("the same with a browser's headers", result.median(OURS, "browser_guard"), "")
    session.remark("user instructions per request", result.median(OURS, "instructions"), "")
    for other in ("bare hyper", "nginx", INLINE):
        session.remark(f"user instructions per request, {OURS} / {other}", result.ratio(OURS, other, "instructions"), " x")
    for other in ("bare hyper", "nginx"):
        session.remark(f"the same with a browser's headers, {OURS} / {other}", result.ratio(OURS, other, "browser_instructions"), " x")


def counted(session, recipe, short):
    """All counts of one contender. `short` is what a call costs on the I/O thread: callgrind is slow enough for a lost core to
    make a call look long, and its path then stays on the pool. Such a count is not of the common path and is repeated; one
    that is no better in the end stands."""
    server, found = called(session, recipe)
    least = None
    for _ in range(ATTEMPTS if short else 1):
        _, more = executed(session, recipe)
        least = min(least or more, more, key=lambda each: each["instructions"])
        if not short or least["instructions"] <= 1.05 * short:
            break
        session.tell(f"{server.name}: {least['instructions']:,.0f} instructions, its calls were not short; once more")
    return server, found | least


def called(session, recipe):
    """System calls, of the process that answers."""
    server = Contender(recipe(), session.cores.server)
    try:
        found = counts.system_calls(server, serving(server), session.cores.pair, session.field.scratch())
    finally:
        server.stop()
    return server, found | {"calls": round(found["receive"] + found["send"] + found["other"], 1)}


def executed(session, recipe):
    """Instructions and allocations, of the process that answers."""
    folder = session.field.scratch()
    server = Contender(counts.under_callgrind(recipe(), folder), session.cores.pair)
    try:
        found = counts.instructions(server, serving(server), folder)
    finally:
        server.stop()
    return server, found


def serving(server):
    """The one worker; a server without any serves by itself."""
    return (server.workers() or server.pids())[0]
