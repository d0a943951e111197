"""Made-up records, and a dump of which the right calibration is known."""

import dataclasses

import numpy as np

from calm_jax.dump import partial
from calm_jax.records import contracts

THRESHOLDS = (1.0, 0.5, 0.1)


NETWORK = {
  'vocab_size': 100,
  'dtype': 'float32',
  'emb_dim': 16,
  'num_heads': 2,
  'num_encoder_layers': 1,
  'num_decoder_layers': 4,
  'head_dim': 8,
  'mlp_dim': 32,
  'mlp_activations': ['gelu', 'linear'],
  'logits_via_embedding': False,
  'float32_attention_logits': False,
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
}


def choice(kind: str, **knobs) -> contracts.Description:
  return contracts.Description(kind, knobs)


def make_model(**fields) -> contracts.ModelDescription:
  """A description; sizes of the network among the fields change these."""
  sizes = {name: fields.pop(name) for name in NETWORK if name in fields}
  network = contracts.Description('Transformer', NETWORK | sizes)
  num_layers = network.knobs['num_decoder_layers']
  return contracts.ModelDescription(
    **{
      'params_digest': 'm',
      'vocabulary_digest': 'v',
      'network': network,
      'measure': choice('SoftmaxTopTwoGap'),
      'threshold_schedule': choice('ConstantThreshold'),
      'exit_layers': tuple(range(1, num_layers + 1)),
      'skipped_layers': choice('ProjectExitState'),
      'output_length': None,
      'decode_fn': choice('Greedy'),
      'inputs_length': 8,
      'max_decode_length': 2,
      'eos_id': 1,
    }
    | fields
  )


_OF_THE_MODEL = {
  *NETWORK,
  *(field.name for field in dataclasses.fields(contracts.ModelDescription)),
}


def make_manifest(**fields) -> contracts.Manifest:
  """A header; fields of the model's description may be among its own."""
  model = {name: fields.pop(name) for name in _OF_THE_MODEL & set(fields)}
  return contracts.Manifest(
    **{
      'task': 'docstring_restoration',
      'split': 'calibration',
      'metric': 'chrf',
      'thresholds': THRESHOLDS,
      'model': make_model(**model),
      'data_digest': 'd',
    }
    | fields
  )


def replaced(record, **fields):
  """A manifest or job with other fields, those of its model among them."""
  model = {name: fields.pop(name) for name in _OF_THE_MODEL & set(fields)}
  model = dataclasses.replace(record.model, **model)
  return dataclasses.replace(record, model=model, **fields)


def make_dump(
  num_examples: int = 60, **fields
) -> tuple[contracts.Manifest, contracts.Dump]:
  """At 0.5 one example in 20 differs from the full model; at 0.1 all do."""
  shape = (num_examples, len(THRESHOLDS), 2)
  layers = np.broadcast_to(np.array([4, 2, 1])[:, None], shape).astype(np.int8)
  texts = np.array([['Same text.', 'Same text.', '###']] * num_examples)
  texts[::20, 1] = 'qqq'
  manifest = make_manifest(**fields)
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
