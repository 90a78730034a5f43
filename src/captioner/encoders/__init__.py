"""Frozen convolutional networks, which turn pictures into feature maps.

Input: pixels `[B, 224, 224, 3]`. Output: a map `[B, 7, 7, C]`. It does not depend on captions.
"""

from typing import TYPE_CHECKING

ENCODERS = ("efficientnet_lite0", "mobilenet", "densenet121")
"""Names of the networks that `captioner.encoders.networks` builds."""

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
