"""Note what the files contain that the parameters name, so that the stages which read them notice a change."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stage import main_checkout, place_of_shards, run

from captioner.common import files
from captioner.common.fingerprints import FileHashes, combined
from captioner.common.workspace import FINGERPRINTS
from captioner.data import is_pattern
from captioner.encoders import networks
from captioner.encoders.registry import is_path, network_path
from captioner.params import Params


def fingerprint(params: Params) -> None:
    """Write `data/fingerprints/`: equal bytes where nothing changed, and DVC skips what depends on them."""
    checkout = main_checkout()
    hashes = FileHashes(checkout / ".cache/file-hashes.json")

    def pictures() -> dict[str, str]:
        from captioner.datasets import folder  # here, since it takes as long to load as all the rest

        return folder.fingerprint(checkout / own.path, own.captions, hashes)

    def archives() -> dict[str, str]:
        from captioner.datasets import shards  # likewise

        return shards.fingerprint(place_of_shards(params), hashes)

    def weights() -> dict[str, str]:
        file = networks.weights_file(asked.encoder, asked.weights, checkout)
        return {} if file is None else {"sha256": hashes.of([file])[file]}

    def encoder() -> dict[str, str]:
        path = network_path(asked.encoder, checkout)
        if path is None or path.is_file():
            return {} if path is None else {"sha256": hashes.of([path])[path]}
        found = hashes.of(each for each in path.rglob("*") if each.is_file())
        return {"sha256": combined((str(each.relative_to(path)), sha256) for each, sha256 in found.items())}

    def vectors() -> dict[str, str]:
        from captioner.text import word_vectors  # likewise

        found = hashes.of(word_vectors.files_of(asked_vectors, checkout))
        return {"sha256": combined((file.suffix, sha256) for file, sha256 in found.items())}

    own, asked, asked_vectors = params.download.folder, params.features, params.model.word_vectors
    given = {"folder": (own.path, pictures), "shards": (params.download.shards.path, archives)}
    found = {
        "pictures": _look(checkout, "pictures", *given[params.dataset]) if params.dataset in given else {},
        "encoder": _look(checkout, "encoder", asked.encoder, encoder) if is_path(asked.encoder) else {},
        "weights": {} if asked.weights == "imagenet" else _look(checkout, "weights", asked.weights, weights),
        "word_vectors": {} if asked_vectors == "none" else _look(checkout, "word_vectors", asked_vectors, vectors),
    }
    hashes.save()
    with files.replacing(FINGERPRINTS) as beside:
        beside.mkdir()
        for name, values in found.items():
            (beside / f"{name}.json").write_text(files.json_of(values, indent=2) + "\n", "utf-8")


def _look(checkout: Path, name: str, path: str, look: Callable[[], dict[str, str]]) -> dict[str, Any]:
    """Return the fingerprint of what lies at a path; where nothing does, the one that came with the data from there."""
    found = look() if is_pattern(path) else {}
    if not found and not (checkout / path).exists():
        try:
            known = json.loads((FINGERPRINTS / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            known = {}
        if known.get("path") == path:
            print(f"fingerprint: there is no {path} here: what was made of it is kept.", file=sys.stderr)
            return dict(known)
    return {"path": path, **(found or look())}


if __name__ == "__main__":
    run(fingerprint, timed=False)
