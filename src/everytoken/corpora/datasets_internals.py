"""All that corpora use of `datasets` which it doesn't document.

Checked with datasets 5.2. tests/corpora/test_upstream.py says what another version has changed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def fingerprint(dataset: "Dataset") -> str:
    """A name of its content, the same whenever the same files are loaded: `Dataset._fingerprint`.

    `datasets` takes it from the files' content or the hub's revision, without a look at the rows.
    """
    return dataset._fingerprint
