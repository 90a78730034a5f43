"""The captioning model: attention, decoder, and the directory that a trained one is saved in.

In come feature maps and tokens, out go logits and attention weights. It does not know how it is trained or searched.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
