"""The audit of transformers' Trainer: what is wrong in one's own part of it is named."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everytoken.audit import audit, prepare
from everytoken.audit.foreign import entrance
from everytoken.audit.foreign.entrance import CHECKS, run
from everytoken.errors import UserError
from support.foreign import EOS, PAD, WORDS, sequences

pytest.importorskip("accelerate")
hf = pytest.importorskip("transformers")


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As transformers' own, of rows that are token ids."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=PAD),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad(ids, batch_first=True, padding_value=-100),
    }


def learns_padding(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate(rows)
    return batch | {"labels": batch["input_ids"]}


def shifts_too(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate(rows)
    labels = batch["labels"].roll(-1, 1)
    labels[:, -1] = -100
    return batch | {"labels": labels}


def forgets_the_end(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate(rows)
    return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == EOS, -100)}


class MeanOfMeans(hf.Trainer):
    """A loss of one's own that knows nothing of the whole step."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        options.pop("num_items_in_batch", None)
        return super().compute_loss(model, inputs, *args, **options)


def trainer(folder: Any, collator: Any = collate, kind: Any = hf.Trainer) -> Any:
    torch.manual_seed(0)
    hf.logging.set_verbosity_error()
    ids = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = hf.LlamaConfig(vocab_size=WORDS, **ids, **sizes, num_attention_heads=2)
    rows = [{"input_ids": row["ids"]} for row in sequences()]
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    arguments = hf.TrainingArguments(str(folder), remove_unused_columns=False, **options)
    return kind(
        model=hf.LlamaForCausalLM(config),
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:9],
        data_collator=collator,
    )


def failures(door: Any, first: str) -> list[str]:
    names = [check.name for check in CHECKS]
    return run(door, CHECKS[: names.index(first) + 1]).failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("collator", "kind", "first"),
    [
        (learns_padding, hf.Trainer, "padding length"),
        (shifts_too, hf.Trainer, "targets hidden"),
        (forgets_the_end, hf.Trainer, "end of sequence"),
        (collate, MeanOfMeans, "accumulation"),
    ],
)
def test_a_fault_of_a_trainer_is_named(tmp_path: Any, collator: Any, kind: Any, first: str):
    door = prepare(trainer(tmp_path, collator, kind), processes=False)
    assert failures(door, first) == [first]


@pytest.mark.slow
def test_a_trainer_is_left_as_it_was_and_trains(tmp_path: Any):
    one = trainer(tmp_path)
    weights = copy.deepcopy(one.model.state_dict())
    parts, state = dict(vars(one)), dict(vars(one.accelerator.state))
    report = audit(one, layers=1)
    assert report.failures == ["evaluation", "evaluation on processes"]  # transformers' own
    assert vars(one).keys() == parts.keys()
    assert all(vars(one)[name] is part for name, part in parts.items())
    assert vars(one.accelerator.state) == state
    assert len(one.model.model.layers) == 2
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    one.args.max_steps = 1
    one.train()
    assert not torch.equal(one.model.lm_head.weight, weights["lm_head.weight"])


@pytest.mark.bad_input
def test_a_trainer_without_data_is_told_so(tmp_path: Any):
    one = trainer(tmp_path)
    for nothing in (None, []):
        one.train_dataset = nothing
        with pytest.raises(UserError, match="no train_dataset"):
            prepare(one)


@pytest.mark.slow
def test_a_model_that_the_trainer_makes_is_audited(tmp_path: Any):
    one = trainer(tmp_path)
    one.model_init = lambda: copy.deepcopy(one.model)
    assert failures(prepare(one, processes=False), "accumulation") == []


@pytest.mark.slow
def test_a_bare_loop_needs_nothing_of_transformers():
    """Libraries of ours import it where it is installed; the audit doesn't."""
    code = (
        "import sys; from support.foreign import make; from everytoken.audit import audit;"
        "audit(make()); assert 'everytoken.audit.foreign.hugging_face' not in sys.modules"
    )
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=200)
    door = Path(entrance.__file__).parent
    with_it = {f.name for f in door.glob("*.py") if re.search("import transformers", f.read_text())}
    assert with_it == {"hugging_face.py"}
