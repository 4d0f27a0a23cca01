"""report.html: a run, or several laid over each other, on one page that needs nothing else.

`picture` draws a micro-batch and `curves` reads metrics.csv, `collect` puts together what a run
directory holds, `page` makes it a file, `callback` writes it during training, `compare` for several
runs.
"""
