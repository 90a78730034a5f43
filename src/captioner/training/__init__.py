"""Training a decoder: batches, teacher forcing, losses, and which epoch is kept.

In come feature maps and captions, out go a trained decoder and its history. It does not know MLflow, files of results
or pages.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
