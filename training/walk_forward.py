"""Training for a walk-forward: one agent, one window, nothing tracked."""

from functools import lru_cache

from evaluation.measures import Backtest
from evaluation.walk_forward import Job, Outcome
from market.bars import Bars, BarsError, SplitSettings
from market.source import bars_from
from market.table import MarketTable
from training.data import TrainingData
from training.learn import better, choice, learn
from training.quiet import import_tensorflow
from training.settings import TrainSettings


def train_window(job: Job) -> Outcome:
    """Trains on a window's bars, chooses the checkpoint on their end, and acts on the judged bars.

    Features are fitted, and the checkpoint is chosen, on the stretch trained on alone: its last part
    takes the place of validation, in the proportion of the settings' split. Where that has too few bars
    to choose on, the last checkpoint counts.

    Raises:
        BarsError: the bars are not those of the job, or too few for an episode.
        NotFinite: a Q-value on the judged bars is not finite.
        Diverged: numbers are no longer finite.
    """
    settings = TrainSettings.of({**job.settings, "seed": job.seed, "seeds": 1})
    if "tensorflow" in settings.agent.packages:
        import_tensorflow()
    bars = _bars(settings.bars)
    if bars.content_hash != job.data_hash:
        raise BarsError(f"{bars.name}: its content is no longer that of {job.data_hash[:12]}…")
    split = settings.split
    train = split.train / (split.train + split.validation)
    within = SplitSettings(train=train, validation=1 - train, test=0.0, gap=split.gap)
    data = TrainingData.on(
        bars.between(*job.window.fit, f"window {job.window.number}"), settings, within
    )
    start, stop = job.window.judged
    judged = MarketTable.of(bars.between(0, stop + 1, "judged"), data.features, settings.market)
    judged = judged.last(stop + 1 - start)
    agents = settings.agent.agents(
        data.train, [settings.seed], data.reward_scale, settings.model_name
    )
    best: Backtest | None = None
    outcome: Outcome | None = None
    for point in learn(agents, data.validation[settings.market.fill], settings):
        if point.validations is None:
            continue
        result = point.validations[0].result
        if better(result, best) or not data.chooses:
            best = result
            positions = choice(agents.policy(0), judged)
            outcome = Outcome(positions, point.step, best.measures["net_return"])
    assert outcome is not None  # the last point is always validated
    return outcome


@lru_cache(maxsize=1)
def _bars(source: str) -> Bars:
    return bars_from(source)
