"""A made-up dump of which the right calibration is known."""

import dataclasses

import numpy as np

from calm_jax.dump import partial
from calm_jax.records import contracts

THRESHOLDS = (1.0, 0.5, 0.1)


def make_dump(
  num_examples: int = 60, **fields
) -> tuple[contracts.Manifest, contracts.Dump]:
  """At 0.5 one example in 20 differs from the full model; at 0.1 all do."""
  shape = (num_examples, len(THRESHOLDS), 2)
  layers = np.broadcast_to(np.array([4, 2, 1])[:, None], shape).astype(np.int8)
  texts = np.array([['Same text.', 'Same text.', '###']] * num_examples)
  texts[::20, 1] = 'qqq'
  manifest = contracts.Manifest(
    **{
      'task': 'docstring_restoration',
      'split': 'calibration',
      'metric': 'chrf',
      'thresholds': THRESHOLDS,
      'num_decoder_layers': 4,
      'max_decode_length': 2,
      'measure': 'SoftmaxTopTwoGap()',
      'threshold_schedule': 'ConstantThreshold()',
      'model_digest': 'm',
      'config_digest': 'c',
      'data_digest': 'd',
    }
    | fields
  )
  return manifest, contracts.Dump(
    example_ids=np.array([f'id-{i}' for i in range(num_examples)]),
    sources=np.array(['same text'] * num_examples),
    references=np.array(['Same text.'] * num_examples),
    predictions=texts,
    tokens=np.full(shape, 3, np.int32),
    num_layers_used=layers,
    confidences=np.full(shape, 0.5, np.float32),
    trace_confidences=np.zeros((num_examples, 2, 4), np.float32),
    trace_tokens=np.full((num_examples, 2, 4), 3, np.int32),
  )


def rows(dump: contracts.Dump, chosen) -> contracts.Dump:
  """Some examples of a dump, by a slice or by numbers in any order."""
  arrays = {
    field.name: getattr(dump, field.name) for field in dataclasses.fields(dump)
  }
  return contracts.Dump(
    **{
      name: None if array is None else array[chosen]
      for name, array in arrays.items()
    }
  )


def write_dump(directory, header, batches, **options) -> contracts.Manifest:
  """Writes `batches`, one shard each; `options` are those of `PartialDump`."""
  job = partial.Job(
    header=header,
    examples_digest='',
    examples_per_shard=1,
    thresholds_per_pass=len(header.thresholds),
    rows=1,
  )
  with partial.PartialDump(directory, job, restart=True, **options) as begun:
    for index, batch in enumerate(batches):
      begun.put(index, batch)
    return begun.complete(len(header.thresholds), header.stopped)
