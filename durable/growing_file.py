"""A file that only grows, and whose writer never has to stop because it cannot be written.

Both what is tracked and TensorBoard's events are written this way: a full disk must neither end a
training nor leave half a record in the middle of a file.
"""

import os
from contextlib import suppress
from pathlib import Path


class GrowingFile:
    """A file to which pieces are added; what cannot be written now is written later, in its order.

    Each write goes on at the very byte where the last one stopped, so that a disk that was full for
    a while leaves no gap and no half piece, but at the very end where the process dies. A file that
    is missing is created; one that is there is gone on with. Raises `OSError` where it cannot be
    opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.fault: OSError | None = None  # why the last write failed
        self._end = os.fstat(self.descriptor).st_size
        self._waiting = bytearray()

    def add(self, piece: bytes) -> None:
        """Adds a piece; `flush` writes it."""
        self._waiting += piece

    def flush(self) -> bool:
        """Hands what waits to the operating system, and says whether all of it was taken."""
        self.fault = None
        while self._waiting:
            try:
                written = os.pwrite(self.descriptor, self._waiting, self._end)
            except OSError as error:
                self.fault = error
                return False
            self._end += written
            del self._waiting[:written]
        return True

    def cut(self, size: int) -> None:
        """Cuts the file to a size, bytes; raises `OSError`."""
        os.ftruncate(self.descriptor, size)
        self._end = size

    def close(self) -> None:
        """Writes what waits, as far as that is possible, and gives the file back."""
        self.flush()
        with suppress(OSError):  # some file systems say only here that the disk is full
            os.close(self.descriptor)
