"""The captioning model: attention, decoder, and the directory of a saved model.

Input: feature maps and tokens. Output: logits and attention weights. It does not depend on training or search.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
