"""What goes wrong with a store. Every message is one sentence that says where and why."""


class TrackingError(OSError):
    """The store cannot be used. The message names the folder and the reason."""

    exit_code = 2


class StoreLost(OSError):
    """The store could be used, and no longer can. The message names the folder and the reason."""

    exit_code = 1


class NoRun(ValueError):
    """There is no such run, group or metric. The message names it and what there is."""

    exit_code = 2


class StoreMoved(ValueError):
    """A store cannot be mended as asked. The message names the folder and the reason."""

    exit_code = 2
