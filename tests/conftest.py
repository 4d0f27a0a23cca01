"""Before torch is imported: one thread each, in tests and in the runs that they start.

Threads of processes that share two cores wait for each other, which can take ten times as long.
Tokenized corpora go to a folder of this session, not to the user's.
"""

import atexit
import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")

_cache = tempfile.TemporaryDirectory(prefix="everytoken-tests-")
atexit.register(_cache.cleanup)
os.environ["XDG_CACHE_HOME"] = _cache.name
