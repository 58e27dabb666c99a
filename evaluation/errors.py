"""What stops an evaluation that a user can mend."""


class BadEvaluation(ValueError):
    """An evaluation that would mislead, or cannot be made. The message says why and what would do."""

    exit_code = 2
