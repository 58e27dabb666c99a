"""A TensorFlow that cannot be imported, and a Keras that somebody set up for something else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ["--steps", "300", "--bars", "synthetic:walk?sigma=0.01&seed=5&bars=2000"]
BROKEN = '''raise ImportError("""Traceback (most recent call last):
  File "pywrap_tensorflow.py", line 73, in <module>
ImportError: libcudart.so.12: cannot open shared object file: No such file or directory

Failed to load the native TensorFlow runtime.""")'''


def train(folder: Path, preset: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qdesk", "train", "--preset", preset, *SMALL]
    return subprocess.run(
        [*command, "--mlruns", str(folder / "mlruns")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_a_tensorflow_that_cannot_be_imported_is_one_sentence_and_tables_train(
    tmp_path: Path,
) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(BROKEN)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    run = train(tmp_path, "two_layer", PYTHONPATH=path)
    assert run.returncode == 3, run.stderr
    assert run.stderr == (
        "TensorFlow is installed here, but cannot be imported (libcudart.so.12: cannot open shared "
        "object file: No such file or directory); tables train without it\n"
    )
    assert not (tmp_path / "mlruns").exists()
    run = train(tmp_path, "tabular", PYTHONPATH=path)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("backend", ["jax"])
def test_kerass_own_settings_do_not_decide(tmp_path: Path, backend: str) -> None:
    home = tmp_path / "keras"
    home.mkdir()
    (home / "keras.json").write_text(json.dumps({"floatx": "float16", "backend": "torch"}))
    run = train(tmp_path, "linear", KERAS_BACKEND=backend, KERAS_HOME=str(home))
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines() == [
        f"note: {home}/keras.json sets Keras's floatx to float16; qdesk trains with float32",
        f"note: KERAS_BACKEND sets Keras's backend to {backend}; qdesk trains with tensorflow",
    ]
    assert json.loads((home / "keras.json").read_text())["floatx"] == "float16"
