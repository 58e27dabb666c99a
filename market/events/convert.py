"""An event log made into bars: `qdesk data convert`.

Files stream through in blocks: checked (`events`), put in order (`event_order`), made into bars
(`event_bars`). Finished bars wait in parts on disk, so that memory depends neither on the length of the
log nor on the number of bars. Bars appear under their name only once they are whole.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from durable.replacing import Renaming, rename_all, workplace
from market.events.aggregate import BarBuilder, Empty, Every
from market.events.files import BLOCK_BYTES, Rejected, event_blocks
from market.events.order import EventOrder
from market.events.schema import KINDS, UNIT_NAMES, EventsError

PART_ROWS = 1_048_576  # bars a part holds, and a row group of a Parquet file
FIRST_LINES = 10_000  # of which more than half are bad: this is no event log, no need to read on
MAX_REJECTED = 0.001  # share of the lines, where nothing else is asked for
# Bad lines wait in memory until they are written, so that there is an end to them.
MOST_REJECTED = 1_000_000
TEXT_TIME = "%Y-%m-%dT%H:%M:%S%.6fZ"


@dataclass
class Written:
    """The bars of one instrument."""

    instrument: str
    path: Path
    bars: int = 0
    carried: int = 0
    first: str = ""
    last: str = ""
    columns: list[str] = field(default_factory=list)


@dataclass
class Conversion:
    """What became of every line: `lines` = `blank` + `events` of each kind + `rejected` of each fault."""

    lines: int = 0  # in all files
    blank: int = 0  # lines that hold nothing
    events: Counter[str] = field(default_factory=Counter)  # good ones, by kind
    rejected: Counter[str] = field(default_factory=Counter)  # by fault
    units: set[str] = field(default_factory=set)  # forms of time seen
    rejected_path: Path | None = None  # where the rejected lines stand; none where there are none
    written: list[Written] = field(default_factory=list)  # the bars


class _Parts:
    """Bars of one instrument on their way to a file, in parts of `PART_ROWS`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.waiting: list[pl.DataFrame] = []
        self.rows = 0
        self.paths: list[Path] = []

    def add(self, bars: pl.DataFrame) -> None:
        if bars.height:
            self.waiting.append(bars)
            self.rows += bars.height
        while self.rows >= PART_ROWS:
            self._write(PART_ROWS)

    def _write(self, rows: int) -> None:
        table = pl.concat(self.waiting)
        path = self.folder / f"{len(self.paths):06d}.parquet"
        table[:rows].write_parquet(path, compression="lz4")
        self.paths.append(path)
        self.waiting = [table[rows:]]
        self.rows -= rows

    def whole(self) -> pl.LazyFrame | None:
        """All of them, in order; none where there were none."""
        if self.rows:
            self._write(self.rows)
        return pl.scan_parquet(self.paths, glob=False) if self.paths else None


def convert(
    paths: Sequence[Path],
    every: str,
    out: Path,
    *,
    empty: Empty = "carry",
    instrument: str | None = None,
    max_rejected: float = MAX_REJECTED,
    block_bytes: int = BLOCK_BYTES,
) -> Conversion:
    """Reads event logs as one, in the order given, and writes the bars of each instrument.

    They are JSON Lines or CSV (plain, .gz, .zst), or Parquet; `out` is a .parquet or .csv file, in
    which `{instrument}` stands for the instrument's name. Bars by time without trades carry the
    last price forward, or are left out where `empty` says so. Above the share `max_rejected` of
    lines nothing is written but the rejected ones. `block_bytes` are read at once. Raises
    `EventsError` where a file cannot be read, too many lines are bad, or there are no bars to
    write. Files that stood under the names of bars are then as they were.
    """
    rule = Every.parse(every)
    if out.suffix not in {".parquet", ".csv"}:
        raise EventsError(f"--out is {out}; the name must end in .parquet or .csv")
    if not 0 <= max_rejected <= 1:
        raise EventsError(f"--max-rejected is {max_rejected:g}; it must be a share from 0 to 1")
    if not out.parent.is_dir():
        raise EventsError(f"--out is {out}; there is no folder {out.parent}")
    for path in paths:
        if not path.exists():
            raise EventsError(f"{path}: no such file")
        if path.is_dir():
            raise EventsError(f"{path}: a folder; give the files in it")
    rejected_path = out.parent / f"{out.name.replace('{instrument}', 'all')}.rejected.jsonl"
    try:
        _refuse_overwriting(paths, [out, rejected_path])
        with workplace(out.parent) as folder:
            run = _Run(rule, empty, instrument, paths, folder)
            run.read(block_bytes, max_rejected)
            run.result.rejected_path = _write_rejected(run.rejected, rejected_path, folder)
            run.refuse_too_many(max_rejected, rejected_path)
            run.result.written = run.write(out)
    except OSError as error:
        raise EventsError(f"--out is {out}: cannot be written ({error.strerror})") from error
    return run.result


