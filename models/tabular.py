"""Tabular Q-learning in NumPy: a discretiser, a table, and three ways to learn it.

A state `[features..., position, 1.0]` falls into one of `cells` by quantile bins of its features; with
the position coming in that makes 3 * cells rows of the table, with three actions each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.architectures import ACTIONS

POSITIONS = 3
MAX_CELLS = 1_000_000  # of all agents together; lists of Python numbers take memory
Algorithm = Literal["q_learning", "expected_sarsa", "double_q_learning"]


class TooManyCells(ValueError):
    """A table would not fit. The message says how many cells it would have, and of what."""

    exit_code = 2


@dataclass(frozen=True)
class Discretiser:
    """Bins of each feature, and one number for a combination of bins.

    Attributes:
        edges: for each feature its inner edges, ascending. A value equal to an edge is below it.
    """

    edges: tuple[NDArray[np.float32], ...]

    @classmethod
    def fit(cls, features: NDArray[np.float32], bins: int, tables: int = 1) -> "Discretiser":
        """Edges at quantiles, so that each bin holds about as many of the given values.

        Args:
            features: of the training split, shape (bars, features).
            bins: of each feature; fewer where values repeat so often that quantiles coincide.
            tables: how many will be held.

        Raises:
            TooManyCells: the tables would have more than a million together.
        """
        count = tables * bins ** features.shape[1]
        if count > MAX_CELLS:
            raise TooManyCells(
                f"tabular.bins is {bins}, features {features.shape[1]} and tables {tables}: {count:,} "
                f"cells, more than {MAX_CELLS:,}; take fewer bins, features or seeds"
            )
        shares = np.arange(1, bins) / bins
        # Edges are values that occur, so that a value which repeats much fills a bin of its own.
        edges = (np.quantile(column, shares, method="inverted_cdf") for column in features.T)
        return cls(tuple(np.unique(each.astype(np.float32)) for each in edges))

    @property
    def cells(self) -> int:
        """Combinations of bins."""
        return int(np.prod([len(edges) + 1 for edges in self.edges], dtype=np.int64))

    def cell(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cells of features of shape (n, features), shape (n,)."""
        cell = np.zeros(len(features), np.int64)
        for edges, column in zip(self.edges, features.T, strict=True):
            cell = cell * (len(edges) + 1) + np.searchsorted(edges, column)
        return cell


