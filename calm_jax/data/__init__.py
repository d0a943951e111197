"""Text in, token arrays out.

  installed -> docstrings -> prose      which files, what they say, clean text
  corpus (splits, tasks, overlap)       examples per task and split, on disk
  vocabulary (case_factoring)           SentencePiece, with or without seqio
  arrays -> batches                     T5X's arrays, training batches by step
  text_rows                             a user's texts and prompts, checked
  seqio_tasks (saved_iterator)          the same tasks and arrays through seqio

  file_tasks                            a user's TSV or JSONL files
  calm_tasks (tfds_source,              CALM's three tasks with T5's inputs
    preprocessors, t5_metrics)
  seqio_examples                        a user's own seqio task
  pretraining (span_corruption)         a user's text, with missing spans
   -> task_examples        text of all of these, for dumps

TensorFlow is imported only when seqio's or CALM's tasks are read.
"""
