"""Let the encoder learn together with the decoder; where it stays frozen, pass the trained model on."""

from stage import run

from captioner.common import files
from captioner.common.workspace import FINE_TUNED, MODEL, TRAINED, TRAINED_MODEL
from captioner.encoders.registry import FROZEN
from captioner.params import Params
from captioner.tracking.record import RECORD
from captioner.training.history import HISTORY, KEPT


def fine_tune(params: Params) -> None:
    """Write `models/captioner/` and `results/fine_tune/`."""
    if params.encoder_training != FROZEN:
        import from_pixels  # here, since what it needs takes seconds to load

        from_pixels.learn(params)
        return
    with files.replacing(FINE_TUNED) as results, files.replacing(MODEL) as model:
        files.link(TRAINED_MODEL, model)
        results.mkdir()
        for name in (HISTORY, KEPT, RECORD):
            files.link(TRAINED / name, results / name)


if __name__ == "__main__":
    run(fine_tune)
