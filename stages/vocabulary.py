"""Collect the words of the training captions."""

from stage import DATA, VOCABULARY, run

from captioner.datasets import pack
from captioner.params import Params
from captioner.vocabulary import Vocabulary


def vocabulary(params: Params) -> None:
    """Write `data/vocabulary.json`."""
    captions = pack.read_captions(DATA)
    training = captions["caption"][captions["split"] == "train"]
    Vocabulary.build(training, params.vocabulary.minimum_count).save(VOCABULARY)


if __name__ == "__main__":
    run(vocabulary)
