r"""Measures side by side on one model: `calm study`.

model, texts --dump--> a dump per measure --trade_off--> tidy CSV, figures
           \--recall--> is the full model's token among the K?
           \--speed---> milliseconds per token at each threshold
"""
