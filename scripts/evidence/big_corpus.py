"""python scripts/evidence/big_corpus.py: what it takes to tokenize a big corpus.

Memory: texts of made-up words are tokenized for a causal language model, one file as one example
and as lines, of a fourth of the size and of all of it. Each is done in a process of its own; what
is printed is the most memory that this process, and the largest of those that it started, had.
What memory is added by three times as much text, per byte of it, says how flat it is.

Throughput: the same texts by us, from files to tokens on disk, and by `tokenizers` alone, which has
them in memory, encodes them in large batches on as many threads and keeps nothing; in turns.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from everytoken.corpora import Text
from everytoken.data.cache.store import write_packed
from everytoken.data.cache.tokenized import packed
from everytoken.data.corpus import Corpus
from everytoken.data.counts import Counter
from everytoken.data.objective import CausalLM
from everytoken.runtime.console import console, set_level
from everytoken.runtime.settings import cores
from everytoken.tokenizer import Tokenizer, train_bpe

MEGABYTE = 1_000_000
BATCH = 10_000
VOCABULARY = 8000
KINDS = {"lines of 100 bytes": 16, "lines of 3,000 bytes": 480}
"""How many words they have."""


def sentences(megabytes: float, words: int) -> Iterator[str]:
    """Lines of made-up words that are as unequally frequent as those of a language."""
    draw = random.Random(1)
    syllables = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s")]
    known = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(50_000)]
    shares = [1 / rank for rank in range(1, len(known) + 1)]
    sums = [1.0]
    for share in shares[1:]:
        sums.append(sums[-1] + share)
    left = megabytes * MEGABYTE
    while left > 0:
        several = draw.choices(known, cum_weights=sums, k=words * 1000)
        for at in range(0, len(several), words):
            line = " ".join(several[at : at + words]).capitalize() + draw.choice(".?!")
            left -= len(line) + 1
            yield line
            if left <= 0:
                return


def tokenize(file: Path, tokenizer: Tokenizer, example: Any, out: Path, processes: int) -> float:
    """Seconds from a file of texts to a folder of tokens."""
    began = time.perf_counter()
    split_by: Literal["position", "content"] = "position" if example == "file" else "content"
    source: Any = Text(str(file), None, None, "text", example, split_by, 0.01, 0.01, 1)
    objective = CausalLM(tokenizer.special, len(tokenizer), 256, 256, "windows")
    counter = Counter(tokenizer.special.unk)
    made = Corpus(source, ["text"], None).made("train", tokenizer, objective, counter, processes)
    write_packed(out, packed(made), counter.finish)
    return time.perf_counter() - began


def alone(texts: list[str], tokenizer: Tokenizer) -> float:
    """Seconds of `tokenizers`, on as many threads as there are cores."""
    began = time.perf_counter()
    for at in range(0, len(texts), BATCH):
        encodings = tokenizer.engine.encode_batch(texts[at : at + BATCH], add_special_tokens=False)
        for encoding in encodings:
            encoding.ids  # noqa: B018 which takes time, and without which nobody has them
    return time.perf_counter() - began


def peak(file: Path, folder: Path, example: str) -> int:
    """Bytes that a new process has at most while it tokenizes a file."""
    words = [sys.executable, __file__, "--measure", example, str(file), str(folder)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def measure(example: str, file: Path, folder: Path) -> None:
    """What `peak` starts."""
    set_level("warning")
    with tempfile.TemporaryDirectory(dir=folder) as out:
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        tokenize(file, tokenizer, example, Path(out) / "tokens", cores())
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    print(max(resource.getrusage(who).ru_maxrss for who in whose) * 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=400, help="of text, for memory")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput")
    parser.add_argument("--folder", type=Path, help="where files are written; a temporary one")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        example, file, folder = arguments.measure
        measure(example, Path(file), Path(folder))
        return
    set_level("warning")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        lines = [*sentences(min(arguments.megabytes, 20), 16)]
        train_bpe(lines[: len(lines) // 4 + 1], VOCABULARY).save(folder / "tokenizer.json")
        console.print(memory(folder, arguments.megabytes))
        console.print(throughput(folder, arguments.megabytes / 10, arguments.rounds))


def memory(folder: Path, megabytes: float) -> Table:
    """Most memory, of a fourth of the text and of all of it."""
    table = Table("tokenized as", f"{megabytes / 4:g} MB", f"{megabytes:g} MB", "a byte of text")
    files = {}
    for share in (megabytes / 4, megabytes):
        files[share] = folder / f"{share:g}.txt"
        with files[share].open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in sentences(share, 16))
    for example in ("file", "line"):
        small, large = (peak(file, folder, example) for file in files.values())
        more = (large - small) / (files[megabytes].stat().st_size * 0.75)
        shown = (f"{value / 2**20:,.0f} MiB" for value in (small, large))
        table.add_row(f"a {example} an example", *shown, f"{more:.2f} bytes")
    return table


def throughput(folder: Path, megabytes: float, rounds: int) -> Table:
    """Medians of several rounds, in turns."""
    table = Table("texts", "everytoken", "tokenizers alone", "share")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    for kind, words in KINDS.items():
        file, texts = folder / "texts.txt", [*sentences(megabytes, words)]
        file.write_text("\n".join(texts), encoding="utf-8")
        size = file.stat().st_size / MEGABYTE
        ours, theirs = list[float](), list[float]()
        for number in range(rounds):
            out = folder / f"{words}-{number}"
            os.environ["TOKENIZERS_PARALLELISM"] = "true"
            ours.append(size / tokenize(file, tokenizer, "line", out, cores()))
            theirs.append(size / alone(texts, tokenizer))
        mine, others = statistics.median(ours), statistics.median(theirs)
        shown = (f"{value:.2f} MB/s" for value in (mine, others))
        table.add_row(kind, *shown, f"{mine / others:.0%}")
    return table


if __name__ == "__main__":
    main()
