"""Numbers as sentences and tables show them, alike everywhere."""

from math import isfinite

MINUS = "−"
NONE = "–"  # in a table, where there is no number
LEAST = 1e-9  # what is nearer to 0 is rounding


def counted(number: int, noun: str) -> str:
    """Write how many things there are: 1 picture, 1,000 pictures."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def probability(p: float, named: bool = False) -> str:
    """Write a p-value: 0.41, 0.012, < 0.001; with its name, p = 0.41, p = 0.012, p < 0.001. Without a test: –, no p."""
    if not isfinite(p):
        return "no p" if named else NONE
    least = p < 0.0005
    text = "< 0.001" if least else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"
    return f"p {text}" if named and least else f"p = {text}" if named else text


def digits(value: float, least: int) -> int:
    """Return with how many decimals a value is written: with `least`, or as many as it takes to differ from 0."""
    size = abs(value)
    if not size >= LEAST or float(f"{size:.{least}f}"):
        return least
    return -int(f"{size:.0e}".partition("e")[2])


def decimal(value: float, decimals: int, signed: bool = False) -> str:
    """Write a number with so many decimals; 0 has no sign."""
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    return text.lstrip("+-") if not float(text) else text.replace("-", MINUS)


def interval(low: float | None, high: float | None, decimals: int = 2) -> str:
    """Write the ends of an interval, `[49.10, 55.90]`; nothing where there is none."""
    if low is None or high is None or not isfinite(low) or not isfinite(high):
        return ""
    return f"[{decimal(low, decimals)}, {decimal(high, decimals)}]"
