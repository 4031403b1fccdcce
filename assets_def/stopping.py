"""How a launched process and its launcher agree on stopping.

SIGINT or SIGTERM: save what you have and end within ``STOP_WITHIN_S``. A launcher that is killed
cannot send them, but its end of a pipe closes: a process that was given ``UNTIL_EOF`` reads its
standard input, and stops at its end. Processes that it starts (ranks of ``torchrun``) inherit the
pipe, and do the same.
"""

import os
import signal
import sys
import threading
import time

STOP_WITHIN_S = 20.0
"""How long a process that was asked to stop may take, before it is killed."""
UNTIL_EOF = "--until-eof"
"""Command-line option: stop when standard input ends."""


def accept_stop_signals() -> None:
    """SIGINT and SIGTERM raise ``KeyboardInterrupt``, also where they were inherited as ignored."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.default_int_handler)


def stop_at_eof() -> None:
    """Send this process SIGINT when its standard input ends, and end it ``STOP_WITHIN_S`` later."""
    threading.Thread(target=_wait_for_eof, name="until-eof", daemon=True).start()


def _wait_for_eof() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass  # nothing is sent; whatever comes is not the end
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(STOP_WITHIN_S)
    os._exit(1)  # not sys.exit: that would end this thread alone
