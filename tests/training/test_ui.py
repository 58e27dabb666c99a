"""What a person sees after `make train`, in a real browser: `make test-ui`.

Screenshots go to the folder that SCREENSHOTS names, or nowhere.
"""

import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browser import CHROMIUM, SWITCHES
from tests.support.servers import free_port, wait_for

pytestmark = pytest.mark.ui

ROOT = Path(__file__).parents[2]
RUNS = ("linear-btcusd_30m-s1", "two_layer-btcusd_30m-s1")
TAGS = {"algorithm": "dqn", "network": "two_layer", "bars": "btcusd_30m", "seed": "1"}
LONG = 30_000  # milliseconds that a page is given on a busy machine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui") / "mlruns"
    command = ["make", "-C", str(ROOT), "train", f"STORE={folder}", "ARGS=--steps 20000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def served(store: Path, target: str, variable: str, page: str) -> Iterator[str]:
    """The address of a server that a target of the Makefile starts."""
    port, log = free_port(), store.parent / f"{target}.log"
    command = ["make", "-C", str(ROOT), target, f"{variable}={port}", f"STORE={store}"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}{page}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def mlflow(store: Path) -> Iterator[str]:
    yield from served(store, "ui", "UI_PORT", "/health")


@pytest.fixture(scope="module")
def tensorboard(store: Path) -> Iterator[str]:
    yield from served(store, "tensorboard", "TENSORBOARD_PORT", "/")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own, on which nothing may go wrong in silence."""
    made = browser.new_page(viewport={"width": 1500, "height": 950})
    made.set_default_timeout(LONG)
    expect.set_options(timeout=LONG)
    faults: list[str] = []
    made.on("pageerror", lambda error: faults.append(str(error)))
    yield made
    if folder := os.environ.get("SCREENSHOTS"):
        made.screenshot(path=Path(folder) / "last.png")
    made.close()
    assert faults == []


def keep(page: Page, name: str) -> None:
    page.wait_for_timeout(1500)  # charts move into their places
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def only(store: Path, query: str) -> str:
    connection = sqlite3.connect(store / "mlflow.db")
    try:
        ((found,),) = connection.execute(query)
        return str(found)
    finally:
        connection.close()


def run_id(store: Path, name: str) -> str:
    return only(store, f"SELECT run_uuid FROM runs WHERE name = '{name}'")


def visit(page: Page, address: str) -> None:
    """Opens a page of MLflow, without the assistant's panel."""
    mark = "&" if "?" in address else "?"
    page.goto(f"{address}{mark}workflowType=machine_learning")
    page.get_by_label("Close", exact=True).click()


def open_runs(page: Page, mlflow: str, mode: str = "") -> None:
    visit(page, f"{mlflow}/#/experiments/1/runs{mode}")
    for name in RUNS:
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_the_run_list_shows_both_runs_with_their_tags(page: Page, mlflow: str) -> None:
    open_runs(page, mlflow)
    page.get_by_role("button", name="Columns", exact=True).click()
    search = page.get_by_placeholder("Search columns")
    for tag in ("group", *TAGS):
        search.fill(tag)
        exactly = re.compile(rf"^\s*{tag}\s*$")
        found = page.locator("[class*=tree-treenode]").filter(has_text=exactly)
        expect(found.last).to_have_text(tag)  # tags come after settings
        found.last.locator("[class*=tree-checkbox]").first.click()
    page.keyboard.press("Escape")
    for name in RUNS:
        expect(page.get_by_role("link", name=name)).to_be_visible()
    for value in TAGS.values():
        expect(page.get_by_role("gridcell", name=value, exact=True).first).to_be_attached()
    keep(page, "mlflow-runs")


def test_both_runs_compared_show_loss_epsilon_and_reward(
    page: Page, mlflow: str, store: Path
) -> None:
    open_runs(page, mlflow)
    page.get_by_label("Select all runs").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for metric in ("train/loss", "train/epsilon", "train/reward"):
        link = page.get_by_role("link", name=metric, exact=True)
        while not link.count():  # rows are made as one scrolls
            page.mouse.move(800, 600)
            page.mouse.wheel(0, 300)
            page.wait_for_timeout(200)
        link.scroll_into_view_if_needed()
        for name in RUNS:
            last = only(
                store,
                "SELECT value FROM latest_metrics WHERE key = "
                f"'{metric}' AND run_uuid = '{run_id(store, name)}'",
            )
            expect(page.get_by_text(f"{round(float(last), 3):g}", exact=True).first).to_be_visible()
    keep(page, "mlflow-compare-table")


def test_the_charts_of_both_runs_lie_over_one_another(page: Page, mlflow: str) -> None:
    open_runs(page, mlflow, "?compareRunsMode=CHART")
    for section in ("eval/validation", "perf", "train"):
        expect(page.get_by_text(section, exact=False).first).to_be_attached()
    page.get_by_placeholder("Search metric charts").fill("train/(loss|epsilon|reward)")
    for metric in ("train/loss", "train/epsilon", "train/reward"):
        card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=metric)
        expect(card.locator(".scatterlayer .trace path.js-line").first).to_be_attached()
        assert {name for name in RUNS if name in card.inner_text()} == set(RUNS)
    keep(page, "mlflow-charts")


