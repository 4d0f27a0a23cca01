"""Before torch is imported: one thread each, in tests and in the runs that they start.

Threads of processes that share two cores wait for each other, which can take ten times as long.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
