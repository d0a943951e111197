"""The T5 network with T5X's parameter tree: tokens in, hidden states out."""
