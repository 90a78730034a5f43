"""How surprised a decoder is by what people wrote: its negative log-likelihood under teacher forcing.

Legend: `G` pictures · `N` captions a picture · `T` tokens · `P` positions · `C` channels · `V` vocabulary.
"""

from typing import Any

import keras
import numpy as np

from captioner.batches import CaptionBatches
from captioner.bootstrap import Statistics
from captioner.decoder import Decoder, token_nll
from captioner.vocabulary import PAD


def nll_of_decoder(decoder: Decoder, batches: CaptionBatches, name: str = "nll") -> Statistics:
    """Return a decoder's negative log-likelihood in nats a token, by picture, under the name given."""
    measure = _Surprise(decoder)
    sums = {image: np.zeros(2) for image in dict.fromkeys(batches.images)}
    for number in range(len(batches)):
        inputs, targets = batches[number]
        surprise = measure.predict_on_batch({**inputs, "targets": targets}).sum(axis=(1, 2))  # [G]
        tokens = (targets != PAD).sum(axis=(1, 2))
        # places behind the last picture hold padding alone: nothing to add
        for place, example in enumerate(batches.chosen(number)):
            sums[batches.images[example]] += surprise[place], tokens[place]
    return Statistics(list(sums), {name: np.stack(list(sums.values()))})


class _Surprise(keras.Model):
    """The negative log-likelihood of targets, `[G, N, T]`."""

    def __init__(self, decoder: Decoder):
        super().__init__(name="surprise")
        self.decoder = decoder
        self.built = True
        # read once: compiling would take longer than it saves
        self.compile(jit_compile=False)

    def call(self, inputs: dict[str, Any]) -> Any:
        logits = self.decoder({"features": inputs["features"], "words": inputs["words"]}, training=False)
        return token_nll(logits, inputs["targets"])
