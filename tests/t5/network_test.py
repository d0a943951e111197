"""The network against itself: names, masks, packing, one token at a time."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from calm_jax import errors
from calm_jax.t5 import masks
from calm_jax.t5 import network as t5_network

VERSIONS = {
  '1_0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
  '1_1': {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False},
}
# T5X's logical axes, by the last names of a parameter.
AXES = {
  'token_embedder/embedding': ('vocab', 'embed'),
  'relpos_bias/rel_embedding': ('heads', 'relpos_buckets'),
  'scale': ('embed',),
  'query/kernel': ('embed', 'joined_kv'),
  'key/kernel': ('embed', 'joined_kv'),
  'value/kernel': ('embed', 'joined_kv'),
  'out/kernel': ('joined_kv', 'embed'),
  'wi/kernel': ('embed', 'mlp'),
  'wi_0/kernel': ('embed', 'mlp'),
  'wi_1/kernel': ('embed', 'mlp'),
  'wo/kernel': ('mlp', 'embed'),
  'logits_dense/kernel': ('embed', 'vocab'),
}
SOURCES = np.array([[5, 9, 4, 8, 1, 0, 0], [3, 1, 0, 0, 0, 0, 0]])
TARGETS = np.array([[7, 2, 6, 1, 0], [9, 9, 1, 0, 0]])


def shift_right(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def config_of(version):
  return t5_network.T5Config(
    vocab_size=128,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=3,
    num_decoder_layers=4,
    head_dim=8,
    mlp_dim=32,
    **VERSIONS[version],
  )


def abstract_variables(config):
  """What `init` gives, as names, shapes and types; computes nothing."""
  init = functools.partial(
    t5_network.Transformer(config).init, enable_dropout=False
  )
  return jax.eval_shape(init, jax.random.key(0), SOURCES, TARGETS, TARGETS)


def shallow_config_of(version):
  """Two layers on each side show all that more would, and compile faster."""
  return config_of(version).replace(num_encoder_layers=2, num_decoder_layers=2)


@functools.cache
def params_of(version):
  """Parameters drawn by NumPy, which is faster than compiling `init`."""
  random = np.random.default_rng(0)
  params = abstract_variables(shallow_config_of(version))['params']
  return jax.tree.map(
    lambda leaf: random.normal(scale=0.5, size=leaf.shape).astype(np.float32),
    params,
  )


@functools.cache
def compiled(version, function):
  """`function(network, *args)`, compiled, with the network's parameters."""
  module = t5_network.Transformer(shallow_config_of(version))

  @jax.jit
  def run(params, *args):
    return function(module.bind({'params': params}), *args)

  return functools.partial(run, params_of(version))


def logits_of(network, sources, inputs, targets, *segments):
  return network(sources, inputs, targets, *segments, enable_dropout=False)


def states_of(network, sources, inputs, targets):
  encoded = network.encode(sources)
  states = network.decode_all_layers(encoded, sources, inputs, targets)
  return states, network.logits_from_hidden(states)


@pytest.fixture(params=VERSIONS)
def version(request):
  return request.param


def test_parameter_tree_is_t5x_s(version, t5x_tiny):
  checkpoint = t5x_tiny / f't5_{version}_tiny' / 'checkpoint_0'
  theirs = {}
  for directory in checkpoint.glob('target.*'):
    name = directory.name.removeprefix('target.').replace('.', '/')
    theirs[name] = shape_of_zarr(directory)
  variables = abstract_variables(config_of(version))
  ours = traverse_util.flatten_dict(variables['params'], sep='/')
  assert {name: array.shape for name, array in ours.items()} == theirs


def shape_of_zarr(directory: pathlib.Path):
  text = (directory / '.zarray').read_text()
  numbers = text.split('"shape":[')[1].split(']')[0]
  return tuple(map(int, numbers.split(',')))


def test_logical_axes_are_t5x_s(version):
  variables = abstract_variables(config_of(version))
  names = traverse_util.flatten_dict(variables['params'], sep='/')
  axes = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  assert set(axes) == {f'{name}_axes' for name in names}
  for name in names:
    (expected,) = {
      value for ending, value in AXES.items() if name.endswith(ending)
    }
    assert tuple(axes[f'{name}_axes'].names) == expected, name


def test_a_bfloat16_network_has_float32_parameters_and_logits():
  config = config_of('1_1').replace(dtype=jnp.bfloat16)
  params = abstract_variables(config)['params']
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype('float32')
  }
  states, logits = jax.eval_shape(
    lambda params: states_of(
      t5_network.Transformer(config).bind({'params': params}),
      *(SOURCES, TARGETS, TARGETS),
    ),
    params,
  )
  assert states.dtype == jnp.bfloat16
  assert logits.dtype == jnp.float32


def test_the_last_layer_s_logits_are_the_model_s(version):
  batch = (SOURCES, shift_right(TARGETS), TARGETS)
  states, logits = compiled(version, states_of)(*batch)
  assert states.shape == (2, 2, 5, 16)
  expected = compiled(version, logits_of)(*batch)
  np.testing.assert_allclose(logits[-1], expected, atol=1e-5)


def test_later_targets_do_not_matter(version):
  run = compiled(version, logits_of)
  inputs = shift_right(TARGETS)
  changed = inputs.copy()
  changed[:, 2:] = 77
  logits, other = run(SOURCES, inputs, TARGETS), run(SOURCES, changed, TARGETS)
  np.testing.assert_array_equal(other[:, :2], logits[:, :2])
  assert np.abs(other[:, 2] - logits[:, 2]).max() > 1e-3