def _refuse_overwriting(paths: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raises where what would be written is a folder, or one of the inputs."""
    for output in outputs:
        if output.is_dir():
            raise EventsError(f"--out: {output} is a folder")
        for path in paths:
            if output.exists() and output.samefile(path):
                raise EventsError(f"--out: {output} would overwrite the events {path}")


class _Run:
    """One conversion under way."""

    def __init__(
        self, every: Every, empty: Empty, only: str | None, paths: Sequence[Path], folder: Path
    ) -> None:
        self.every = every
        self.empty = empty
        self.only = only
        self.paths = paths
        self.folder = folder
        self.result = Conversion()
        self.order = EventOrder()
        self.rejected: list[Rejected] = []
        self.builders: dict[str, tuple[BarBuilder, _Parts]] = {}
        self.stopped = False  # before the end, since it is hopeless

    def read(self, block_bytes: int, max_rejected: float) -> None:
        """Reads everything, or so much that there is no hope for the rest."""
        result = self.result
        early = 0
        with closing(event_blocks(self.paths, block_bytes)) as blocks:
            for block in blocks:
                first_lines = block.first + FIRST_LINES - result.lines
                early += sum(line.line < first_lines for line in block.rejected)
                result.lines += block.lines
                result.blank += block.blank
                result.units |= block.units
                self.rejected += block.rejected
                for name, events in self.order.next(block):
                    self._take(name, events)
                many = len(self.rejected) + len(self.order.rejected) > MOST_REJECTED
                if many or early > max(max_rejected, 0.5) * FIRST_LINES:
                    self.stopped = True
                    break
        for name, events in self.order.end():
            self._take(name, events)
        files = {str(path): place for place, path in enumerate(self.paths)}
        self.rejected += self.order.rejected
        self.rejected.sort(key=lambda line: (files[line.file], line.line))
        result.rejected = Counter(line.fault for line in self.rejected)

    def _take(self, name: str, events: pl.DataFrame) -> None:
        counts = events["kind"].value_counts()
        for kind, count in counts.iter_rows():
            self.result.events[KINDS[kind]] += count
        if self.only is not None and name != self.only:
            return
        if name not in self.builders:
            builder = BarBuilder(self.every, self.empty)
            self.builders[name] = builder, _Parts(self.folder / f"{len(self.builders):06d}")
        builder, parts = self.builders[name]
        for bars in builder.add(events):
            parts.add(bars)

    def refuse_too_many(self, max_rejected: float, rejected_path: Path) -> None:
        """Raises where more than a share of the lines was rejected."""
        bad = len(self.rejected)
        lines = self.result.lines
        if self.stopped or bad > min(max_rejected * lines, MOST_REJECTED):
            first = self.rejected[0]
            where = ", where reading stopped" if self.stopped else ""
            faults = ", ".join(f"{name} {n:,}" for name, n in self.result.rejected.most_common())
            raise EventsError(
                f"{bad:,} of {lines:,} lines are bad{where} ({bad / lines:.2%}; --max-rejected is "
                f"{max_rejected:.2%}): {faults}; the first is {first.file} line {first.line}: "
                f"{first.reason}; all of them stand in {rejected_path}, and no bars were written"
            )

    def write(self, out: Path) -> list[Written]:
        """Writes every instrument's bars beside their final names, then gives them those names."""
        wholes = {}
        for name, (builder, parts) in self.builders.items():
            for bars in builder.end():
                parts.add(bars)
            whole = parts.whole()
            if whole is not None:
                wholes[name] = whole
        if not wholes:
            of = f" of {self.only}" if self.only else ""
            raise EventsError(f"there are no trades{of} in these events, so there are no bars")
        if len(wholes) > 1 and "{instrument}" not in out.name:
            names = ", ".join(sorted(wholes))
            raise EventsError(
                f"these events are of {len(wholes)} instruments ({names}); choose one with "
                f"--instrument, or write {{instrument}} into --out for a file each"
            )
        written: list[Written] = []
        for name, whole in sorted(wholes.items()):
            plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
            path = out.with_name(out.name.replace("{instrument}", plain))
            if path in [other.path for other in written]:
                raise EventsError(f"two instruments, {name} among them, would be written to {path}")
            _refuse_overwriting(self.paths, [path])
            written.append(self._write(name, whole, path, len(written)))
        made = [self.folder / f"out-{place}" for place in range(len(written))]
        rename_all(
            self.folder, [Renaming(one, each.path) for one, each in zip(made, written, strict=True)]
        )
        return written

    def _write(self, name: str, whole: pl.LazyFrame, path: Path, place: int) -> Written:
        known = whole.select(pl.col("bid", "bid_size", "depth_bid").is_not_null().any())
        quotes, sizes, books = known.collect().row(0)
        columns = ["time", "open", "high", "low", "close", "volume", "trades", "vwap"]
        if quotes:
            columns += ["bid", "ask", "spread"]
        if quotes and sizes:
            columns += ["bid_size", "ask_size", "depth_imbalance"]
        columns.append("carried")
        bid, ask = ("depth_bid", "depth_ask") if books else ("bid_size", "ask_size")
        depth = pl.col(bid) + pl.col(ask)
        bars = whole.with_columns(
            spread=pl.col("ask") - pl.col("bid"),
            depth_imbalance=pl.when(depth == 0)
            .then(0.0)
            .otherwise((pl.col(bid) - pl.col(ask)) / depth),
        ).select(columns)
        target = self.folder / f"out-{place}"
        if path.suffix == ".parquet":
            bars.sink_parquet(target, row_group_size=PART_ROWS, statistics=True)
        else:
            bars.sink_csv(target, datetime_format=TEXT_TIME)
        summary = whole.select(
            bars=pl.len(),
            carried=pl.col("carried").sum(),
            first=pl.col("time").first().dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"),
            last=pl.col("time").last().dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"),
        )
        return Written(name, path, **summary.collect().row(0, named=True), columns=columns)


def _write_rejected(rejected: list[Rejected], path: Path, folder: Path) -> Path | None:
    """Writes the rejected lines; where there are none, takes away those of an earlier conversion."""
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    temporary = folder / "rejected"
    with temporary.open("w", encoding="utf-8") as file:
        for line in rejected:
            file.write(json.dumps(line._asdict(), ensure_ascii=False) + "\n")
    rename_all(folder, [Renaming(temporary, path)])
    return path


def spoken(units: set[str]) -> str:
    """Forms of time as a report names them."""
    return ", ".join(sorted(UNIT_NAMES.get(unit, unit) for unit in units)) or "none"
