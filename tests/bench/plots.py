"""The plots: takes the data of a run; gives one SVG for each work that has something to show. A run without a work has no
plot of it."""

from chart import Axes, rows
from field import OURS
from result import Result
from svg import Drawing

BESIDE = {"p50": "p50_us", "p90": "p90_us", "p99": "p99_us", "p99.9": "p99.9_us", "max": "max_us"}


def draw(data, out):
    """Writes the plots; gives their names."""
    drawn = []
    for each in data["results"]:
        result = Result.from_data(each)
        plot = PLOTS.get(result.name)
        if plot and result.contenders:
            (out / f"{result.name}.svg").write_text(str(plot(result)))
            drawn.append(f"{result.name}.svg")
    return drawn


def hello(result):
    names = [name for name in result.contenders if name not in (f"{OURS} inline", f"{OURS} + json log")]
    names.sort(key=lambda name: result.median(name, "cpu_us"))
    # Gunicorn's bars would make all others a line: its figures stand in the table.
    names = [name for name in names if result.median(name, "cpu_us") <= 12 * result.median(names[0], "cpu_us")]
    return costs(result, names, "CPU per request", "hello on 64 kept-alive connections, one worker on one core")


def churn(result):
    names = sorted(result.contenders, key=lambda name: result.median(name, "cpu_us"))
    return costs(result, names, "Connection churn", "a connection per request, 64 at a time, one worker on one core")


def costs(result, names, title, subtitle):
    """CPU and rate of each, cheapest first; the rounds as dots."""
    drawing = Drawing(title, subtitle, 150 + 2 * 28 * len(names))

    def entries(key):
        return [(name, result.median(name, key), values(result, name, key)) for name in names]

    y = 80
    y += rows(drawing, y, "CPU per request in µs, less is better (a dot is a round)", entries("cpu_us"), "{:.1f} µs".format)
    rows(drawing, y + 26, "requests per second, more is better", entries("rate"), "{:,.0f}/s".format)
    return drawing


def connections(result):
    keys = [key for key in next(iter(result.contenders.values()))["median"] if key.startswith("rate@")]
    places = [int(key.split("@")[1]) for key in keys]
    curves = {name: {place: result.median(name, f"rate@{place}") for place in places} for name in result.contenders}
    drawing = Drawing("Throughput by connections", "hello, one worker on one core; more is better", 450)
    drawing.legend(curves)
    most = max(max(curve.values()) for curve in curves.values())
    axes = Axes(drawing, 96, 290, places, most, "kept-alive connections", "requests per second")
    for name, curve in reversed(curves.items()):
        axes.curve(name, curve)
    return drawing


def workers(result):
    """Throughput above, p99 below, over the same places."""
    names = list(dict.fromkeys(name.split("@")[0] for name in result.contenders))
    places = sorted({int(name.split("@")[1]) for name in result.contenders})
    drawing = Drawing("Throughput and p99 by workers", "hello on 64 kept-alive connections, two cores", 660)
    drawing.legend(names)

    def curves(key, divisor):
        return {
            name: {place: (result.median(f"{name}@{place}", key) or 0) / divisor or None for place in places} for name in names
        }

    top = 96
    for key, divisor, up in (("rate", 1, "requests per second"), ("p99_us", 1000, "p99 in ms, less is better")):
        found = curves(key, divisor)
        most = max(value for curve in found.values() for value in curve.values() if value)
        axes = Axes(drawing, top, 225, places, most, "workers", up)
        for name, curve in reversed(found.items()):
            axes.curve(name, curve)
        top += 290
    return drawing


def mixed(result):
    """Percentiles of hello beside slow calls, on a logarithmic scale."""
    curves = {
        name: {place: result.median(name, key) / 1000 for place, key in BESIDE.items()} for name in result.contenders
    }
    drawing = Drawing("Fast calls beside slow ones", "latency of hello on 61 connections while 3 always ask for a call of 50 ms; "
                      "one worker, 8 threads", 450)
    drawing.legend(curves, bound="p99: 5 ms at most")
    every = [value for curve in curves.values() for value in curve.values() if value > 0]
    axes = Axes(drawing, 96, 290, list(BESIDE), max(every), "of all hello requests", "latency in ms (logarithmic)", min(every))
    if axes.least < 5 < axes.most:
        drawing.line(axes.left, axes.y(5), axes.right, axes.y(5), "bound")
    for name, curve in reversed(curves.items()):
        axes.curve(name, curve)
    return drawing


def balance(result):
    """Connections of each worker, the fullest first, medians of the rounds."""
    names = list(result.contenders)
    keys = [key for key in result.contenders[names[0]]["median"] if key.startswith("worker_")]

    def shown(name):
        return f"{name} (Jain's index {result.median(name, 'jain'):.2f})"

    drawing = Drawing("Balance across workers", "100 connections opened one by one and held, ten workers; the fullest first", 430)
    drawing.legend([shown(name) for name in names], bars=True, bound="an even share")
    most = max(result.median(name, key) for name in names for key in keys)
    axes = Axes(drawing, 96, 270, list(range(1, len(keys) + 1)), most, "workers, the fullest first", "connections held")
    width = 18
    for number, name in enumerate(names):
        for place, key in enumerate(keys, 1):
            held = result.median(name, key)
            x = axes.x(place) + (number - len(names) / 2) * (width + 2)
            drawing.bar(x, axes.y(held), width, axes.bottom - axes.y(held), shown(name))
    drawing.line(axes.left, axes.y(10), axes.right, axes.y(10), "bound")
    return drawing


def values(result, name, key):
    return [sample[key] for sample in result.contenders[name]["samples"]]


PLOTS = {
    "hello": hello, "churn": churn, "connections": connections, "workers": workers, "mixed": mixed, "balance": balance,
}
