"""Changes what is sound a little, as transfers, disks, editors and attackers do."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML, YAMLError

Random = random.Random

_BYTES = [b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0" * 8, b"\xef\xbb\xbf", b"\r\n", b'"', b"\x1a"]
_TEXTS = [
    "",
    " ",
    "x" * 10_000,
    "\0",
    "\u202e",
    "a\u0301" * 50,
    "<script>",
    "../../up",
    "/etc/passwd",
    "=1+1",
    "<start>",
]
_VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 10**30,
    lambda: 1e308,
    lambda: float("nan"),
    lambda: float("inf"),
    list,
    dict,
    lambda: [[]] * 1000,
    lambda: _nested(300),
]


def mutated(name: str, data: bytes, generator: Random) -> bytes:
    """Return data changed in one to three places, or parts of it exchanged for what is odd.

    Args:
        name: of the file; by its ending, what has parts is also changed in these.
        data: what is sound.
        generator: draws where and how.
    """
    if generator.random() < 0.5:
        changed = _parts(name, data, generator)
        if changed is not None:
            return changed
    for _ in range(generator.randint(1, 3)):
        data = generator.choice(_KINDS)(data, generator)
    return data


def _parts(name: str, data: bytes, generator: Random) -> bytes | None:
    try:
        if name.endswith((".zip", ".keras")):
            return _archive(data, generator)
        if name.endswith(".json"):
            return json.dumps(_altered(json.loads(data), generator)).encode()
        if name.endswith(".yaml"):
            buffer = io.StringIO()
            YAML().dump(_altered(YAML(typ="safe").load(data), generator), buffer)
            return buffer.getvalue().encode("utf-8", "surrogatepass")
        if name.endswith((".csv", ".txt")):
            lines = data.split(b"\n")
            lines[generator.randrange(len(lines))] = generator.choice(_TEXTS).encode()
            return b"\n".join(lines)
    except (ValueError, YAMLError, RecursionError, zipfile.BadZipFile):
        return None
    return None


def _altered(value: Any, generator: Random) -> Any:
    """Return a value of JSON in which one, at any depth, is another, is absent or is there by another name."""
    if isinstance(value, dict) and value and generator.random() < 0.9:
        key = generator.choice(list(value))
        way = generator.random()
        others = {each: inner for each, inner in value.items() if each != key}
        if way < 0.1:
            return others
        if way < 0.2:
            return {**others, generator.choice(_TEXTS): value[key]}
        return {**value, key: _altered(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.9:
        place = generator.randrange(len(value))
        way = generator.random()
        if way < 0.1:
            return value[:place] + value[place + 1 :]
        if way < 0.2:
            return [*value, value[place]]
        return [*value[:place], _altered(value[place], generator), *value[place + 1 :]]
    return generator.choice([*_VALUES, lambda: generator.choice(_TEXTS)])()


def _archive(data: bytes, generator: Random) -> bytes:
    """Return an archive, whole as such, of which a member is another, has another name, is there twice or absent."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = generator.randrange(len(members))
    name, content = members[place]
    way = generator.randrange(6)
    if way == 0:
        members[place] = (generator.choice(["../" + name, "/" + name, "x\\..\\" + name, name.upper(), ""]), content)
    elif way == 1:
        members.append(members[place])
    elif way == 2:
        del members[place]
    elif way == 3:
        members[place] = (name, bytes(50 << 20))
    else:
        members[place] = (name, mutated(name, content, generator))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", generator.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for each, inner in members:
            info = zipfile.ZipInfo(each)
            info.compress_type = archive.compression
            archive.writestr(info, inner)
    return buffer.getvalue()


def _flip(data: bytes, generator: Random) -> bytes:
    if not data:
        return data
    place = generator.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]


def _cut(data: bytes, generator: Random) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _remove(data: bytes, generator: Random) -> bytes:
    start = generator.randrange(len(data) + 1)
    return data[:start] + data[start + generator.randint(1, 64) :]


def _repeat(data: bytes, generator: Random) -> bytes:
    start = generator.randrange(len(data) + 1)
    part = data[start : start + generator.randint(1, 64)]
    return data[:start] + part * generator.choice([2, 3, 1000]) + data[start + len(part) :]


def _insert(data: bytes, generator: Random) -> bytes:
    place = generator.randrange(len(data) + 1)
    return data[:place] + generator.choice([*_BYTES, generator.randbytes(16)]) + data[place:]


def _overwrite(data: bytes, generator: Random) -> bytes:
    place = generator.randrange(len(data) + 1)
    new = generator.choice([*_BYTES, generator.randbytes(4)])
    return data[:place] + new + data[place + len(new) :]


def _beginning(data: bytes, generator: Random) -> bytes:
    """Change what stands in a header."""
    place = generator.randrange(min(len(data), 64) + 1)
    new = generator.choice(_BYTES)
    return data[:place] + new + data[place + len(new) :]


def _brackets(data: bytes, generator: Random) -> bytes:
    place = generator.randrange(len(data) + 1)
    return (
        data[:place] + generator.choice([b"[", b"{", b'{"a":', b"- "]) * generator.choice([1, 100_000]) + data[place:]
    )


_KINDS = [_flip, _flip, _cut, _remove, _repeat, _insert, _overwrite, _overwrite, _beginning, _beginning, _brackets]


def _nested(depth: int) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner
