"""ZIP archives read safely: damaged ones and members that lead out of the archive are refused."""

import errno
import re
import stat
import zipfile
import zlib
from pathlib import Path

from captioner.common.errors import CaptionerError, quoted
from captioner.common.files import read_pieces
from captioner.data.images import MAXIMUM_BYTES

CLIMBING = re.compile(r"^/|^[A-Za-z]:|\\|\0|(^|/)\.\.(/|$)")


def open_zip(path: Path, own: bool = False) -> zipfile.ZipFile:
    """Open a ZIP archive for reading, after a look at its directory of members, unless this program made it.

    Raises:
        CaptionerError: the archive is missing, truncated or no ZIP, or a member's name leads out of a folder or is a
            symbolic link.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise CaptionerError(f"there is no {path}: run again to get it") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise CaptionerError(f"cannot read {path} ({error.strerror}): fix that and run again") from None
    for member in [] if own else archive.infolist():
        # The name as stored, since zipfile has already replaced what it takes for separators.
        if CLIMBING.search(member.orig_filename) or stat.S_ISLNK(member.external_attr >> 16):
            archive.close()
            raise CaptionerError(
                f"{path} has the member {quoted(member.orig_filename)}, which leads out of the archive: "
                "only relative names with / and no links are allowed, get it from a source you trust"
            )
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one member of an archive.

    Raises:
        CaptionerError: the archive has no such member, it is larger than any picture, packed in a rare way,
            or damaged.
    """
    path = Path(archive.filename or "the archive")
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise CaptionerError(f"{path} has no member {name}: delete {path} and run again to get the whole one") from None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # the others are unpacked whole, however much that is
        raise CaptionerError(f"{path} has the member {quoted(name)}, which is not deflated: pack it again as most do")
    try:
        with archive.open(member) as file:
            content = read_pieces(file, MAXIMUM_BYTES)
    # RuntimeError: encrypted; EOFError: shorter than its directory says; ValueError: a name that is none
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise CaptionerError(f"cannot read {path} ({error.strerror}): fix that and run again") from None
        raise _damaged(path, error) from None
    if len(content) > MAXIMUM_BYTES:
        raise CaptionerError(
            f"{path} has the member {quoted(name)} of more than {MAXIMUM_BYTES:,} bytes: get it from a source you trust"
        )
    return content


def _damaged(path: Path, error: Exception) -> CaptionerError:
    return CaptionerError(f"{path} is damaged or cut short ({error}): delete it and run again")
