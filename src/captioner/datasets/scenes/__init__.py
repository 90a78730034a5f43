"""Drawn scenes: a grammar of captions that can be checked, and the pictures that they describe."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
