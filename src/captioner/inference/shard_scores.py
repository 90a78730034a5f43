"""Scores of the captions of shards, against the captions that stand in the shards, on one machine or many.

The scores are those of all pictures at once: a picture's row of statistics needs no other picture, but for CIDEr, which
weighs an n-gram by how many pictures have it in their references. So a folder of scores is made in three steps, of
which each does a part of the data at a time:

1. `ShardReader` tokenizes a shard's captions, `texts/NAME.parquet`, and counts in how many of its pictures each n-gram
   stands, `texts/NAME.ngrams`.
2. `FrequencyAdder` adds these counts up over all shards, for a share of the n-grams. It writes, for each shard, the
   sums of those n-grams that the shard has, `texts/NUMBER.frequencies`. N-grams are compared whole, not by a hash.
3. `ShardScorer` computes the statistics of a shard's pictures, `NAME.parquet`.

So no process holds the n-grams of the whole collection. The first and the third step are not done again for a shard
whose files are there: see `captioner.inference.shard_files`.
"""

import hashlib
import io
import time
import weakref
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
from tqdm import tqdm

from captioner.common import cluster, threads
from captioner.common.errors import CaptionerError, quoted, reason
from captioner.data import shards
from captioner.data.shards import Shard
from captioner.datasets.checks import usable
from captioner.inference.shard_files import STATS_AT_A_TIME, ShardFiles
from captioner.inference.shards import Captions, Done, Form
from captioner.scoring.meteor import Meteor
from captioner.scoring.ngrams import DocumentFrequencies, Ngram, ngrams_in
from captioner.scoring.scorer import USUAL, Scorer
from captioner.scoring.statistics import SufficientStatistics, columns
from captioner.scoring.tokenizer import tokenize

FORM_VERSION = 1
BUCKETS = 64  # of the n-grams of a shard, by their checksum
AT_ONCE = 2_000_000  # n-grams that are added up in one process, unless a bucket has more: 0.3 GB
TEXTS, TABLE, NGRAMS = "texts", ".parquet", ".ngrams"


@dataclass(frozen=True)
class ShardScores:
    """The scores of all captions together.

    Attributes:
        scores: in percent, by column, as `captioner.scoring.scorer.Scores.corpus`.
        shards: how many there are.
        pictures: how many have a score.
        unreadable: how many have none, since they cannot be read.
        without_references: how many have none, since no caption that can be used stands in the shard.
        unusable: captions of the shards that are left out: see `captioner.datasets.checks.usable`.
        there: how many shards had their statistics already.
    """

    scores: dict[str, float]
    shards: int
    pictures: int
    unreadable: int
    without_references: int
    unusable: int
    there: int


@dataclass(frozen=True)
class _Read:
    """What became of a shard in the first step; `made_of` says of which files, `ngrams` how many it has."""

    shard: str
    made_of: str
    pictures: int
    unreadable: int
    without_references: int
    unusable: int
    ngrams: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class _Scored:
    """What became of a shard in the third step.

    Attributes:
        shard: its name.
        made_of: identity of its files.
        collection: identity of all shards together, with whose n-grams CIDEr was computed; nothing without CIDEr.
        sums: of the rows of statistics, by metric.
        bytes: of its file.
        seconds: that it took.
    """

    shard: str
    made_of: str
    collection: str
    sums: dict[str, list[float]]
    bytes: int
    seconds: float


