"""Results as the stages before the report give them, from seeded numbers."""

import dataclasses

import numpy as np
import pytest
from testing import dumps

from calm_jax import calibration
from calm_jax.records import contracts
from calm_jax.report import figures

L = 8
THRESHOLDS = tuple(np.round(np.linspace(1.0, 0.0, 21), 2).tolist())
SENTENCES = (
  (
    'return the number of bytes read from the file or none if the end',
    'Return the number of bytes read from the file, or None if the end.',
    'Return the number of bytes read from the file, or None if the end.',
  ),
  (
    'if path is a directory its contents are removed first',
    'If `path` is a directory, its contents are removed first.',
    'If path is a directory, its contents are removed first.',
  ),
  (
    'the default is utf 8 which every json document uses',
    'The default is UTF-8, which every JSON document uses.',
    'The default is UTF-8, which every JSON document uses.',
  ),
  (
    'raises valueerror when the two arrays do not have the same shape',
    'Raises ValueError when the two arrays do not have the same shape.',
    'Raises ValueError when the two arrays do not have the same shape.',
  ),
)


def quality_of(layers):
  """Mean loss and metric as they fall and rise with the layers."""
  loss = 0.62 * np.exp(-0.95 * (layers - 1.0)) * (1 - (layers - 1) / (L - 1))
  return loss, 0.914 - 0.85 * loss


def layers_of(threshold):
  return 1.0 + (L - 1) * threshold**2.2


def draw_losses(seed, count):
  """[count, G]: losses of 0 mostly, and larger ones where a model fails."""
  random = np.random.default_rng(seed)
  means, _ = quality_of(layers_of(np.array(THRESHOLDS)))
  fails = random.random((count, 1)) < np.minimum(means / 0.35, 1.0)
  severity = random.beta(2, 2, (count, 1)) * 0.7
  return np.where(fails, severity, 0.0)


def make_calibration(tolerance=0.1, seed=0, **fields):
  losses = draw_losses(seed, 1000)
  outcome = calibration.calibrate(losses, THRESHOLDS, tolerance, 0.05)
  layers = layers_of(np.array(THRESHOLDS))
  grid = [
    contracts.GridPoint(
      threshold, loss, p_value, certified, count, 0.914 - loss
    )
    for threshold, loss, p_value, certified, count in zip(
      THRESHOLDS,
      outcome.mean_losses.tolist(),
      outcome.p_values.tolist(),
      outcome.certified.tolist(),
      layers.tolist(),
      strict=True,
    )
  ]
  values = {
    'threshold': outcome.threshold,
    'tolerance': tolerance,
    'failure_prob': 0.05,
    'consistency': 'textual',
    'metric': 'chrf',
    'p_value': dumps.choice('HoeffdingBentkus'),
    'procedure': dumps.choice('FixedSequence'),
    'num_examples': 1000,
    'reason': outcome.reason,
    'warning': outcome.warning,
    'grid': tuple(grid),
    'dump': make_manifest('calibration').provenance,
  }
  return contracts.CalibrationResult(**{**values, **fields})


def make_sample(index, rng, early=None):
  source, reference, full = SENTENCES[index % len(SENTENCES)]
  pieces, used = [], []
  for word in (early or full).split():
    stem, tail = word.rstrip('.,'), word[len(word.rstrip('.,')) :]
    cut = len(stem) if len(stem) < 8 else 5
    parts = [f'\u2581{stem[:cut]}', stem[cut:], tail]
    for part in filter(None, parts):
      pieces.append(part)
      hard = part in '.,' or part[1:2].isupper()
      used.append(int(rng.integers(3, L + 1) if hard else rng.integers(1, 3)))
  return contracts.Sample(
    example_id=f'docstrings-test-{1000 + 37 * index}',
    source=f'restore: {source}',
    reference=reference,
    pieces=(*pieces, '</s>'),
    num_layers_used=(*used, 1),
    full_prediction=full,
  )


def make_losses(count=30):
  """Examples with the greatest losses, greatest first."""
  rng = np.random.default_rng(6)
  losses = np.sort(rng.beta(1, 6, count))[::-1].round(4).tolist()
  examples = []
  for index, loss in enumerate(losses):
    source, reference, full = SENTENCES[index % len(SENTENCES)]
    words = full.split()
    early = ' '.join([*words[:3], words[3].upper(), *words[4:]])
    examples.append(
      contracts.ExampleLoss(
        example_id=f'docstrings-test-{2000 + 31 * index}',
        loss=loss,
        metric=round(1 - loss / 2, 4),
        mean_layers=round(float(rng.uniform(1.2, 6)), 2),
        num_tokens=int(rng.integers(8, 30)),
        source=f'restore: {source}',
        reference=reference,
        prediction=early if loss > 0.05 else full,
        full_prediction=full,
      )
    )
  return tuple(examples)


def make_speed(mean):
  def spread(middle):
    return contracts.Milliseconds(
      mean=middle,
      lower_quartile=0.9 * middle,
      median=0.98 * middle,
      upper_quartile=1.2 * middle,
    )

  return contracts.Speed(
    with_encoder=spread(mean),
    decoder=spread(mean - 0.5),
    num_batches=50,
    repeats=5,
  )


