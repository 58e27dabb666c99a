"""From settings to a desk that may trade: a model that can be trusted, a journal to continue."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import time_ns

from pydantic import ValidationError

from durable.lines import Lines
from durable.settings import BadSettings
from durable.verified import MANIFEST, CorruptError
from market.accounting import MarketSettings
from market.bars import BarsError
from market.features import FeaturePipeline
from models.bundle import Bundle
from models.last_good import impatient, load_last_good
from models.places import address_of
from trading.account import Account
from trading.desk import Context, Decider, Desk, Rules
from trading.journal import FORMAT, Journal, JournalError, damaged, records
from trading.latch import STATE, Latch
from trading.ledger import Ledger
from trading.orders import Venue
from trading.policy import SafePolicy
from trading.records import Bar, Session, record_of
from trading.settings import BacktestSettings, TradingSettings

JOURNAL = "journal.jsonl"
# Raised by what is no record; what msgspec raises is a ValueError.
DAMAGED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


class NotPromoted(Exception):
    """No version of a model was promoted, so that none may trade. The message has the command."""

    exit_code = 4


@dataclass(frozen=True)
class Model:
    """What decides, and where it came from."""

    bundle: Bundle
    name: str
    version: str
    source: str
    steps_down: list[str]
    notes: Sequence[str] = ()

    @cached_property
    def pipeline(self) -> FeaturePipeline:
        """The features that the bundle was trained on; raises `BadSettings` where it does not say."""
        try:
            return FeaturePipeline.from_schema(self.bundle.manifest.origin.features)
        except (KeyError, TypeError, ValueError) as error:
            raise BadSettings(
                f"{self.name} v{self.version}: its features cannot be made here ({error!r})"
            ) from error


def model_of(settings: TradingSettings) -> Model:
    """The model that the settings name, verified.

    Raises:
        BadPlace: `mlruns` is no folder that can be used.
        BadSettings: there is none that can be trusted. The message has every step down.
        NotPromoted: there are versions, but none was ever promoted.
    """
    asked = settings.model
    folder = Path(asked)
    store = address_of(settings.mlruns)
    if (folder / MANIFEST).exists():
        try:
            bundle = Bundle.load(folder)
        except (CorruptError, OSError) as error:
            raise BadSettings(f"{asked}: {error}") from error
        return Model(bundle, bundle.manifest.origin.name, "?", "folder", [])
    if folder.is_dir():
        raise BadSettings(f"{asked}: a folder without a bundle; it would hold {MANIFEST}")
    uri = settings.tracking_uri or store
    for sign in ("@", "/"):
        name, found, which = asked.partition(sign)
        if found:
            bundle, version = _registered(uri, name, which)
            return Model(bundle, name, version, which, [])
    last = load_last_good(asked, settings.mlruns / "last_good", uri)
    if last.bundle is None:
        steps = "; ".join(last.steps_down)
        if last.unpromoted:
            raise NotPromoted(
                f"{asked}: {steps}; `qdesk models promote {asked} VERSION --reason WHY` makes a "
                f"champion, and {asked}@candidate trades one that is none yet"
            )
        raise BadSettings(
            f"{asked}: no model that can be trusted ({steps}). `qdesk models promote` makes a champion; "
            f"{asked}@candidate trades one that is none yet"
        )
    version = last.version or "?"
    return Model(last.bundle, asked, version, last.source, last.steps_down, last.notes)


def _registered(uri: str, name: str, which: str) -> tuple[Bundle, str]:
    """A version by number or alias, and its number: MLflow is needed for this, and loaded."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from models.promotion import load_bundle, load_recorded
    from models.promotion_records import CHAMPION, NoVersion, recorded, resolve

    try:
        with impatient(uri):
            client = MlflowClient(uri, uri)
            version = resolve(client, name, which)
            if which.removeprefix("@") == CHAMPION:
                known = recorded(client, name)
                if known.champion is None or known.elsewhere is not None:
                    raise NotPromoted(
                        f"{name}@{CHAMPION}: {known.elsewhere}; run `qdesk models promote {name} "
                        f"{version.version} --reason WHY`, or trade {name}/{version.version}"
                    )
                return load_recorded(client, name, known.champion), str(version.version)
            return load_bundle(client, version), str(version.version)
    except (NoVersion, CorruptError, OSError) as error:
        raise BadSettings(str(error)) from error
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise BadSettings(f"{uri}: this store cannot be used ({reason})") from error


def market_of(settings: TradingSettings, bundle: Bundle) -> MarketSettings:
    """Sizing, fills and costs: those of the training, but for what the settings say.

    Raises `BadSettings` where a setting means nothing under the sizing of the training.
    """
    origin = bundle.manifest.origin
    try:
        trained = MarketSettings.model_validate(dict(origin.settings.get("market", {})))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, ("market", *fault["loc"])))
        raise BadSettings(
            f"{origin.name}: the settings of its training cannot be used ({name}: {fault['msg']})"
        ) from error
    market = settings.costs.over(trained)
    _require_sizing(settings, market)
    fees = settings.fees if isinstance(settings, BacktestSettings) else None
    return market if fees is None else market.model_copy(update={"fee_rate": fees})


