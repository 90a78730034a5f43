"""Training a decoder: batches, teacher forcing, losses, callbacks, and the choice of the epoch that is kept.

Input: feature maps and captions. Output: a trained decoder and its history. It does not depend on MLflow, result files
or reports.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from captioner._moved import former_names

    __getattr__ = former_names(__name__)
