"""The command line in a process of its own, which sends itself signals at chosen moments.

interrupted.py "PLACE CALL SIGNAL[; PLACE CALL SIGNAL ...]" ARGUMENTS ...

PLACE is a function, ``package.module:name`` or ``package.module:Class.name``. On its CALL-th call, before it does its
work, the signal is sent.
"""

import importlib
import os
import signal
import sys
from typing import Any


def arrange(place: str, call: int, sent: int) -> None:
    """Replace a function by one that sends the signal and then does the same."""
    module, _, names = place.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), sent)
        return real(*arguments, **options)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    # A shell that runs the tests in its background has Ctrl-C ignored for everything below it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for moment in sys.argv[1].split("; "):
        place, call, sent = moment.split()
        arrange(place, int(call), signal.Signals[sent])
    sys.argv[1:] = sys.argv[2:]
    from facecrafter.cli import main

    main()
