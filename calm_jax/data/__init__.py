"""Text in, token arrays out.

  installed -> docstrings -> prose      which files, what they say, clean text
  corpus (splits, tasks)                examples per task and split, on disk
  vocabulary                            SentencePiece, with or without seqio
  arrays -> batches                     T5X's arrays, training batches by step
  seqio_tasks                           the same tasks and arrays through seqio

Only `seqio_tasks` and `vocabulary.load_vocabulary` import TensorFlow, and only
when called.
"""
