"""Copies of a process that has imported torch: work and programs that start without the seconds of their imports."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


def started_copy(work: Callable[[], object], *, stdout: Any = None, stderr: Any = None, seconds: int = 0) -> int:
    """Do some work in a copy of this process, which ends with it; answers at once with the number of the copy.

    Its exit code is that of a program: what `SystemExit` says, and 1 after any other exception, which is printed.

    Args:
        work: What it does.
        stdout, stderr: Files for its output; those of this process by default.
        seconds: After which it is ended; 0 never ends it.
    """
    sys.stdout.flush()  # what is buffered would be written by both
    sys.stderr.flush()
    gc.freeze()  # a copy that collects garbage would look through, and so write to, all that has been imported
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        signal.alarm(seconds)
        for number, stream in enumerate((stdout, stderr), 1):
            if stream is not None:
                os.dup2(stream.fileno(), number)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
