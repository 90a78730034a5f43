"""Drawn scenes: a grammar of captions whose truth can be checked, and the drawing of pictures."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
