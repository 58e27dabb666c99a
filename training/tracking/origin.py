"""Where a run comes from: the code, the machine, and the packages that matter."""

import functools
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@functools.cache
def code_version() -> str:
    """The commit of this checkout, with `-dirty` where tracked files differ; else the release."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True
        )
        return subprocess.check_output([*git, *commit], text=True).strip()
    return version("qdesk")


def origin() -> dict[str, str]:
    """Tags of every run; those that begin with `mlflow.` are MLflow's own."""
    from mlflow.utils import mlflow_tags

    from models.registry import user

    code = code_version()
    return {
        mlflow_tags.MLFLOW_GIT_COMMIT: code.removesuffix("-dirty"),
        mlflow_tags.MLFLOW_SOURCE_NAME: "qdesk train",
        mlflow_tags.MLFLOW_SOURCE_TYPE: "LOCAL",
        mlflow_tags.MLFLOW_USER: user(),
        "code_version": code,
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        **{package: _version_of(package) for package in ("tensorflow", "keras", "numpy")},
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
