"""Inference: texts in, T5X's JSONL files with exits and confidences out.

sources --examples--> runner --records--> results: one JSONL file
"""
