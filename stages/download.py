"""Get the data set: pictures, captions and, where they are known, the objects in the pictures."""

import sys

from stage import from_environment, main_checkout, place_of_shards, run

from captioner.common.workspace import DATA
from captioner.data import store, streamed
from captioner.data.dataset import SPLITS, Dataset
from captioner.datasets import flickr8k, folder, shards
from captioner.datasets.checks import judge
from captioner.datasets.scenes import drawing
from captioner.params import Params


def download(params: Params) -> None:
    """Write `data/images.zip`, `data/captions.parquet` and `data/objects.parquet`."""
    if params.streamed:
        asked = params.download.shards
        found = shards.Streamed(place_of_shards(params), asked.validation, asked.test, asked.split == "shards")
        try:
            streamed.write(found, DATA, params.download.skip_unreadable)
        finally:
            _print(found.remarks)
        return
    dataset = _load(params)
    _print(judge(dataset))
    store.write(dataset, DATA, SPLITS, params.download.skip_unreadable)


def _print(remarks: list[str]) -> None:
    for remark in remarks:
        print(remark, file=sys.stderr)


def _load(params: Params) -> Dataset:
    if params.dataset == "scenes":
        drawn = params.download.scenes
        return drawing.load(
            {"train": drawn.train, "validation": drawn.validation, "test": drawn.test},
            (drawn.min_objects, drawn.max_objects),
            drawn.captions,
            drawn.seed,
            drawn.image_size,
        )
    if params.dataset == "flickr8k":
        return flickr8k.load(main_checkout() / ".cache/downloads/flickr8k", from_environment("CAPTIONER_MIRROR"))
    if params.dataset == "shards":
        asked = params.download.shards
        return shards.load(place_of_shards(params), asked.validation, asked.test, asked.split == "shards")
    return folder.load(main_checkout() / params.download.folder.path, params.download.folder.captions)


if __name__ == "__main__":
    run(download)
