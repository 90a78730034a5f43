"""Feature extraction with an encoder, and the feature maps on disk.

Input: encoded pictures. Output: float16 maps `[pictures, P, C]` and the file that has them. It does not depend on
captions and decoders.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
