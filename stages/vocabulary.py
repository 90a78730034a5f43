"""Collect the words of the training captions, or pieces of words."""

from stage import run

from captioner.common.workspace import DATA, VOCABULARY
from captioner.data.streamed import TrainingCaptions
from captioner.params import Params
from captioner.text.vocabulary import Subwords, Vocabulary, usable_count


def vocabulary(params: Params) -> None:
    """Write `data/vocabulary.json`."""
    training = TrainingCaptions(DATA)
    if params.vocabulary.tokens == "bpe":
        Subwords.learn(training, params.vocabulary.bpe_size).save(VOCABULARY)
        return
    wanted = params.vocabulary.minimum_count
    used, unknown = usable_count(training, wanted)
    if used < wanted:
        print(
            f"With vocabulary.minimum_count {wanted:,}, {unknown:.0%} of the words of the training captions would be "
            f"unknown, too many to learn sentences from: {used:,} is used."
        )
    Vocabulary.build(training, used).save(VOCABULARY)


if __name__ == "__main__":
    run(vocabulary)
