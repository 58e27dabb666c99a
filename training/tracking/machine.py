"""How busy the machine is while it trains, under the names of MLflow's page of system metrics."""

import time
from contextlib import suppress
from pathlib import Path

import psutil

EVERY_SECONDS = 2.0
SYSTEM = "system/"  # what the names of readings begin with


class Machine:
    """Takes readings, at most one every `EVERY_SECONDS`; the disk is the one that a folder is on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = psutil.Process()
        self._read = -EVERY_SECONDS
        psutil.cpu_percent()  # the next one is of the time since this one
        self._process.cpu_percent()

    def reading(self) -> dict[str, float]:
        """Use of processor, memory and disk by name; nothing where the last was taken just now."""
        now = time.monotonic()
        if now - self._read < EVERY_SECONDS:
            return {}
        self._read = now
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
        }
        with suppress(OSError):
            disk = psutil.disk_usage(str(self._folder))
            found["disk_usage_percentage"] = disk.percent
            found["disk_available_megabytes"] = disk.free / 1e6
        return {f"{SYSTEM}{name}": round(value, 1) for name, value in found.items()}
