"""Tables: takes the data of a run; gives it as text for a terminal and as Markdown, both with the same rows: every figure
with what was expected of it, then each work's contenders, then a sentence about each peer; and a short form for the README."""

import textwrap

from field import OURS
from result import Result, verdict


def figure_rows(data):
    rows = [["work", "figure", "measured", "expected", ""]]
    for figure in data["figures"]:
        unit = figure["unit"]
        bound = f"{'≤' if figure['sign'] == '<=' else '≥'} {figure['bound']:g}{unit}" if "bound" in figure else ""
        rows.append([figure["work"], figure["text"], (f"{figure['value']:.3f}" if unit == " x" else number(figure["value"])) + unit, bound, verdict(figure)])
    return rows


def number(value):
    """Three significant digits, and no more than is there."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 or value == 0 else f"{value:.3f}"


def cell(value, divisor):
    return "" if value is None else number(value / divisor)


# Heading, key of the median, divisor.
REQUESTS = [
    ("CPU µs/request", "cpu_us", 1), ("requests/s", "rate", 1), ("core busy", "busy", 1), ("p50 ms", "p50_us", 1000),
    ("p99 ms", "p99_us", 1000),
]
COLUMNS = {
    "hello": REQUESTS,
    "churn": REQUESTS,
    "ten": [("requests/s", "rate", 1), ("p50 ms", "p50_us", 1000), ("p99 ms", "p99_us", 1000)],
    "bulk": [("GiB/s", "rate", 1), ("CPU ms/GiB", "cpu_ms_per_gib", 1), ("core busy", "busy", 1), ("memory + MiB", "grown_mib", 1)],
    "mixed": [
        ("hello p50 ms", "p50_us", 1000), ("p99 ms", "p99_us", 1000), ("p99.9 ms", "p99.9_us", 1000), ("hello/s", "rate", 1),
        ("alone p99 ms", "alone_p99_us", 1000), ("alone hello/s", "alone_rate", 1),
    ],
    "balance": [("Jain's index", "jain", 1), ("least", "least", 1), ("most", "most", 1), ("switches/accept", "switches", 1), ("with a request", "request_switches", 1)],
    "lifecycle": [
        ("start ms", "start_ms", 1), ("reload ms", "reload_ms", 1), ("PSS/worker MiB", "worker_mib", 1),
        ("PSS tree MiB", "tree_mib", 1), ("threads/worker", "worker_threads", 1),
    ],
    "path": [
        ("receive calls", "receive", 1), ("send calls", "send", 1), ("other calls", "other", 1), ("polls", "poll", 1),
        ("heap allocations", "allocations", 1), ("instructions", "instructions", 1),
        ("the guard's", "guard", 1), ("browser's: allocations", "browser_allocations", 1),
        ("instructions", "browser_instructions", 1), ("the guard's", "browser_guard", 1),
    ],
}
WITH_CPU_RATIO = ("hello", "churn")


def contender_rows(result):
    """A row for each contender of one result; how many times our cost is theirs stands beside the cost."""
    if result.work == "connections":
        return swept_rows(result)
    columns = COLUMNS.get(result.work, [("requests/s", "rate", 1), ("p99 ms", "p99_us", 1000)])
    ratio = result.work in WITH_CPU_RATIO
    memory = any("pss_mib" in entry for entry in result.contenders.values())
    rows = [["", *[heading for heading, _, _ in columns], *["ours / its CPU"] * ratio, *["PSS MiB"] * memory]]
    for name, entry in result.contenders.items():
        row = [name, *[cell(result.median(name, key), divisor) for _, key, divisor in columns]]
        if ratio:
            row.append(f"{result.ratio(OURS, name, 'cpu_us'):.3f}")
        if memory:
            row.append(f"{entry.get('pss_mib', 0):.1f}")
        rows.append(row)
    return rows


def swept_rows(result):
    first = next(iter(result.contenders.values()))
    keys = [key for key in first["median"] if key.startswith("rate@")]
    rows = [["requests/s by connections", *[key.split("@")[1] for key in keys]]]
    for name in result.contenders:
        rows.append([name, *[number(result.median(name, key)) for key in keys]])
    return rows


def notes(data):
    """One sentence a peer, the first that is told of it."""
    found = {}
    for result in data["results"]:
        for name, entry in result["contenders"].items():
            plain = name.split("@")[0].split(",")[0]
            found.setdefault(plain, entry["note"])
    return found


def heading(data):
    host = data["machine"]
    pace = f"{data['rounds']} interleaved rounds of {data['seconds']} s" + (" (a quick run: less exact)" if data["quick"] else "")
    return [
        f"{data['date']}, commit {data['commit']}, `{data['command']}`, {pace}.",
        f"{host['cpu']}, {host['cores']} cores, {host['memory_gib']:g} GiB, {host['system']}, Linux {host['kernel']}, "
        f"load {host['load_before']:g} before.",
        "Medians of the rounds; ratios are medians of the rounds' own ratios. CPU is user and system time of the whole "
        "process tree, PSS its memory with shared pages counted once. Absolute figures hold for this machine alone.",
    ]


def text(data, width=120):
    parts = [textwrap.fill(line, width) for line in heading(data)] + [""]
    if data["figures"]:
        parts += aligned(figure_rows(data), left=2) + [""]
    for each in data["results"]:
        result = Result.from_data(each)
        if result.contenders:
            parts += [f"{result.name}: {result.setting}"] + aligned(contender_rows(result)) + [""]
    for name, note in notes(data).items():
        parts.append(textwrap.fill(f"{name}: {note}", width, subsequent_indent="    "))
    for name, reason in data["failed"].items():
        parts.append(textwrap.fill(f"FAILED: {name}: {' '.join(reason.split())}", width, subsequent_indent="    "))
    for name, reason in data["left_out"].items():
        parts.append(textwrap.fill(f"left out: {name}: {' '.join(reason.split())}", width, subsequent_indent="    "))
    return "\n".join(parts) + "\n"


def aligned(rows, left=1):
    """Columns under each other: the first `left` begin, the others end at their line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def markdown(data):
    parts = [*heading(data), ""]
    tables = {}
    for each in data["results"]:
        result = Result.from_data(each)
        if result.contenders:
            tables[result.name] = [f"**{result.name}**: {result.setting}", "", *piped(contender_rows(result)), ""]
    # A reader wants to see the main figure first and may open the rest.
    parts += tables.pop("hello", [])
    if data["figures"]:
        parts += [*piped(figure_rows(data), left=2), ""]
    if tables:
        parts += ["<details><summary>Every work</summary>", "", *(line for lines in tables.values() for line in lines), "</details>", ""]
    parts += told(data)
    parts += [f"- failed: **{name}**: {' '.join(reason.split())}" for name, reason in data["failed"].items()]
    parts += [f"- left out: **{name}**: {' '.join(reason.split())}" for name, reason in data["left_out"].items()]
    return "\n".join(parts) + "\n"


def short(data):
    """For the README: the main figure, every figure with what was expected of it, and what each peer is."""
    parts = [*heading(data), ""]
    for each in data["results"]:
        if each["name"] == "hello":
            parts += [*piped(contender_rows(Result.from_data(each))), ""]
    expected = [figure for figure in data["figures"] if "bound" in figure]
    parts += [*piped(figure_rows({"figures": expected}), left=2), "", *told(data)]
    return "\n".join(parts) + "\n"


def told(data):
    return [f"- **{name}**: {note}" for name, note in notes(data).items()]


def piped(rows, left=1):
    marks = ["---" if column < left else "---:" for column in range(len(rows[0]))]
    return ["| " + " | ".join(row) + " |" for row in [rows[0], marks, *rows[1:]]]
