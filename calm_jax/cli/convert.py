"""`calm convert`: weights of T5X or Hugging Face in, a model folder out."""

import math
import pathlib

from calm_jax import errors
from calm_jax.cli import settings

DESCRIPTION = """Convert a T5X checkpoint or a Hugging Face folder.

  calm convert --model=flan-t5-small --output_dir=runs/flan
  calm convert --model=t5_1_1_small/checkpoint_1000000 \\
    --vocabulary=spiece.model --output_dir=runs/t5_1_1_small

Every stage takes the folder as --model. All arrays are compared by name and
shape before anything is written, and one batch is run before and after.

  calm convert --format=training --gin_file=gin/models/t5_1_1_small.gin \\
    --gin_file=gin/runs/finetune.gin --model=t5_1_1_small/checkpoint_1000000 \\
    --output_dir=runs/my_task

writes checkpoint_0 with T5X's Adafactor accumulators into a MODEL_DIR, where
calm train goes on as T5X does. --format=huggingface writes that layout."""

FORMATS = ('calm', 'huggingface', 'training')
PRECISIONS = ('float32', 'float16')

SETTINGS = (
  settings.Setting(
    'model',
    settings.REQUIRED,
    'T5X checkpoint_N, Hugging Face folder or any other model that calm reads',
    macro='CHECKPOINT_PATH',
    reads=('MODEL', 'OPTIMIZER', 'TASK_FEATURE_LENGTHS'),
  ),
  settings.Setting(
    'output_dir',
    settings.REQUIRED,
    'folder that is written; for --format=training, the MODEL_DIR',
    macro='CONVERT_OUTPUT_DIR',
  ),
  settings.Setting(
    'vocabulary',
    None,
    'SentencePiece .model file; without it, spiece.model in the folder',
    macro='CONVERT_VOCABULARY',
  ),
  settings.Setting(
    'format',
    FORMATS[0],
    'calm: a folder that every stage reads; huggingface: config.json and'
    ' model.safetensors; training: checkpoint_N with accumulators of T5X',
    macro='CONVERT_FORMAT',
  ),
  settings.Setting(
    'precision',
    PRECISIONS[0],
    'of the weights with --format=calm: float32 or float16',
    macro='CONVERT_PRECISION',
  ),
  settings.Setting(
    'inputs_length',
    512,
    'longest input in tokens, with --format=calm',
    macro='CONVERT_INPUTS_LENGTH',
    minimum=1,
  ),
  settings.Setting(
    'targets_length',
    128,
    'longest output in tokens, with --format=calm',
    macro='CONVERT_TARGETS_LENGTH',
    minimum=1,
  ),
  settings.Setting(
    'first_step',
    0,
    "step of the training checkpoint; T5X's own would be that of pretraining",
    macro='CONVERT_FIRST_STEP',
    minimum=0,
  ),
)

# T5's 100 sentinels, and rows that fill it up to a multiple of 128.
_MOST_ROWS_WITHOUT_PIECE = 228

# Rows of an embedding -> whose it is, and where its vocabulary is found.
_VOCABULARIES = {
  32128: "T5's: spiece.model in any T5 folder of Hugging Face, or"
  ' gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model',
  250112: "mT5's: spiece.model in any mT5 folder of Hugging Face, or"
  ' gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model',
  384: "ByT5's bytes, for which there is no SentencePiece file; only"
  ' --format=huggingface and --format=training can take such a model',
}


def run(args) -> None:
  """Reads, compares, runs a batch, writes, and runs it again.

  Raises:
    ConfigError: an unknown format or precision, or gin files that do not
      describe the model, or its optimizer.
    DataError: the model or its vocabulary is missing, damaged or of another
      architecture; nothing is written then.
    ResourceError: the folder cannot be written to.
  """
  chosen = settings.settle(args, SETTINGS)
  if chosen.format not in FORMATS:
    raise errors.unknown_name('format', chosen.format, FORMATS)
  if chosen.precision not in PRECISIONS:
    raise errors.unknown_name('precision', chosen.precision, PRECISIONS)
  if chosen.format == 'training':
    _convert_training_state(chosen)
    return
  found = _load(chosen)
  tokenizer = _tokenizer(chosen, found)
  if tokenizer is None and chosen.format == 'calm':
    raise errors.DataError(
      f'{chosen.model} comes without a vocabulary; name its SentencePiece file'
      f' with --vocabulary. {_which_vocabulary(found.config)}'
    )
  batch, outputs = _show(found, tokenizer)
  written = _write(chosen, found, tokenizer)
  _show_again(written, batch, outputs)
  print(f'Written: {chosen.output_dir}')


def _config(chosen):
  """The network of the gin files, or None without any."""
  if 'MODEL' not in chosen.gin_macros:
    return None
  from calm_jax.config import gin_setup

  return gin_setup.macro('MODEL').config


def _load(chosen):
  from calm_jax.checkpoints import finding, from_t5x, load, remote

  config = _config(chosen)
  path = remote.local(chosen.model)
  if config is None and not load.tells_config(path):
    checkpoint = finding.find_checkpoint(path)
    if from_t5x.is_t5x(checkpoint):
      config = from_t5x.load_config(checkpoint)
  return load.load_model(path, config)


