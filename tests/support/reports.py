"""Run directories for tests of their reports, without training; texts in them mean harm."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from everytoken.data.cache.store import ItemList
from everytoken.data.datamodule import Batching, MicroBatches
from everytoken.data.epoch import BatchBudget
from everytoken.data.objective import CausalLM, Seq2Seq
from everytoken.decoding.generate import Prediction
from everytoken.report.collect import OBSERVED
from everytoken.report.marked import shown
from everytoken.report.picture import Picture
from everytoken.run.directory import Run
from everytoken.tokenizer.learned import train_char
from everytoken.tokenizer.tokenizer import Tokenizer

HOSTILE = "</script><script>alert('1')</script>\"&amp; \0\u202e\nא日"
TOKENIZER = train_char([HOSTILE])


def make_split(texts: list[str], *, pairs: bool = True, tokenizer: Tokenizer = TOKENIZER):
    """Texts as a split; of pairs, the target is the source's first half."""
    arguments = {"special": tokenizer.special, "vocabulary": len(tokenizer)}
    if pairs:
        objective = Seq2Seq(**arguments, start_id=None, max_tokens=999, long="refuse")
    else:
        objective = CausalLM(**arguments, window_tokens=999, stride_tokens=999, long="windows")
    items = []
    for ids in tokenizer.encode(texts):
        record = {"source": ids, "target": ids[: len(ids) // 2], "text": ids}
        items += [(item, objective.real_count(item)) for item in objective.items(record)]
    batching = Batching(BatchBudget(None, 8), 9999, "right", 1)
    return MicroBatches(ItemList(items), objective, batching, tokenizer.special.pad, seed=1)


def make_run(
    path: Path, *, steps: int = 40, finished: bool = True, state: str = "running", **settings: Any
) -> Run:
    """A run directory with all that a report shows."""
    run = Run.create(
        path, OmegaConf.create({"name": "mine", "seed": 1, "text": HOSTILE} | settings)
    )
    columns = ("loss", "accuracy", "gradient_norm", "learning_rate")
    lines = ["step," + ",".join(f"train/{c}" for c in columns)]
    lines[0] += (
        ",throughput/real_tokens_per_second,real_tokens,val/loss,val/bleu,test/loss,test/bleu"
    )
    for step in range(1, steps + 1):
        lines.append(
            f"{step},{4 / step},{step / (steps + 9)},{step % 7},0.1,{step * 9},{step * 100},,,,"
        )
        if step % 10 == 0:
            lines.append(f"{step},,,,,,,{5 / step},{step / 2},,")
    if finished:
        lines += [f"{steps},,,,,,,0.01,99,,", f"{steps},,,,,,,,,0.02,98"]
        found = {"val/loss": 0.01, "val/bleu": 99.0, "test/loss": 0.02, "test/bleu": 98.0}
        found |= {"throughput/fill": 1.0, "seconds/fit": 61.0, "real_tokens": steps * 100}
        run.summary_file.write_text(json.dumps(found))
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    split = {"examples": 8, "real_tokens": 99, "longest": 40, "histogram": [1, 0, 7]}
    split |= {"percentiles": {"50": 12}, "counts": {"unknown": 0, "duplicates": 1, "too_long": 0}}
    report = {"splits": {"train": split, "val": split}, "fill": 1.0, "padded_fill": 0.5}
    run.data_file.write_text(json.dumps(report | {"warnings": [HOSTILE]}))
    texts = [HOSTILE[:n] for n in (2, 5, 9, 14, 20, 33)]
    ids = TOKENIZER.encode(texts)
    picture = Picture(make_split(texts), list(range(6)), TOKENIZER, computes_on_padding=False)
    targets = picture.drawing["targets"]
    moments = [
        {"step": step, "loss": [(n % 9) / step for n in range(targets)], "sum": 70 / step}
        | {"wrong": {str(n): [HOSTILE[:9], 0.5] for n in range(0, targets, 5)}}
        for step in (10, 20)
    ]
    observed = {"state": state, "steps": steps, "machine": "1 × CPU", "precision": "32-true"}
    observed |= {"picture": picture.drawing, "moments": moments, "parameters": 1234}
    example = Prediction(ids[5], ids[5], ids[4])
    observed["predictions"] = [shown(example, TOKENIZER)]
    (path / OBSERVED).write_text(json.dumps(observed))
    return run
