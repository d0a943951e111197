"""Commands that repeat a report, and the sentences about its guarantee."""

import dataclasses

import pytest
from testing import dumps

from calm_jax.calibration import betting, multiple_testing
from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  saturation,
  screening,
  top_k,
)
from calm_jax.records import contracts, descriptions
from calm_jax.report import limits, pairs, provenance, wording


def pair_of(results, **fields):
  return pairs.Pair(
    dataclasses.replace(results.calibration, **fields), results.evaluation
  )


def test_commands_in_the_order_of_the_data(results):
  told = provenance.describe(
    pair_of(results), results.manifests, 'calm report --output_dir=x'
  )
  assert [line.split()[1] for line in told.commands] == [
    *('dump', 'calibrate', 'dump', 'evaluate', 'report')
  ]
  assert '--split=calibration' in told.commands[0]
  assert '--tolerance=0.1 --failure_prob=0.05' in told.commands[1]


def test_a_demo_is_one_command(results):
  command = 'calm demo --calibration_examples=60'
  manifests = [
    dataclasses.replace(manifest, command=command)
    for manifest in results.manifests
  ]
  pair = pairs.Pair(
    results.calibration,
    dataclasses.replace(results.evaluation, command=command),
  )
  assert provenance.describe(pair, manifests).commands == (command,)
  again = provenance.describe(pair, manifests, 'calm report').commands
  assert again == (command, 'calm report')


def test_choices_are_named_as_the_command_line_names_them(results):
  holm, given = multiple_testing.Holm(), results.calibration
  tested = sum(point.threshold < 1.0 for point in given.grid)
  # As a calibration has it: aimed at what the first test needs.
  used = betting.Betting(level=given.failure_prob / tested)
  chosen = dataclasses.replace(
    given,
    p_value=descriptions.describe(used),
    procedure=descriptions.describe(holm),
  )
  command = provenance.calibrate_command(chosen)
  assert command.endswith('--p_value=betting --procedure=holm')
  # Knobs that no flag can name: without them it would be another p-value.
  other = dataclasses.replace(
    chosen,
    p_value=dumps.choice('Betting', level=0.01),
    procedure=dumps.choice('MultiStartFixedSequence', num_starts=2),
  )
  command = provenance.calibrate_command(other).split()
  assert command[-1] == '--gin_file=KNOBS.gin' not in command[:-1]
  assert not any(x.startswith(('--p_value', '--proc')) for x in command)


def test_settings_and_versions(results):
  told = provenance.describe(pair_of(results), results.manifests)
  settings = dict(told.settings)
  assert settings['measure'] == 'SoftmaxTopTwoGap()'
  assert settings['params digest'] == '5f1d' * 16
  assert settings['max decode length'] == '64'
  assert settings['test dump, data'] == 'c3e7' * 16
  assert settings['network'].startswith('Transformer(vocab_size=4096')
  assert dict(told.versions)['evaluation'] == 'jax 0.10.0, numpy 2.3.4'


def test_an_expectation_is_no_guarantee_with_probability(results):
  pair = pair_of(results, guarantee=contracts.IN_EXPECTATION)
  text = wording.guarantee(pair.calibration, pair.evaluation)
  assert 'probability' not in text and 'in expectation only' in text
  row = dataclasses.replace(
    results.evaluation.calibrated, mean_loss=0.12, loss_upper_95=0.2
  )
  measured = dataclasses.replace(results.evaluation, calibrated=row)
  text = wording.measured(pair.calibration, measured)
  assert 'or that of the calibration, or because' in text
  assert '5%' not in text.replace('95%', '')
  text = wording.measured(results.calibration, measured)
  # The 5% are the calibration's; a split may be unlucky far more often.
  assert 'the chance of this split, which no guarantee bounds' in text
  assert 'of the calibration, to which its guarantee leaves 5%' in text


@pytest.mark.parametrize(
  ('consistency', 'part'),
  [('textual', 'right or wrong'), ('risk', 'how good the full model is')],
)
def test_limits_are_those_of_the_loss(results, consistency, part):
  pair = pairs.Pair(
    dataclasses.replace(results.calibration, consistency=consistency),
    dataclasses.replace(results.evaluation, consistency=consistency),
  )
  text = ' '.join(limits.limits(pair.calibration, pair.evaluation))
  assert part in text


def test_texts_above_the_tolerance_are_counted_or_bounded(results):
  def first(**fields):
    evaluation = dataclasses.replace(results.evaluation, **fields)
    return limits.limits(results.calibration, evaluation)[0]

  listed = results.evaluation.example_losses
  above = sum(example.loss > 0.1 for example in listed)
  assert 0 < above < len(listed)
  assert f'Of 1,000 test texts, {above} lose more than 0.1.' in first()
  # All that are listed lose more; others may.
  assert f'at least {above} lose' in first(example_losses=listed[:above])
  assert 'lose' not in first(example_losses=())


of_classifier = classifier_confidence.ClassifierConfidence


@dataclasses.dataclass(frozen=True)
class Mine:
  a: int


@pytest.mark.parametrize(
  ('measure', 'name'),
  [
    (top_k.TopKPropagation(k=64), 'top-k, K 64'),
    (top_k.TopKPropagation(k=(64, 8)), 'top-k, K falling'),
    (screening.ScreenedTopK(k=8), 'screened top-k, K 8'),
    (saturation.HiddenStateSaturation(rescale=True), 'hidden state'),
    (of_classifier(classifiers.Linear()), 'linear classifier'),
    (of_classifier(classifiers.Attention()), 'attention classifier, 64'),
    (of_classifier(classifiers.Mlp(hidden_dim=9)), 'mlp classifier, 9'),
    (of_classifier(Mine(1)), 'Mine'),
    (Mine(1), 'Mine'),
  ],
)
def test_names_of_measures(measure, name):
  assert descriptions.describe(measure).name == name
