"""Charts: takes a drawing, a place in it and numbers; gives axes with round ticks, lines, and rows of bars with every
round as a dot. What they mean is the plots' to say."""

import math

from field import OURS
from svg import WIDTH


class Axes:
    """A rectangle of the drawing with a scale on each side. The horizontal one has named places, evenly spaced: counts
    that double or quadruple from place to place. The vertical one starts at 0, or is logarithmic."""

    def __init__(self, drawing, top, height, places, most, across, up, least=None, left=72, right=24):
        self.drawing, self.top, self.bottom = drawing, top, top + height
        self.left, self.right = left, WIDTH - right
        self.places, self.least = places, least
        self.ticks = log_ticks(least, most) if least else round_ticks(most)
        self.most = self.ticks[-1]
        if least:
            self.least = self.ticks[0]
        for tick in self.ticks:
            y = self.y(tick)
            drawing.line(self.left, y, self.right, y, "grid")
            drawing.text(self.left - 8, y + 4, short(tick), "small", "end")
        drawing.line(self.left, self.bottom, self.right, self.bottom, "axis")
        for place in places:
            drawing.text(self.x(place), self.bottom + 18, place if isinstance(place, str) else f"{place:,}", "small", "middle")
        drawing.text((self.left + self.right) / 2, self.bottom + 38, across, "small", "middle")
        drawing.text(22, (self.top + self.bottom) / 2, up, "small", "middle", turn=-90)

    def x(self, place):
        inside = 34
        step = (self.right - self.left - 2 * inside) / max(1, len(self.places) - 1)
        return self.left + inside + self.places.index(place) * step

    def y(self, value):
        if self.least:
            value = max(value, self.least)
            part = math.log(value / self.least) / math.log(self.most / self.least)
        else:
            part = value / self.most
        return self.bottom - part * (self.bottom - self.top)

    def curve(self, name, values):
        """`values` by place; a place without one is left out."""
        points = [(self.x(place), self.y(values[place])) for place in self.places if values.get(place) is not None]
        if points:
            self.drawing.curve(points, name)


def rows(drawing, top, heading, entries, show, left=150):
    """Horizontal bars: name, median and the rounds' values. Gives the height it took."""
    most = max(max(values) for _, _, values in entries) or 1
    room = WIDTH - left - 110
    drawing.text(20, top, heading, "small")
    y = top + 14
    for name, median, values in entries:
        drawing.text(left - 10, y + 15, name, "own" if name.startswith(OURS) else "", "end")
        drawing.bar(left, y + 1, median / most * room, 20, name)
        for value in values:
            drawing.dot(left + value / most * room, y + 11)
        drawing.text(WIDTH - 24, y + 15, show(median), "value", "end")
        y += 28
    return y - top


def round_ticks(most):
    """From 0 to at least `most` in four to six steps of 1, 2, 2.5 or 5 times a power of ten."""
    most = most or 1
    power = 10 ** math.floor(math.log10(most / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if most / (power * factor) <= 5.5)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(least, most):
    """1, 2, 5, 10 and so on, from one not above `least` to one not below `most`."""
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    every = [10.0 ** power * factor for power in powers for factor in (1, 2, 5)]
    first = max(index for index, tick in enumerate(every) if tick <= least)
    last = next(index for index, tick in enumerate(every) if tick >= most)
    return every[first:max(last, first + 1) + 1]


def short(value):
    """A tick's label: 50k, 1M, 0.1."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"
