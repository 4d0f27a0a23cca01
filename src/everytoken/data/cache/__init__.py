"""Tokenized texts, kept on disk.

In files of our own: with a million examples of 5 to 30 tokens `datasets.Dataset.from_generator`
takes 4 to 6 times as long to write them, 85 MiB to be imported, and 92 MiB more once 20,000 of them
are read (here: 9), and it doesn't find a flipped bit. In a checksummed folder, read by pyarrow, it
does, and reads an example in 2.7 µs of CPU time (here: 6.3), but a process dies if a file is cut
off while it is open. Measured by `python scripts/evidence/benchmark.py cache`.
"""
