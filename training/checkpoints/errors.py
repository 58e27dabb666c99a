"""What goes wrong with checkpoints. Every message is one sentence that says where and why."""


class NoCheckpoint(ValueError):
    """There is none to go on from, or it is of another training. The message says where it was sought."""

    exit_code = 2


class CheckpointError(OSError):
    """Checkpoints cannot be kept where they are to be. The message names the folder and the reason."""

    exit_code = 2


class BucketError(OSError):
    """A bucket cannot be used. The message names the URL and the reason."""

    exit_code = 2