def score(given: Sequence[Shard], captions: str, output: str, metrics: Collection[str] = USUAL) -> ShardScores:
    """Score the captions of shards, here or on the cluster that `RAY_ADDRESS` names.

    Args:
        given: the shards. Each caption that stands there, and can be used, is a reference of its picture.
        captions: the folder that `captioner.inference.shards.caption` has written.
        output: a folder of scores, which all machines reach. What is there and whole is not made again.
        metrics: among `BLEU`, `METEOR`, `ROUGE-L` and `CIDEr`.

    Raises:
        CaptionerError: captions are missing or are of other pictures, no picture has both kinds, a shard cannot be
            read, the folder has other scores, or a machine has no Java.
    """
    said, made_with = Captions.find(captions)
    texts, scores = _texts(output), _scores(output)
    if said.address == scores.address:
        raise CaptionerError(f"{said.url} has the captions: give another folder for the scores")
    captioned = _complete(said, given)
    chosen = [metric for metric in USUAL if metric in metrics]
    scores.begin({"version": FORM_VERSION, "metrics": chosen, "captions": made_with}, given)
    texts.begin({"version": FORM_VERSION, "captions": made_with}, given)

    identities = dict(zip(captioned, _identities(said, given, captioned), strict=True))
    read = texts.whole(given, lambda found, shard: found.made_of == identities[shard.name])
    parts = [(shard, identities[shard.name]) for shard in given if shard.name not in read]
    reading = _each(ShardReader, (said.address, said.form, scores.address), parts, "reading captions")
    read |= {each.shard: each for each in reading}
    pictures = sum(each.pictures for each in read.values())
    if not pictures:
        raise CaptionerError(
            f"none of the pictures in {given[0].url if len(given) == 1 else 'the shards'} has both a caption there, a "
            f".txt or a .json with one, and one in {captions}: give shards with captions"
        )

    together = hashlib.sha256(repr(sorted(identities.items())).encode()).hexdigest()
    collection = together if "CIDEr" in chosen else ""
    found = scores.whole(given, lambda one, shard: one.made_of == identities[shard.name])
    done = {name: one for name, one in found.items() if one.collection == collection}
    waiting = [
        _Part(shard, number, identities[shard.name], shard.name in found)
        for number, shard in enumerate(given)
        if shard.name not in done
    ]
    added = 0
    if waiting and collection:
        shares = _shares(sum(each.ngrams for each in read.values()))
        added = len(list(_each(FrequencyAdder, (scores.address, list(given)), shares, "adding up n-grams")))
    scoring = _each(ShardScorer, (scores.address, chosen, collection, pictures, added), waiting, "scoring")
    made = done | {each.shard: each for each in scoring}

    sums = {metric: np.array([made[shard.name].sums[metric] for shard in given]) for metric in chosen}
    names = [shard.name for shard in given]
    return ShardScores(
        SufficientStatistics(names, sums).scores(),
        len(given),
        pictures,
        sum(each.unreadable for each in read.values()),
        sum(each.without_references for each in read.values()),
        sum(each.unusable for each in read.values()),
        len(done),
    )


class ShardReader:
    """Tokenizes the captions of shards, and counts their n-grams.

    Args:
        captions: the folder of generated captions.
        form: of its files.
        output: the folder of scores.
    """

    def __init__(self, captions: str, form: Form, output: str):
        self._captions, self._texts = Captions(captions, form), _texts(output)

    def __call__(self, part: tuple[Shard, str]) -> _Read:
        """Write the files of a shard; it comes with its identity."""
        began = time.perf_counter()
        shard, made_of = part
        keys, spoken, written, unreadable, without, unusable = self._collected(shard)
        tokens = iter(tokenize([*spoken, *(text for many in written for text in many)]))
        hypotheses = [next(tokens) for _ in spoken]
        references = [[next(tokens) for _ in many] for many in written]
        counts = DocumentFrequencies.of(references).counts
        for ngram in ngrams_in(hypotheses):
            counts.setdefault(ngram, 0)
        contents = [_table(keys, hypotheses, references), _table_of_ngrams(counts)]
        seconds = round(time.perf_counter() - began, 3)
        size = sum(map(len, contents))
        made = _Read(shard.name, made_of, len(keys), unreadable, without, unusable, len(counts), size, seconds)
        self._texts.write(shard, contents, made)
        return made

    def _collected(self, shard: Shard) -> tuple[list[str], list[str], list[list[str]], int, int, int]:
        """Return keys, captions and references of the pictures that have both, and how many have not, and why."""
        keys, spoken, written = list[str](), list[str](), list[list[str]]()
        unreadable = without = unusable = 0
        for sample, row in zip_longest(shards.read(shard), self._captions.rows(shard)):
            if sample is None or row is None or sample.key != row.key:
                raise CaptionerError(
                    f"{shard.url} has {quoted(sample.key) if sample else 'no more pictures'} where its captions in "
                    f"{self._captions.url} have {quoted(row.key) if row else 'no more rows'}: give the shards that "
                    "were captioned, or caption these"
                )
            references = [text for text in sample.captions if usable(text)]
            unusable += len(sample.captions) - len(references)
            if row.caption is None:
                unreadable += 1
            elif not references:
                without += 1
            else:
                keys.append(row.key)
                spoken.append(row.caption)
                written.append(references)
        return keys, spoken, written, unreadable, without, unusable


