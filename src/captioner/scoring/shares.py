"""Shares of captions: those that no other picture got, and those that are true."""

from collections import Counter
from collections.abc import Mapping

import pandas as pd

from captioner.datasets.scenes import grammar
from captioner.scoring.statistics import SufficientStatistics, mean


def shares(captions: Mapping[str, str], objects: pd.DataFrame) -> SufficientStatistics:
    """Return shares of captions, in percent.

    `distinct-captions` have a caption that no other picture of these got. On scenes, `true-captions` are sentences of
    the grammar and true of their picture. A resample leaves open what the captions of pictures outside it are, so a
    caption that is distinct stays so.
    """
    counts = Counter(captions.values())
    rows = {"distinct-captions": mean(100.0 * (counts[text] == 1) for text in captions.values())}
    if not objects.empty:
        things = grammar.objects_by_image(objects)
        rows["true-captions"] = mean(100.0 * grammar.is_true(text, things[image]) for image, text in captions.items())
    return SufficientStatistics(list(captions), rows)
