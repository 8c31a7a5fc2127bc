"""What a work found: takes the samples of its contenders, round by round; gives medians and ratios, and itself as data
for bench.json and back."""

import statistics


class Result:
    """The samples of some contenders in one setting, all rounds."""

    def __init__(self, work, name, setting):
        self.work, self.name, self.setting, self.contenders = work, name, setting, {}

    @classmethod
    def from_data(cls, data):
        """What `as_data` gave."""
        result = cls(data["work"], data["name"], data["setting"])
        result.contenders = data["contenders"]
        return result

    def add(self, server, sample):
        entry = self.contenders.setdefault(server.name, {"note": server.note, "samples": []})
        entry["samples"].append(sample)

    def drop_samples(self):
        for entry in self.contenders.values():
            entry["samples"].clear()

    def median(self, name, key):
        entry = self.contenders.get(name)
        # A run of another day may not have measured it.
        values = [sample[key] for sample in entry["samples"] if key in sample] if entry else []
        return statistics.median(values) if values else None

    def ratio(self, name, other, key):
        """The median of the rounds' own ratios: what drifts in the course of a run hurts both sides of each."""
        if name not in self.contenders or other not in self.contenders:
            return None
        pairs = zip(self.contenders[name]["samples"], self.contenders[other]["samples"])
        ratios = [one[key] / two[key] for one, two in pairs if two[key]]
        return statistics.median(ratios) if ratios else None

    def as_data(self):
        contenders = {
            name: {
                **{key: value for key, value in entry.items() if key != "samples"},
                "median": {key: self.median(name, key) for key in entry["samples"][0]}, "samples": entry["samples"],
            }
            for name, entry in self.contenders.items() if entry["samples"]
        }
        return {"work": self.work, "name": self.name, "setting": self.setting, "contenders": contenders}


def verdict(figure):
    """`ok`, or how it misses what was expected; nothing when nothing was."""
    if "bound" not in figure:
        return ""
    if figure["ok"]:
        return "ok"
    return "over" if figure["sign"] == "<=" else "short"
