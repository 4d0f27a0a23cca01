"""What is typed: one thin file for each command, run by `python -m` or by an installed script."""
