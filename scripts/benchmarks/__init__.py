"""What `python scripts/benchmark.py` measures, one idea per module."""
