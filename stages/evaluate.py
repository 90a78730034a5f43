"""Caption the test pictures, score the captions, and draw where the model looked."""

import time
from pathlib import Path

import numpy as np
from stage import DATA, FEATURES, MODEL, RESULTS, main_checkout, run

from captioner.quiet import quiet

with quiet():
    import keras  # noqa: F401

from captioner import evaluation, tracking
from captioner.batches import rows_of
from captioner.datasets import pack
from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.model import CaptionModel
from captioner.params import Params


def evaluate(params: Params) -> None:
    """Write `results/evaluate/`."""
    settings = params.evaluate
    model, features = CaptionModel.load(MODEL), Features.open(FEATURES)
    model.check_features(features)
    captions = pack.read_captions(DATA)
    references = evaluation.references_by_image(captions[captions["split"] == "test"])
    if not references:
        raise CaptionerError("No picture is in the test split: give some to it.")
    names = list(references)
    generator = model.generator(settings.beam, settings.length_normalization, min(settings.batch_size, len(names)))
    with tracking.evaluation(main_checkout(), Path(), params) as tracked:
        began = time.perf_counter()
        found = dict(zip(names, model.captions(generator, features.grid, rows_of(features, names)), strict=True))
        pace = len(names) / (time.perf_counter() - began)
        texts = {image: caption.text for image, caption in found.items()}
        objects = pack.read_objects(DATA)
        scores = evaluation.score(texts, references, objects)
        scores.corpus.update(evaluation.attention_on_objects(found, objects))

        chosen = np.random.default_rng(params.seed).permutation(len(names))[: settings.attention_pictures]
        shown = [names[number] for number in sorted(chosen)]
        pictures = dict(zip(shown, pack.read_pictures(DATA, shown), strict=True))
        directory = RESULTS / "evaluate"
        evaluation.write_attention(pictures, found, references, directory / "attention")
        evaluation.write_captions(found, references, scores, directory / "captions.jsonl")
        evaluation.write_metrics(scores, directory / "metrics.json")
        tracked.log_evaluation(directory, {"test_captions_per_second": pace})
    for name, value in scores.corpus.items():
        print(f"{name:18} {value:6.2f}")


if __name__ == "__main__":
    run(evaluate)
