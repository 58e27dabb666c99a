"""Kinds of agents, by what `agent.kind` calls them: one row each."""

from training.learning.agent import AgentSettings
from training.learning.dqn import Dqn
from training.learning.tabular import Tabular

KINDS: dict[str, type[AgentSettings]] = {each.kind: each for each in (Dqn, Tabular)}
