"""Arrays in files."""

from pathlib import Path
from tokenize import TokenError

import numpy as np


def mapped(path: Path) -> np.memmap:
    """Map the array of a whole `.npy` file for reading.

    Raises:
        ValueError: it is none, or one of objects.
        OSError: the file cannot be read.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    # of a header that Python cannot parse, or of sizes beyond all bounds
    except (TokenError, SyntaxError, OverflowError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"no header of a .npy file ({type(error).__name__})") from None
    if array.offset + array.nbytes != path.stat().st_size:
        raise ValueError(f"{path.stat().st_size:,} bytes, where its header says {array.offset + array.nbytes:,}")
    return array
