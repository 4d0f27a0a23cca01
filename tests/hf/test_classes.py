"""Models of transformers that tell classes, under our contract."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F

from everytoken.audit.subject import pad_anew
from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.data.collate import Example, collate
from everytoken.errors import UserError
from everytoken.hf.config import read_config
from everytoken.hf.model import HuggingFace
from everytoken.training.loss import target_sums
from support.helpers import VOCABULARY, make_examples

CLASSES = 5
NAME = "bert.embeddings.word_embeddings.weight"
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"pad_token_id": 0}),
    "roberta": ("Roberta", {"pad_token_id": 1}),
    "eurobert": ("EuroBert", {"pad_token_id": 0, "mask_token_id": 4}),
    "modernbert": ("ModernBert", {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}),
}
each_kind = pytest.mark.parametrize("per_sequence", [False, True], ids=["tokens", "sequences"])


def save(folder: Path, kind: str, **more: Any) -> str:
    getattr(transformers, f"{kind}Config")(**SIZES, **more).save_pretrained(folder)
    return str(folder)


def make(folder: str, *, per_sequence: bool, classes: int = CLASSES, **changed: Any) -> HuggingFace:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"shape": "encoder", "vocabulary": VOCABULARY, "pretrained": False}
    config = read_config(folder)
    settings |= {"name_or_path": folder, "config": config, "per_sequence": per_sequence}
    return HuggingFace(**{**settings, "classes": classes, **changed})


def labelled(lengths: list[int], *, per_sequence: bool) -> list[Example]:
    found = []
    for number, example in enumerate(make_examples(lengths, with_source=False)):
        labels = example.labels % CLASSES
        if per_sequence:
            labels[1:] = IGNORE_INDEX
        else:
            labels[number::3] = IGNORE_INDEX
        found.append(Example(example.input_ids, labels))
    return found


@each_kind
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_each_sequence_alone(
    tmp_path: Path, family: str, per_sequence: bool
) -> None:
    kind, sizes = FAMILIES[family]
    model = make(save(tmp_path, kind, **sizes), per_sequence=per_sequence).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    examples = labelled([7, 2, 5], per_sequence=per_sequence)

    def logits(batch: Batch) -> torch.Tensor:
        return model.head(model(batch))

    right = []
    for example in examples:
        ids = torch.from_numpy(example.input_ids)[None].long()
        more = {}
        if first := model.first_position:  # RoBERTa finds it by what looks like padding
            more["position_ids"] = torch.arange(first, first + ids.shape[1])[None]
        found = model.network(input_ids=ids, **more).logits[0]
        right.append(found[None] if per_sequence else found[example.labels != IGNORE_INDEX])
    right = torch.cat(right)
    assert right.shape[1] == CLASSES
    assert right.std() > 0.01
    batch = collate(examples, 0)
    for side in ("right", "left"):
        other = pad_anew(batch, extra=3, side=side, garbage=torch.arange(VOCABULARY))
        torch.testing.assert_close(logits(other), right, rtol=1e-5, atol=1e-6)
    total = F.cross_entropy(right, batch.targets, reduction="sum")
    parts = [collate(examples[:1], 0), collate(examples[1:], 0)]
    sums = [target_sums(model(p), model.head, p.targets).loss for p in parts]
    summed = torch.stack(sums).sum()
    weights = [w for w in model.parameters() if w.requires_grad]
    wanted, found = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, materialize_grads=True)])
        for loss in (total, summed)
    )
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


@each_kind
def test_new_layers_are_named_and_the_others_kept(
    tmp_path: Path, per_sequence: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path, "Bert", pad_token_id=0)
    before = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(folder))
    before.save_pretrained(folder)
    model = make(folder, per_sequence=per_sequence, pretrained=True)
    told = capsys.readouterr().out
    assert "new layers for 5 classes" in told
    assert "classifier.weight" in told
    kept, old = (n.get_parameter(NAME) for n in (model.network, before))
    assert torch.equal(kept, old)
    model.network.save_pretrained(folder)
    make(folder, per_sequence=per_sequence, pretrained=True)
    assert "new layers" not in capsys.readouterr().out
    other = make(folder, per_sequence=per_sequence, pretrained=True, classes=7)
    assert "new layers for 7 classes" in capsys.readouterr().out
    assert other.network.config.num_labels == 7


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["Llama", "T5", "Bart"])
def test_what_is_no_encoder_is_refused(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path, kind, pad_token_id=0)
    with pytest.raises(UserError, match="is no encoder"):
        make(folder, per_sequence=True)