def _require_sizing(settings: TradingSettings, market: MarketSettings) -> None:
    trade = settings.trade
    trained = f"this model was trained with market.sizing {market.sizing}"
    if trade.notional is not None and market.sizing != "notional":
        raise BadSettings(
            f"--trade.notional is {trade.notional:g}, but {trained}; set --trade.quantity"
        )
    if trade.quantity != 1 and market.sizing == "notional":
        raise BadSettings(
            f"--trade.quantity is {trade.quantity:g}, but {trained}; set --trade.notional"
        )
    if trade.band is not None and market.sizing == "unit":
        raise BadSettings(f"--trade.band is {trade.band:g}, but {trained}: a unit does not drift")


def open_desk(
    settings: TradingSettings,
    model: Model,
    folder: Path,
    instrument: str,
    venue_of: Callable[[Account], Venue],
    context: Context,
    durable: bool = False,
    together: int = 1,
) -> Desk:
    """A desk that goes on from the journal in its folder, started.

    `venue_of` makes the venue, given what the account holds; `durable` and `together` are `Journal`'s.

    Raises:
        JournalError: the journal is in use or damaged, or the desk could not be halted.
        BadSettings: the journal is of another instrument, or the model cannot trade so.
    """
    bundle = model.bundle
    path = folder / JOURNAL
    journal = Journal(path, durable, together)
    try:
        limits = settings.limits
        account = Account(limits.volatility_bars, limits.fault_memory)
        pipeline = model.pipeline
        stream = pipeline.stream()
        known = Lines(path)
        before: Session | None = None
        for number, line in enumerate(records(path, known), start=1):
            try:
                record = record_of(line)
                record.apply(account)
                if isinstance(record, Bar) and record.refused is None:
                    try:
                        stream.update({**line, "time": line["closed"] // 1000})
                    except BarsError:  # another model needs what those bars do not have
                        stream = pipeline.stream()
            except DAMAGED as error:
                raise damaged(path, number, f"not as a desk writes it ({error!r})") from error
            if isinstance(record, Session):
                _require_same(path, record.instrument, instrument)
                before = record
        if known.unchecked:
            context.say(
                f"{known.unchecked:,} lines of the journal are of a version without checksums"
            )
        if before is not None and before.bundle not in (None, bundle.sha256):
            was = _version_of(before.version, str(before.bundle))
            now_is = _version_of(model.version, bundle.sha256 or "")
            context.say(f"{was} traded here before; from now on {now_is} does")
        origin = bundle.manifest.origin
        latch = Latch(folder)
        _require_room(latch, account)
        ledger = Ledger(journal, account, instrument)
        policy = SafePolicy(
            bundle, settings.policy, settings.epsilon, account.decisions, pipeline=pipeline
        )
        decider = Decider(policy, stream, origin.scheme)
        market = market_of(settings, bundle)
        rules = Rules(limits, settings.trade, settings.execution, market)
        desk = Desk(decider, venue_of(account), ledger, latch, rules, context)
        now = context.clock() if context.clock else account.time
        session = Session(
            time=now,
            id=f"session-{time_ns()}",
            format=FORMAT,
            model=model.name,
            version=model.version,
            source=model.source,
            steps_down=model.steps_down,
            bundle=bundle.sha256,
            scheme=origin.scheme,
            features=origin.features,
            gamma=_gamma_of(bundle),
            quantity=settings.trade.quantity,
            notional=settings.trade.notional,
            settings=settings.model_dump(mode="json"),
            limits=desk.limits.model_dump(mode="json"),
            costs=market.model_dump(mode="json"),
            torn=journal.torn,
        )
        ledger.record(session)
        desk.start(now)
    except BaseException:
        journal.close()
        raise
    return desk


def _version_of(number: str, sha256: str) -> str:
    """What a person calls a version; of a bundle without a number, the beginning of its checksum."""
    return f"bundle {sha256[:8]}" if number == "?" else f"v{number}"


def _gamma_of(bundle: Bundle) -> float | None:
    """The discount of the training; None where it is not known."""
    found = bundle.manifest.origin.settings.get("learner", {}).get("gamma")
    return float(found) if isinstance(found, int | float) and 0 <= found <= 1 else None


def _require_room(latch: Latch, account: Account) -> None:
    """Raises `JournalError` where a desk could not be halted, or could not write what it did."""
    latched = latch.lost()
    if latched is not None:
        raise JournalError(
            f"{latch.folder}: {latched.reason} when this desk last ran, so that it may not know what it "
            "did; compare its position with the venue's, then set it free with `qdesk resume`"
        )
    try:
        latch.reserve(account.state, account.reason)
    except OSError as error:
        raise JournalError(
            f"{latch.folder / STATE}: no room to halt in can be reserved ({error.strerror or error})"
        ) from error


def _require_same(path: Path, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise BadSettings(f"{path}: trades {theirs}, not {ours}; give this one a --desk of its own")
