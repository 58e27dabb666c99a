"""Bundles: the same Q-values without TensorFlow, and nothing else gets in."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from durable.verified import MANIFEST, CorruptError, write_into
from models.bundle import WEIGHTS, Bundle
from models.manifest import Golden
from models.networks import copy_of, q_values_of
from models.single import one_state
from models.tabular import Discretiser, TabularQ
from tests.support.bundles import bundle_of, states_of
from tests.support.networks import linear_q_network, two_layer_q_network


def table() -> TabularQ:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(500, 2)).astype(np.float32)
    discretiser = Discretiser.fit(features, 4)
    values = rng.normal(size=(discretiser.cells * 3, 3)).astype(np.float32)
    return TabularQ(discretiser, values)


MODELS: dict[str, tuple[Callable[[], Any], float]] = {
    "linear": (lambda: linear_q_network(4, 1), 1.0),
    "two_layer": (lambda: two_layer_q_network(4, (8, 16), 1), 1.0),
    "everything": (
        lambda: two_layer_q_network(
            4, (8, 16), 1, dueling=True, quantiles=5, noisy=True, layer_norm=True
        ),
        0.3,
    ),
    "layer norm, quantiles": (
        lambda: two_layer_q_network(4, (8, 4), 2, quantiles=3, layer_norm=True),
        1.0,
    ),
    "dueling": (lambda: two_layer_q_network(4, (8, 4), 2, dueling=True), 1.0),
    "table": (table, 1.0),
}


@pytest.mark.parametrize("make, cvar", MODELS.values(), ids=MODELS)
def test_a_bundle_computes_what_the_model_did(
    tmp_path: Path, make: Callable[[], Any], cvar: float
) -> None:
    model = make()
    bundle = bundle_of(model, cvar, 4)
    one = one_state(bundle)
    states = np.array(bundle.manifest.golden.states, np.float32)
    at_once = bundle.q_values(states)
    one_by_one = np.stack([one(state).copy() for state in states])
    np.testing.assert_allclose(one_by_one, at_once, rtol=1e-5, atol=1e-6)
    bundle.save_into(tmp_path)
    loaded = Bundle.load(tmp_path)
    states = states_of(4, 500)
    for other in (model, loaded.model()):
        if isinstance(other, TabularQ):
            np.testing.assert_array_equal(loaded.q_values(states), other.q_values(states))
        else:
            expected = q_values_of(copy_of(other), states, cvar)
            np.testing.assert_allclose(loaded.q_values(states), expected, atol=2e-6)
    assert loaded.manifest == bundle.manifest
    assert (
        len(loaded.manifest.golden.states) > 40
    )  # of 64; ties, as where all units rest, are left out
    with pytest.raises(ValueError, match="read-only"):
        next(iter(loaded.weights.values()))[0] = 1


def test_weights_with_large_values_pass_by_share() -> None:
    """Q-values of thousands are right to seven digits, not to 1e-5."""
    network = two_layer_q_network(3, (32, 32), 1)
    network.set_weights([100 * weight for weight in network.get_weights()])
    assert max(max(row) for row in bundle_of(network).manifest.golden.q_values) > 1e4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    bundle_of(two_layer_q_network(3, (8, 8), 1)).save_into(path)
    assert Bundle.load(path)
    return path


def flip_weight(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def flip_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"seed": 1', '"seed": 2'))


def resealed(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], None]:
    """A bundle whose hashes are right, made by someone who does not know what belongs in it."""

    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        arrays = load_file(folder / WEIGHTS)
        for name in ("files", "arrays", "sha256"):
            del manifest[name]
        change(manifest, arrays)
        write_into(folder, WEIGHTS, arrays, manifest)

    return spoil


def pickled(folder: Path) -> None:
    """A file that would leave a trace if anyone unpickled it, under the right hash."""

    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(folder.parent / "executed"),))

    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    restated(folder)


def restated(folder: Path, **files: Any) -> None:
    """States the hash of whatever is there."""
    from durable.verified import _digest, sha256_of

    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / WEIGHTS
    stated = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    manifest["files"] = files or {WEIGHTS: stated}
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def without_sha256(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def linked(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return spoil


def linked_folder(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def climbing(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
    restated(folder, **{"../outside.safetensors": {"sha256": "0", "bytes": 1}})


def extra_array(_: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["evil"] = np.zeros(3, np.float32)


def with_nan(folder: Path) -> None:
    arrays = load_file(folder / WEIGHTS)
    arrays["q_values/bias"][1] = np.nan
    save_file(arrays, folder / WEIGHTS)
    restated(folder)


def not_json(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\x80{")


def with_code(folder: Path) -> None:
    (folder / "hook.py").write_text("raise SystemExit")


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit in the weights": (flip_weight, "does not have the sha256"),
    "a changed manifest": (flip_manifest, "does not have the sha256 that it states"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "manifest.json: there is no such file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "weights.safetensors: there is no such file"),
    "not JSON": (not_json, "this is not JSON"),
    "other shapes": (
        resealed(lambda m, a: a.update({"hidden_1/bias": np.zeros(9, np.float32)})),
        r"hidden_1/bias is float32 \(9,\); it must be float32 \(8,\)",
    ),
    "other types": (
        resealed(lambda m, a: a.update({"hidden_1/bias": np.zeros(8)})),
        "hidden_1/bias is float64",
    ),
    "an array too many": (resealed(extra_array), r"evil is float32 \(3,\); it must be none"),
    "an array too few": (resealed(lambda m, a: a.pop("q_values/bias")), "q_values/bias is none"),
    "NaN weights": (with_nan, "q_values/bias holds numbers that are not finite"),
    "weights that compute something else": (
        resealed(lambda m, a: a.update({"q_values/bias": np.ones(3, np.float32)})),
        "a golden Q-value is off by",
    ),
    "weights that choose another action": (
        resealed(lambda m, a: a.update({"q_values/kernel": -a["q_values/kernel"]})),
        "the action in a golden state is another than it was",
    ),
    "a manifest without its sha256": (without_sha256, "does not have the sha256 that it states"),
    "another schema": (resealed(lambda m, a: m.update(format="qdesk-bundle/9")), "format"),
    "a field that no bundle has": (resealed(lambda m, a: m.update(run="x")), "run: Extra inputs"),
    "a field of another type": (
        resealed(lambda m, a: m["origin"].update(step="7")),
        "origin.step: Input should be a valid integer",
    ),
    "features of another model": (
        resealed(lambda m, a: m["origin"]["features"]["features"].append({})),
        "network.state_size is 3, but 2 features",
    ),
    "a pickle in place of weights": (pickled, "this is not a safetensors file"),
    "a link as weights": (linked(WEIGHTS), "weights.safetensors.*symbolic link"),
    "a link as manifest": (linked(MANIFEST), "manifest.json.*symbolic link"),
    "a link as folder": (linked_folder, "symbolic link"),
    "a path out of the folder": (climbing, "names the files ../outside.safetensors"),
    "a file that does not belong": (
        with_code,
        "hook.py does not belong here",
    ),
    "a manifest of gigabytes": (
        lambda f: os.truncate(f / MANIFEST, 2**31),
        "too many for a manifest",
    ),
}


@pytest.mark.parametrize("spoil, reason", SPOILT.values(), ids=SPOILT)
def test_what_is_not_a_bundle_is_refused_by_name(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    with pytest.raises(CorruptError, match=reason) as refused:
        Bundle.load(folder)
    assert str(folder) in str(refused.value)
    assert not (folder.parent / "executed").exists()


@pytest.mark.parametrize(
    "gap, reason",
    [
        (0.5e-5, None),  # about as good as one another
        (1.9e-5, None),
        (2.1e-5, "the action in a golden state is another than it was"),
        (0.1, "the action in a golden state is another than it was"),
    ],
)
def test_only_actions_about_as_good_as_one_another_may_change_places(
    gap: float, reason: str | None
) -> None:
    """In the second of two golden states the other of two actions is chosen, by next to nothing."""
    kernel = np.array([[0.5, 0, 0], [0, 0.5, 0.5 + 1e-7], [0, 0, -1]], np.float32)
    bundle = bundle_of(linear_q_network(3, 1))
    golden = Golden(
        states=[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        q_values=[[0.5, 0.0, 0.0], [0.0, 0.5 + gap / 2, 0.5 - gap / 2]],
    )
    manifest = bundle.manifest.model_copy(update={"golden": golden})
    changed = Bundle(manifest, {"q_values/kernel": kernel})
    if reason is None:
        changed.verify("here")
    else:
        with pytest.raises(CorruptError, match=f"here: {reason}"):
            changed.verify("here")


def test_a_bundle_loads_without_tensorflow(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.bundle import Bundle\n"
        "print(Bundle.load(Path(sys.argv[1])).manifest.origin.step)\n"
        "print({'tensorflow', 'keras', 'mlflow', 'torch'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert run.stdout.split() == ["7", "set()"], run.stderr