class FrequencyAdder:
    """Adds up in how many pictures of all shards n-grams stand.

    Args:
        output: the folder of scores.
        given: all shards.
    """

    def __init__(self, output: str, given: Sequence[Shard]):
        self._texts, self._given = _texts(output), given

    def __call__(self, share: tuple[int, int, int]) -> None:
        """Write the sums of some buckets, given as the number of the share, its first bucket, and the one behind it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        number, first, end = share

        def read(shard: Shard) -> pa.Table:
            name = f"{shard.name}{NGRAMS}"
            with _readable(self._texts, name), self._texts.open(name) as file:
                return pq.ParquetFile(file).read_row_groups(range(first, end))

        counted = list(threads.prefetch(read, self._given, 4 * STATS_AT_A_TIME, STATS_AT_A_TIME))
        every = pa.concat_tables(counted)
        codes = every["ngram"].dictionary_encode().unify_dictionaries()
        indices = np.concatenate([chunk.indices.to_numpy() for chunk in codes.chunks] or [np.array([], int)])
        sums = np.bincount(indices, weights=every["pictures"].to_numpy())[indices].astype(np.int32)
        ends = np.cumsum([len(table) for table in counted])
        sink = io.BytesIO()
        schema = pa.schema([("pictures", pa.int32())])
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for of_shard in np.split(sums, ends[:-1]):  # a row group for each
                writer.write_table(pa.table([of_shard], schema=schema), row_group_size=max(1, len(of_shard)))
        self._texts.write_file(_frequencies(number), sink.getvalue())


@dataclass(frozen=True)
class _Part:
    """A shard, its number and its identity, and whether its statistics hold but for CIDEr."""

    shard: Shard
    number: int
    made_of: str
    holds: bool


class ShardScorer:
    """Computes the statistics of shards.

    METEOR's program, which takes 2 GB at most, is started once, and ends with this.

    Args:
        output: the folder of scores.
        metrics: what is computed.
        collection: identity of all shards together, if CIDEr is.
        pictures: how many they have.
        added: the number of files with sums of n-grams.
    """

    def __init__(self, output: str, metrics: Collection[str], collection: str, pictures: int, added: int):
        self._texts, self._scores = _texts(output), _scores(output)
        self._metrics, self._collection = metrics, collection
        self._pictures, self._added = pictures, added
        self._frequency_files: list[Any] = []  # opened once: what a file says of its row groups grows with the shards
        self._meteor = Meteor(keep=True)
        weakref.finalize(self, self._meteor.close)

    def __call__(self, part: _Part) -> _Scored:
        """Write the statistics of a shard."""
        import pyarrow.parquet as pq

        began = time.perf_counter()
        shard = part.shard
        content = self._texts.read(shard, TABLE)
        with _readable(self._texts, f"{shard.name}{TABLE}"):
            table = pq.read_table(io.BytesIO(content)).to_pydict()
        images = [f"{shard.name}/{key}" for key in table["key"]]
        before = dict[str, np.ndarray]()
        if part.holds:
            content = self._scores.read(shard, TABLE)
            with _readable(self._scores, f"{shard.name}{TABLE}"):
                before = SufficientStatistics.read(io.BytesIO(content)).rows
            before.pop("CIDEr", None)
        wanted = [metric for metric in self._metrics if metric not in before]
        rows = {metric: np.zeros((0, len(columns(metric)))) for metric in wanted}
        if images and wanted:
            frequencies = self._frequencies(part) if "CIDEr" in wanted else None
            references = dict(zip(images, table["references"], strict=True))
            scorer = Scorer(references, tokenized=True, frequencies=frequencies, meteor=self._meteor)
            rows = scorer.score(dict(zip(images, table["caption"], strict=True)), wanted).statistics.rows
        every = before | rows
        statistics = SufficientStatistics(images, {metric: every[metric] for metric in self._metrics})
        content = statistics.encoded()
        sums = {metric: found.sum(axis=0).tolist() for metric, found in statistics.rows.items()}
        seconds = round(time.perf_counter() - began, 3)
        made = _Scored(shard.name, part.made_of, self._collection, sums, len(content), seconds)
        self._scores.write(shard, [content], made)
        return made

    def _frequencies(self, part: _Part) -> DocumentFrequencies:
        """Return the document frequencies, in all shards, of the n-grams of one."""
        import pyarrow.parquet as pq

        content = self._texts.read(part.shard, NGRAMS)
        with _readable(self._texts, f"{part.shard.name}{NGRAMS}"):
            found = pq.read_table(io.BytesIO(content), columns=["ngram"])["ngram"]
        with _readable(self._texts, _frequencies(0)):
            if not self._frequency_files:
                opened = (self._texts.open(_frequencies(number)) for number in range(self._added))
                self._frequency_files = [pq.ParquetFile(file) for file in opened]
            sums = [file.read_row_group(part.number)["pictures"].to_numpy() for file in self._frequency_files]
        pictures = np.concatenate(sums)
        common = pictures > 1
        texts = found.filter(common).to_pylist()
        counts = Counter(
            {tuple(text.split(" ")): count for text, count in zip(texts, pictures[common].tolist(), strict=True)}
        )
        return DocumentFrequencies(self._pictures, counts)


@contextmanager
def _readable(place: ShardFiles, name: str) -> Iterator[None]:
    """Say in one line that a file is damaged."""
    import pyarrow as pa

    try:
        yield
    except (CaptionerError, pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise CaptionerError(
            f"{place.url}/{name} is damaged or cannot be read ({reason(error)}): remove it, and call `captioner score` "
            "again"
        ) from None


def _texts(output: str) -> ShardFiles[_Read]:
    return ShardFiles(f"{output.rstrip('/')}/{TEXTS}", [TABLE, NGRAMS], _Read, "texts")


def _scores(output: str) -> ShardFiles[_Scored]:
    return ShardFiles(output, [TABLE], _Scored, "scores")


def _frequencies(number: int) -> str:
    return f"{number:03d}.frequencies"


def _complete(said: Captions, given: Sequence[Shard]) -> dict[str, Done]:
    """Return what became of each shard when it was captioned, by name, in the order of the shards."""
    there = said.done(given)
    if missing := [shard.name for shard in given if shard.name not in there]:
        raise CaptionerError(
            f"{said.url} lacks the captions of {len(missing):,} of {len(given):,} shards as they are now, such as "
            f"{missing[0]}: call `captioner caption --shards` until it has all, or leave these out"
        )
    return {shard.name: there[shard.name] for shard in given}


def _identities(said: Captions, given: Sequence[Shard], captioned: Mapping[str, Done]) -> Iterator[str]:
    """Yield what changes with each shard or its captions."""

    def identity(shard: Shard) -> str:
        captions = Shard(said.address_of(shard, f".{said.form}"), captioned[shard.name].bytes)
        return f"{shards.identity(shard)} {shards.identity(captions)}"

    return threads.prefetch(identity, given, 4 * STATS_AT_A_TIME, STATS_AT_A_TIME)


def _shares(total: int) -> list[tuple[int, int, int]]:
    """Return shares of the buckets that have about as many n-grams as are added up at once."""
    ends = np.linspace(0, BUCKETS, min(BUCKETS, total // AT_ONCE + 1) + 1).round().astype(int).tolist()
    return [(number, *pair) for number, pair in enumerate(pairwise(ends))]


def _each(worker: Callable[..., Callable[[Any], Any]], given: tuple, parts: Sequence[Any], what: str) -> Iterator[Any]:
    if parts:
        yield from tqdm(cluster.each(worker, given, parts), what, len(parts), disable=None, dynamic_ncols=True)


def _table(keys: Sequence[str], hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("key", pa.string()), ("caption", pa.string()), ("references", pa.list_(pa.string()))])
    sink = io.BytesIO()
    pq.write_table(pa.table([list(keys), list(hypotheses), list(references)], schema), sink, compression="zstd")
    return sink.getvalue()


def _table_of_ngrams(counts: Mapping[Ngram, float]) -> bytes:
    """Return a Parquet table of n-grams, with a row group for each bucket."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buckets: list[list[tuple[str, int]]] = [[] for _ in range(BUCKETS)]
    for ngram, pictures in counts.items():
        text = " ".join(ngram)  # words have no space within
        buckets[crc32(text.encode()) % BUCKETS].append((text, int(pictures)))
    schema = pa.schema([("ngram", pa.string()), ("pictures", pa.int32())])
    sink = io.BytesIO()
    # n-grams are all different, and sorted have much of their beginning in common
    encoding = {"use_dictionary": ["pictures"], "column_encoding": {"ngram": "DELTA_BYTE_ARRAY"}}
    with pq.ParquetWriter(sink, schema, compression="zstd", **encoding) as writer:
        for bucket in buckets:
            rows = sorted(bucket)
            table = pa.table([[text for text, _ in rows], [pictures for _, pictures in rows]], schema)
            writer.write_table(table, row_group_size=max(1, len(rows)))
    return sink.getvalue()
