"""Interrupts that fall where Python can only print them."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LATER = 0.02
"""Seconds after which an interrupt that was dropped comes again."""


@contextmanager
def never_dropped(again: Callable[[KeyboardInterrupt], None]) -> Iterator[None]:
    """Call `again`, from another thread, a moment after a KeyboardInterrupt that no code could catch.

    A signal may arrive while a destructor or a weak reference's callback runs (those of imports, for one). What is
    raised there goes nowhere: Python prints a traceback, and the work would go on as if nobody had interrupted it.
    """
    former = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            threading.Timer(LATER, again, (dropped.exc_value,)).start()
        else:
            former(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = former
