"""Training: batches and a network in, checkpoints and metrics out.

`state` holds what a step changes, `step` is the pure function from one state to
the next, `metrics` turns its sums into T5X's metric names, `loop` runs it all.
"""
