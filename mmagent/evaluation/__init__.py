"""Measurements of a model in use: templates of thought, personas, long conversations."""
