"""What `python scripts/evidence/benchmark.py` measures, one idea per module."""