def test_padding_and_other_rows_do_not_matter(version):
  run = compiled(version, logits_of)
  inputs = shift_right(TARGETS)
  logits = run(SOURCES, inputs, TARGETS)
  alone = run(SOURCES[1:, :2], inputs[1:, :3], TARGETS[1:, :3])
  np.testing.assert_allclose(alone[0], logits[1, :3], atol=1e-5)


def test_two_examples_packed_in_a_row_give_the_logits_they_give_apart(version):
  sources = np.array([[5, 9, 4, 1, 3, 8, 1, 0]])
  source_segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0]])
  targets = np.array([[7, 2, 1, 6, 9, 4, 1, 0]])
  target_segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0]])
  inputs = np.array([[0, 7, 2, 0, 6, 9, 4, 0]])
  run = compiled(version, logits_of)
  packed = run(sources, inputs, targets, source_segments, target_segments)

  def apart(tokens, segments):
    rows = [tokens[segments == segment] for segment in (1, 2)]
    return np.stack([np.pad(row, (0, 4 - len(row))) for row in rows])

  logits = run(
    apart(sources, source_segments),
    apart(inputs, target_segments),
    apart(targets, target_segments),
  )
  np.testing.assert_allclose(packed[0, :3], logits[0, :3], atol=1e-5)
  np.testing.assert_allclose(packed[0, 3:7], logits[1], atol=1e-5)


def test_dropout_changes_the_logits_only_when_enabled():
  # One layer: random numbers are slow to compile.
  config = config_of('1_1').replace(num_encoder_layers=1, num_decoder_layers=1)
  module = t5_network.Transformer(config)
  params = {
    stack: {k: v for k, v in subtree.items() if k != 'layers_1'}
    for stack, subtree in params_of('1_1').items()
  }

  @functools.partial(jax.jit, static_argnames='enable_dropout')
  def logits(seed, enable_dropout):
    return module.apply(
      {'params': params},
      *(SOURCES, shift_right(TARGETS), TARGETS),
      enable_dropout=enable_dropout,
      rngs={'dropout': jax.random.key(seed)},
    )

  np.testing.assert_array_equal(logits(0, True), logits(0, True))
  assert np.abs(logits(0, True) - logits(1, True)).max() > 1e-3
  np.testing.assert_array_equal(logits(0, False), logits(1, False))


def project_cross(network, sources):
  encoded = network.encode(sources)
  return [layer.project_cross(encoded) for layer in network.decoder.layers]


def step_of_all_layers(network, tokens, t, keys, values, crosses, cross_mask):
  """One position through all layers.

  Returns:
    the states above each layer [layers, batch, embed], and the caches with
    this position written.
  """
  length = keys[0].shape[-1]
  position_bias = network.decoder_position_bias(length)[:, t]
  bias = position_bias + masks.mask_to_bias(
    jnp.arange(length) <= t, jnp.float32
  )
  cross_bias = masks.mask_to_bias(cross_mask, jnp.float32)
  hidden = network.embed(tokens)
  keys, values, states = list(keys), list(values), []
  for i, layer in enumerate(network.decoder.layers):
    query, key, value = layer.project_token(hidden)
    keys[i] = keys[i].at[..., t].set(key[..., 0])
    values[i] = values[i].at[:, :, t].set(value[:, :, 0])
    hidden = layer.block(
      hidden, query, keys[i], values[i], bias[None], *crosses[i], cross_bias
    )
    states.append(hidden)
  return jnp.stack(states), keys, values


def test_one_position_at_a_time_equals_the_whole_sequence(version):
  inputs = shift_right(TARGETS)
  batch, length = inputs.shape
  # No padding on the decoder's side: decoding does not know the length.
  whole, _ = compiled(version, states_of)(
    SOURCES, inputs, np.ones_like(TARGETS)
  )
  crosses = compiled(version, project_cross)(SOURCES)
  run_step = compiled(version, step_of_all_layers)
  # What has not been written yet must not count, so it is made to be seen.
  keys = [np.full((batch, 2, 8, length), 99.0, np.float32)] * 2
  values = [np.full((batch, 2, length, 8), 99.0, np.float32)] * 2
  for t in range(length):
    states, keys, values = run_step(
      inputs[:, t], t, keys, values, crosses, SOURCES[:, None] > 0
    )
    np.testing.assert_allclose(states, whole[:, :, t], atol=1e-5)


@pytest.mark.parametrize(
  'dtype',
  ['float32', 'bfloat16', jnp.bfloat16, np.float32, jnp.dtype('bfloat16')],
)
def test_types_of_activations(dtype):
  config = t5_network.T5Config(vocab_size=8, dtype=dtype)
  assert jnp.dtype(config.dtype).name in ('float32', 'bfloat16')


@pytest.mark.parametrize(
  'dtype',
  ['float16', np.float16, jnp.float16, 'float64', 'fp32', 'bf16', 'int8', None],
)
def test_other_types_are_refused_before_anything_compiles(dtype):
  with pytest.raises(errors.ConfigError, match="'float32' or 'bfloat16', got"):
    t5_network.T5Config(vocab_size=8, dtype=dtype)
