"""Settings: precedence of sources, and refusals by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from durable.settings import BadSettings
from tests.support.agents import dqn_of
from training.learning.tabular import Tabular
from training.settings import TrainSettings
from training.sources import load_settings, preset_names


def load(*arguments: str) -> TrainSettings:
    (settings,) = load_settings(list(arguments))
    return settings


def test_presets_are_complete_and_several_can_be_named() -> None:
    assert preset_names() == ["all_actions", "linear", "rainbow", "tabular", "two_layer"]
    linear, two_layer = load_settings(["--preset", "linear,two_layer", "--steps", "700"])
    assert (dqn_of(linear).network.kind, dqn_of(two_layer).network.kind) == ("linear", "two_layer")
    assert linear.preset == "linear"
    assert linear.steps == two_layer.steps == 700


def test_the_later_source_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("steps = 1100\n[learner]\ngamma = 0.5\nbatch = 16\n[epsilon]\nmin = 0.2\n")
    settings = load("--preset", str(preset))
    assert (settings.steps, dqn_of(settings).learner.gamma, dqn_of(settings).learner.batch) == (
        1100,
        0.5,
        16,
    )
    assert (
        dqn_of(settings).learner.learning_rate == 1e-3
    )  # a preset's table replaces only what it names
    monkeypatch.setenv("QDESK_LEARNER__GAMMA", "0.6")
    monkeypatch.setenv("QDESK_STEPS", "1200")
    monkeypatch.setenv("DQN_EPSILON_START", "0.8")
    monkeypatch.setenv("DQN_EPSILON_DECAY", "0.5")
    settings = load("--preset", str(preset), "--steps", "1300")
    assert (settings.steps, dqn_of(settings).learner.gamma, dqn_of(settings).learner.batch) == (
        1300,
        0.6,
        16,
    )
    assert (
        dqn_of(settings).epsilon.start,
        dqn_of(settings).epsilon.min,
        dqn_of(settings).epsilon.decay,
    ) == (0.8, 0.2, 0.5)
    assert dqn_of(load("--epsilon.start", "0.7")).epsilon.start == 0.7


def test_the_environment_can_hold_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDESK_NETWORK__HIDDEN", "8,16")
    monkeypatch.setenv("QDESK_FEATURES__NAMES", "log_price")
    monkeypatch.setenv("QDESK_LEARNER__CLIP_NORM", "none")
    monkeypatch.setenv("QDESK_LEARNER__TARGET", "double")
    monkeypatch.setenv("QDESK_PRESET", "linear")
    settings = load()
    assert dqn_of(settings).network.kind == "linear"
    assert dqn_of(settings).network.hidden == (8, 16)
    assert settings.features.names == ("log_price",)
    assert dqn_of(settings).learner.clip_norm is None
    assert dqn_of(settings).learner.target == "double"


def test_what_is_written_alone_stands_beside_others_of_its_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = ("--checkpoints", "s3://b/p", "--checkpoints.every", "7")
    settings = load(*flags, "--no-features.scale", "--features=log_price,price_change")
    assert (settings.checkpoints.where, settings.checkpoints.every) == ("s3://b/p", 7)
    assert settings.features.names == ("log_price", "price_change")
    assert not settings.features.scale
    preset = tmp_path / "mine.toml"
    preset.write_text('checkpoints = "/x"\nfeatures = ["log_price"]\n')
    mine = load("--preset", str(preset), "--checkpoints.every", "7", "--no-features.scale")
    assert (mine.checkpoints.where, mine.checkpoints.every) == ("/x", 7)
    assert (mine.features.names, mine.features.scale) == (("log_price",), False)
    monkeypatch.setenv("QDESK_CHECKPOINTS", "s3://b/p")
    with pytest.raises(BadSettings, match="QDESK_CHECKPOINTS: write QDESK_CHECKPOINTS__WHERE"):
        load()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--fork",), "fork is set without resume"),
        (("--preset", "tabular", "--on-divergence", "rollback"), "on_divergence is rollback, but"),
        (("--checkpoints.keep-last", "0"), "checkpoints.keep_last is '0'"),
        (("--patience", "0"), "patience is '0'"),
    ],
)
def test_what_saving_cannot_do_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        load(*arguments)


def test_flags_of_every_kind() -> None:
    settings = load(
        *("--network.hidden", "8,16", "--learner.target", "double", "--learner.clip-norm", "10"),
        *("--features.names", "price_change,log_price", "--no-features.scale"),
        *("--market.fee-rate=0.001", "--market.scheme", "order", "--learner.tau", "none"),
    )
    assert dqn_of(settings).network.hidden == (8, 16)
    assert dqn_of(settings).learner.target == "double"
    assert dqn_of(settings).learner.clip_norm == 10
    assert dqn_of(settings).learner.tau is None
    assert settings.features.names == ("price_change", "log_price")
    assert not settings.features.scale
    assert settings.market.scheme == "order"
    assert settings.flat()["market.fee_rate"] == "0.001"
    assert settings.flat()["learner.tau"] == "none"


REFUSED = {
    "steps": (
        ["--steps", "0"],
        "steps is '0' .--steps on the command line.: .* greater than or equal",
    ),
    "gamma above": (
        ["--learner.gamma", "1.01"],
        "learner.gamma is '1.01' .* less than or equal to 1",
    ),
    "gamma below": (
        ["--learner.gamma", "-0.1"],
        "learner.gamma is '-0.1' .* greater than or equal",
    ),
    "not a number": (["--seed", "one"], "seed is 'one'"),
    "unknown flag": (["--learnr.gamma", "1"], "unrecognized arguments: --learnr.gamma 1"),
    "cut flag": (["--learner.gam", "1"], "unrecognized arguments: --learner.gam 1"),
    "unknown preset": (
        ["--preset", "three_layer"],
        r"preset three_layer: no such file.*\(all_actions, linear, rainbow, tabular, two",
    ),
    "order of epsilons": (
        ["--epsilon.min", "0.5", "--epsilon.start", "0.4"],
        "min is 0.5, above start",
    ),
    "shares": (["--split.train", "0.9"], r"train \+ validation \+ test is 1.3 and must be 1"),
    "ring": (["--replay.capacity", "2"], "capacity is 2; .* number of streams, 4"),
    "no learning": (
        ["--steps", "250"],
        "steps is 250 and ends before learning begins; .* above 250",
    ),
    "infinity": (["--market.slippage", "inf"], "market.slippage is 'inf' .* finite number"),
    "too large a ring": (["--replay.capacity", "1000000000000"], "replay.capacity is .* less than"),
    "one layer": (
        ["--network.hidden", "8"],
        "network.hidden is .* on the command line.: field required",
    ),
    "unknown feature": (
        ["--features.names", "moon"],
        "features.names: moon is no feature; there are price_change",
    ),
    "preset left out": (["--preset"], "argument --preset: expected one argument"),
    "preset empty": (
        ["--preset", ""],
        "--preset needs a name: all_actions, linear, rainbow, tabular, ",
    ),
    "preset half left out": (["--preset", "linear,"], "--preset needs a name"),
    "empty layer": (
        ["--network.hidden", "0,4"],
        "network.hidden is '0' .*greater than or equal to 1",
    ),
}


@pytest.mark.parametrize("arguments, message", REFUSED.values(), ids=REFUSED)
def test_what_is_out_of_range_is_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(BadSettings, match=message) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, value, message",
    [
        (
            "DQN_EPSILON_START",
            "1.5",
            "epsilon.start is '1.5' .DQN_EPSILON_START in the environment.",
        ),
        ("DQN_EPSILON_MIN", "-0.1", "epsilon.min is '-0.1' .DQN_EPSILON_MIN in the environment."),
        ("DQN_EPSILON_DECAY", "0", "epsilon.decay is '0' .DQN_EPSILON_DECAY in the environment."),
        ("DQN_EPSILON_RATE", "0.5", "DQN_EPSILON_RATE: .* names no setting"),
        ("QDESK_LEARNER__GAMA", "0.5", "QDESK_LEARNER__GAMA: .* names no setting"),
        (
            "QDESK_LEARNER__GAMMA",
            "2",
            "learner.gamma is '2' .QDESK_LEARNER__GAMMA in the environment.",
        ),
    ],
)
def test_the_environment_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=message):
        load()


def test_a_preset_is_refused_by_name(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    for text, message in {
        "stepz = 1": f"preset {preset}: stepz is not a setting",
        "[learner]\ngama = 1": f"preset {preset}: learner.gama is not a setting",
        "[learner]\ngamma = 7": rf"learner.gamma is 7 \(preset {preset}\)",
        "steps = = 1": f"preset {preset}: cannot be read as TOML",
    }.items():
        preset.write_text(text)
        with pytest.raises(BadSettings, match=message):
            load("--preset", str(preset))


def test_help_lists_every_setting_without_tensorflow() -> None:
    code = (
        "import sys, qdesk\n"
        "sys.argv = ['qdesk', 'train', '--help']\n"
        "try: qdesk.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for path in load().flat():
        assert f"--{path.replace('_', '-')}" in run.stdout


NOTHING = {
    "target of a table": ("tabular", "--learner.target double", "learner.target is set, but does"),
    "replay of a table": ("tabular", "--replay.prioritised", "replay.prioritised is set, but does"),
    "bins of a network": (
        "linear",
        "--tabular.bins 5",
        "tabular.bins is set, but does nothing where",
    ),
    "priority of uniform replay": (
        "linear",
        "--replay.priority.beta 0.5",
        "replay.priority.beta is set, but does nothing where replay.prioritised is off",
    ),
    "temperature of a hard target": (
        "linear",
        "--learner.munchausen-temperature 1",
        "munchausen_temperature is set, but does nothing where learner.target is q_learning",
    ),
    "heads without layers": ("linear", "--network.dueling", "dueling is set, but kind is linear"),
    "risk without quantiles": ("two_layer", "--network.cvar 0.5", "there are no quantiles"),
    "n-step with all actions": (
        "all_actions",
        "--learner.n-step 3",
        "backup all_actions looks one",
    ),
    "n-step with Munchausen": (
        "two_layer",
        "--learner.n-step 3 --learner.target munchausen",
        "target munchausen looks one step ahead",
    ),
    "copies within an iteration": (
        "two_layer",
        "--learner.updates-per-iteration 3",
        "target_every is 500; it must be a multiple of updates_per_iteration, 3, or set tau",
    ),
    "ring shorter than a window": (
        "rainbow",
        "--replay.capacity 11",
        "replay.capacity is 11; it must be at least 12",
    ),
    "rings of more than can be numbered": (
        "linear",
        "--replay.capacity 1000000000 --seeds 2",
        "2,000,000,000 transitions",
    ),
    "seeds past the last": ("linear", "--seed 2147483647 --seeds 2", "the last is past"),
    "one seed too few": ("linear", "--seeds 0", "seeds is '0'"),
    "name that is none": ("linear", "--name My-Model", "name is 'My-Model'"),
    "iterations that only collect": (
        "linear",
        "--steps 251 --replay.learning-starts 1001",
        "it must be above 251",
    ),
}


@pytest.mark.parametrize("preset, arguments, message", NOTHING.values(), ids=NOTHING)
def test_what_contradicts_itself_or_does_nothing_is_refused(
    preset: str, arguments: str, message: str
) -> None:
    with pytest.raises(BadSettings, match=message):
        load("--preset", preset, *arguments.split())


def test_two_presets_of_one_name_are_refused() -> None:
    for presets in (["linear,linear"], ["linear,two_layer", "--name", "same"]):
        with pytest.raises(BadSettings, match="another of the presets is called"):
            load_settings(["--preset", *presets])


def test_outputs_of_another_shape_have_another_name() -> None:
    assert load().model_name == "two_layer"
    assert load("--network.quantiles", "8").model_name == "two_layer_quantiles"
    assert load("--preset", "rainbow").model_name == "rainbow"
    assert load("--name", "mine").model_name == "mine"


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        (
            "[learner]\nlearning-rate = 0.1\n",
            "preset {path}: learner.learning-rate is not a setting",
        ),
        ('"max loss" = 1\n', "preset {path}: max loss is not a setting"),
        (
            "[network]\nkind = 'foo'\n",
            "network.kind is 'foo' (preset {path}): input should be 'linear'",
        ),
    ],
)
def test_whatever_a_preset_calls_it_is_named(tmp_path: Path, preset: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(preset)
    with pytest.raises(BadSettings) as refused:
        load("--preset", str(path))
    assert str(refused.value).startswith(said.format(path=path))


def test_an_architecture_refuses_what_it_does_not_take() -> None:
    with pytest.raises(
        BadSettings, match="layer_norm is set, but kind is linear; it needs two_layer"
    ):
        load("--network.kind", "linear", "--network.layer-norm")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--features.names", "log_price", "--features.names", "price_change"), 2),
        (("--features.names", "log_price,price_change"), 2),
        (("--features", "log_price", "--features.names=price_change"), 2),
        (("--features.names", "log_price"), 1),
    ],
)
def test_a_list_may_be_said_in_several_flags(arguments: tuple[str, ...], names: int) -> None:
    assert load(*arguments).features.names == ("log_price", "price_change")[:names]
    assert dqn_of(load("--network.hidden", "8", "--network.hidden", "16")).network.hidden == (8, 16)


def test_variables_with_a_name_of_their_own_win_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DQN_EPSILON_START", "0.5")
    monkeypatch.setenv("qdesk_epsilon__start", "0.7")
    monkeypatch.setenv("dqn_epsilon_min", "0.4")  # another name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    settings = load()
    assert dqn_of(settings).epsilon.start == 0.5
    assert dqn_of(settings).epsilon.min == 0.05
    assert settings.tracking_uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a:1")
    monkeypatch.setenv("QDESK_TRACKING_URI", "http://b:1")
    assert load().tracking_uri == "http://a:1"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--learner.huber-delta", "1"),
        ("--no-replay.prioritised",),
        ("--learner.clip-norm", "none"),
        ("--network.hidden", "32,32"),  # several presets share a command line
    ],
)
def test_a_default_of_the_other_kind_says_nothing_however_it_is_written(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("--preset", "tabular", *arguments).agent.kind == "tabular"
    monkeypatch.setenv("QDESK_REPLAY__PRIORITISED", "false")
    assert load("--preset", "tabular", *arguments).agent.kind == "tabular"
    assert load("--preset", "linear", "--tabular.omega", "0.80").agent.kind == "dqn"


def test_two_kinds_of_agents_at_once_are_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BadSettings, match=r"network.kind is 'two_layer' .*, but agent.kind is 'tab"
    ):
        load("--preset", "tabular", "--network.kind", "two_layer")
    assert load("--preset", "two_layer", "--agent.kind", "tabular").agent.kind == "tabular"
    assert load("--preset", "tabular", "--network.kind", "tabular").agent.kind == "tabular"
    monkeypatch.setenv("QDESK_NETWORK__KIND", "linear")
    with pytest.raises(
        BadSettings, match=r"network.kind is 'linear' .QDESK_NETWORK__KIND in the env"
    ):
        load("--preset", "tabular")


def test_a_table_of_before_beside_a_network_that_was_set_is_read() -> None:
    """Of a network nothing was asked where a table learned."""
    tree = {"network": {"kind": "tabular", "hidden": [32, 32]}, "tabular": {"bins": 7}}
    agent = TrainSettings.of(tree).agent
    assert isinstance(agent, Tabular)
    assert agent.tabular.bins == 7
