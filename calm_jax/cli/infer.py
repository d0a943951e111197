"""`calm infer`: a model and texts in, T5X's JSONL files out."""

import pathlib

from calm_jax import errors
from calm_jax.cli import flags, loading, search, settings

DESCRIPTION = """Predict for a whole split or text file, as T5X's infer does.

  calm infer --split=test --calibration=calibration.json --output_dir=runs/infer
  calm infer --input_file=lines.txt --threshold=0.9 --output_dir=runs/infer
  calm infer --gin_file=gin/experiments/cnn_dm_small.gin \\
    --gin_file=gin/runs/infer.gin --gin.CHECKPOINT_PATH='"runs/cnn_dm"' \\
    --gin.INFER_OUTPUT_DIR='"runs/infer"'

Each line of TASK-MODE.jsonl-00000-of-00001 holds an input, its prediction, and
under aux the decoder layers (exits) and the confidence of every token.

After an interruption the same command goes on at the first chunk that is not
finished. SIGTERM ends the run after a chunk (exit code 143)."""

_FULL_MODEL = 1.0

SETTINGS = (
  settings.Setting(
    'output_dir',
    settings.REQUIRED,
    'folder of the results',
    macro='INFER_OUTPUT_DIR',
  ),
  loading.MODEL,
  loading.TASK,
  settings.Setting(
    'split',
    'test',
    'of the task: train, validation, calibration or test',
    objects=True,  # As %MIXTURE_OR_TASK_SPLIT.
  ),
  settings.Setting(
    'input_file',
    None,
    'UTF-8 file with a text a line, to be read as inputs of the task in place'
    ' of its examples',
    macro='INFER_INPUT_FILE',
  ),
  settings.Setting(
    'max_examples',
    None,
    'the first examples only, which of a split are a random sample; all'
    ' without it',
    kind=int,
    minimum=1,
  ),
  settings.Setting(
    'mode',
    'predict_with_aux',
    'predict_with_aux; predict for the texts alone; score for the'
    ' log-probabilities of the targets',
    macro='INFER_MODE',
  ),
  settings.Setting(
    'batch_size',
    32,
    'texts decoded side by side',
    macro='INFER_BATCH_SIZE',
    minimum=1,
  ),
  settings.Setting(
    'checkpoint_period',
    10,
    'batches of a chunk; an interruption costs at most the work on one chunk',
    macro='INFER_CHECKPOINT_PERIOD',
    minimum=1,
  ),
  settings.Setting(
    'shard_id',
    0,
    'which share of the examples this process decodes',
    macro='INFER_SHARD_ID',
    minimum=0,
  ),
  settings.Setting(
    'num_shards',
    1,
    'shares that processes divide the examples into, a file each',
    macro='INFER_NUM_SHARDS',
    minimum=1,
  ),
  *search.settings_of(_FULL_MODEL),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds --overwrite and --restart."""
  flags.add_overwrite_and_restart(parser)


def run(args) -> None:
  """Writes a file for each task, complete or not at all.

  Raises:
    SystemExit: 143, after a signal; finished chunks are kept.
    CalmError: as `search.check` and `inference.runner.run`.
  """
  chosen = settings.settle(args, SETTINGS)
  search.check(chosen)
  _check_mode(chosen)
  if chosen.input_file is not None and args.split is not None:
    raise errors.ConfigError(
      'Give either --input_file or --split: a text file has no splits.'
    )
  # Before the model is loaded, which takes seconds.
  sources = _sources(chosen, verbose=args.v > 0)
  loaded = loading.load(chosen)
  threshold = search.threshold_for(chosen, loaded, _FULL_MODEL)
  for name, split, examples in sources:
    _infer(args, chosen, loaded, threshold, (name, split, examples))


def _check_mode(chosen) -> None:
  """Raises ConfigError for an unknown mode, or what a score cannot use."""
  from calm_jax.inference import records

  records.check_mode(chosen.mode)
  if chosen.mode != records.SCORE:
    return
  if chosen.input_file is not None:
    raise errors.ConfigError(
      'A text file has no targets to score: give a task and --split.'
    )
  if search.leaves_early(chosen) or not search.is_greedy(chosen):
    raise errors.ConfigError(
      'Scores are those of the full model for given targets: leave out'
      ' --threshold, --calibration, and whatever chooses tokens.'
    )


def _sources(chosen, *, verbose: bool) -> list[tuple[str, str, list]]:
  """(name of the results, split, examples) of each task or of the file."""
  from calm_jax.data import task_examples
  from calm_jax.inference import sources

  if chosen.input_file is not None:
    name = pathlib.Path(chosen.input_file).stem
    return [(name, '', sources.read_file(chosen.input_file, chosen.task))]
  found = {
    task: loading.load_examples(task, chosen.split, verbose=verbose).examples
    for task in task_examples.task_names(chosen.task)
  }
  return [
    (task, chosen.split, sources.checked(examples))
    for task, examples in found.items()
  ]


def _infer(args, chosen, loaded, threshold, source) -> None:
  """Writes and tells of one file."""
  from calm_jax.inference import runner

  name, split, examples = source
  examples = examples[: chosen.max_examples]
  examples = examples[chosen.shard_id :: chosen.num_shards]
  generator = loaded.generator
  look_for = search.Search(chosen, generator, threshold)
  job = _job(
    chosen, loaded, examples, task=name, split=split, threshold=threshold
  )
  outcome = runner.run(
    generator,
    _decode(job, generator, look_for),
    examples,
    job,
    chosen.output_dir,
    overwrite=args.overwrite,
    restart=args.restart,
  )
  path = pathlib.Path(chosen.output_dir) / job.file_name
  print(_summary(outcome, path, generator.model.config.num_decoder_layers))


def _job(chosen, loaded, examples, **settings):
  """The `results.Job` of one file."""
  from calm_jax.inference import runner

  return runner.job(
    loaded.generator,
    examples,
    mode=chosen.mode,
    model=search.description_for(chosen, loaded),
    num_decodes=chosen.num_decodes,
    num_beams=chosen.beam_size or 0,
    seed=chosen.seed or 0,
    prompt=chosen.prompt or '',
    batch_size=chosen.batch_size,
    batches_per_chunk=chosen.checkpoint_period,
    shard_id=chosen.shard_id,
    num_shards=chosen.num_shards,
    command=flags.command_line(),
    **settings,
  )


def _decode(job, generator, look_for: search.Search):
  """The `runner.Decode` of the mode."""
  from calm_jax.inference import records, runner, scoring

  # Few texts need no rows but their own.
  batch_size = min(job.batch_size, max(1, job.num_examples))
  if job.mode == records.SCORE:
    scorer = scoring.Scorer(generator, job.model.max_decode_length)
    return runner.in_batches(scorer, batch_size)

  def decode(examples):
    request = look_for.request([example.inputs for example in examples])
    # Beams of a text stay together; draws are rows of their own.
    per_row = request.rows_per_source if request.has_beams else 1
    found = generator.answer(request, batch_size * per_row)
    return [outputs[: job.num_decodes] for outputs in found]

  return decode


def _summary(outcome, path: pathlib.Path, num_layers: int) -> str:
  counts = outcome.counts
  said = f'Complete already: {counts.examples} examples in {path}'
  if outcome.is_new:
    said = f'Written: {counts.examples} examples to {path}'
  if counts.tokens:
    said += (
      f'; {counts.layers / counts.tokens:.2f} of {num_layers} decoder layers'
      ' per token'
    )
  return said