def make_flops(layers, output):
  return contracts.Flops(
    self_attention=9e5 * layers,
    cross_attention=6e5 * layers,
    source_projection=4e5,
    feed_forward=1.6e6 * layers,
    propagation=1e5,
    confidence=0.0,
    output_embedding=output,
  )


def make_samples():
  rng = np.random.default_rng(5)
  early = {1: 'If path is a directory its contents are removed First.'}
  samples = [make_sample(i, rng, early.get(i)) for i in range(4)]
  return tuple(
    sorted(samples, key=lambda sample: np.mean(sample.num_layers_used))
  )


def make_evaluation(calibrated, samples=None, **fields):
  losses = draw_losses(1, 1000)
  layers = layers_of(np.array(THRESHOLDS)) * 0.99 + 0.08
  layers[0] = L
  curve = tuple(
    contracts.CurvePoint(*point)
    for point in zip(
      THRESHOLDS,
      losses.mean(axis=0).tolist(),
      (0.921 - losses.mean(axis=0)).tolist(),
      layers.tolist(),
      strict=True,
    )
  )
  full, point = (
    next(p for p in curve if p.threshold == threshold)
    for threshold in (1.0, calibrated.threshold)
  )
  upper = 0.0 if point.threshold == 1.0 else point.mean_loss + 0.017
  early = contracts.SystemRow(
    point.threshold,
    point.mean_loss,
    upper,
    point.mean_metric,
    point.mean_layers,
    4.87 if point.threshold < 1.0 else 11.39,
    9120,
    contracts.Outputs(
      exact_match=0.481,
      endless=0.07,
      num_ended=915,
      mean_metric_ended=0.917,
      mean_loss_ended=0.031,
    ),
    make_flops(point.mean_layers, 6.3e6),
    make_speed(4.87),
  )
  values = {
    'task': 'docstring_restoration',
    'split': 'test',
    'metric': 'chrf',
    'tolerance': calibrated.tolerance,
    'failure_prob': calibrated.failure_prob,
    'consistency': calibrated.consistency,
    'num_examples': 1000,
    'baselines': {'input_copied': 0.6512},
    'full': contracts.SystemRow(
      1.0,
      0.0,
      0.0,
      full.mean_metric,
      float(L),
      11.42,
      9131,
      contracts.Outputs(
        exact_match=0.523,
        endless=0.068,
        num_ended=932,
        mean_metric_ended=0.943,
        mean_loss_ended=0.0,
      ),
      make_flops(L, 2.1e6),
      make_speed(11.42),
    ),
    'calibrated': early,
    'speedup': 11.42 / early.ms_per_token,
    'decoder_speedup': 2.5,
    'flops_reduction': 1.37,
    'flops_reduction_without_output_embedding': 2.11,
    'example_losses': make_losses(),
    'versions': {'jax': '0.10.0', 'numpy': '2.3.4'},
    'command': 'calm evaluate --dump_dir=runs/test_dump',
    'batch_size': 1,
    'machine': '2 cores, x86_64, JAX 0.10 on cpu',
    'curve': curve,
    'samples': make_samples() if samples is None else samples,
    'layer_histogram': (7420, 3105, 1412, 1008, 640, 431, 310, 1830),
  }
  return contracts.EvaluationResult(**{**values, **fields})


def make_manifest(split, **fields):
  values = {
    'split': split,
    'thresholds': THRESHOLDS,
    'num_decoder_layers': L,
    'vocab_size': 4096,
    'max_decode_length': 64,
    'params_digest': '5f1d' * 16,
    'vocabulary_digest': '90ab' * 16,
    'data_digest': 'c3e7' * 16,
    'num_examples': 1000,
    'shards': (contracts.ShardInfo('shard-00000.npz', 1000, 'ab' * 32),),
    'versions': {'jax': '0.10.0', 'flax': '0.12.1', 'numpy': '2.3.4'},
    'command': f'calm dump --gin_file=gin/runs/dump.gin --split={split}',
  }
  return dumps.make_manifest(**{**values, **fields})


@dataclasses.dataclass(frozen=True)
class Results:
  calibration: contracts.CalibrationResult
  evaluation: contracts.EvaluationResult
  manifests: tuple[contracts.Manifest, ...]

  def replace(self, **fields):
    return dataclasses.replace(
      self, evaluation=dataclasses.replace(self.evaluation, **fields)
    )


def make_results(tolerance=0.1, **fields):
  calibrated = make_calibration(tolerance)
  return Results(
    calibrated,
    make_evaluation(calibrated, **fields),
    (make_manifest('calibration'), make_manifest('test')),
  )


@pytest.fixture(scope='session')
def results():
  return make_results()


@pytest.fixture(scope='session')
def results_without_certificate():
  return make_results(tolerance=0.0005, layer_histogram=(0,) * 7 + (15000,))


@pytest.fixture(scope='session')
def pictures(results):
  """Drawn once: it takes seconds."""
  return figures.draw(results.calibration, results.evaluation)