def _tokenizer(chosen, found):
  from calm_jax.checkpoints import sha256sums
  from calm_jax.data import vocabulary

  path = chosen.vocabulary or found.vocabulary_path
  if path is None:
    return None
  tokenizer = vocabulary.Tokenizer(path)
  sha256sums.check(tokenizer.path.parent, [tokenizer.path.name])
  rows = found.config.vocab_size
  if tokenizer.vocab_size > rows:
    raise errors.DataError(
      f'The vocabulary {path} has {tokenizer.vocab_size} pieces, but the'
      f' embedding only {rows} rows: it is of another model.'
      f' {_which_vocabulary(found.config)}'
    )
  return tokenizer


def _which_vocabulary(config) -> str:
  known = _VOCABULARIES.get(config.vocab_size)
  rows = f'An embedding of {config.vocab_size} rows'
  return f'{rows} is {known}.' if known else f'{rows} is of no published T5.'


def _show(found, tokenizer):
  """Prints what was read and what one batch gives; the batch and that."""
  from calm_jax.checkpoints import parity_batch
  from calm_jax.training import state

  config = found.config
  print(
    f'Network:    {config.num_encoder_layers} encoder and'
    f' {config.num_decoder_layers} decoder layers, width {config.emb_dim},'
    f' {" x ".join(config.mlp_activations)},'
    f' {"tied" if config.logits_via_embedding else "untied"} embeddings,'
    f' {state.num_parameters(found.params):,} parameters'
  )
  if tokenizer is None:
    print(f'Vocabulary: none. {_which_vocabulary(config)}')
  else:
    print(
      f'Vocabulary: {tokenizer.path}, {tokenizer.vocab_size} pieces for'
      f' {config.vocab_size} rows'
    )
    if config.vocab_size >= tokenizer.vocab_size + _MOST_ROWS_WITHOUT_PIECE:
      print(
        f'Note: {config.vocab_size - tokenizer.vocab_size} rows have no piece,'
        ' more than sentinels need; is the vocabulary of another model?'
        f' {_which_vocabulary(config)}'
      )
  batch = parity_batch.make_batch(tokenizer, config.vocab_size)
  outputs = parity_batch.run(config, found.params, batch)
  print(f'One batch:  input_ids {list(batch.inputs)}')
  print(f'            labels    {list(batch.targets)}')
  print(f'            predicted {list(outputs.predicted)}')
  print(f'            {_numbers(outputs)}')
  guess = math.log(config.vocab_size)
  if batch.has_sentinels and outputs.loss > guess:
    print(
      f'Note: a guess among all tokens has loss {guess:.2f}; a trained T5 with'
      ' its own vocabulary is far below it.'
    )
  return batch, outputs


def _numbers(outputs) -> str:
  return (
    f'loss {outputs.loss:.6f} per token, sum of logits'
    f' {outputs.logits_sum:.6g}, of their magnitudes'
    f' {outputs.logits_magnitude:.6g}'
  )


def _write(chosen, found, tokenizer):
  """Writes the folder; what is read from it."""
  from calm_jax.checkpoints import bundle, load, to_huggingface

  path = tokenizer.path if tokenizer else None
  if chosen.format == 'huggingface':
    to_huggingface.save(chosen.output_dir, found.params, found.config, path)
    return load.load_model(chosen.output_dir)
  info = bundle.BundleInfo(
    task='',
    feature_lengths=_feature_lengths(chosen),
    training={'converted_from': pathlib.Path(chosen.model).name},
  )
  bundle.save_bundle(
    chosen.output_dir,
    found.params,
    found.config,
    info,
    path,
    dtype=chosen.precision,
  )
  return load.load_model(chosen.output_dir)


def _feature_lengths(chosen) -> dict[str, int]:
  lengths = {'inputs': chosen.inputs_length, 'targets': chosen.targets_length}
  if 'TASK_FEATURE_LENGTHS' in chosen.gin_macros:
    from calm_jax.config import gin_setup

    lengths |= gin_setup.macro('TASK_FEATURE_LENGTHS')
  return lengths


def _show_again(written, batch, before) -> None:
  from calm_jax.checkpoints import parity_batch

  after = parity_batch.run(written.config, written.params, batch)
  if after == before:
    print('Read back:  the same numbers')
  else:
    print(f'Read back:  {_numbers(after)}')


def _convert_training_state(chosen) -> None:
  from calm_jax.config import gin_setup
  from calm_jax.t5x import training_state

  for name in ('MODEL', 'OPTIMIZER'):
    if name not in chosen.gin_macros:
      raise errors.ConfigError(
        f'--format=training requires gin files that give {name}, for example'
        ' --gin_file=gin/models/t5_1_1_small.gin'
        ' --gin_file=gin/runs/finetune.gin.'
      )
  converted = training_state.convert(
    chosen.model,
    chosen.output_dir,
    gin_setup.macro('MODEL').config,
    gin_setup.macro('OPTIMIZER'),
    chosen.first_step,
  )
  print(
    f'Written: {converted.checkpoint}, parameters and accumulators of step'
    f' {converted.t5x_step:,}'
  )
