"""Curves of training, epoch by epoch."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

COLOURS = ("#1f5fa8", "#c46a00", "#3c8031", "#8a3ea8", "#a8323e")  # of curves, told apart also when they look grey


def learning_curves(table: pd.DataFrame, baselines: Mapping[str, Sequence[str]], dropout: bool) -> Image.Image:
    """Both kinds of validation, epoch by epoch: likelihood of people's words above, scores of the model's own below.

    Args:
        table: a row an epoch: `epoch`, `nll`, `val_nll`, `val_CIDEr`, and in further columns the baselines, each the
            same in all rows, NaN where it was not measured.
        baselines: the baselines' columns, for `nll` and for `CIDEr`; those that were not measured are left out.
        dropout: whether training had any, so that its likelihood is that of a hampered model.
    """
    figure, above, below = _two_validations()
    epochs = table["epoch"] + 1
    above.plot(epochs, table["nll"], ".-", color="#8a8a8a", label=f"training{', with dropout' if dropout else ''}")
    above.plot(epochs, table["val_nll"], ".-", color="#1f5fa8", label="validation")
    below.plot(epochs, table["val_CIDEr"], ".-", color="#c46a00", label="validation")
    for axes, names in ((above, baselines["nll"]), (below, baselines["CIDEr"])):
        measured = (name for name in names if name in table and table[name].notna().all())
        for name, style in zip(measured, (":", "--", "-."), strict=False):
            axes.axhline(table[name].iloc[0], linestyle=style, linewidth=1, color="#444444", label=f"{name} (test)")
    return _drawn(figure)


def study_curves(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Image.Image:
    """Both kinds of validation of several models, a thin line a seed and a thick one for their mean.

    Args:
        histories: by name of the model, of each seed a table with a row an epoch: `epoch`, `val_nll`, `val_CIDEr`.
    """
    figure, above, below = _two_validations()
    for (name, tables), colour in zip(histories.items(), cycle(COLOURS)):
        every = pd.concat(tables).groupby("epoch").mean(skipna=False)
        for axes, column in ((above, "val_nll"), (below, "val_CIDEr")):
            for table in tables:
                axes.plot(table["epoch"] + 1, table[column], color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(every.index + 1, every[column], ".-", color=colour, linewidth=2, label=name)
    return _drawn(figure)


def _two_validations() -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_ylabel("negative log-likelihood,\nnats per token (teacher forcing)")
    below.set_ylabel("CIDEr of captions that\nthe model generates")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, above, below


def _drawn(figure: Figure) -> Image.Image:
    for axes in figure.axes:
        axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)
