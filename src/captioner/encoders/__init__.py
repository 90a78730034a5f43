"""Convolutional networks, pretrained on ImageNet, which turn pictures into feature maps.

Input: pixels `[B, S, S, 3]`. Output: a map `[B, R, R, C]`. It does not depend on captions.
"""

from typing import TYPE_CHECKING

from captioner.encoders.registry import ENCODERS

__all__ = ["ENCODERS"]

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
