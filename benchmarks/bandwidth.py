"""How fast this machine reads memory: the floor under every decoder's time."""

import concurrent.futures
import time

import numpy as np


class Reader:
  """Reads an array that no cache holds, with as many threads as asked."""

  def __init__(self, megabytes: int, threads: int):
    # Written once, or the system would serve all pages from one of zeros.
    numbers = np.ones(megabytes * 2**20 // 4, np.float32)
    self._parts = np.array_split(numbers, threads)
    self._num_bytes = numbers.nbytes
    self._pool = concurrent.futures.ThreadPoolExecutor(threads)

  def bytes_per_second(self) -> float:
    """One sweep of each of two reductions; the faster one counts."""
    return max(self._sweep(np.sum), self._sweep(lambda x: np.dot(x, x)))

  def _sweep(self, reduction) -> float:
    start = time.perf_counter()
    # NumPy lets go of the interpreter's lock while it reduces.
    list(self._pool.map(reduction, self._parts))
    return self._num_bytes / (time.perf_counter() - start)
