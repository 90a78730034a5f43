"""What a decoder makes of captions that people wrote, each word after the true words before it (teacher forcing).

Legend: `S` words of all captions of a batch.
"""

from dataclasses import dataclass

import numpy as np

from captioner.common.keras import Tensor, keras, ops
from captioner.model.decoder import Decoder
from captioner.scoring.statistics import SufficientStatistics
from captioner.text.vocabulary import PAD
from captioner.training.batches import CaptionBatches
from captioner.training.losses import token_nll
from captioner.training.teacher_forcing import TeacherForcing


@dataclass(frozen=True)
class TeacherForced:
    """What a decoder makes of captions under teacher forcing.

    Attributes:
        nll: its negative log-likelihood in nats per token, by picture.
        next_tokens: of each picture's first caption, the most probable token after each of its beginnings: as many as
            the caption has tokens.
    """

    nll: SufficientStatistics
    next_tokens: dict[str, list[int]]


def teacher_forced(decoder: Decoder, batches: CaptionBatches, name: str = "nll") -> TeacherForced:
    """Read captions with a decoder; its negative log-likelihood gets the name given.

    Raises:
        NotFiniteError: that of a picture is not finite.
    """
    read = _Reading(TeacherForcing(decoder, batches.step_widths))
    examples = np.zeros((len(batches.images), 2))
    next_tokens: dict[str, list[int]] = {}
    # one that has more captions than an example holds has several
    first_examples = {image: number for number, image in reversed([*enumerate(batches.images)])}
    _, rows = batches.step_widths.input_rows
    steps, captions = batches.step_widths.target_rows
    for number in range(len(batches)):
        inputs, targets = batches[number]
        nll, best = read.predict_on_batch({**inputs, "targets": targets})  # [S] each
        real = targets != PAD
        owners = batches.chosen(number)[inputs["pictures"][rows[inputs["target_rows"][real]]]]
        np.add.at(examples, owners, np.stack([nll[real], np.ones(len(owners))], axis=1))
        by_caption = np.full((2, captions.max() + 1, steps.max() + 1), PAD)
        by_caption[:, captions[real], steps[real]] = targets[real], best[real]
        owner_of = dict(zip(captions[real].tolist(), owners.tolist(), strict=True))
        for caption, owner in owner_of.items():
            if first_examples[batches.images[owner]] != owner:
                continue
            (spoken,) = np.nonzero(by_caption[0, caption])
            first = batches.targets[batches.examples[owner][1][0]]
            if np.array_equal(by_caption[0, caption, spoken], first[first != PAD]):
                next_tokens.setdefault(batches.images[owner], by_caption[1, caption, spoken].tolist())
    images = list(dict.fromkeys(batches.images))
    places = {image: place for place, image in enumerate(images)}
    sums = np.zeros((len(images), 2))
    np.add.at(sums, [places[image] for image in batches.images], examples)
    return TeacherForced(SufficientStatistics(images, {name: sums}).checked(), next_tokens)


def nll_of_decoder(decoder: Decoder, batches: CaptionBatches, name: str = "nll") -> SufficientStatistics:
    """Return a decoder's negative log-likelihood in nats per token, by picture, under the name given.

    Raises:
        NotFiniteError: that of a picture is not finite.
    """
    return teacher_forced(decoder, batches, name).nll


class _Reading(keras.Model):
    """The negative log-likelihood of targets and the most probable tokens in their place, `[S]` each."""

    def __init__(self, teacher: TeacherForcing):
        super().__init__(name="surprise")
        self.teacher = teacher
        self.built = True
        # read once: compiling would take longer than it saves
        self.compile(jit_compile=False)

    def call(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.teacher(inputs, training=False)
        return token_nll(logits, inputs["targets"]), ops.argmax(logits, axis=-1)
