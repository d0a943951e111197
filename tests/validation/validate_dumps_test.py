"""From dumps to rows: naming, alignment, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.calibration import betting, conformal_risk_control, p_values
from calm_jax.validation import (
  named_dumps,
  trials,
  validate_dumps,
  validation_records,
)

N = 60
PLAN = trials.Plan(tolerances=(0.1, 0.3), num_trials=5, sizes=(25,))
SETTINGS = validate_dumps.Settings(plan=PLAN)


def write(directory, data=None, **fields):
  manifest, made = dumps.make_dump(N, **fields)
  data = made if data is None else data
  dumps.write_dump(directory, manifest, [data])
  return directory


def of_two_lengths():
  _, data = dumps.make_dump(N)
  sources = np.array(['short' if i % 2 else 'much longer' for i in range(N)])
  return dataclasses.replace(data, sources=sources)


def decode(row):
  """Not the tokenizer's of the dump, whose texts are made up."""
  return ' '.join(str(x) for x in row if x)


def readable():
  """A dump whose texts are its tokens, and whose trace is what it did.

  Confident from layer 2 on at threshold 0.5, from layer 1 on at 0.1.
  """
  random = np.random.default_rng(0)
  _, data = dumps.make_dump(N)
  trace = random.integers(5, 7, data.trace_tokens.shape).astype(np.int32)
  tokens = np.stack([trace[..., 3], trace[..., 1], trace[..., 0]], axis=1)
  return dataclasses.replace(
    data,
    trace_tokens=trace,
    trace_confidences=np.tile(
      np.float32([0.2, 0.6, 0.9, 0.9]), (*trace.shape[:2], 1)
    ),
    tokens=tokens,
    predictions=np.array([[decode(x) for x in row] for row in tokens]),
    references=np.array([decode(row[0]) for row in tokens]),
  )


def test_every_rule_experiment_and_objective_has_its_rows(tmp_path):
  named = named_dumps.read_dumps(
    [
      write(tmp_path / 'a', of_two_lengths()),
      write(
        tmp_path / 'b', of_two_lengths(), measure=dumps.choice('StaticExit')
      ),
    ]
  )
  seen = []
  result = validate_dumps.validate(
    named, SETTINGS, track=lambda work: seen.extend(work) or work
  )
  assert len(seen) == 4
  rules = {row.rule for row in result.rows}
  assert len(rules) == 1 + len(SETTINGS.naive_rules) + 1
  cell = 2 * 2 * len(rules) * len(PLAN.tolerances)
  # Samples of 25, of 48 as in a split, and of all 60; two groups, each twice.
  for experiment, parts in (
    (validation_records.RANDOM_SPLITS, 1),
    (validation_records.CALIBRATION_SIZE, 3),
    (validation_records.SHIFT, 4),
  ):
    assert len(result.of(experiment)) == cell * parts
  assert {row.consistency for row in result.rows} == {'textual', 'risk'}
  assert result.p_value == repr(betting.StarBets())
  assert set(result.provenance) == {'SoftmaxTopTwoGap', 'StaticExit'}
  assert {gap.loss for gap in result.replay_gaps} == {'token_disagreement'}
  written = json.loads(json.dumps(result.to_json(), allow_nan=False))
  assert validation_records.ValidationResult.from_json(written) == result


def test_a_known_dump_is_judged_rightly(tmp_path):
  """One example in 20 is lost at 0.5, and all at 0.1."""
  (named,) = named_dumps.read_dumps([write(tmp_path / 'a')])
  result = validate_dumps.validate([named], SETTINGS)
  rows = {
    (row.rule, row.tolerance): row
    for row in result.of(validation_records.RANDOM_SPLITS)
    if row.consistency == 'textual'
  }
  # 48 examples with 2 or 3 losses certify a loss of 0.3, but hardly one of 0.1.
  assert rows['calibrated', 0.1].full_model >= 0.8
  assert rows['calibrated', 0.1].layers > 3.5
  assert rows['calibrated', 0.3].threshold == 0.5
  assert rows['calibrated', 0.3].population_loss == pytest.approx(0.05)
  assert rows['mean_loss_scan', 0.1].layers == 2.0
  assert rows['oracle', 0.1].violations_on_population == 0.0
  assert rows['fixed_0.9', 0.1].threshold == 1.0
  assert len(result.notes) == 1 and 'No shift was tried' in result.notes[0]
  assert not result.of(validation_records.SHIFT)


def test_the_order_of_a_dump_does_not_matter(tmp_path):
  data = of_two_lengths()
  shuffled = dumps.rows(data, np.random.default_rng(0).permutation(N))
  first = named_dumps.read_dumps([write(tmp_path / 'a' / 'dump', data)])
  second = named_dumps.read_dumps([write(tmp_path / 'b' / 'dump', shuffled)])
  results = [validate_dumps.validate(x, SETTINGS) for x in (first, second)]
  assert results[0] == results[1]


