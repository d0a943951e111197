"""Keeps TensorFlow's greetings off the terminal.

TensorFlow's C++ writes to file descriptor 2 while it is imported, whatever
TF_CPP_MIN_LOG_LEVEL says, so the descriptor itself is turned away for a moment.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def discarded() -> Iterator[None]:
  """Drops what is written to descriptor 2; Python's exceptions still pass."""
  sys.stderr.flush()
  saved = os.dup(2)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, 2)
    yield
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
    os.close(nowhere)


def import_tensorflow(*, verbose: bool = False) -> None:
  """Imports TensorFlow, where it is installed, without its greetings.

  It only reads data and writes TensorBoard's files here, so accelerators are
  hidden from it: their memory is for JAX.
  """
  with contextlib.nullcontext() if verbose else discarded():
    try:
      import tensorflow
    except ImportError:
      return  # Everything but seqio and TensorBoard works without it.
    with contextlib.suppress(RuntimeError):  # Another user was faster.
      tensorflow.config.set_visible_devices([], 'GPU')
