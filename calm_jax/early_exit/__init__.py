"""Early exit: where a token may leave the decoder, and how sure it must be."""
