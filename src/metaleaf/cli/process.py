"""The process of a command: what interrupts it, and imports without the garbage collector."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from metaleaf.terminal.interrupts import never_dropped


@contextmanager
def interruptible() -> Iterator[None]:
    """What asks a process to end interrupts it as Ctrl-C does, so that what is under way is saved."""
    kept = {}
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # What is ignored stays so (nohup), and what whoever calls us has taken over.
    ours = [number for number, how in kept.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        with never_dropped(_again):
            yield
    finally:
        for number in ours:
            signal.signal(number, kept[number])


def _again(interrupt: KeyboardInterrupt) -> None:
    os.kill(os.getpid(), interrupt.args[0] if interrupt.args else signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch" and frame.f_code.co_name == "<module>":
            os._exit(said(number))  # torch's C++ aborts if its import raises this, and nothing is under way
        frame = frame.f_back
    raise KeyboardInterrupt(number)


def said(number: int) -> int:
    """Say that the command was interrupted; the exit code."""
    how = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}.get(signal.Signals(number), "interrupted")
    print(f"metaleaf: {how}; finished runs are kept, the same command goes on from here.", file=sys.stderr, flush=True)
    return 128 + number


@contextmanager
def importing() -> Iterator[None]:
    """Without the garbage collector, now and for what is there then.

    An import leaves no garbage, and what it brings stays. To look through all of torch, in its import, in the run and
    at the end, would take a fifth of the time of a short run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
