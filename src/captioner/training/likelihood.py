"""How surprised a decoder is by what people wrote: its negative log-likelihood under teacher forcing.

Legend: `S` words of all captions of a batch.
"""

import numpy as np

from captioner.common.keras import Tensor, keras
from captioner.model.decoder import Decoder
from captioner.scoring.statistics import SufficientStatistics
from captioner.text.vocabulary import PAD
from captioner.training.batches import CaptionBatches
from captioner.training.losses import token_nll
from captioner.training.teacher_forcing import TeacherForcing


def nll_of_decoder(decoder: Decoder, batches: CaptionBatches, name: str = "nll") -> SufficientStatistics:
    """Return a decoder's negative log-likelihood in nats per token, by picture, under the name given.

    Raises:
        NotFiniteError: that of a picture is not finite.
    """
    measure = _TokenNll(TeacherForcing(decoder, batches.step_widths))
    examples = np.zeros((len(batches.images), 2))
    _, rows = batches.step_widths.input_rows
    for number in range(len(batches)):
        inputs, targets = batches[number]
        nll = measure.predict_on_batch({**inputs, "targets": targets})  # [S]
        real = targets != PAD
        owners = batches.chosen(number)[inputs["pictures"][rows[inputs["target_rows"][real]]]]
        np.add.at(examples, owners, np.stack([nll[real], np.ones(len(owners))], axis=1))
    images = list(dict.fromkeys(batches.images))
    places = {image: place for place, image in enumerate(images)}
    sums = np.zeros((len(images), 2))
    np.add.at(sums, [places[image] for image in batches.images], examples)
    return SufficientStatistics(images, {name: sums}).checked()


class _TokenNll(keras.Model):
    """The negative log-likelihood of targets, `[S]`."""

    def __init__(self, teacher: TeacherForcing):
        super().__init__(name="surprise")
        self.teacher = teacher
        self.built = True
        # read once: compiling would take longer than it saves
        self.compile(jit_compile=False)

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        return token_nll(self.teacher(inputs, training=False), inputs["targets"])
