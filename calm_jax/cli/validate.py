"""`calm validate`: dumps in, what calibration buys and costs out. No JAX."""

import os
import pathlib

from calm_jax import errors
from calm_jax.cli import calibrate, settings

DESCRIPTION = """Is calibration worth it, against choosing a threshold naively?

  calm validate --dump_dir=runs/softmax_dump --dump_dir=runs/state_dump \\
    --output_dir=runs/validation

Splits the texts of the dumps at random, many times, lets every rule choose its
threshold on one part, and sees on the other whether the loss stays within the
tolerance, and how many layers it takes. Also with smaller calibration sets,
with texts unlike those that were calibrated on, and with thresholds replayed
from the full model's confidences. Writes CSV, JSON and figures;
docs/validation.md says how to read them. Needs NumPy and SciPy only."""

SETTINGS = (
  settings.Setting(
    'dump_dir',
    settings.REQUIRED,
    'dump of one measure; repeat it for each measure, all of the same texts',
    macro='VALIDATION_DUMP_DIR',
    repeats=True,
  ),
  settings.Setting(
    'output_dir',
    settings.REQUIRED,
    'folder of the tables and figures',
    macro='VALIDATION_OUTPUT_DIR',
  ),
  settings.Setting('num_splits', 50, 'random splits', minimum=1),
  settings.Setting('test_share', 0.2, 'of the texts, in (0, 1)'),
  settings.Setting(
    'tolerances',
    None,
    'such as 0.05,0.1,0.25: rising, joined by commas; delta in CALM, alpha in'
    ' Learn-then-Test; without it, 19 from 0.01 to 0.4',
  ),
  settings.Setting(
    'failure_prob',
    0.05,
    'of the calibrated rule, in (0, 1); epsilon in CALM, delta in LTT',
  ),
  settings.Setting(
    'consistency',
    'textual,risk',
    'losses, joined by commas: textual, risk or risk_difference',
    macro='CONSISTENCIES',
  ),
  settings.Setting(
    'metric',
    None,
    "metric that the losses are made of; without it, each dump's task's",
  ),
  calibrate.P_VALUE,
  calibrate.PROCEDURE,
  settings.Setting(
    'sizes',
    '25,50,100,200,400,800,1600,3200',
    'texts calibrated on, joined by commas, as far as there are so many',
    macro='CALIBRATION_SIZES',
  ),
  settings.Setting(
    'groups',
    None,
    'JSON object from example id to group, such as its package, for the shift;'
    ' without it, short and long inputs',
    macro='GROUPS_FILE',
  ),
  settings.Setting(
    'vocabulary',
    None,
    'SentencePiece model of the dumps, to read replayed tokens as text;'
    ' without it, the shipped one where it fits, else tokens are compared',
    macro='VOCABULARY_PATH',
  ),
  settings.Setting(
    'seed', 0, 'of the random splits', macro='VALIDATION_SEED', minimum=0
  ),
)


def run(args) -> None:
  """Validates, writes all files and prints what was found.

  Raises:
    CalmError: as `named_dumps.read_dumps` and `validate_dumps.validate`.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax.calibration import choices
  from calm_jax.validation import named_dumps, trials, validate_dumps

  # Numbers first: they are known wrong before any file is read.
  plan = trials.Plan(
    tolerances=trials.TOLERANCES
    if chosen.tolerances is None
    else calibrate.numbers('tolerances', chosen.tolerances, float),
    failure_prob=chosen.failure_prob,
    num_trials=chosen.num_splits,
    test_share=chosen.test_share,
    sizes=calibrate.numbers('sizes', chosen.sizes, int),
    seed=chosen.seed,
  )
  wanted = validate_dumps.Settings(
    plan=plan,
    objectives=tuple(x.strip() for x in chosen.consistency.split(',')),
    metric=chosen.metric,
    p_value=None
    if chosen.p_value is None
    else choices.get_p_value(chosen.p_value),
    procedure=choices.get_procedure(chosen.procedure),
  )
  validate_dumps.check(wanted)
  dumps = named_dumps.read_dumps(chosen.dump_dir)
  _validate(chosen, wanted, dumps)


def _validate(chosen, wanted, dumps) -> None:
  import dataclasses

  from tqdm import auto as tqdm

  from calm_jax.validation import validate_dumps

  groups = None
  if chosen.groups is not None:
    groups = validate_dumps.groups_of(
      dumps[0].data, calibrate.read_groups(chosen.groups), chosen.groups
    )
  result = validate_dumps.validate(
    dumps,
    dataclasses.replace(wanted, decode=_decode(chosen.vocabulary, dumps)),
    groups,
    track=lambda work: tqdm.tqdm(work, desc='validate', unit='dump x loss'),
  )
  write(result, chosen.output_dir)
  from calm_jax.report import validation_table

  print(validation_table.summary(result))
  print(f'Written: {chosen.output_dir}')


def write(result, output_dir: str | os.PathLike) -> None:
  """Writes the result as JSON, its rows as CSV, and its figures.

  Raises:
    ResourceError: a file cannot be written.
  """
  from calm_jax.records import contracts, csv_tables
  from calm_jax.report import validation_figures
  from calm_jax.validation import validation_records

  folder = pathlib.Path(output_dir).expanduser()
  tables = {
    'validation.csv': result.of(validation_records.RANDOM_SPLITS),
    'calibration_size.csv': result.of(validation_records.CALIBRATION_SIZE),
    'distribution_shift.csv': result.of(validation_records.SHIFT),
    'replay_gap.csv': result.replay_gaps,
  }
  pictures = validation_figures.draw(result)
  contracts.write_json_atomically(folder / 'validation.json', result)
  for name, rows in tables.items():
    if rows:
      text = csv_tables.of_records(rows)
      contracts.write_bytes_atomically(folder / name, text.encode('utf-8'))
  for picture in pictures:
    contracts.write_bytes_atomically(folder / picture.file, picture.png)


def _decode(path: str | None, dumps):
  """Reads tokens as text; None where only the shipped vocabulary is known."""
  from calm_jax.data import vocabulary
  from calm_jax.validation import replay

  decode = vocabulary.Tokenizer(path).decode
  try:
    for dump in dumps:
      replay.check_decodes(dump.data, decode)
  except errors.DataError:
    if path is not None:
      raise
    return None
  return decode
