"""A run's description: name, experiment, settings, tags."""

from collections.abc import Mapping
from typing import NamedTuple


class RunInfo(NamedTuple):
    """What a run is.

    Attributes:
        name: in MLflow and TensorBoard.
        experiment: MLflow's.
        params: all settings by their dotted path.
        tags: whatever runs are grouped and searched by.
        description: Markdown, shown at the top of the run's page.
    """

    name: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    description: str
