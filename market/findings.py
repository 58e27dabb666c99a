"""What a check of data reports: findings, and how they are written."""

from dataclasses import dataclass, field
from math import floor, isfinite, log10

# A return is an outlier past so many robust standard deviations (1.4826 x the median absolute
# deviation). Iglewicz and Hoaglin (1993) flag from 3.5 on; returns have heavier tails than what
# that is meant for, and 10 leaves errors of the feed rather than news.
OUTLIER = 10.0
ROBUST = 1.4826
EXAMPLES = 3
DIGITS = 6  # significant ones of an amount
FEWEST_DECIMALS = 2
MOST_DECIMALS = 24


@dataclass
class Finding:
    """One kind of thing that was looked for."""

    name: str  # what
    count: int = 0  # how many
    note: str = ""  # the rule or the sum of it
    examples: list[str] = field(default_factory=list)  # the first few, or the largest
    fault: bool = True  # whether it speaks against the data; a night does not


@dataclass
class Report:
    """What a file holds and what is odd about it."""

    source: str  # the file
    kind: str  # bars or events
    rows: int = 0  # of bars, or lines of a log
    period: str = "none"  # first and last time
    # What there is of each kind or instrument.
    contents: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)  # what was looked for
    refusal: str = ""  # why it cannot be used as it is; empty where it can


def length(seconds: float) -> str:
    """A stretch of time as a report writes it."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def amount(value: float) -> str:
    """A price or an amount of money with its significant digits, however small or large it is."""
    decimals = FEWEST_DECIMALS
    if value and isfinite(value):
        decimals = DIGITS - 1 - floor(log10(abs(value)))
    return f"{value:,.{min(max(decimals, FEWEST_DECIMALS), MOST_DECIMALS)}f}"
