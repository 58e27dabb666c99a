"""What stops a training that a user can mend. Every message is one sentence that says where and why."""


class TrackingError(OSError):
    """The store cannot be used. The message names the folder and the reason."""


class StoreLost(OSError):
    """The store could be used, and no longer can. The message names the folder and the reason."""


class NoCheckpoint(ValueError):
    """There is none to go on from, or it is of another training. The message says where it was sought."""


class InUse(OSError):
    """Another process trains this run. The message names it."""


class CheckpointError(OSError):
    """Checkpoints cannot be kept where they are to be. The message names the folder and the reason."""


class BucketError(OSError):
    """A bucket cannot be used. The message names the URL and the reason."""


class MissingExtra(ImportError):
    """A package that is needed is not installed. The message names it."""


class NoRun(ValueError):
    """There is no such run, group or metric. The message names it and what there is."""


class StoreMoved(ValueError):
    """A store cannot be mended as asked. The message names the folder and the reason."""
