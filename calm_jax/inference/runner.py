"""Runs a model over examples and writes T5X's JSONL, resumably.

    examples --decode, chunk by chunk--> lines --results--> one file

A signal ends the run between two chunks; a killed run is taken up after the
last chunk that it finished.
"""

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from calm_jax.data import corpus
from calm_jax.decode import generation
from calm_jax.dump import runner as dump_runner
from calm_jax.inference import records, results
from calm_jax.records import unfinished
from calm_jax.training import signals

# Outputs of each example of a chunk, the best first. What one gives may not
# depend on other chunks.
Decode = Callable[[Sequence[corpus.Example]], list[list[generation.Generation]]]

_SAVED_AFTER_SIGNAL = 143


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Of `run`.

  Attributes:
    counts: what the complete file holds.
    is_new: whether this run has made it; else it was there.
  """

  counts: results.Counts
  is_new: bool


def job(
  generator: generation.TextGenerator,
  examples: Sequence[corpus.Example],
  **settings: Any,
) -> results.Job:
  """The job of a run over `examples`, which are those of its share.

  Args:
    generator: the model.
    examples: those of its share.
    **settings: the fields of `results.Job` that these two do not tell.

  Raises:
    ConfigError: a mode that is none, a share that is none, or a task whose name
      cannot be that of a file.
  """
  records.check_mode(settings['mode'])
  return results.Job(
    rows_per_pack=tuple(generator.model.rows_per_pack),
    num_examples=len(examples),
    examples_digest=dump_runner.examples_digest(examples),
    versions=dump_runner.versions(),
    **settings,
  )


def run(
  generator: generation.TextGenerator,
  decode: Decode,
  examples: Sequence[corpus.Example],
  job: results.Job,
  output_dir: str | os.PathLike,
  *,
  overwrite: bool = False,
  restart: bool = False,
) -> Outcome:
  """Decodes what is not decoded yet, and completes the file.

  Called again after whatever ended it, it goes on after the last finished
  chunk; the file is that of a run without interruption, byte for byte. Where
  the file is complete already, nothing is done.

  Args:
    generator: checks and counts the texts' tokens.
    decode: the model.
    examples: of the job's share, in the order of the lines.
    job: from `job`.
    output_dir: of all results.
    overwrite: whether a complete file is made anew; it is replaced when the new
      one is complete.
    restart: whether unfinished work is thrown away and begun anew.

  Raises:
    SystemExit: 143, after a SIGTERM or SIGINT; the chunk is finished first.
    DataError: an empty text; results of other settings are there.
    NumericError: the model computes NaN.
    ResourceError: the folder cannot be written.
  """
  if not overwrite:
    counts = results.completed(output_dir, job)
    if counts is not None:
      return Outcome(counts, is_new=False)
  with results.Results(output_dir, job, restart=restart) as there:
    if examples:
      # Texts that no model can read are found before any is decoded, and those
      # that are too long are counted once.
      generator.encode([x.inputs for x in examples])
    whole = slice(0, len(examples))
    chunks = list(
      unfinished.slices(whole, job.batch_size * job.batches_per_chunk)
    )
    with signals.StopRequest() as stop:
      for index, chunk in unfinished.to_do(
        chunks, there.has, f'infer {job.task}'
      ):
        there.put(index, *_lines(decode, examples[chunk], job))
        if stop.received is not None and index + 1 < len(chunks):
          _leave(stop.received, index + 1, len(chunks))
    return Outcome(there.complete(len(chunks)), is_new=True)


def _leave(received, done: int, num_chunks: int) -> None:
  print(
    f'{received.name}: finished chunk {done} of {num_chunks}; the same command'
    ' goes on there.',
    file=sys.stderr,
  )
  raise SystemExit(_SAVED_AFTER_SIGNAL)


def _lines(
  decode: Decode, chunk: Sequence[corpus.Example], job: results.Job
) -> tuple[bytes, results.Counts]:
  with warnings.catch_warnings():
    # Said once, of all texts.
    warnings.filterwarnings('ignore', message='.* texts are longer than')
    decoded = decode(chunk)
  lines, tokens, layers = [], 0, 0
  for example, outputs in zip(chunk, decoded, strict=True):
    lines.append(
      records.line(example, outputs, job.mode, many=job.num_decodes > 1)
    )
    for used in (output.num_layers_used for output in outputs):
      tokens += sum(x > 0 for x in used)
      layers += sum(used)
  return b''.join(lines), results.Counts(len(chunk), tokens, layers)


def in_batches(decode: Decode, batch_size: int) -> Decode:
  """The same decoding for any number of examples, a batch at a time.

  One shape, one compilation: the last example fills up the last batch.
  """

  def decode_all(examples):
    found = []
    for rows in unfinished.slices(slice(0, len(examples)), batch_size):
      batch = examples[rows]
      full = [*batch, *batch[-1:] * (batch_size - len(batch))]
      found += decode(full)[: len(batch)]
    return found

  return decode_all
