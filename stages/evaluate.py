"""Caption the test pictures, score the captions, and draw where the model looked."""

import time
from pathlib import Path

import numpy as np
from stage import BASELINES, BLIND, DATA, FEATURES, MODEL, RESULTS, main_checkout, run

from captioner.quiet import quiet

with quiet():
    import keras  # noqa: F401

from captioner import evaluation, looking, tracking
from captioner.baselines import TrainingGrams
from captioner.batches import CaptionBatches, rows_of
from captioner.bootstrap import STATISTICS, Statistics
from captioner.datasets import pack
from captioner.datasets.dataset import captions_by_image
from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.likelihood import nll_of_decoder
from captioner.model import CaptionModel
from captioner.params import Params
from captioner.scores import Scorer

NLL_BATCH = (16, 5)  # pictures, captions a picture


def evaluate(params: Params) -> None:
    """Write `results/evaluate/`."""
    settings = params.evaluate
    model, features = CaptionModel.load(MODEL), Features.open(FEATURES)
    model.check_features(features)
    captions = pack.read_captions(DATA)
    references = captions_by_image(captions[captions["split"] == "test"])
    if not references:
        raise CaptionerError("No picture is in the test split: give some to it.")
    objects = pack.read_objects(DATA)
    names = list(references)
    generator = model.generator(settings.beam, settings.length_normalization, min(settings.batch_size, len(names)))
    setting = evaluation.Setting(
        evaluation.number_of_references(references),
        len(names),
        settings.beam,
        settings.length_normalization,
        model.weights_sha256,
    )
    with tracking.evaluation(main_checkout(), Path(), params) as tracked:
        began = time.perf_counter()
        found = dict(zip(names, model.captions(generator, features.grid, rows_of(features, names)), strict=True))
        pace = len(names) / (time.perf_counter() - began)
        texts = {image: caption.text for image, caption in found.items()}
        scorer = Scorer(references)
        scores = scorer.score(texts)
        told = captions[captions["split"] == "test"]
        batches = CaptionBatches(features, told, model.vocabulary, *NLL_BATCH, model.maximum_words)
        grams = TrainingGrams(map(model.vocabulary.split, captions[captions["split"] == "train"]["caption"]))
        own = (
            scores.statistics
            | evaluation.shares(texts, objects)
            | nll_of_decoder(model.decoder, batches)
            | grams.unseen({image: [caption.words] for image, caption in found.items()})
            | looking.entropy(found, objects)
            | looking.attention_on_objects(found, objects)
            | scorer.like_a_person(texts).suffixed("like-a-person")
        )
        baselines = Statistics.read(BASELINES / STATISTICS) | Statistics.read(BLIND / STATISTICS)

        chosen = np.random.default_rng(params.seed).permutation(len(names))[: settings.attention_pictures]
        shown = [names[number] for number in sorted(chosen)]
        pictures = dict(zip(shown, pack.read_pictures(DATA, shown), strict=True))
        directory = RESULTS / "evaluate"
        evaluation.write_attention(pictures, found, references, directory / "attention")
        evaluation.write_captions(found, references, scores.by_image, directory / "captions.jsonl")
        written = evaluation.write_scores(own, baselines, setting, directory)
        evaluation.write_curves(RESULTS / "train" / "history.csv", written, directory)
        tracked.log_evaluation(directory, {"test_captions_per_second": pace})
    for name, entry in written.items():
        print(f"{name:32} {entry['value']:7.2f}  [{entry['low']:.2f}, {entry['high']:.2f}]  {entry['signature']}")
    print(*evaluation.remarks(own, baselines), sep="\n")


if __name__ == "__main__":
    run(evaluate)
