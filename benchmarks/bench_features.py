"""Feature extraction from JPEG to float16 on disk: the rows `features-*`, one an encoder.

    python benchmarks/bench_features.py [encoder ...]

Ours is `captioner.features.extract`, as the pipeline runs it: decoding, network and writing at the same time. The
reference is what tutorials do: `tf.data` decodes in parallel, ahead of the network, in batches of 32, Keras's
`model.predict` runs on each, and `np.save` writes a file a picture. Both read the same bytes, decode with the same
function (other scaling would give other features) and keep float16. Both have their network built, and have run once,
before the clock starts.

Freed memory goes back to the system, as in a tutorial, and is not kept as in the pipeline, which would speed up the
reference and not ours.

The pictures are drawn from a seed: noise whose amplitude falls with frequency as photographs' does, of Flickr8k's usual
500 × 375 pixels, which makes JPEGs of its usual 130 kB. What they show is of no matter for the time.
"""

import io
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from measure import matrix_rate, row_of_pairs, seconds

from captioner.common.startup import silence_stderr

with silence_stderr():
    import tensorflow

    from captioner.common.keras import keras

import numpy as np
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.data import images
from captioner.encoders import networks
from captioner.features.extract import Extractor
from captioner.features.store import Features

BATCH = 32
WIDTH, HEIGHT, QUALITY = 500, 375, 92
PICTURES = {"efficientnet_lite0": 1024, "mobilenet": 1024, "densenet121": 160}  # in a run of ours; some seconds
REFERENCE_PICTURES = 160  # in a run of the slower path
GIGAFLOP = {"efficientnet_lite0": 0.81, "mobilenet": 1.14, "densenet121": 5.7}  # a picture, two a multiply-add
GOALS = {
    "efficientnet_lite0": {"ratio": 4, "fraction_of_limit": 0.65},
    "mobilenet": {"ratio": 4},
    "densenet121": {"ratio": 1.8},
}
DRAWN = 64  # different pictures; more would only cost time to draw