@dataclass(frozen=True)
class TabularQ:
    """A learned table: what a network is elsewhere."""

    discretiser: Discretiser  # from features to cells
    # Q-values in learning units, shape (cells * 3, 3); row cell * 3 + position + 1.
    table: NDArray[np.float32]
    name: str = "tabular"  # of the registered model

    @property
    def state_size(self) -> int:
        """Length of a state."""
        return len(self.discretiser.edges) + 2

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """From states `[features..., position, 1.0]` of shape (n, state_size) to Q-values (n, 3)."""
        position = states[:, -2].astype(np.int64)
        wrong = (position != states[:, -2]) | (abs(position) > 1)
        if wrong.any():
            first = wrong.argmax()
            raise ValueError(
                f"state {first} holds position {states[first, -2]}; it must be -1, 0 or 1"
            )
        rows = self.discretiser.cell(states[:, :-2]) * POSITIONS + position + 1
        values: NDArray[np.float32] = self.table[rows]
        return values

    predict = q_values  # as MLflow's pyfunc calls it

    def save(self, folder: Path) -> None:
        """Writes `table.npz` and `table.json` (name and shapes, to be read by a person)."""
        arrays: dict[str, Any] = {
            f"edges_{i}": each for i, each in enumerate(self.discretiser.edges)
        }
        known = {"name": self.name, "features": len(arrays), "cells": self.discretiser.cells}
        np.savez(folder / "table.npz", table=self.table, **arrays)
        (folder / "table.json").write_text(json.dumps(known) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TabularQ":
        """Reads what `save` wrote; nothing is unpickled.

        Raises `ValueError`: table and edges do not fit one another, a number is not finite, or
        edges do not ascend.
        """
        known = json.loads((folder / "table.json").read_text())
        with np.load(folder / "table.npz", allow_pickle=False) as arrays:
            edges = tuple(arrays[f"edges_{i}"] for i in range(known["features"]))
            table = arrays["table"]
        discretiser = Discretiser(edges)
        if not all(np.isfinite(each).all() and (np.diff(each) > 0).all() for each in edges):
            raise ValueError(f"{folder}: the edges of bins must be finite and ascending")
        wanted = (discretiser.cells * POSITIONS, ACTIONS)
        if table.shape != wanted or not np.isfinite(table).all():
            raise ValueError(f"{folder}: the table must be finite and of shape {wanted}")
        return cls(discretiser, table, known["name"])


def _load_pyfunc(path: str) -> TabularQ:
    """What `mlflow.pyfunc.load_model` calls: the folder written by `TabularQ.save`."""
    return TabularQ.load(Path(path))


def tables_of(algorithm: Algorithm) -> int:
    """How many tables an algorithm learns."""
    return 2 if algorithm == "double_q_learning" else 1


class TabularLearner:
    """Learns a table one transition at a time.

    Args:
        rows: states that the table knows.
        algorithm: `q_learning` (Watkins and Dayan 1992), `expected_sarsa` (van Seijen et al. 2009,
            equation 7, of the epsilon-greedy policy) or `double_q_learning` (van Hasselt 2010,
            algorithm 1; the policy is greedy for the sum of both tables).
        learning_rate: constant, or None for 1 / visits^omega of a row and action, which meets the
            conditions of convergence for omega in (1/2, 1] (Even-Dar and Mansour 2003).
        omega: see there.
    """

    def __init__(
        self,
        rows: int,
        algorithm: Algorithm = "q_learning",
        learning_rate: float | None = None,
        omega: float = 0.8,
    ) -> None:
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.omega = omega
        # Lists: one number at a time they are several times as fast as arrays.
        count = tables_of(algorithm)
        self._tables = [[[0.0] * ACTIONS for _ in range(rows)] for _ in range(count)]
        self._visits = [[[0] * ACTIONS for _ in range(rows)] for _ in range(count)]

    def greedy(self, row: int) -> int:
        """The greedy action index; the first of equals."""
        values = self._tables[0][row]
        if len(self._tables) == 2:
            values = [a + b for a, b in zip(values, self._tables[1][row], strict=True)]
        return values.index(max(values))

    def update(
        self,
        row: int,
        action: int,
        reward: float,
        discount: float,
        next_row: int,
        epsilon: float = 0.0,
        coin: float = 0.0,
    ) -> tuple[float, float]:
        """Learns from one transition.

        Args:
            row: of the state.
            action: index taken.
            reward: learning units.
            discount: gamma * (1 - terminated).
            next_row: of the next state.
            epsilon: share of random actions of the policy that expected SARSA values.
            coin: uniform in [0, 1); decides which of two tables double Q-learning moves.

        Returns:
            The TD error, and the Q-value of the action before.
        """
        which = int(len(self._tables) == 2 and coin < 0.5)
        table = self._tables[which]
        visits = self._visits[which][row]
        values = table[next_row]
        value = max(values)
        if self.algorithm == "double_q_learning":
            value = self._tables[1 - which][next_row][values.index(value)]
        elif self.algorithm == "expected_sarsa":
            value = (1 - epsilon) * value + epsilon * sum(values) / ACTIONS
        visits[action] += 1
        rate = self.learning_rate or visits[action] ** -self.omega
        before = table[row][action]
        td_error = reward + discount * value - before
        table[row][action] = before + rate * td_error
        return td_error, before

    def table(self) -> NDArray[np.float64]:
        """Q-values of shape (rows, 3): the table, or the mean of both."""
        return np.mean(self._tables, axis=0)

    def state(self) -> dict[str, NDArray[Any]]:
        """Tables and visits, each of shape (1 or 2, rows, 3)."""
        return {"tables": np.array(self._tables), "visits": np.array(self._visits)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Takes back what `state` gave, of a learner of the same rows and algorithm.

        Raises `ValueError` where the shapes differ; nothing is changed.
        """
        for name, present in self.state().items():
            if state[name].shape != present.shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {present.shape}")
        self._tables = state["tables"].tolist()
        self._visits = state["visits"].tolist()
