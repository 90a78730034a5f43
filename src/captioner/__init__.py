"""Captioner: writes captions for pictures, and shows where the model looked for each word.

    from captioner import Captioner

    captioner = Captioner.load("models/captioner")
    caption = captioner.caption("dog.jpg", beam=3)
    caption.text, caption.log_probability, caption.attention  # the attention is [words, rows, columns]

Importing the package is fast: TensorFlow is loaded when `Captioner` is first used.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.common.errors import CaptionerError
    from captioner.data.images import UnreadableImage
    from captioner.inference.captioner import Alternative, Captioner
    from captioner.search.caption import Caption

__version__ = "0.1.0"
__all__ = ["Alternative", "Caption", "Captioner", "CaptionerError", "UnreadableImage"]

_MODULES = {
    "Alternative": "captioner.inference.captioner",
    "Caption": "captioner.search.caption",
    "Captioner": "captioner.inference.captioner",
    "CaptionerError": "captioner.common.errors",
    "UnreadableImage": "captioner.data.images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Each name a module loads only what that needs, and without TensorFlow's notes to its developers.
    with import_module("captioner.common.startup").silence_stderr():
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Moved(MetaPathFinder):
    """Finds modules of this package by their old paths, if no other finder has found them."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        return import_module("captioner._moved").spec_of(fullname) if fullname.startswith("captioner.") else None


sys.meta_path.append(_Moved())
