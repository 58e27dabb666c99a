"""Times as files write them, made into timestamps in UTC."""

from typing import Literal

import polars as pl

TIME = pl.Datetime("us", "UTC")
# Farther from 1970, neither microseconds in 64 bits nor Python's dates go.
LAST_MILLISECOND = 7000 * 366 * 86_400_000
# What ISO-8601 lets a writer leave out, put back so that one format reads every row.
ISO_8601 = (
    (r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00"),
    (r"^(\d{4}-\d{2}-\d{2}) ", "${1}T"),
    (r"T(\d{2}:\d{2})($|Z|[+-])", "T${1}:00${2}"),
    (r"(T.*[+-]\d{2})$", "${1}:00"),
    (r"(T[\d:.]+)$", "${1}+00:00"),
)


def parsed_times(raw: pl.Series) -> pl.Series:
    """Timestamps in UTC from timestamps or ISO-8601 text; null where there is none, or none near."""
    if raw.dtype == pl.Date:
        times = raw.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    elif isinstance(raw.dtype, pl.Datetime):
        zone = raw.dtype.time_zone
        times = raw.dt.convert_time_zone("UTC") if zone else raw.dt.replace_time_zone("UTC")
    elif raw.dtype == pl.String:
        times = iso_times(raw, "us")
    else:
        times = pl.repeat(None, len(raw), dtype=TIME, eager=True)
    near = abs(times.dt.epoch("ms")) <= LAST_MILLISECOND
    return times.set(~near, None).cast(TIME).alias("time")


def iso_times(text: pl.Series, unit: Literal["us", "ns"]) -> pl.Series:
    """Timestamps in UTC from ISO-8601 text, null where it is none.

    Read as it stands at first, which is quicker, then with what the standard lets a writer leave out.
    """
    times = text.str.to_datetime("%+", time_zone="UTC", time_unit=unit, strict=False)
    if times.null_count() > text.null_count():
        completed = text.str.strip_chars()
        for pattern, replacement in ISO_8601:
            completed = completed.str.replace(pattern, replacement)
        again = completed.str.to_datetime("%+", time_zone="UTC", time_unit=unit, strict=False)
        times = times.fill_null(again)
    return times
