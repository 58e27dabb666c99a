"""Conversions whole: forms of a log, faults, limits, and that nothing is lost or half written."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from market.bars import load_bars
from market.events.convert import convert
from market.events.schema import EventsError
from tests.support.event_logs import SECOND, WHOLE, Event, logs, rejected, run, trade, written
from tests.support.synthetic_events import FAULTS, START_NS, write_event_log


@settings(max_examples=25)
@given(
    logs(),
    st.lists(st.integers(1, 2000), min_size=1, max_size=2),
    st.sampled_from(["1s", "2 trades"]),
)
def test_any_division_of_a_faulty_log_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], sizes: list[int], every: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("log")
    log, clean = tmp_path / "log.jsonl", [json.dumps(event) for event in events]
    faulty = [
        *clean[:3],
        "",
        '{"time":',
        *clean[1:],
        '{"time": 5}',
        "  ",
        clean[-1],
        *clean[-2:],
        "\udcff",
    ]
    log.write_bytes("\n".join(faulty).encode(errors="surrogateescape"))
    for suffix in ("parquet", "csv"):
        out = tmp_path / f"out.{suffix}"
        results, quarantine = [], []
        for size in [WHOLE, *sizes]:
            try:
                result = convert([log], every, out, max_rejected=1, block_bytes=size)
            except EventsError as error:
                assert "there are no trades" in str(error)
                results.append((str(error), b""))
            else:
                counts = sorted(result.events.items()), sorted(result.rejected.items())
                lines = (result.lines, result.blank, counts, sorted(result.units))
                results.append((str(lines), out.read_bytes()))
            quarantine.append((tmp_path / f"out.{suffix}.rejected.jsonl").read_bytes())
        assert len(set(results)) == len(set(quarantine)) == 1


def test_forms_of_a_log_give_the_same_bars(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 3000, seed=3, mean_pause=0.1)
    table = pl.read_ndjson(log, infer_schema_length=None)
    table.write_parquet(tmp_path / "log.parquet")
    text = table.with_columns(
        pl.Series(
            "levels", [None if v is None else json.dumps(v) for v in table["levels"].to_list()]
        )
    )
    text.write_csv(tmp_path / "log.csv")
    iso = pl.from_epoch("time", time_unit="ns").dt.replace_time_zone("UTC")
    table.with_columns(iso).write_parquet(tmp_path / "stamps.parquet")
    text.with_columns(iso.dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ")).write_csv(tmp_path / "iso.csv")
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(log.read_bytes()))
    (tmp_path / "log.ndjson.zst").write_bytes(zstd.compress(log.read_bytes()))
    (tmp_path / "log.csv.zst").write_bytes(zstd.compress((tmp_path / "log.csv").read_bytes()))
    out = tmp_path / "out.parquet"
    bars = []
    for name in ("log.jsonl", "log.jsonl.gz", "log.ndjson.zst", "log.parquet", "stamps.parquet",
                 "log.csv", "log.csv.zst", "iso.csv"):  # fmt: skip
        result = convert([tmp_path / name], "1s", out, block_bytes=50_000)
        assert (result.lines, result.rejected.total()) == (3000, 0), name
        bars.append(out.read_bytes())
    assert len(set(bars)) == 1


def test_csv_and_parquet_hold_the_same_table(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 5000, seed=4, mean_pause=0.05)
    for suffix in ("csv", "parquet"):
        convert([log], "1s", tmp_path / f"out.{suffix}")
    parquet = pl.read_parquet(tmp_path / "out.parquet")
    assert_frame_equal(
        pl.read_csv(
            tmp_path / "out.csv", try_parse_dates=True, infer_schema_length=None
        ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))),
        parquet,
        check_exact=True,
    )
    loaded = [load_bars(tmp_path / f"out.{suffix}") for suffix in ("csv", "parquet")]
    assert loaded[0].content_hash == loaded[1].content_hash
    assert "depth_imbalance" in loaded[0].table.columns


def test_instruments_apart(tmp_path: Path) -> None:
    events = [trade(n * SECOND, 10 + n, instrument="A/B" if n % 2 else "C") for n in range(6)]
    log, out = written(tmp_path / "log.jsonl", events), tmp_path / "bars.csv"
    with pytest.raises(
        EventsError, match=r"of 2 instruments \(A/B, C\); choose one with --instrument"
    ):
        convert([log], "1s", out)
    assert not out.exists()
    convert([log], "1s", out, instrument="C", empty="skip")
    assert load_bars(out).table["close"].to_list() == [10, 12, 14]
    result = convert([log], "1s", tmp_path / "{instrument}.csv", empty="skip")
    assert [one.path.name for one in result.written] == ["A-B.csv", "C.csv"]
    assert load_bars(tmp_path / "A-B.csv").table["close"].to_list() == [11, 13, 15]
    with pytest.raises(EventsError, match="no trades of D in these events"):
        convert([log], "1s", out, instrument="D")


def test_several_files_are_one_log(tmp_path: Path) -> None:
    events = [trade(n * SECOND // 3, 10 + n, 1 / (n + 1)) for n in range(20)]
    whole = run(tmp_path, events)
    halves = [written(tmp_path / "a.jsonl", events[:7]), written(tmp_path / "b.jsonl", events[7:])]
    convert(halves, "1s", tmp_path / "out.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), whole, check_exact=True)


def test_one_percent_of_each_fault(tmp_path: Path) -> None:
    """Every bad line in quarantine, every good one in the bars, and the counts add up."""
    clean, faulty = tmp_path / "clean.jsonl", tmp_path / "faulty.jsonl"
    write_event_log(clean, 20_000, seed=5)
    faults = write_event_log(
        faulty, 20_000, seed=5, faults=dict.fromkeys(FAULTS, 0.01), truncated=True
    )
    assert {*FAULTS, "truncated"} == set(faults.values())
    convert([clean], "1s", tmp_path / "clean.parquet")
    result = convert([faulty], "1s", tmp_path / "faulty.parquet", max_rejected=0.1)
    assert (tmp_path / "faulty.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
    assert result.rejected_path is not None
    found = rejected(result.rejected_path)
    named = {"not a number": "bad value", "negative price": "bad value", "truncated": "malformed"}
    assert found == [(line, named.get(fault, fault)) for line, fault in sorted(faults.items())]
    assert result.events.total() == 20_000
    assert result.lines == 20_000 + result.rejected.total() == 20_000 + len(faults)
    with pytest.raises(
        EventsError, match=r"of 2\d,\d{3} lines are bad \(8\.\d\d%; --max-rejected is"
    ):
        convert([faulty], "1s", tmp_path / "faulty.parquet")
    assert (tmp_path / "faulty.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()


def test_what_cannot_be_converted_leaves_everything_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    log = written(tmp_path / "log.jsonl", [trade(0), trade(SECOND)])
    convert([log], "1s", out)
    before = out.read_bytes()
    cases: list[tuple[Path, bytes, str]] = [
        (
            tmp_path / "cut.jsonl.gz",
            gzip.compress(log.read_bytes())[:-9],
            "cannot be read to its end",
        ),
        (tmp_path / "no.jsonl.gz", b"no gzip", "cannot be read to its end"),
        (
            tmp_path / "cut.jsonl.zst",
            zstd.compress(log.read_bytes())[:-5],
            "cannot be read to its end",
        ),
        (tmp_path / "no.jsonl.zst", b"no zstd", "cannot be read to its end"),
        (tmp_path / "no.parquet", b"no parquet", "cannot be read as Parquet"),
        (tmp_path / "log.txt", b"", "the name must end in .jsonl, .ndjson or .csv"),
        (tmp_path / "head.csv", b"a,b\n1,2\n", "the header lacks time, type, instrument"),
        (tmp_path / "empty.jsonl", b"", "there are no trades"),
        (
            tmp_path / "hopeless.jsonl",
            b"no\n" * 20_000,
            r"20,000 of 20,000 lines are bad, where reading stopped \(100.00%",
        ),
    ]
    (tmp_path / "folder.csv").mkdir()
    for path, content, message in cases:
        path.write_bytes(content)
        with pytest.raises(EventsError, match=message):
            convert([path], "1s", out)
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"paths": [tmp_path / "none.jsonl"]}, "no such file"),
        ({"out": tmp_path / "out.xlsx"}, "the name must end in .parquet or .csv"),
        ({"out": tmp_path / "none" / "out.csv"}, "there is no folder"),
        ({"out": tmp_path / "folder.csv"}, "folder.csv is a folder"),
        ({"out": Path("/proc/out.csv")}, "cannot be written"),
        ({"out": tmp_path / f"{'x' * 300}.csv"}, "cannot be written|File name too long"),
        ({"paths": [tmp_path]}, "a folder; give the files in it"),
        ({"every": "200000d"}, "a bar may last at most 36,500d"),
        ({"max_rejected": 1.5}, "it must be a share from 0 to 1"),
        ({"paths": [out], "out": out}, "would overwrite the events"),
    ]
    for wrong, message in wrongs:
        usual: dict[str, Any] = {"paths": [log], "every": "1s", "out": out}
        with pytest.raises(EventsError, match=message):
            convert(**usual | wrong)
    assert out.read_bytes() == before
    made = {path for path, *_ in cases} | {out, log, tmp_path / "out.parquet.rejected.jsonl"}
    made |= {tmp_path / "folder.csv"}
    assert set(tmp_path.iterdir()) <= made


def test_too_many_bad_lines_end_the_reading_and_never_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.events.convert.MOST_REJECTED", 50)
    log = tmp_path / "log.jsonl"
    write_event_log(log, 5000, seed=1, faults={"unknown type": 0.02})
    for size in (10_000, WHOLE):
        with pytest.raises(
            EventsError, match=r"lines are bad.* \(\d\.\d\d%; --max-rejected is 50.00%\)"
        ):
            convert([log], "1s", tmp_path / "out.csv", max_rejected=0.5, block_bytes=size)
    assert not (tmp_path / "out.csv").exists()


def test_no_event_log_is_known_by_its_first_lines_however_it_is_divided(tmp_path: Path) -> None:
    good = [json.dumps(trade(n)) for n in range(30_000)]
    for bad, hopeless in ((4900, False), (5100, True)):
        log = tmp_path / "log.jsonl"
        log.write_text("\n".join(["no"] * bad + good))
        for size in (100_000, WHOLE):
            if hopeless:
                with pytest.raises(EventsError, match="lines are bad, where reading stopped"):
                    convert([log], "1s", tmp_path / "out.csv", max_rejected=0.3, block_bytes=size)
            else:
                convert([log], "1s", tmp_path / "out.csv", max_rejected=0.3, block_bytes=size)


def test_inputs_are_never_overwritten_and_an_old_quarantine_outlives_a_failure(
    tmp_path: Path,
) -> None:
    log = tmp_path / "X.csv"
    log.write_text(
        f"time,type,instrument,price,size\n{START_NS},trade,X,1,1\n{START_NS},trade,X,no,1\n"
    )
    before = log.read_bytes()
    with pytest.raises(EventsError, match=r"X\.csv would overwrite the events"):
        convert([log], "1s", tmp_path / "{instrument}.csv", max_rejected=1)
    assert log.read_bytes() == before
    convert([log], "1s", tmp_path / "out.csv", max_rejected=1)
    quarantine = (tmp_path / "out.csv.rejected.jsonl").read_bytes()
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"no gzip")
    for paths in ([tmp_path / "none.jsonl"], [log, tmp_path / "none.jsonl"], [broken]):
        with pytest.raises(EventsError, match=r"no such file|cannot be read to its end"):
            convert(paths, "1s", tmp_path / "out.csv")
    assert (tmp_path / "out.csv.rejected.jsonl").read_bytes() == quarantine


def test_years_of_silence_make_no_bars(tmp_path: Path) -> None:
    log = written(tmp_path / "far.jsonl", [trade(0), trade(10**8 * SECOND)])
    (made,) = convert([log], "1s", tmp_path / "out.parquet").written
    assert (made.bars, made.carried) == (2, 0)
