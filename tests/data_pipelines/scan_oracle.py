"""Answers scans a second time, pixel by pixel; the words of a row of four places, one set of them."""

from __future__ import annotations

import re

import numpy as np
from question_oracle import NUMBERS, Oracle


class ScanOracle(Oracle):
    """`Oracle` for the questions of group "scan" too."""

    def _row(self, text):
        """(view, pixel rows, pixel columns of each of the four places)."""
        view = self.view_of(text)
        r = ("top", "upper", "lower", "bottom").index(re.search(r"along (\w+) row \?", text).group(1))
        height, width = self.views[view].instance.shape
        rows = [i for i in range(height) if r / 4 <= i / height < (r + 1) / 4]
        return view, rows, [[j for j in range(width) if c / 4 <= j / width < (c + 1) / 4] for c in range(4)]

    def _along(self, text, label, bare):
        view, rows, places = self._row(text)
        words = []
        for columns in places:
            pixels = [(i, j) for i in rows for j in columns]
            things = [int(self.views[view].instance[i, j]) for i, j in pixels]
            counts = {}
            for i in things:
                if i >= 0:
                    counts[label(self.scene.objects[i])] = counts.get(label(self.scene.objects[i]), 0) + 1
            best = max(counts, key=counts.get, default=None)
            rival = max((count for key, count in counts.items() if key != best), default=0)
            if sum(counts.values()) < 0.05 * len(pixels):
                words.append(bare(view, [p for p, i in zip(pixels, things, strict=True) if i < 0]))
            elif counts[best] >= 0.2 * len(pixels) and rival <= 0.5 * counts[best]:
                words.append(best)
            else:
                words.append("unclear")
        return {" ".join(words)}

    def _surface(self, view, pixels):
        """The shell plane that most pixels lie on, by each pixel's own ray."""
        shown = self.views[view]
        counts = {"floor": 0, "ceiling": 0, "wall": 0}
        for i, j in pixels:
            ray = np.linalg.solve(shown.intrinsics, [j + 0.5, i + 0.5, 1.0])
            point = shown.camera_to_world @ [*(ray * float(shown.depth[i, j])), 1.0]
            flat = "floor" if point[2] < 0.03 else "ceiling" if point[2] > self.scene.size[2] - 0.03 else "wall"
            counts[flat] += 1
        best = max(counts, key=counts.get)
        return best if pixels and counts[best] >= 0.65 * len(pixels) else "unclear"

    def solve_names_along(self, text, question):
        return self._along(text, lambda t: t.category, self._surface)

    def solve_colours_along(self, text, question):
        return self._along(text, lambda t: t.colour, lambda view, pixels: "bare")

    def solve_depths_along(self, text, question):
        view, rows, places = self._row(text)
        words = []
        for columns in places:
            inside = sorted(float(self.views[view].depth[i, j]) for i in rows for j in columns)
            low, middle, high = (inside[place * len(inside) // 4] for place in (1, 2, 3))
            halves = min(max(round(middle / 0.5), 1), 12)
            words.append(NUMBERS[halves] if high - low <= 0.4 * middle else "unclear")
        return {" ".join(words)}
