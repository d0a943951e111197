"""`calm study`: measures, static layers and oracles side by side."""

import dataclasses
import functools
import pathlib
import sys

from calm_jax import errors
from calm_jax.cli import dump, loading, settings

DESCRIPTION = """Sweep measures over thresholds; draw what each gives and costs.

  calm study --gin_file=gin/experiments/docstrings_measures.gin \\
    --output_dir=runs/measures

Writes trade_off.csv, recall.csv, top_k_times.csv and three figures. Dumps of
an interrupted study are kept and used by the next run of the same command."""

SETTINGS = (
  settings.Setting(
    'output_dir', settings.REQUIRED, 'folder', macro='STUDY_OUTPUT_DIR'
  ),
  loading.MODEL,
  loading.TASK,
  settings.Setting('split', 'validation', 'whose texts are decoded'),
  settings.Setting(
    'max_examples', 200, 'texts that are decoded at every threshold', minimum=1
  ),
  settings.Setting(
    'timed_examples', 20, 'texts that are timed at every threshold', minimum=1
  ),
)


def run(args) -> None:
  """Runs the study.

  Raises:
    ConfigError: the gin files have no plan, or a measure does not fit.
    CalmError: as the stages.
  """
  chosen = settings.settle(args, SETTINGS)
  examples = loading.load_examples(chosen.task, chosen.split)
  loaded = loading.load(chosen)
  from calm_jax.config import gin_setup
  from calm_jax.study import plan as plan_lib
  from calm_jax.study import run as study

  plan = gin_setup.call(plan_lib.Plan)
  folder = pathlib.Path(chosen.output_dir).expanduser()
  swept = {}
  for number, (name, generator) in enumerate(
    study.generators(loaded.generator, plan).items(), 1
  ):
    print(f'[{number}/{len(plan.sweeps)}] {name}', flush=True)
    swept[name] = study.sweep(
      name,
      generator,
      _dump_writer(loaded, examples, chosen, folder, name, plan.sweeps[name]),
      chosen.timed_examples,
    )
  _write_results(folder, plan, loaded.generator, swept, chosen.timed_examples)


def _dump_writer(loaded, examples, chosen, folder, name, sweep):
  """Decodes a sweep's texts, or finds them decoded by an earlier run."""

  def write_dump(generator):
    path = folder / 'dumps' / name.replace(' ', '_')
    write = functools.partial(
      dump.write_dump,
      dataclasses.replace(loaded, generator=generator),
      examples,
      split=chosen.split,
      max_examples=chosen.max_examples,
      thresholds=sweep.thresholds,
      output_dir=str(path),
    )
    try:
      write()
    except errors.DataError as error:
      # The folder is the study's own: what is there is of other settings, or
      # damaged.
      print(f'Made again: {error}', file=sys.stderr)
      write(overwrite=True, restart=True)
    return path

  return write_dump


def _write_results(folder, plan, generator, swept, timed_examples) -> None:
  from calm_jax.report import study_figures, wording
  from calm_jax.study import run as study

  any_sweep = next(iter(swept.values()))
  manifest, first = any_sweep.dump
  bound = study.true_cache_oracle(any_sweep)
  curves = {name: found.rows for name, found in swept.items()}
  curves[bound.measure] = [bound]
  rows = [dataclasses.asdict(row) for part in curves.values() for row in part]
  _write_csv(folder / 'trade_off.csv', rows)
  print('recall of K', flush=True)
  recall = study.recall_of(generator, first, plan.recall_ks)
  _write_csv(
    folder / 'recall.csv',
    [
      {'k': k, 'layer': layer, 'recall': share}
      for k, shares in recall.items()
      for layer, share in enumerate(shares.tolist(), 1)
    ],
  )
  print('time of K', flush=True)
  texts = study.random_sources(first, timed_examples)
  times = _times_of_k(generator, texts)
  _write_csv(
    folder / 'top_k_times.csv',
    [{'system': x, 'ms_per_token': y} for x, y in times.items()],
  )
  metric = wording.metric_name(manifest.metric)
  study_figures.trade_off_figure(folder / 'trade_off.png', curves, metric)
  study_figures.top_k_figure(folder / 'top_k.png', recall, times)
  study_figures.exits_figure(
    folder / 'exits.png',
    {name: _layers_used(x, plan.loss_limit) for name, x in swept.items()},
    manifest.model.num_decoder_layers,
    plan.loss_limit,
  )
  print(f'Written: {folder}')


def _times_of_k(generator, texts: list[str]) -> dict[str, float]:
  """Milliseconds per token of top-k propagation, and of what it is beside."""
  from calm_jax.early_exit.measures import softmax, top_k
  from calm_jax.study import run as study

  measures = {
    'full model, no exits': None,
    **{
      f'top-k, K = {k}': top_k.TopKPropagation(k=k)
      for k in (16, 64, 256, 1024)
      if k < generator.model.config.vocab_size
    },
    'softmax response': softmax.SoftmaxTopTwoGap(),
  }
  return study.never_leaving_times(generator, measures, texts)


def _layers_used(found, loss_limit: float):
  """(threshold, its layers [N, T]): the lowest one within the limit."""
  from calm_jax.evaluation import trade_off

  column = trade_off.lowest_within(found.rows, loss_limit)
  return found.rows[column].threshold, found.dump[1].num_layers_used[:, column]


def _write_csv(path: pathlib.Path, rows: list[dict]) -> None:
  from calm_jax.records import contracts, csv_tables

  text = csv_tables.to_csv(list(rows[0]), (row.values() for row in rows))
  contracts.write_bytes_atomically(path, text.encode('utf-8'))
