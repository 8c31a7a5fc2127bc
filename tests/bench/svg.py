"""Drawings: takes shapes and words in pixels; gives one SVG that reads well on a light and on a dark page. It knows
nothing of what is drawn, and has a ground of its own, so that a page of either kind may show it."""

from html import escape

WIDTH = 760
# Each series keeps its colour in all plots; on a dark page it is the lighter one. Told apart by shape too.
COLOURS = {
    "appserver": ("#1d4ed8", "#7aa2ff"),
    "bare hyper": ("#6b7280", "#b4bac4"),
    "nginx": ("#15803d", "#5fce86"),
    "uWSGI symcall": ("#b45309", "#f2a65a"),
    "Granian WSGI": ("#7e22ce", "#cf9bf5"),
    "Gunicorn gthread": ("#be123c", "#ff8fa3"),
    "axum": ("#0e7490", "#5fd0e4"),
    "actix-web": ("#a16207", "#e3c35a"),
}
SHAPES = ["circle", "square", "diamond", "up", "down", "cross"]
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2937 }
.own { font-weight: 600 } .title { font-size: 16px; font-weight: 600 } .small { font-size: 12px; fill: #4b5563 } .value { font-size: 12px }
.ground { fill: #ffffff } .grid { stroke: #e2e5ea; stroke-width: 1 } .axis { stroke: #6b7280; stroke-width: 1 }
.line { fill: none; stroke-width: 2.25; stroke-linejoin: round } .dot { fill: #111827; stroke: #ffffff; stroke-width: .75; opacity: .7 } .bound { stroke: #b91c1c; stroke-dasharray: 6 4 }
.halo { stroke: #ffffff; stroke-width: 1.25 }
"""
DARK = """
text { fill: #e5e7eb } .small { fill: #aab2bf } .ground { fill: #161b22 } .grid { stroke: #2d343e } .axis { stroke: #8b949e }
.bound { stroke: #f87171 } .dot { fill: #f3f4f6; stroke: #161b22 } .halo { stroke: #161b22 }
"""


class Drawing:
    """Shapes are drawn in the order in which they are added."""

    def __init__(self, title, subtitle, height):
        self.height, self.parts, self.series = height, [], {}
        self.title = title
        self.text(20, 30, title, "title")
        self.text(20, 50, subtitle, "small")

    def text(self, x, y, words, kind="", anchor="start", turn=None):
        attributes = f' class="{kind}"' if kind else ""
        if anchor != "start":
            attributes += f' text-anchor="{anchor}"'
        if turn is not None:
            attributes += f' transform="rotate({turn} {x:.1f} {y:.1f})"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, kind):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def curve(self, points, name):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="line {self.of(name, "s")}"/>')
        for x, y in points:
            self.mark(x, y, name)

    def mark(self, x, y, name):
        self.parts.append(f'<path d="{shape(self.shape_of(name), x, y)}" class="halo {self.of(name, "f")}"/>')

    def bar(self, x, y, width, height, name):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" rx="2" '
            f'class="{self.of(name, "f")}"/>'
        )

    def dot(self, x, y):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.75" class="dot"/>')

    def legend(self, names, bars=False, bound=None):
        """One row under the title, where no line comes. `bound` tells what the dashed line means."""
        x, y = 20, 76
        for name in names:
            if bars:
                self.bar(x, y - 10, 12, 12, name)
            else:
                self.mark(x + 6, y - 4, name)
            self.text(x + 18, y, name)
            x += 18 + 7.2 * len(name) + 20
        if bound:
            self.line(x, y - 4, x + 22, y - 4, "bound")
            self.text(x + 28, y, bound)

    def shape_of(self, name):
        self.of(name, "f")
        return SHAPES[list(self.series).index(name) % len(SHAPES)]

    def of(self, name, property):
        """The class of a series' fill or stroke."""
        number = self.series.setdefault(name, len(self.series))
        return f"{property}{number}"

    def __str__(self):
        light, dark = [], []
        for name, number in self.series.items():
            for colours, colour in zip((light, dark), colours_of(name)):
                colours.append(f".f{number} {{ fill: {colour} }} .s{number} {{ stroke: {colour} }}")
        style = STYLE + "\n".join(light)
        night = DARK + "\n".join(dark)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:.0f}" width="{WIDTH}" '
            f'height="{self.height:.0f}" role="img" aria-label="{escape(self.title, quote=True)}">\n'
            f"<style>{style}\n@media (prefers-color-scheme: dark) {{{night}\n}}</style>\n"
            f'<rect width="100%" height="100%" rx="8" class="ground"/>\n' + "\n".join(self.parts) + "\n</svg>\n"
        )


def colours_of(name):
    """A contender with options has the colour of its name's beginning."""
    known = [each for each in COLOURS if name.startswith(each)]
    return COLOURS[max(known, key=len)] if known else ("#374151", "#d1d5db")


def shape(kind, x, y, r=4.5):
    if kind == "circle":
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0z"
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "diamond": [(0, -r * 1.3), (r * 1.3, 0), (0, r * 1.3), (-r * 1.3, 0)],
        "up": [(0, -r * 1.2), (r * 1.2, r), (-r * 1.2, r)],
        "down": [(0, r * 1.2), (r * 1.2, -r), (-r * 1.2, -r)],
        "cross": [(-r, -2), (-2, -2), (-2, -r), (2, -r), (2, -2), (r, -2), (r, 2), (2, 2), (2, r), (-2, r), (-2, 2), (-r, 2)],
    }[kind]
    return "M" + " L".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners) + "z"
