"""A model's description: what decides an output is in it, and nothing else."""

import dataclasses
import json

import jax.numpy as jnp
import pytest
from testing import tiny_text

from calm_jax.decode import beam_search, description, generation, lengths
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.engine import sampling, schedule, skipped_layers
from calm_jax.early_exit.measures import top_k
from calm_jax.records import contracts, descriptions, differences
from calm_jax.t5 import network


@pytest.fixture(scope='module')
def generator():
  return tiny_text.make_generator()


class OtherNetwork(network.Transformer):
  """A network of a user's own, of the same sizes."""


def made(generator, module=None, inputs_length=12, **kwargs):
  """The generator with another network, lengths or choices."""
  return generation.TextGenerator(
    model_lib.EncoderDecoderModel(
      module or generator.model.module, **{'rows_per_pack': ()} | kwargs
    ),
    generator.params,
    generator.tokenizer,
    inputs_length=inputs_length,
    max_decode_length=generator.max_decode_length,
  )


def with_config(generator, **sizes):
  config = generator.model.config.replace(**sizes)
  return made(generator, network.Transformer(config))


OTHERS = {
  'measure': lambda x: made(x, measure=top_k.TopKPropagation()),
  'threshold_schedule': lambda x: made(
    x, threshold_schedule=schedule.DecayingThreshold()
  ),
  'exit_layers': lambda x: made(x, exit_layers=schedule.ExitLayers(2)),
  'skipped_layers': lambda x: made(
    x, skipped_layers=skipped_layers.FirstExitState()
  ),
  'output_length': lambda x: made(
    x, output_length=lengths.ProportionalLength()
  ),
  'inputs_length': lambda x: made(x, inputs_length=11),
  'network': lambda x: made(x, OtherNetwork(x.model.config)),
  'network.dtype': lambda x: with_config(x, dtype=jnp.bfloat16),
  'network.float32_attention_logits': lambda x: with_config(
    x, float32_attention_logits=True
  ),
  'network.relative_attention_num_buckets': lambda x: with_config(
    x, relative_attention_num_buckets=64
  ),
  'network.relative_attention_max_distance': lambda x: with_config(
    x, relative_attention_max_distance=64
  ),
  'network.mlp_activations': lambda x: with_config(
    x, mlp_activations=('relu', 'linear')
  ),
}


@pytest.mark.parametrize('name', OTHERS)
def test_what_decides_an_output_is_in_it(name, generator):
  one, other = (
    description.describe(x, 'digest')
    for x in (generator, OTHERS[name](generator))
  )
  assert list(differences.differences(one, other)) == [name]


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('params_digest', {'params_digest': 'other'}),
    ('max_decode_length', {'max_decode_length': 5}),
    ('decode_fn', {'decode_fn': sampling.Sampler()}),
    ('decode_fn', {'decode_fn': beam_search.BeamSearch()}),
  ],
)
def test_how_it_is_to_decode_is_in_it(name, fields, generator):
  one = description.describe(generator, 'digest')
  other = description.describe(
    generator, **{'params_digest': 'digest'} | fields
  )
  assert list(differences.differences(one, other)) == [name]


@pytest.mark.parametrize(
  'same',
  [
    lambda x: tiny_text.make_generator(),
    # A batch is the same whatever layers take at a time.
    lambda x: made(x, rows_per_pack=(1,)),
    lambda x: with_config(x, dropout_rate=0.5),
    lambda x: with_config(x, dtype='float32'),
    lambda x: with_config(x, mlp_activations=['gelu', 'linear']),
    # Other words for the same exits.
    lambda x: made(x, exit_layers=schedule.ExitLayers(min_exit=1)),
  ],
)
def test_what_decides_none_is_not(same, generator):
  one, other = (
    description.describe(x, 'digest') for x in (generator, same(generator))
  )
  assert one == other
  assert json.dumps(one.to_json()) == json.dumps(other.to_json())


def test_no_attribute_of_the_model_is_forgotten(generator):
  """A new one must be described, or be said here to decide no output."""
  described = {
    field.name for field in dataclasses.fields(contracts.ModelDescription)
  }
  names = {'module': 'network'}
  found = vars(generator.model).keys() - {'rows_per_pack'}
  assert {names.get(x, x) for x in found} <= described


def test_the_shipped_model_has_one():
  """Its folder is JSON, where the 6 of its bound may come as 6.0."""
  found = description.describe(generation.load('docstrings'), 'digest')
  one, other = (lengths.ProportionalLength(1.2, x) for x in (6, 6.0))
  assert found.output_length == descriptions.describe(one)
  assert found.output_length == descriptions.describe(other)


def test_it_survives_json(generator):
  one = description.describe(generator, 'digest')
  text = json.dumps(one.to_json(), allow_nan=False)
  assert contracts.ModelDescription.from_json(json.loads(text)) == one
