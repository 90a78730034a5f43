"""How long the figures of attention take to draw: the row `figures`.

    python benchmarks/bench_figures.py

Twelve of them, as many as the stage `evaluate` draws by default, each of a caption of twelve words.
"""

import numpy as np
from measure import row_of_pairs, seconds

from captioner.reports.attention_figure import attention_figure

FIGURES, WORDS, SIDE, GRID = 12, 12, 224, 7


def main() -> None:
    """Measure the row and write it."""
    generator = np.random.default_rng(1)
    picture = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    weights = generator.dirichlet(np.ones(GRID**2), WORDS)

    def draw() -> None:
        for _ in range(FIGURES):
            attention_figure(picture, ["word"] * WORDS, weights, "a caption")

    row_of_pairs(
        "figures",
        "twelve figures of attention",
        "s",
        lambda: seconds(draw),
        goal={"ours": 6},
        notes=[f"captions of {WORDS} words; the files are not written"],
    ).write()


if __name__ == "__main__":
    main()
