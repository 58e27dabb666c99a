"""What stops an evaluation that a user can mend."""


class NotFinite(FloatingPointError):
    """A policy's Q-values are no numbers to choose by. The message names the bars."""

    exit_code = 1


class BadEvaluation(ValueError):
    """An evaluation that would mislead, or cannot be made. The message says why and what would do."""

    exit_code = 2
