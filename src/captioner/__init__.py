"""Captioner: describes photographs in words, and shows where it looked for each word.

    from captioner import Captioner

    captioner = Captioner.load("models/captioner")
    caption = captioner.caption("dog.jpg", beam=3)
    caption.text, caption.log_probability, caption.attention  # the attention is [words, 7, 7]

Importing the package is cheap; TensorFlow is loaded when `Captioner` is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.caption import Caption
    from captioner.errors import CaptionerError
    from captioner.images import UnreadableImage
    from captioner.model import Alternative, Captioner

__version__ = "0.1.0"
__all__ = ["Alternative", "Caption", "Captioner", "CaptionerError", "UnreadableImage"]

_MODULES = {
    "Alternative": "captioner.model",
    "Caption": "captioner.caption",
    "Captioner": "captioner.model",
    "CaptionerError": "captioner.errors",
    "UnreadableImage": "captioner.images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Each name a module loads only what that needs, and without TensorFlow's notes to its developers.
    with import_module("captioner.quiet").quiet():
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
