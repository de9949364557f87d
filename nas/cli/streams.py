"""A command's standard streams, whose loss ends no work: a pipe or a terminal that is gone, a full disk, a closed descriptor."""

import errno
import io
import os
import select
import shutil
import sys
from typing import Any, Final, TextIO

MIN_COLUMNS: Final = 40  # in a few columns tyro would lay out a help without end


class Output(io.FileIO):
    """A file that drops what cannot be written."""

    lost: OSError | None = None
    """The first error of a write."""

    def write(self, data: Any) -> int:
        """Write or drop bytes; gives their number."""
        try:
            while (written := super().write(data)) is None:  # a full pipe that does not block
                select.select([], [self], [])
        except OSError as error:
            self.lost = self.lost or error
            return len(data)
        return written


def replace_streams() -> Output:
    """Let sys.stdout and sys.stderr write any text to an `Output`, in lines of a sensible width; gives that of stdout."""
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(MIN_COLUMNS)
    closed = [descriptor for descriptor in range(3) if _open_if_closed(descriptor)]
    stdout, stderr = (Output(descriptor, "w", closefd=False) for descriptor in (1, 2))
    if 1 in closed:
        stdout.lost = OSError(errno.EBADF, os.strerror(errno.EBADF))
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, open to the end
    sys.stdout, sys.stderr = _text(stdout, sys.stdout), _text(stderr, sys.stderr)
    return stdout


def _open_if_closed(descriptor: int) -> bool:
    """Whether a descriptor was closed; now it leads nowhere, else a file that is opened later would get what is printed."""
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, this one
        os.set_inheritable(nowhere, True)
        return True
    return False


def _text(output: Output, before: TextIO | None) -> TextIO:
    """A text stream as Python's own was; characters that its encoding lacks are written as escapes."""
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=getattr(before, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(before, "line_buffering", True),
        write_through=getattr(before, "write_through", False),
    )
