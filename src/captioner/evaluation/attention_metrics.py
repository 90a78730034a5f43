"""Where a model looks: whether attention lies on what is named, and how narrow it is.

Legend: `P` positions of the grid, row by row · `W` words of a caption.

Source of pointing accuracy: the pointing game, Zhang et al., ECCV 2016.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.special import entr

from captioner.datasets.scenes import grammar
from captioner.scoring.statistics import SufficientStatistics, mean
from captioner.search.caption import Caption

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every no another other both all not there here
    i me my you your he him his she her hers it its we us our they them their themselves himself herself itself
    who which what where when while if then so as than and or but nor before after during
    in on at by with from to of for off over under up down out into onto through across along around about above below
    behind beside besides between beneath near next against among inside outside toward towards past like
    is are was were be been being am do does did has have had having can could will would may might must
    """.split()  # noqa: SIM905
)
"""English words that stand for no thing, quality or action: they need no look at the picture."""

_SCENE_KINDS = {
    **dict.fromkeys(grammar.SHAPES, "shape"),
    **dict.fromkeys(grammar.COLOURS, "colour"),
    **dict.fromkeys(grammar.RADII, "size"),
    **dict.fromkeys((*grammar.RELATIONS, "over", "under"), "relation"),
}


def attention_on_objects(captions: Mapping[str, Caption], objects: pd.DataFrame) -> SufficientStatistics:
    """Measure how far a model looks at what it names, on scenes, in percent.

    For every object of a picture that its caption names by colour and shape:

    - `pointing-accuracy`: whether the centre of the position with the highest weight at the shape's word lies in the
      object's box; positions that share the highest weight count in part, so that even weights come to chance;
    - `attention-mass`: the weight inside the box at the shape's word; a position that the box covers in part counts so;
    - the same with `-colour`, at the colour's word;
    - `pointing-chance`: the share of positions whose centre lies in the box, to which a position taken at random comes;
    - `box-share`: the share of the picture that the box covers, to which the mass of even attention comes.
    """
    things = grammar.objects_by_image(objects)
    names = [f"{name}{word}" for word in ("", "-colour") for name in ("pointing-accuracy", "attention-mass")]
    names += ["pointing-chance", "box-share"]
    looks = {image: _looks(caption, things.get(image, [])) for image, caption in captions.items()}
    sums = np.array([100 * np.sum(each, axis=0) if each else np.zeros(len(names)) for each in looks.values()])
    counts = [len(each) for each in looks.values()]
    return SufficientStatistics(
        list(captions), {name: mean(sums[:, number], counts) for number, name in enumerate(names)}
    )


def entropy(captions: Mapping[str, Caption], objects: pd.DataFrame) -> SufficientStatistics:
    """Measure how widely attention spreads, in nats per word: 0 at one position, `log P` when even.

    The names are `attention-entropy-content` and so on, see `_by_kind_of_word`.
    """
    return _by_kind_of_word(
        "attention-entropy", captions, objects, lambda caption: entr(caption.attention_by_position).sum(axis=1)
    )


def grounding(captions: Mapping[str, Caption], objects: pd.DataFrame) -> SufficientStatistics:
    """Measure how much an attention that need not look has looked, in percent per word.

    Of one that always does there is nothing to measure. The names are `grounding-content` and so on, see
    `_by_kind_of_word`.

    Source: Lu et al. 2017, "Knowing When to Look", section 5.3, where `1 - beta` is the visual grounding probability.
    """
    if any(caption.grounding is None for caption in captions.values()):
        return SufficientStatistics(list(captions), {})

    def percent(caption: Caption) -> np.ndarray:
        assert caption.grounding is not None
        return 100 * caption.grounding

    return _by_kind_of_word("grounding", captions, objects, percent)


def _by_kind_of_word(
    name: str, captions: Mapping[str, Caption], objects: pd.DataFrame, measure: Callable[[Caption], np.ndarray]
) -> SufficientStatistics:
    """Return the mean over words of what `measure` gives for each word of a caption, by kind of word.

    The kinds are `content` and `function` words and, on scenes, `shape`, `colour`, `size` and `relation` as well.
    """
    kinds = ["content", "function", *(dict.fromkeys(_SCENE_KINDS.values()) if not objects.empty else ())]
    sums = {kind: np.zeros((len(captions), 2)) for kind in kinds}
    for number, caption in enumerate(captions.values()):
        for word, value in zip(caption.words, measure(caption), strict=True):
            for kind in {_kind(word), _SCENE_KINDS.get(word)} & sums.keys():
                sums[kind][number] += float(value), 1
    return SufficientStatistics(list(captions), {f"{name}-{kind}": rows for kind, rows in sums.items()})


def _kind(word: str) -> str:
    return "function" if word in FUNCTION_WORDS else "content"


def _looks(caption: Caption, things: Sequence[grammar.SceneObject]) -> list[tuple[float, ...]]:
    """Return, for each object that the caption names, what the mean of each measure is made of."""
    found = []
    for number, (colour, shape) in enumerate(pairwise(caption.words)):
        for thing in (thing for thing in things if thing.fits(None, colour, shape)):
            covered, inside = _covered(thing.box, caption.attention.shape[1])
            of_colour, of_shape = caption.attention_by_position[number : number + 2]
            shares = [
                share for weights in (of_shape, of_colour) for share in (_pointing(weights, inside), weights @ covered)
            ]
            found.append((*map(float, shares), float(inside.mean()), float(covered.mean())))
    return found


def _pointing(weights: np.ndarray, inside: np.ndarray) -> float:
    return float(inside[weights == weights.max()].mean())


def _covered(box: Iterable[int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each position that a box covers, and whether it has its centre, `[P]` each."""
    edges = np.linspace(0, grammar.SIZE, side + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def along(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        share = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) / np.diff(edges)
        return share, (low <= centres) & (centres < high)

    left, top, right, bottom = box
    (down, in_rows), (across, in_columns) = along(top, bottom), along(left, right)
    return np.outer(down, across).ravel(), np.outer(in_rows, in_columns).ravel()
