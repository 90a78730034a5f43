"""The files that hold features of training pictures which stay in their shards: one for each shard.

Legend: `P` positions of the grid, `C` channels of the encoder.

`NAME.parquet` has a row for each training picture of the shard `NAME`, in the order of the captions, and a row group
for each part of them (see `captioner.data.streamed`): `image`, and `map`, the bytes of float16 `[P, C]`, compressed by
zstd.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captioner.common.errors import CaptionerError, reason
from captioner.common.files import replacing
from captioner.data.streamed import Part, TrainingCaptions


class FeatureShards:
    """A directory of such files.

    Args:
        directory: it.
        positions: `P`.
        channels: `C`.

    Attributes:
        shape: `(P, C)`.
    """

    def __init__(self, directory: Path, positions: int, channels: int):
        self._directory = directory
        self.shape = (positions, channels)
        self._schema = pa.schema([("image", pa.string()), ("map", pa.binary(2 * positions * channels))])

    def has(self, shard: str, captions: TrainingCaptions) -> bool:
        """Whether the file of a shard is there and whole."""
        groups = len(captions.parts_of[shard])
        try:
            with pq.ParquetFile(self.file(shard)) as file:
                return bool(file.num_row_groups == groups and file.schema_arrow.equals(self._schema))
        except (pa.ArrowException, OSError):
            return False

    def write(self, shard: str, parts: Sequence[Sequence[str]], maps: Iterator[np.ndarray]) -> None:
        """Write the maps of a shard's pictures, float16 `[P, C]` each, in their order.

        Args:
            shard: its name.
            parts: the pictures of each part.
            maps: as many as there are pictures; read to their end, so that what is wrong with them is said.
        """
        with replacing(self.file(shard)) as beside:
            # of bytes that are no text, and seldom alike, neither a dictionary nor the extremes help
            options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
            with pq.ParquetWriter(beside, self._schema, **options) as file:
                for images in parts:
                    taken = [made.astype("<f2", copy=False).tobytes() for _, made in zip(images, maps, strict=False)]
                    columns = [pa.array(images, pa.string()), pa.array(taken, self._schema.field("map").type)]
                    file.write_table(pa.table(columns, schema=self._schema), row_group_size=len(images))
                for _ in maps:
                    raise ValueError("received more maps than pictures")

    def read(self, part: Part) -> tuple[list[str], np.ndarray]:
        """Return the pictures of a part and their maps, float16 `[pictures, P, C]`.

        Raises:
            CaptionerError: the file is missing or damaged.
        """
        path = self.file(part.shard)
        try:
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(part.place)
            table.validate(full=True)
            column = table["map"].combine_chunks()
            maps = np.frombuffer(column.buffers()[1], "<f2").reshape(-1, *self.shape)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CaptionerError(
                f"{path} is missing or damaged ({reason(error)}); `dvc repro features` makes it again"
            ) from None
        first = column.offset
        return table["image"].to_pylist(), maps[first : first + len(column)]

    def file(self, shard: str) -> Path:
        """Return the file of a shard."""
        return self._directory / f"{shard}.parquet"
