"""The stores that `benchmarks/memory.py` sets side by side."""
