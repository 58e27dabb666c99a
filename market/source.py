"""Bars by what a user calls them: a sample, a file, or a synthetic market."""

from pathlib import Path

from market.bars import Bars, load_bars
from market.synthetic import synthetic_bars

SYNTHETIC = "synthetic:"


def bars_from(source: str | Path) -> Bars:
    """A sample's name, a .parquet or .csv file, or `synthetic:ou?theta=0.05&sigma=0.01&seed=3`.

    Raises `BarsError` where there are none of that name, or they are bad.
    """
    if isinstance(source, str) and source.startswith(SYNTHETIC):
        return synthetic_bars(source.removeprefix(SYNTHETIC))
    return load_bars(source)
