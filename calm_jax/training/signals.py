"""Stopping between two steps when the machine asks for it."""

import signal
import threading


class StopRequest:
  """Notes SIGTERM and SIGINT instead of dying; a context manager.

  A second signal of the same kind acts as it would without this class. Outside
  the main thread, where Python forbids handlers, nothing is noted.
  """

  _SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.received: signal.Signals | None = None
    self._previous = {}

  def _note(self, number, frame):
    del frame
    self.received = signal.Signals(number)
    signal.signal(number, self._previous[number])

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      for number in self._SIGNALS:
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *exception):
    for number, handler in self._previous.items():
      signal.signal(number, handler)