def test_a_replay_that_is_right_calibrates_alike(tmp_path):
  named = named_dumps.read_dumps([write(tmp_path / 'a', readable())])
  settings = dataclasses.replace(
    SETTINGS, decode=decode, metric='exact_match', objectives=('textual',)
  )
  result = validate_dumps.validate(named, settings)
  rows = result.of(validation_records.RANDOM_SPLITS)
  exact = [row for row in rows if row.rule == 'calibrated']
  replayed = [row for row in rows if row.rule == 'calibrated_on_replay']
  assert len(exact) == len(PLAN.tolerances)
  assert {row.kind for row in replayed} == {'estimate'}
  assert exact == [
    dataclasses.replace(row, rule='calibrated', kind='calibrated')
    for row in replayed
  ]
  gaps = result.replay_gaps
  assert {gap.loss for gap in gaps} == {
    'textual exact_match',
    'token_disagreement',
  }
  assert all(gap.loss_gap == gap.layers_gap == 0.0 for gap in gaps)
  assert gaps[1].generated_loss > 0.5


def test_a_measure_without_confidences_is_not_replayed(tmp_path):
  named = named_dumps.read_dumps(
    [write(tmp_path / 'a', measure=dumps.choice('Oracle'))]
  )
  result = validate_dumps.validate(named, SETTINGS)
  assert result.replay_gaps == ()
  assert any('Oracle' in note for note in result.notes)


A_1 = dumps.choice('A', k=1)


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    (
      ({'measure': A_1}, {'measure': dumps.choice('B', k=1)}),
      ['A', 'B'],
    ),
    (
      ({'measure': A_1}, {'measure': dumps.choice('A', k=2)}),
      ['A(k=1)', 'A(k=2)'],
    ),
    (
      (
        {'measure': A_1},
        {
          'measure': A_1,
          'threshold_schedule': dumps.choice(
            'DecayingThreshold', temperature=4.0
          ),
        },
      ),
      ['A', 'A with DecayingThreshold'],
    ),
    (({'measure': A_1}, {'measure': A_1}), ['A in 0', 'A in 1']),
  ],
)
def test_names_are_as_long_as_they_must_be(fields, expected, tmp_path):
  directories = [
    write(tmp_path / f'{i}', **each) for i, each in enumerate(fields)
  ]
  named = named_dumps.read_dumps(directories)
  assert [dump.name for dump in named] == expected


def test_dumps_that_cannot_be_compared(tmp_path):
  first = write(tmp_path / 'a')
  with pytest.raises(errors.DataError, match='come twice'):
    named_dumps.read_dumps([first, first])
  _, data = dumps.make_dump(N)
  other = write(tmp_path / 'b', dumps.rows(data, slice(1, N)))
  with pytest.raises(errors.DataError, match='the same examples.*1 are only'):
    named_dumps.read_dumps([first, other])
  stopped = write(tmp_path / 'c', stopped='It was enough.')
  with pytest.raises(errors.DataError, match='stopped at 0.1'):
    named_dumps.read_dumps([stopped])


def test_the_weaker_guarantee_is_said_to_be_weaker(tmp_path):
  named = named_dumps.read_dumps([write(tmp_path / 'a')])
  settings = dataclasses.replace(
    SETTINGS,
    procedure=conformal_risk_control.ConformalRiskControl(),
    objectives=('textual',),
  )
  result = validate_dumps.validate(named, settings)
  assert any('Weaker guarantee' in note for note in result.notes)


def test_given_groups_must_be_large_enough(tmp_path):
  named = named_dumps.read_dumps([write(tmp_path / 'a')])
  with pytest.raises(errors.DataError, match="at least 20.*'rare': 1"):
    validate_dumps.validate(named, SETTINGS, ['common'] * 59 + ['rare'])


def test_every_example_needs_a_group():
  _, data = dumps.make_dump(N)
  group_of = {f'id-{i}': 'a' for i in range(N - 1)}
  with pytest.raises(errors.DataError, match=r"1 of 60 have none.*'id-59'"):
    validate_dumps.groups_of(data, group_of, 'groups.json')
  groups = validate_dumps.groups_of(data, group_of | {'id-59': 'b'}, 'g')
  assert groups == ['a'] * 59 + ['b']


def test_groups_by_length_part_at_the_median():
  groups = validate_dumps.groups_by_length(['a', 'aa', 'aaa', 'aaaa'])
  assert groups == ['short inputs'] * 2 + ['long inputs'] * 2


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'objectives': ('text',)}, "Did you mean 'textual'"),
    ({'objectives': ('risk', 'risk')}, 'named once'),
    ({'metric': 'chrff'}, 'chrf'),
    (
      {'metric': 'chrf', 'p_value': p_values.Binomial()},
      'holds for losses that are 0 or 1',
    ),
    (
      {
        'metric': 'chrf',
        'objectives': ('risk_difference',),
        'p_value': p_values.HoeffdingBentkus(),
      },
      r'in \[-1, 1\]',
    ),
  ],
)
def test_settings_that_are_wrong_before_any_dump_is_read(fields, message):
  with pytest.raises(errors.ConfigError, match=message):
    validate_dumps.check(dataclasses.replace(SETTINGS, **fields))


def test_signed_losses_are_bet_on(tmp_path):
  named = named_dumps.read_dumps([write(tmp_path / 'a')])
  settings = dataclasses.replace(SETTINGS, objectives=('risk_difference',))
  validate_dumps.check(settings)
  result = validate_dumps.validate(named, settings)
  assert result.p_value.startswith('StarBets(')