def test_a_run_says_what_it_is_and_how_it_did(page: Page, mlflow: str, store: Path) -> None:
    visit(page, f"{mlflow}/#/experiments/1/runs/{run_id(store, RUNS[1])}")
    expect(page.get_by_text("Validation, net of costs")).to_be_visible()
    expect(page.get_by_text("btcusd_30m/train").first).to_be_visible()
    for tag, value in TAGS.items():
        expect(page.get_by_text(f"{tag}: {value}").first).to_be_attached()
    expect(page.get_by_role("cell", name="buy and hold")).to_be_attached()
    keep(page, "mlflow-run")


def test_system_metrics_have_their_page(page: Page, mlflow: str, store: Path) -> None:
    visit(page, f"{mlflow}/#/experiments/1/runs/{run_id(store, RUNS[0])}/system-metrics")
    for reading in ("cpu_utilization_percentage", "disk_usage_percentage"):
        expect(page.get_by_text(reading, exact=True).first).to_be_visible()
    keep(page, "mlflow-system-metrics")


@pytest.mark.parametrize(
    "path",
    ["figures/equity_validation.png", "figures/positions_validation.png", "figures/q_values.png"],
)
def test_figures_show(page: Page, mlflow: str, store: Path, path: str) -> None:
    visit(page, f"{mlflow}/#/experiments/1/runs/{run_id(store, RUNS[1])}/artifacts/{path}")
    image = page.locator("img[src^='blob:'], img[src*='get-artifact'], img[src^='data:']").first
    expect(image).to_be_visible()
    keep(page, f"mlflow-{Path(path).stem}")


def test_the_evaluation_is_a_table(page: Page, mlflow: str, store: Path) -> None:
    path = "evaluation/validation.json"
    visit(page, f"{mlflow}/#/experiments/1/runs/{run_id(store, RUNS[1])}/artifacts/{path}")
    expect(page.get_by_text("buy and hold")).to_be_visible()
    expect(page.get_by_text("View as table")).to_be_visible()
    keep(page, "mlflow-table")


def test_the_report_opens_inside_mlflow(page: Page, mlflow: str, store: Path) -> None:
    number = only(
        store,
        "SELECT version FROM registered_model_aliases "
        "WHERE name = 'qdesk-two-layer' AND alias = 'candidate'",
    )
    path = f"reports/qdesk-two-layer-v{number}-validation.html"
    visit(page, f"{mlflow}/#/experiments/1/runs/{run_id(store, RUNS[1])}/artifacts/{path}")
    report = page.frame_locator("iframe")
    expect(report.get_by_text("Not judged.")).to_be_visible()
    expect(report.locator("svg[role=img]").first).to_be_visible()
    keep(page, "mlflow-report")


def test_the_registered_model_shows_versions_aliases_and_descriptions(
    page: Page, mlflow: str
) -> None:
    visit(page, f"{mlflow}/#/models/qdesk-two-layer")
    expect(page.get_by_text("the version that may trade").first).to_be_visible()
    expect(page.get_by_role("link", name="Version 1", exact=True)).to_be_visible()
    expect(page.get_by_text("@ candidate")).to_be_visible()
    expect(page.get_by_text("iterations: ").first).to_be_visible()
    keep(page, "mlflow-model")
    page.get_by_role("link", name="Version 1", exact=True).click()
    expect(page.get_by_text("where buy and hold made").first).to_be_visible()
    expect(page.get_by_text("qdesk train --preset linear,two_layer").first).to_be_visible()
    keep(page, "mlflow-version")


def test_tensorboard_shows_the_scalars(page: Page, tensorboard: str) -> None:
    page.goto(f"{tensorboard}/#scalars")
    page.get_by_label("Filter tags (regular expressions supported)").fill(
        "train/(loss|epsilon|reward)"
    )
    for tag in ("train/loss", "train/epsilon", "train/reward"):
        expect(page.get_by_text(f"tag: {tag}")).to_be_visible()
    page.goto(f"{tensorboard}/#custom_scalars")
    expect(page.get_by_text("learning", exact=True)).to_be_visible()
    expect(page.get_by_text("epsilon", exact=True).first).to_be_visible()
    for name in RUNS:
        expect(page.get_by_text(name).filter(visible=True).first).to_be_visible()
    keep(page, "tensorboard-scalars")


def test_tensorboard_shows_settings_that_vary_beside_metrics(page: Page, tensorboard: str) -> None:
    page.goto(f"{tensorboard}/#hparams")
    for column in ("network.kind", "learner.learning_rate", "net return on validation"):
        expect(page.get_by_text(column).first).to_be_visible()
    expect(page.get_by_text("two_layer", exact=True).first).to_be_visible()
    expect(page.get_by_text("learner.gamma")).to_have_count(0)  # the same in both
    keep(page, "tensorboard-hparams")


def test_tensorboard_shows_histograms_and_figures(page: Page, tensorboard: str) -> None:
    page.goto(f"{tensorboard}/#histograms")
    expect(page.get_by_text("validation/q_values").first).to_be_visible()
    keep(page, "tensorboard-histograms")
    page.goto(f"{tensorboard}/#images")
    expect(page.get_by_text("figures/equity_validation").first).to_be_attached()
    keep(page, "tensorboard-images")
