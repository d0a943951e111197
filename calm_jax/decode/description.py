"""Writes a model down as data.

TextGenerator, digest of its parameters --> ModelDescription
"""

import dataclasses

import jax.numpy as jnp

from calm_jax.decode import decode_fns, generation
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.records import descriptions, model_description


def describe(
  generator: generation.TextGenerator,
  params_digest: str,
  *,
  decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
  max_decode_length: int | None = None,
) -> model_description.ModelDescription:
  """All that decides, with a text and a threshold, what a generator gives.

  Args:
    generator: the model.
    params_digest: `checkpoints.digests.model_digest` of its parameters.
    decode_fn: how tokens are chosen.
    max_decode_length: longest output; the generator's if None.

  Raises:
    ConfigError: a choice is no dataclass of plain values.
  """
  model = generator.model
  bound = model.output_length
  return model_description.ModelDescription(
    params_digest=params_digest,
    vocabulary_digest=generator.tokenizer.digest,
    network=_network(model),
    measure=descriptions.describe(model.measure),
    threshold_schedule=descriptions.describe(model.threshold_schedule),
    exit_layers=model.exit_layers.layers(model.config.num_decoder_layers),
    skipped_layers=descriptions.describe(model.skipped_layers),
    output_length=None if bound is None else descriptions.describe(bound),
    decode_fn=descriptions.describe(decode_fn),
    inputs_length=generator.inputs_length,
    max_decode_length=max_decode_length or generator.max_decode_length,
    eos_id=request_lib.EOS_ID,
  )


def _network(
  model: model_lib.EncoderDecoderModel,
) -> descriptions.Description:
  config = model.config
  sizes = {x.name: getattr(config, x.name) for x in dataclasses.fields(config)}
  # Only training drops units.
  del sizes['dropout_rate']
  # One type has several spellings: jnp.float32, 'float32', np.dtype(...).
  sizes['dtype'] = jnp.dtype(config.dtype).name
  kind = descriptions.kind_of(type(model.module))
  return descriptions.Description(kind, sizes)
