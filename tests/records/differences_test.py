"""Differences are named as people know the settings."""

import dataclasses

from testing import dumps, inference_jobs

from calm_jax.records import differences

ONE = dumps.make_manifest(
  measure=dumps.choice('HiddenStateSaturation', rescale=False),
  threshold_schedule=dumps.choice('DecayingThreshold', temperature=4.0),
  versions={'jax': '1', 'numpy': '2'},
)


def found(**fields):
  return differences.differences(ONE, dumps.replaced(ONE, **fields))


def test_equal_records_have_none():
  assert found() == {}


def test_fields_of_nested_records_have_their_own_names():
  assert found(split='test', eos_id=2) == {
    'split': ('calibration', 'test'),
    'eos_id': (1, 2),
  }
  job = inference_jobs.JOB
  other = dataclasses.replace(job, model=dumps.make_model(inputs_length=3))
  assert differences.differences(job, other) == {
    'inputs_length': (8, 3),
    'max_decode_length': (6, 2),
  }


def test_knobs_of_one_kind_are_compared_one_by_one():
  rescaled = dumps.choice('HiddenStateSaturation', rescale=True)
  assert found(measure=rescaled) == {'measure.rescale': (False, True)}


def test_another_kind_is_another_choice_whatever_its_knobs():
  """Both schedules have a temperature."""
  other = dumps.choice('T5xDecayingThreshold', temperature=2.0)
  schedules = (ONE.model.threshold_schedule, other)
  assert found(threshold_schedule=other) == {'threshold_schedule': schedules}
  measures = (ONE.model.measure, dumps.choice('Patience'))
  assert found(measure=measures[1]) == {'measure': measures}
  bound = dumps.choice('ProportionalLength', ratio=1.0, extra=0)
  assert found(output_length=bound) == {'output_length': (None, bound)}


def test_entries_are_compared_where_both_have_the_same():
  assert found(versions={'jax': '2', 'numpy': '2'}) == {
    'versions.jax': ('1', '2')
  }
  assert found(versions={'jax': '1'}) == {
    'versions': (ONE.versions, {'jax': '1'})
  }
