"""A frozen network compiled for the machine: LiteRT on a CPU with TensorFlow, Keras elsewhere."""

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captioner.common.startup import silence_stderr
from captioner.features.runtimes import interpreters, on_all_cores

if TYPE_CHECKING:
    from captioner.common.keras import keras


class Compiled(NamedTuple):
    """A network that is ready to run.

    Attributes:
        forward: from pictures, uint8 `[B, S, S, 3]`, to the map, float16 `[B, R, R, C]`, infinite where float16 cannot
            hold it.
        together: how many pictures it takes at a time at best; `B` may be up to that, or any where it is 1.
        content: the network as LiteRT reads it, where that runs it.
    """

    forward: Callable[[np.ndarray], np.ndarray]
    together: int
    content: bytes | None = None


def half(model: "keras.Model") -> "keras.Model":
    """Return a model whose map is float16, infinite where that cannot hold it."""
    from captioner.common.keras import keras

    return keras.Model(model.inputs[0], keras.ops.cast(model.outputs[0], "float16"))


def runs_on_litert() -> bool:
    """Whether frozen models run through LiteRT: on TensorFlow without a GPU."""
    from captioner.common.keras import keras

    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow

    return not tensorflow.config.list_physical_devices("GPU")


def compile_forward(model: "keras.Model", batch_size: int, check: bool = False) -> Compiled:
    """Compile a frozen model.

    On TensorFlow without a GPU it runs through LiteRT, whose kernels (XNNPACK) are several times faster on a CPU; else
    through Keras, which fills smaller batches up, so that it compiles for one size.

    Args:
        model: the network.
        batch_size: the most pictures at a time.
        check: whether LiteRT is left where it gives another map than Keras, as of a convolution whose stride is larger
            than its kernel.
    """
    network = half(model)
    if runs_on_litert():
        compiled = on_litert(_export(network))
        if not check or _agree(compiled.forward, network):
            return compiled
        print("LiteRT gives another map of this encoder than Keras, which runs it in its place.", file=sys.stderr)

    # A web server calls from many threads, and on JAX Keras lends the weights' memory to a prediction until it ends.
    lock = threading.Lock()

    def forward(batch: np.ndarray) -> np.ndarray:
        filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
        with lock:
            return network.predict_on_batch(filled)[: len(batch)]

    return Compiled(forward, batch_size)


def _agree(compiled: Callable[[np.ndarray], np.ndarray], model: "keras.Model") -> bool:
    """Say whether both give the same map of a picture of noise, but for rounding."""
    noise = np.random.default_rng(1).integers(0, 256, (1, *model.input_shape[1:]), np.uint8)
    found, expected = compiled(noise).astype(np.float32), np.asarray(model(noise), np.float32)
    if not np.isfinite(expected).all():
        return True  # no map that could be used: who asked for it says so
    return np.allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def on_litert(content: bytes) -> Compiled:
    """Return what runs an exported network.

    Each core takes a picture at a time. What a layer leaves is then in the core's cache when the next one wants it, and
    no core waits for another after each layer; the values are those of any batch.
    """
    run = interpreters(content).run
    return Compiled(on_all_cores(lambda picture: run(picture[None])), 1, content)


def _export(model: "keras.Model") -> bytes:
    """Convert a model for LiteRT, in memory, its weights as constants."""
    import tensorflow

    trainable = [variable.numpy() for variable in model.trainable_variables]
    others = [variable.numpy() for variable in model.non_trainable_variables]
    function = tensorflow.function(
        lambda batch: model.stateless_call(trainable, others, batch, training=False)[0],
        input_signature=[tensorflow.TensorSpec((1, *model.input_shape[1:]), tensorflow.uint8)],
        autograph=False,
    )
    # The second argument would hold the variables; there are none, but without it a deprecated path is taken.
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tensorflow.Module()
    )
    with silence_stderr():
        return converter.convert()
