"""Breaks critical lines one at a time: does some test notice?

    python -m reliability.mutations --output mutations.json

Each mutation is made in a temporary copy of the last commit, never in the
working tree, and the smallest tests that should catch it are run there. They
are run once on the unchanged copy as well: tests that fail there would prove
nothing.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from reliability import forked

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MOST_SECONDS = 600
# Imported once; the package itself is imported by each child, as mutated.
_THIRD_PARTIES = (
  'chex',
  'flax.linen',
  'gin',
  'hypothesis',
  'optax',
  'pytest',
  'sacrebleu',
  'scipy.special',
  'scipy.stats',
  'sentencepiece',
)

_CALIBRATION = 'tests/calibration'
_EXITS = 'tests/early_exit/engine'
_MEASURES = 'tests/early_exit/measures'
_LOOP = f'{_EXITS}/layer_loop_test.py'
# What it breaks, file, line, mutated line, tests.
MUTATIONS = (
  (
    'p-value of Hoeffding and Chernoff',
    'calibration/p_values.py',
    'np.exp(-num_examples * np.maximum(divergence, 0.0))',
    'np.exp(-2 * num_examples * np.maximum(divergence, 0.0))',
    f'{_CALIBRATION}/p_values_test.py',
  ),
  (
    'factor e of the p-value of Bentkus',
    'calibration/p_values.py',
    'np.minimum(np.e * special.bdtr(counts, num_examples, tolerance), 1.0)',
    'np.minimum(special.bdtr(counts, num_examples, tolerance), 1.0)',
    f'{_CALIBRATION}/p_values_test.py',
  ),
  (
    'stop of fixed sequence testing',
    'calibration/multiple_testing.py',
    'np.logical_and.accumulate(p_values <= level, axis=-1)',
    'p_values <= level',
    f'{_CALIBRATION}/multiple_testing_test.py',
  ),
  (
    'a p-value equal to the level is rejected',
    'calibration/multiple_testing.py',
    'np.logical_and.accumulate(p_values <= level, axis=-1)',
    'np.logical_and.accumulate(p_values < level, axis=-1)',
    f'{_CALIBRATION}/multiple_testing_test.py',
  ),
  (
    'textual loss is against the full model',
    'calibration/risks.py',
    'self.metric, predictions, predictions[:, 0], example_ids',
    'self.metric, predictions, predictions[:, -1], example_ids',
    f'{_CALIBRATION}/risks_test.py',
  ),
  (
    'risk loss is clipped per example',
    'calibration/risks.py',
    '_lost(self.metric, predictions, references, example_ids), 0.0',
    '_lost(self.metric, predictions, references, example_ids), -1.0',
    f'{_CALIBRATION}/risks_test.py',
  ),
  (
    'a confidence equal to the threshold leaves',
    'early_exit/engine/exit_decision.py',
    'answer.confidence >= thresholds',
    'answer.confidence > thresholds',
    f'{_EXITS}/equal_threshold_test.py',
  ),
  (
    'a threshold of 1 never leaves',
    'early_exit/engine/exit_decision.py',
    'is_early, is_prompt = thresholds < 1.0,',
    'is_early, is_prompt = thresholds <= 1.0,',
    f'{_LOOP}::test_threshold_one_ignores_a_saturated_confidence',
  ),
  (
    'NaN never leaves early',
    'early_exit/engine/exit_decision.py',
    '(is_last | (answer.confidence >= thresholds))',
    '(is_last | ~(answer.confidence < thresholds))',
    f'{_LOOP}::test_fault_20_nan_confidence_never_leaves_early',
  ),
  (
    'NaN is counted',
    'early_exit/engine/exit_decision.py',
    'undefined = wanted & jnp.isnan(answer.confidence)',
    'undefined = wanted & jnp.isinf(answer.confidence)',
    f'{_LOOP}::test_fault_20_nan_confidence_never_leaves_early',
  ),
  (
    'time of an owed row of a cache',
    'early_exit/engine/owed.py',
    'times = filled[owner] + numbers - (up_to - owed)[owner]',
    'times = filled[owner] + numbers - up_to[owner]',
    f'{_EXITS}/lazy_cache_test.py',
  ),
  (
    'state that is propagated to skipped layers',
    'early_exit/engine/lazy_cache.py',
    'pairs.take(kept_states)',
    'pairs.take(jnp.roll(kept_states, 1, axis=1))',
    f'{_EXITS}/lazy_cache_test.py',
  ),
  (
    'rows that have left owe a layer on',
    'early_exit/engine/true_states.py',
    'call.clock.time, call.rows, state.undecided',
    'call.clock.time, call.rows',
    f'{_EXITS}/true_states_test.py',
  ),
  (
    'what is owed is run with the token',
    'early_exit/engine/true_states.py',
    'return cache.kept_states[rows.ids, slot], cache',
    'return state.hidden, cache',
    f'{_EXITS}/true_states_test.py',
  ),
  (
    'slots that a token sees',
    'early_exit/engine/clock.py',
    'return distances <= self.positions[:, None]',
    'return distances < self.positions[:, None]',
    f'{_EXITS}/clock_test.py',
  ),
  (
    'slots of an earlier sequence are not seen',
    'early_exit/engine/clock.py',
    'return distances <= self.positions[:, None]',
    'return distances <= self.time',
    f'{_EXITS}/clock_test.py',
  ),
  (
    'weight of tokens that several exits left out',
    'early_exit/measures/top_k.py',
    'log_rest = jnp.logaddexp(log_rest, state.log_rest)',
    'log_rest = jnp.maximum(log_rest, state.log_rest)',
    f'{_MEASURES}/measures_test.py {_MEASURES}/top_k_test.py',
  ),
  (
    'equals of the last kept token are left out',
    'early_exit/measures/top_k.py',
    '(jnp.arange(logits.shape[1]) > last_id)',
    '(jnp.arange(logits.shape[1]) >= last_id)',
    f'{_EXITS}/prediction_test.py',
  ),
  (
    'the lowest id wins a tie across blocks',
    'early_exit/engine/prediction.py',
    'blocks = jnp.sort(blocks, axis=-1)',
    'blocks = jnp.sort(blocks, axis=-1)[:, ::-1]',
    f'{_EXITS}/prediction_test.py',
  ),
  (
    'the length of a row',
    'decode/loop.py',
    '(positions + 1 >= state.row_lengths)',
    '(positions >= state.row_lengths)',
    'tests/decode/loop_test.py',
  ),
  (
    'the split of an id at a boundary',
    'data/splits.py',
    'if place < upper:',
    'if place <= upper:',
    'tests/data/splits_test.py',
  ),
  (
    'weights of the layers in training',
    'training/losses.py',
    'return tuple(i / total for i in range(1, num_layers + 1))',
    'return tuple((i - 1) / total for i in range(1, num_layers + 1))',
    'tests/training/losses_test.py',
  ),
  (
    'the training loss is per real token',
    'training/losses.py',
    'loss=jnp.dot(weights, loss) / jnp.maximum(num_tokens, 1.0)',
    'loss=jnp.dot(weights, loss) / loss_weights.size',
    'tests/training/losses_test.py',
  ),
)


@contextlib.contextmanager
def mutated(path: pathlib.Path, old: str, new: str):
  """The file with one place changed.

  Raises:
    SystemExit: the line is not there exactly once: the list above is stale.
  """
  text = path.read_text(encoding='utf-8')
  if text.count(old) != 1:
    raise SystemExit(f'{path.name} holds {text.count(old)} times: {old}')
  path.write_text(text.replace(old, new), encoding='utf-8')
  try:
    yield
  finally:
    path.write_text(text, encoding='utf-8')


def run_tests(copy: pathlib.Path, tests: str) -> int:
  """Exit code of pytest on a copy; its output is appended to a log."""

  def run():
    import pytest

    sys.path[:] = [
      str(copy),
      *(x for x in sys.path if pathlib.Path(x or '.').resolve() != ROOT),
    ]
    import calm_jax

    if not pathlib.Path(calm_jax.__file__).is_relative_to(copy):
      raise RuntimeError(f'{calm_jax.__file__} is not the copy.')
    options = ['-x', '-q', '-p', 'no:cacheprovider']
    return int(pytest.main([*options, *tests.split()]))

  child = forked.Child(run, copy, copy / 'log.txt')
  if not child.wait(_MOST_SECONDS):
    child.send(signal.SIGKILL)
    child.wait(_MOST_SECONDS)
  return child.code


def main() -> int:
  """Returns 1 if a mutation survives, or a test fails without any."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--only', default='', help='part of what is broken')
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  # A mutation cannot hide behind bytecode of the same second.
  sys.dont_write_bytecode = True
  for name in _THIRD_PARTIES:
    importlib.import_module(name)
  results, controls = [], {}
  with tempfile.TemporaryDirectory(prefix='mutations-') as folder:
    copy = pathlib.Path(folder).resolve()
    commit = ['git', '-C', str(ROOT), 'archive', 'HEAD']
    content = subprocess.run(commit, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
      archive.extractall(copy, filter='data')
    for what, file, old, new, tests in MUTATIONS:
      if args.only not in what:
        continue
      started = time.monotonic()
      if tests not in controls:
        controls[tests] = run_tests(copy, tests)
      with mutated(copy / 'calm_jax' / file, old, new):
        code = run_tests(copy, tests)
      if controls[tests]:
        outcome = 'tests fail without it'
      else:
        # 1 is a failed test; anything else a failed run of pytest.
        outcome = {0: 'survived', 1: 'caught'}.get(code, f'pytest: {code}')
      seconds = time.monotonic() - started
      results.append({'what': what, 'file': file, 'outcome': outcome})
      print(f'{outcome:10} {what} ({file}, {seconds:.0f} s)', flush=True)
    if any(x['outcome'] not in ('caught', 'survived') for x in results):
      print((copy / 'log.txt').read_text()[-4000:])
  caught = sum(x['outcome'] == 'caught' for x in results)
  print(f'{caught} of {len(results)} caught')
  if args.output:
    args.output.write_text(json.dumps(results, indent=2) + '\n')
  return int(caught < len(results))


if __name__ == '__main__':
  sys.exit(main())
