"""Leaving a run in good order when it is told to stop."""

import signal
from types import FrameType
from typing import Any, Self


class StopSignals:
    """While active, SIGTERM and Ctrl-C only take note (`received`), so that the loop can save and leave.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.received = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
