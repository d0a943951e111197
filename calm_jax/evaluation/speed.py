"""Wall-clock speed of the full and the calibrated model, side by side.

    generator, texts, threshold --> Timings

A generator is handed in (`generation.TextGenerator`, or anything with its
`encode` and `generate_tokens`), so this module imports no JAX. What is timed
begins with the token ids of a batch on the host and ends with the generated
ids on the host: encoder and decoder, without tokenization and metrics.

Both systems run the same compiled program and alternate batch by batch, so
that whatever else the machine is doing slows both. Each batch is run several
times and its fastest run counts: noise only ever adds.
"""

import os
import platform
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.evaluation.timing import Timing, Timings

_REPEATS = 3


def measure(
  generator: Any,
  texts: Sequence[str],
  *,
  threshold: float,
  batch_size: int = 1,
  repeats: int = _REPEATS,
) -> Timings:
  """Times both systems on the same texts.

  Args:
    generator: see above.
    texts: inputs, prefix included; those that fill no last batch are left out.
    threshold: of the calibrated model.
    batch_size: texts decoded together.
    repeats: runs of each batch, of which the fastest counts.

  Returns:
    Milliseconds per generated token of each system, end of sequence included.

  Raises:
    DataError: fewer texts than one batch holds.
  """
  if len(texts) < batch_size:
    raise errors.DataError(
      f'Timing needs at least {batch_size} texts, one batch, got {len(texts)}.'
    )
  tokens = generator.encode(texts)
  stop = len(texts) - len(texts) % batch_size
  batches = [tokens[i : i + batch_size] for i in range(0, stop, batch_size)]
  systems = (1.0, threshold)
  for system in systems:  # Compilation is not what is measured.
    _run(generator, batches[0], system)
  seconds, counts = np.zeros(2), np.zeros(2, np.int64)
  for batch in batches:
    # [repeats, systems, (seconds, tokens)]
    runs = np.array(
      [
        [_run(generator, batch, system) for system in systems]
        for _ in range(repeats)
      ]
    )
    seconds += runs[..., 0].min(axis=0)
    counts += runs[0, :, 1].astype(np.int64)
  timings = [
    Timing(system, 1e3 * float(seconds[i] / counts[i]), int(counts[i]))
    for i, system in enumerate(systems)
  ]
  return Timings(*timings, batch_size=batch_size, machine=describe_machine())


def _run(generator, batch, threshold) -> tuple[float, int]:
  """Seconds and generated tokens of one batch."""
  thresholds = np.full(len(batch), threshold, np.float32)
  start = time.perf_counter()
  result = generator.generate_tokens(batch, thresholds)
  elapsed = time.perf_counter() - start
  return elapsed, int((result.num_layers_used > 0).sum())


def describe_machine() -> str:
  """The processor in words, as 'Linux x86_64, 2 cores'."""
  return f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores'
