"""The encoder run over pictures, and its feature maps on disk.

In come encoded pictures, out go float16 maps `[pictures, P, C]` and the file that holds them. It knows nothing of
captions and decoders.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
