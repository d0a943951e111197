"""Wall-clock speed of the full and the calibrated model, side by side.

    generator, texts, threshold --> Timings

A generator is handed in (`generation.TextGenerator`, or anything with its
`encode`, `request` and `generate_tokens`), so this module imports no JAX. What
is timed begins with the token ids of a batch on the host and ends with the
generated ids on the host: encoder and decoder, without tokenization and
metrics. With a function that runs the encoder alone, its time is taken off for
a second number.

Both systems run the same compiled program and alternate repeat by repeat, so
that whatever else the machine is doing slows both. Each batch is run several
times and the median counts, so that a run that was disturbed does not.
"""

import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from calm_jax import errors
from calm_jax.evaluation.timing import Timing, Timings, milliseconds
from calm_jax.records import contracts

_REPEATS = 5
_WARM_UP = 2


def measure(
  generator: Any,
  texts: Sequence[str],
  *,
  threshold: float,
  batch_size: int = 1,
  repeats: int = _REPEATS,
  warm_up: int = _WARM_UP,
  run_encoder: Callable[[np.ndarray], Any] | None = None,
  device: str = '',
) -> Timings:
  """Times both systems on the same texts.

  Args:
    generator: see above.
    texts: inputs, prefix included; those that fill no last batch are left out.
    threshold: of the calibrated model.
    batch_size: texts decoded together.
    repeats: runs of each batch, of which the median counts.
    warm_up: first batches that are run once before the clock starts, at least
      1: compilation is not what is measured.
    run_encoder: encodes a batch of token ids and returns when it is done.
    device: what the generator computes on, for the report.

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
  runs = [_generation(generator, system) for system in (1.0, threshold)]
  if run_encoder is not None:
    runs.append(_encoding(run_encoder))
  for batch in batches[: max(warm_up, 1)]:
    _timed(runs, batch)
  # [batches, repeats, runs, (seconds, tokens)]
  measured = np.array(
    [[_timed(runs, batch) for _ in range(repeats)] for batch in batches]
  )
  # [batches, runs]
  seconds = np.median(measured[..., 0], axis=1)
  counts = measured[:, 0, :, 1].astype(np.int64)
  encoder = None if run_encoder is None else seconds[:, 2]
  timings = [
    Timing(
      system,
      _speed(seconds[:, i], counts[:, i], encoder, repeats),
      int(counts[:, i].sum()),
    )
    for i, system in enumerate((1.0, threshold))
  ]
  machine = ', '.join(filter(None, (describe_machine(), device)))
  return Timings(timings[0], timings[1], batch_size=batch_size, machine=machine)


def _timed(runs, batch) -> list[tuple[float, int]]:
  """Seconds and generated tokens of each run of one batch, in turn."""
  results = []
  for run in runs:
    start = time.perf_counter()
    num_layers_used = run(batch)
    elapsed = time.perf_counter() - start
    results.append((elapsed, int(np.count_nonzero(num_layers_used))))
  return results


def _generation(generator, threshold):
  def run(batch):
    thresholds = np.full(len(batch), threshold, np.float32)
    request = generator.request(batch, thresholds)
    return generator.generate_tokens(request).num_layers_used

  return run


def _encoding(run_encoder):
  def run(batch):
    run_encoder(batch)
    return ()  # No token is generated.

  return run


def _speed(seconds, num_tokens, encoder_seconds, repeats) -> contracts.Speed:
  """All [batches]; the decoder's time is what the encoder leaves."""
  decoder = None
  if encoder_seconds is not None:
    decoder = milliseconds(seconds - encoder_seconds, num_tokens)
  return contracts.Speed(
    # All of a batch's time, unlike a difference, is never nothing.
    with_encoder=cast(
      contracts.Milliseconds, milliseconds(seconds, num_tokens)
    ),
    decoder=decoder,
    num_batches=len(seconds),
    repeats=repeats,
  )


def describe_machine() -> str:
  """The processor in words, as 'Linux x86_64, 2 cores of AMD EPYC 7B13'."""
  words = f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores'
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError):  # Not Linux.
    return words
  found = re.search(r'^model name\s*:\s*(.+?)\s*$', text, re.MULTILINE)
  return f'{words} of {found[1]}' if found else words
