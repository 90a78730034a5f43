"""What a model that was logged to MLflow is loaded with: pictures in, captions out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.model import Captioner


class PicturesToCaptions:
    """Captions pictures given as paths or as encoded bytes, in a list or in the first column of a table."""

    def __init__(self, model: Captioner):
        self.model = model

    def predict(self, pictures: Any, params: Any = None) -> list[str]:  # noqa: ARG002
        """Return a caption for each picture."""
        given: Iterable[str | Path | bytes] = pictures.iloc[:, 0] if hasattr(pictures, "iloc") else pictures
        read = [each if isinstance(each, bytes) else Path(each).read_bytes() for each in given]
        return [caption.text for caption in self.model.caption(read)]


def _load_pyfunc(path: str) -> PicturesToCaptions:
    """Load the model's directory; the name is MLflow's."""
    return PicturesToCaptions(Captioner.load(Path(path)))
