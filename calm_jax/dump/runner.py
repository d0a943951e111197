"""Runs a split at a grid of thresholds and dumps what the model did.

    examples --generation--> tokens, layers, confidences --partial--> dump

The thresholds of an example run side by side as rows of one batch, and all
batches through one compiled program: thresholds are run time values. The first
row of each example is the full model; its trace holds every layer's confidence
and best token.

Usually all thresholds run in one pass over the split. With a rule for stopping
they run in several, from 1 downwards, and each pass adds columns to the shards;
it ends when the rule says that lower thresholds would be of no use.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence

import calm_jax
from calm_jax import errors
from calm_jax.data import corpus
from calm_jax.decode import description, generation
from calm_jax.dump import partial, passes
from calm_jax.records import contracts

# Testing starts at 1 and stops at the first failure, so the grid is fine where
# strict tolerances are decided; the paper's has steps of 0.05 all the way.
DEFAULT_THRESHOLDS = (
  *(1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8),
  *(0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0),
)

# Rows (examples x thresholds) decoded side by side.
ROWS = 128

# What a kill costs at most; half a minute on two cores with the shipped model.
EXAMPLES_PER_SHARD = 64

_PACKAGES = ('jax', 'flax', 'numpy', 'sentencepiece')


@dataclasses.dataclass(frozen=True)
class Stopping:
  """When to leave out the thresholds that are still to come.

  Attributes:
    reason: (manifest, dump) at the thresholds so far -> '' to go on, or why not
      to. It must be a function of these alone, so that a resumed run decides
      the same.
    name: names the rule and its numbers; a run is resumed with the same only.
    per_pass: thresholds generated before the rule is asked, and asked again.
  """

  reason: Callable[[contracts.Manifest, contracts.Dump], str]
  name: str
  per_pass: int = 4


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Of `run`.

  Attributes:
    manifest: of the complete dump.
    is_new: whether this run has made it; else it was there, and undamaged.
  """

  manifest: contracts.Manifest
  is_new: bool


def header(
  generator: generation.TextGenerator,
  *,
  task: str,
  split: str,
  metric: str,
  thresholds: Sequence[float],
  params_digest: str,
  data_digest: str,
  command: str,
) -> contracts.Manifest:
  """The manifest of a dump that is about to be written.

  Args:
    generator: the model that will be run.
    task: name of the task.
    split: of the task's examples.
    metric: by which the task is judged, from `calm_jax.metrics.text_metrics`.
    thresholds: strictly descending, first 1 (the full model).
    params_digest: names the weights.
    data_digest: names the examples.
    command: repeats the dump.

  Returns:
    The manifest, without shards.

  Raises:
    ConfigError: a choice of the model cannot be written down as data.
    DataError: the thresholds are not such a grid.
  """
  return contracts.Manifest(
    task=task,
    split=split,
    metric=metric,
    thresholds=tuple(float(x) for x in thresholds),
    model=description.describe(generator, params_digest),
    data_digest=data_digest,
    versions=versions(),
    command=command,
  )


def versions() -> dict[str, str]:
  """Of calm_jax and of the packages that may change an output."""
  return {
    'calm_jax': calm_jax.__version__,
    **{x: importlib.metadata.version(x) for x in _PACKAGES},
  }


def run(
  generator: generation.TextGenerator,
  examples: Sequence[corpus.Example],
  manifest: contracts.Manifest,
  directory: str | os.PathLike,
  *,
  overwrite: bool = False,
  restart: bool = False,
  examples_per_shard: int = EXAMPLES_PER_SHARD,
  stopping: Stopping | None = None,
) -> Outcome:
  """Generates at every threshold and writes the dump.

  A run that was killed is resumed by calling it again: finished shards are
  kept, and the dump is that of a run without interruption, byte for byte.
  Where the dump is complete already, nothing is generated.

  Args:
    generator: the model.
    examples: of the split; their order does not matter.
    manifest: from `header`.
    directory: where the dump will be, complete or not at all.
    overwrite: whether a complete dump there is made anew and replaced.
    restart: whether an unfinished dump is thrown away and begun anew.
    examples_per_shard: finished together.
    stopping: when to leave out lower thresholds; never, if None.

  Raises:
    DataError: no examples, an empty input, or a dump is there with other
      settings, complete (and not `overwrite`) or not (and not `restart`); or a
      complete one that is damaged, or of an older version (likewise).
    NumericError: the model computes NaN.
    ResourceError: the directory cannot be written.
  """
  if not examples:
    raise errors.DataError(
      f'A dump needs at least one example, but the split {manifest.split!r} of'
      f' {manifest.task!r} has none.'
    )
  ordered = sorted(examples, key=lambda x: (len(x.inputs), x.example_id))
  grid = manifest.thresholds
  per_pass = min(stopping.per_pass, len(grid)) if stopping else len(grid)
  job = partial.Job(
    header=manifest,
    examples_digest=examples_digest(ordered),
    examples_per_shard=examples_per_shard,
    thresholds_per_pass=per_pass,
    rows=ROWS,
    rows_per_pack=tuple(generator.model.rows_per_pack),
    stopping=stopping.name if stopping else '',
    num_examples=len(ordered),
  )
  if not overwrite and (there := partial.completed(directory, job)):
    return Outcome(there, is_new=False)
  work = passes.Work(
    job=job,
    generator=generator,
    examples=ordered,
    # Inputs that no model can read are found before any of them is run.
    tokens=generator.encode([x.inputs for x in ordered]),
  )
  with partial.PartialDump(
    directory, job, overwrite=overwrite, restart=restart
  ) as unfinished:
    return Outcome(_complete(work, unfinished, manifest, stopping), is_new=True)


def _complete(
  work: passes.Work,
  unfinished: partial.PartialDump,
  manifest: contracts.Manifest,
  stopping: Stopping | None,
) -> contracts.Manifest:
  """Runs passes until none is wanted any more."""
  grid = work.thresholds
  stopped, done = '', 0
  while not stopped and done < len(grid):
    done = min(done + work.per_pass, len(grid))
    passes.run_pass(work, unfinished, done, f'dump {manifest.split}')
    if stopping and done < len(grid):
      so_far = dataclasses.replace(manifest, thresholds=grid[:done])
      stopped = stopping.reason(so_far, passes.read(work, unfinished, done))
  return unfinished.complete(done, stopped)


def examples_digest(examples: Sequence[corpus.Example]) -> str:
  """Of ids and texts, in their order."""
  fields = [(x.example_id, x.inputs, x.targets) for x in examples]
  return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
