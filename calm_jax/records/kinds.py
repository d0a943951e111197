"""What is known of the choices that ship: their knobs, and names for people.

The classes need JAX; stages that run without it know them by this table. It is
keyed by the names of the classes, and a test compares it with them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from calm_jax import errors
from calm_jax.records import json_records

# A knob that is a choice with knobs of its own: its description in JSON.
CHOICE = dict


@dataclasses.dataclass(frozen=True)
class Kind:
  """One class.

  Attributes:
    knobs: name -> type, as `json_records.converted` takes it.
    name: short, for tables; a function of the knobs where it tells of them. The
      name of the class if ''.
  """

  knobs: Mapping[str, Any]
  name: str | Callable[..., str] = ''


def checked(kind: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
  """The knobs with the types of their kind; any knobs of an unknown kind.

  Args:
    kind: a key of `KINDS`, or a class of the user's.
    knobs: as parsed JSON.

  Raises:
    DataError: other knobs than those of the kind, or of other types.
  """
  if kind not in KINDS:
    return dict(knobs)
  known = KINDS[kind].knobs
  choices = [knobs.get(name) for name in known if known[name] is CHOICE]
  if set(known) != set(knobs) or not all(map(_is_description, choices)):
    raise errors.DataError(
      f'{kind} must have the knobs {sorted(known)}, got {dict(knobs)}; use the'
      ' calm_jax that wrote it, or write it again.'
    )
  return {
    name: json_records.converted(hint, knobs[name], f'{kind}.{name}')
    for name, hint in known.items()
  }


def _is_description(value: Any) -> bool:
  return isinstance(value, dict) and value.keys() == {'kind', 'knobs'}


def _top_k(k, **others) -> str:
  del others
  return f'top-k, K {k[0]}' if len(k) == 1 else 'top-k, K falling'


_TOP_K = {
  'k': tuple[int, ...],
  'taken_at': int | None,
  'renormalize': bool,
  'last_layer_from_k': bool,
}
_CLASSIFIER = {'name': str, 'norm': bool, 'per_layer': bool}

KINDS: dict[str, Kind] = {
  # Networks, with the sizes of `t5.network.T5Config`.
  'Transformer': Kind(
    {
      'vocab_size': int,
      'dtype': str,
      'emb_dim': int,
      'num_heads': int,
      'num_encoder_layers': int,
      'num_decoder_layers': int,
      'head_dim': int,
      'mlp_dim': int,
      'mlp_activations': tuple[str, ...],
      'logits_via_embedding': bool,
      'float32_attention_logits': bool,
      'relative_attention_num_buckets': int,
      'relative_attention_max_distance': int,
    }
  ),
  # Confidence measures.
  'SoftmaxTopTwoGap': Kind({}, 'softmax gap'),
  'SoftmaxMaximum': Kind({}, 'softmax maximum'),
  'SoftmaxEntropy': Kind({}, 'entropy'),
  'HiddenStateSaturation': Kind({'rescale': bool}, 'hidden state'),
  'Patience': Kind({}, 'patience'),
  'TopKPropagation': Kind(_TOP_K, _top_k),
  'ScreenedTopK': Kind(
    {**_TOP_K, 'rank': int, 'num_candidates': int},
    lambda **knobs: f'screened {_top_k(**knobs)}',
  ),
  'ClassifierConfidence': Kind(
    {'classifier': CHOICE}, lambda classifier: classifier.name
  ),
  'StaticExit': Kind({}, 'static exit'),
  'Oracle': Kind({}, 'oracle'),
  'NeverExit': Kind({'measure': CHOICE}),
  'Unmeasured': Kind({}),
  # Exit classifiers.
  'Linear': Kind(_CLASSIFIER, 'linear classifier'),
  'Mlp': Kind(
    {**_CLASSIFIER, 'hidden_dim': int},
    lambda hidden_dim, **others: f'mlp classifier, {hidden_dim}',
  ),
  'Attention': Kind(
    {
      **_CLASSIFIER,
      'width': int,
      'num_heads': int,
      'head_hidden_dims': tuple[int, ...],
      'residual': bool,
      'layer_embedding': bool,
    },
    lambda width, **others: f'attention classifier, {width}',
  ),
  # Threshold schedules.
  'ConstantThreshold': Kind({}),
  'DecayingThreshold': Kind({'temperature': float}),
  'T5xDecayingThreshold': Kind({'temperature': float}),
  # What the layers that a token skipped see of it.
  'ProjectExitState': Kind({}, 'exit state'),
  'FirstExitState': Kind({}, "first exit's state"),
  'TrueStates': Kind({'per_row': tuple[int, ...]}, 'true states'),
  # Bounds of the output by the input.
  'ProportionalLength': Kind({'ratio': float, 'extra': int}),
  # How tokens are chosen.
  'Greedy': Kind({}),
  'Sampler': Kind(
    {
      'temperature': float,
      'top_k': int,
      'top_p': float,
      'rescale_log_probs': bool,
    }
  ),
  'BeamSearch': Kind({'alpha': float}),
}