def draw(generator: np.random.Generator) -> bytes:
    """Return a JPEG with the statistics of a photograph: amplitude falls as 1/frequency, colours vary less."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = 1 / WIDTH
    noise = np.fft.rfft2(generator.standard_normal((3, HEIGHT, WIDTH))) / frequency
    light, *colours = np.fft.irfft2(noise, s=(HEIGHT, WIDTH))
    pixels = np.stack([light, *(light + 0.3 * colour for colour in colours)], axis=-1)
    pixels = 120 + 60 * (pixels - pixels.mean()) / pixels.std()
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def choose_weights(encoder: str, directory: Path) -> str:
    """Return `imagenet` where those weights are at hand without a network, else a file of random ones."""
    name = {"mobilenet": "MobileNet", "densenet121": "DenseNet121"}.get(encoder)
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    if name is None or any(cache.glob(f"{encoder}_*no_top.h5")):
        return "imagenet"
    size = images.IMAGE_SIZE
    network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(size, size, 3))
    generator = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2D):
            [kernel, *others] = layer.get_weights()
            inputs = np.prod(kernel.shape[: 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else 3])
            # of He et al. 2015, so that values neither vanish nor explode on their way
            layer.set_weights([generator.normal(0, np.sqrt(2 / inputs), kernel.shape), *others])
    path = directory / f"{encoder}.weights.h5"
    network.save_weights(path)
    return str(path)


def predict(model: keras.Model, paths: Sequence[Path], directory: Path) -> None:
    """Write `NAME.npy` for each picture, as tutorials do; see the module."""

    def decode(path: tensorflow.Tensor) -> tensorflow.Tensor:
        pixels = tensorflow.numpy_function(
            lambda name: images.decode(Path(name.decode()).read_bytes(), images.IMAGE_SIZE), [path], tensorflow.uint8
        )
        return tensorflow.ensure_shape(pixels, (images.IMAGE_SIZE, images.IMAGE_SIZE, 3))

    batches = tensorflow.data.Dataset.from_tensor_slices([str(path) for path in paths])
    batches = batches.map(decode, num_parallel_calls=os.cpu_count()).batch(BATCH).prefetch(2)
    # its tuning may hold up the end until twice the time has passed, which would say nothing of the network's path
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    position = 0
    for batch in batches.with_options(options):
        for grid in model.predict(batch, batch_size=BATCH, verbose=0):
            np.save(directory / f"{position}.npy", grid.reshape(-1, grid.shape[-1]).astype(np.float16))
            position += 1


def agreement(directory: Path, apart: Path, count: int) -> str:
    """Compare what both paths wrote of the first pictures.

    Raises:
        AssertionError: they differ by more than float16's rounding and float32's order of adding explain.
    """
    ours = Features.open(directory).grid[:count].astype(np.float32)
    theirs = np.stack([np.load(apart / f"{position}.npy") for position in range(count)]).astype(np.float32)
    largest = float(np.abs(theirs).max())
    difference = float(np.abs(ours - theirs).max())
    assert theirs.std() > 0, "the features are all alike"
    assert np.allclose(ours, theirs, rtol=2**-9, atol=2**-12 * largest), (difference, largest)
    return (
        f"features differ by at most {difference:.1g}, the largest is {largest:.3g}; float16 rounds by 0.0005 of each"
    )


def measure(encoder: str, directory: Path) -> None:
    """Measure a row and write it."""
    generator = np.random.default_rng(1)
    drawn = [draw(generator) for _ in range(DRAWN)]
    names = [f"{number}.jpg" for number in range(PICTURES[encoder])]
    for number, name in enumerate(names):
        (directory / name).write_bytes(drawn[number % DRAWN])
    paths = [directory / name for name in names]
    few = paths[: min(len(paths), REFERENCE_PICTURES)]
    weights = choose_weights(encoder, directory)
    extractor = Extractor(encoder, weights, batch_size=BATCH)
    model = networks.build(encoder, weights)
    together, apart = directory / "features", directory / "apart"
    apart.mkdir(exist_ok=True)

    def ours() -> float:
        pictures = (path.read_bytes() for path in paths)
        return len(paths) / seconds(lambda: extractor.extract(pictures, names, together))

    def reference() -> float:
        return len(few) / seconds(lambda: predict(model, few, apart))

    flop = 1e9 * GIGAFLOP[encoder]
    extractor(np.zeros((BATCH, images.IMAGE_SIZE, images.IMAGE_SIZE, 3), np.uint8))
    predict(model, few[:BATCH], apart)
    ours()
    reference()
    agreed = agreement(together, apart, len(few))
    pixels = np.stack([images.decode(data, images.IMAGE_SIZE) for data in drawn])
    decoding = len(drawn) / seconds(lambda: [images.decode(data, images.IMAGE_SIZE) for data in drawn])
    network = len(pixels) / seconds(lambda: extractor(pixels))
    row = row_of_pairs(
        f"features-{encoder}",
        f"feature extraction, {encoder}",
        "pictures/s",
        ours,
        reference,
        lambda: matrix_rate() / flop,
        agreement=agreed,
        goal=GOALS[encoder],
        notes=[
            f"{len(paths)} drawn JPEGs of {WIDTH} × {HEIGHT}, {np.mean([len(data) for data in drawn]) / 1000:.0f} kB "
            f"on average; the reference takes {len(few)} of them",
            f"{GIGAFLOP[encoder]} GFLOP a picture; the limit is the network's, while the time is decoding's too; "
            f"alone, decoding reaches {decoding:.0f} pictures/s on one core and the network {network:.0f} on all",
            *([] if weights == "imagenet" else ["weights are random, which costs the same time"]),
        ],
    )
    best, reference_rate = median(row.pairs["limit"]), median(row.pairs["reference"])
    both = 1 / (1 / best + 1 / decoding / (os.cpu_count() or 1))
    said = (
        f"were the network's products as fast as the limit, and decoding as it is, {both:.0f} pictures/s would be "
        f"reached, {both / reference_rate:.1f} times the reference; ours reaches {row.ours / both:.0%} of that"
    )
    replace(row, notes=[*row.notes, said]).write()


def main(names: Sequence[str]) -> None:
    """Measure the rows of the encoders named, or of all."""
    for name in names:
        if name not in GOALS:
            raise CaptionerError(f"encoder {name!r} is unknown: choose of {', '.join(GOALS)}")
    for name in names or GOALS:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CaptionerError as error:
        sys.exit(f"bench_features: {error}")
