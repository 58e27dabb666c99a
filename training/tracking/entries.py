"""The entries of a run's journal: one class a kind. Kinds and fields are stored, and read for good."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec


class Entry(msgspec.Struct, tag_field="kind", kw_only=True, omit_defaults=True):
    """One thing to be tracked."""

    counted: ClassVar[str] = "others"  # what it counts as where something is not sent
    number: int = msgspec.field(default=0, name="n")  # from 1 on, without a gap, by the journal
    time: int = 0  # when it was so, milliseconds since 1970

    @property
    def count(self) -> int:
        """How many of those it is."""
        return 1


class Begun(Entry, tag="run", kw_only=True):
    """A run was begun: what it is, and the server that is to have it."""

    name: str
    experiment: str = ""
    params: dict[str, str]
    tags: dict[str, str] = {}
    description: str = ""
    started: int = 0
    server: str | None = None
    adopts: bool = False
    owner: str = ""


class Resumed(Entry, tag="resumed", kw_only=True):
    """Another process trains it from here on."""

    owner: str = ""


class Points(Entry, tag="points", kw_only=True):
    """Values of metrics at a step."""

    counted: ClassVar[str] = "points"
    step: int
    metrics: dict[str, float]
    version: str | None = None  # key of the model version that they are of
    data: tuple[str, str] | None = None  # name and digest of what they were measured on
    beside: bool = False  # whether they lie beside others of the same step

    @property
    def count(self) -> int:
        """Points."""
        return len(self.metrics)


class Data(Entry, tag="data", kw_only=True):
    """An input of the run, as MLflow describes a data set."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str
    profile: str
    context: str


class Artifact(Entry, tag="artifact", kw_only=True):
    """A file among the run's artifacts; its content stands among the entry's files."""

    folder: str
    table: bool = False


class Tags(Entry, tag="tags", kw_only=True):
    """Tags of the run."""

    tags: dict[str, str]


class Registered(Entry, tag="version", kw_only=True):
    """A model version; its bundle stands among the entry's files."""

    counted: ClassVar[str] = "versions"
    key: str
    tags: dict[str, str] = {}
    description: str = ""


class Proposed(Entry, tag="candidate", kw_only=True):
    """A version is to be compared with those that were judged alike."""

    key: str


class End(Entry, tag="end", kw_only=True):
    """How the run ended; of a process that is gone it is said by another."""

    status: str
    dead: bool = False


KINDS: dict[str, type[Entry]] = {
    str(each.__struct_config__.tag): each
    for each in (Begun, Resumed, Points, Data, Artifact, Tags, Registered, Proposed, End)
}
_ENCODE = msgspec.json.Encoder(enc_hook=lambda value: value.tolist()).encode


def entry_of(line: Mapping[str, Any]) -> Entry:
    """The entry of a journal's line.

    Raises:
        KeyError, msgspec.ValidationError: it is none.
    """
    return msgspec.convert(line, KINDS[line["kind"]])


def line_of(entry: Entry) -> bytes:
    """The line of an entry; text that cannot be written is made such."""
    try:
        return _ENCODE(entry)
    except (TypeError, UnicodeError, AttributeError):  # a path that is no Unicode, say
        plain = msgspec.to_builtins(entry, enc_hook=str)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
