"""Score what a model has to beat, and what people reach, on the test captions."""

from stage import run

from captioner.common import files
from captioner.common.errors import CaptionerError
from captioner.common.workspace import BASELINES, DATA, VOCABULARY
from captioner.data import store
from captioner.data.dataset import captions_by_image
from captioner.data.streamed import TrainingCaptions
from captioner.evaluation.baselines import best_constant, nll_of_frequencies
from captioner.evaluation.diversity import unseen, variety
from captioner.params import Params
from captioner.scoring.scorer import Scorer
from captioner.scoring.statistics import STATISTICS
from captioner.text.vocabulary import Vocabulary


def baselines(params: Params) -> None:
    """Write `results/baselines/`: statistics by picture, and in `baselines.json` the constant caption."""
    vocabulary, training = Vocabulary.load(VOCABULARY), TrainingCaptions(DATA)
    validation, test = (captions_by_image(store.read_captions(DATA, split)) for split in ("validation", "test"))
    if not any(True for _ in training) or not validation or not test:
        raise CaptionerError("A split has no captions: give some to each of train, validation and test.")
    with Scorer(test) as scorer:
        scorer.prepare()
        constant = best_constant(training, validation, vocabulary)
        people = {image: [vocabulary.split(caption) for caption in many] for image, many in test.items()}
        found = (
            nll_of_frequencies(training, test, vocabulary, params.recipe.maximum_words)
            | scorer.score(dict.fromkeys(test, constant)).statistics.suffixed("constant")
            | scorer.people().suffixed("person")
            | unseen(people, map(vocabulary.split, training)).suffixed("person")
            | variety(people).suffixed("person")
        )
    if scorer.copies:
        print(scorer.copies_in_words())
    with files.replacing(BASELINES) as results:
        results.mkdir()
        found.write(results / STATISTICS)
        described = files.json_of({"constant": constant}, indent=2)
        (results / "baselines.json").write_text(described + "\n", "utf-8")


if __name__ == "__main__":
    run(baselines)
