"""Caption the test pictures, score the captions, and draw where the model looked."""

import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
from stage import from_environment, main_checkout, run

from captioner.common.startup import fast_start
from captioner.common.workspace import BASELINES, BLIND, DATA, EVALUATED, FEATURES, FINE_TUNED, MODEL, TEST_FEATURES

with fast_start():
    from captioner.common.keras import keras  # noqa: F401

from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.data.dataset import captions_by_image
from captioner.data.streamed import TrainingCaptions
from captioner.evaluation import attention_metrics, results, signature
from captioner.evaluation.diversity import nll_of_samples, unseen, variety
from captioner.features.store import Features, rows_of
from captioner.model.description import learned
from captioner.model.saved_model import SavedModel
from captioner.params import Params
from captioner.reports.wording import counted
from captioner.scoring import SPICE
from captioner.scoring.scorer import Scorer
from captioner.scoring.shares import colours_and_shapes, shares
from captioner.scoring.spice import JARS, Spice
from captioner.scoring.statistics import STATISTICS, SufficientStatistics
from captioner.search.caption import captions_of
from captioner.search.generators import Generator, Sampler
from captioner.tracking import runs
from captioner.training.batches import CaptionBatches
from captioner.training.history import HISTORY
from captioner.training.likelihood import TeacherForced, teacher_forced

NLL_BATCH = (16, 5)  # pictures, captions per picture


def evaluate(params: Params) -> None:
    """Write `results/evaluate/`."""
    settings = params.evaluate
    # first of all: what it lacks is said before anything is computed
    spice = Spice(from_environment(JARS)) if SPICE in settings.metrics else None
    model = SavedModel.load(MODEL)
    features = Features.open(TEST_FEATURES if TEST_FEATURES.is_dir() else FEATURES)
    model.check_features(features)
    captions, objects = store.read_captions(DATA, "test"), store.read_objects(DATA)
    references = captions_by_image(captions)
    if not references:
        raise CaptionerError("No picture is in the test split: give some to it.")
    names = list(references)
    batch_size = min(settings.batch_size, len(names))
    generator = Generator(
        model.decoder,
        settings.beam,
        model.maximum_words,
        settings.length_normalization,
        batch_size,
        vocabulary=model.vocabulary,
    )
    with Scorer(references, spice) as scorer, runs.evaluation(main_checkout(), Path(), params) as tracked:
        scorer.prepare(settings.metrics)
        setting = signature.Setting(
            signature.number_of_references(references),
            len(names),
            settings.beam,
            settings.length_normalization,
            model.weights_sha256,
            copies=scorer.copies > 0,
            samples=settings.samples,
            skipped=store.read_skipped(DATA),
            subwords=0 if model.vocabulary.begins_word is None else len(model.vocabulary),
        )
        began = time.perf_counter()
        searched = generator.generate(features.grid, rows_of(features, names))
        found = dict(zip(names, captions_of(searched, model.vocabulary, model.decoder.attention), strict=True))
        pace = len(names) / (time.perf_counter() - began)
        texts = {image: caption.text for image, caption in found.items()}
        samples, of_samples = draw(model, features, names, settings.samples, batch_size, params.seed)
        forced = read_references(model, features, captions)
        said = {image: [caption.words] for image, caption in found.items()}
        novel = unseen(said, map(model.vocabulary.split, TrainingCaptions(DATA)))
        scores = scorer.score(texts, settings.metrics)
        leave_one_out = scorer.leave_one_out(texts, settings.metrics)
        own = (
            scores.statistics
            | shares(texts, objects)
            | colours_and_shapes(texts, objects)
            | forced.nll
            | novel
            | of_samples
            | attention_metrics.attention_on_objects(found, objects)
            | attention_metrics.entropy(found, objects)
            | attention_metrics.grounding(found, objects)
            | leave_one_out.suffixed("leave-one-out")
        )
        baselines = SufficientStatistics.read(BASELINES / STATISTICS) | SufficientStatistics.read(BLIND / STATISTICS)
        remarks = results.remarks(own, baselines, scorer.copies_in_words())

        directory = EVALUATED
        shown = np.random.default_rng(params.seed).permutation(len(names))[: settings.attention_pictures]
        drawn = [names[number] for number in sorted(shown)]
        pictures = dict(zip(drawn, store.read_pictures(DATA, drawn), strict=True))
        evaluated = results.Evaluated(
            found,
            references,
            scores.by_image,
            samples,
            results.nll_by_image(own),
            {image: model.vocabulary.decode_all(tokens) for image, tokens in forced.next_tokens.items()},
        )
        results.write_attention(pictures, found, references, directory / "attention", features.crop)
        results.write_captions(evaluated, directory / "captions.jsonl")
        written = results.write_scores(own, baselines, setting, directory)
        dropout = any(value for name, value in model.decoder.config.items() if name.endswith("_dropout"))
        results.write_curves(FINE_TUNED / HISTORY, written, directory, dropout)
        heads = model.decoder.options.heads
        kind = f"{model.decoder.config['attention_name']} attention{f' of {heads} heads' if heads > 1 else ''}"
        encoder = f"encoder {how}" if (how := learned(model.encoder)) else ""
        title = ", ".join(filter(None, [kind, encoder, counted(len(names), "test picture")]))
        every = store.read_pictures(DATA, names)
        page = directory / "report.html"
        results.write_report(title, written, remarks, every, evaluated, page, features.crop)
        tracked.log_evaluation(directory, {"captions_per_second": pace})
    for name, entry in written.items():
        print(results.line(name, entry))
    print(*remarks, sep="\n")


def draw(
    model: SavedModel, features: Features, names: list[str], samples: int, batch_size: int, seed: int
) -> tuple[dict[str, list[str]], SufficientStatistics]:
    """Draw captions of each picture as the model's probabilities have it; return them, and how varied they are."""
    if not samples:
        return {image: [] for image in names}, SufficientStatistics(names, {})
    sampler = Sampler(model.decoder, samples, model.maximum_words, batch_size, model.vocabulary)
    found = sampler.draw(features.grid, seed=seed, rows=rows_of(features, names))
    captions = map(model.vocabulary.decode_words, found.words)
    drawn = {image: list(itertools.islice(captions, samples)) for image in names}
    texts = {image: [" ".join(words) for words in many] for image, many in drawn.items()}
    return texts, variety(drawn) | nll_of_samples(names, found.words, found.log_probability)


def read_references(model: SavedModel, features: Features, captions: pd.DataFrame) -> TeacherForced:
    """Return what the model makes of the references of the test pictures."""
    return teacher_forced(
        model.decoder, CaptionBatches(features, captions, model.vocabulary, *NLL_BATCH, model.maximum_words)
    )


if __name__ == "__main__":
    run(evaluate)
