"""The work behind each `python -m …`."""
