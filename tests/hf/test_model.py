"""Models of transformers under our contract: the exact step, whatever their kind or padding."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

import everytoken
from everytoken.audit.results import run_checks
from everytoken.audit.subject import Subject, pad_anew
from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.commands.factory import instantiate
from everytoken.config.keys import conf_dir
from everytoken.config.values import check_training
from everytoken.data.collate import collate
from everytoken.errors import UserError
from everytoken.hf.config import read_config
from everytoken.hf.model import HuggingFace
from everytoken.hf.network import AUTO_CLASSES
from everytoken.model.transformer import Shape
from everytoken.run.directory import Run
from everytoken.tokenizer.learned import train_byte
from everytoken.training.loss import target_sums
from support.auditing import IN_PROCESS, failures
from support.helpers import VOCABULARY, make_batch, make_examples

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHARED = {"num_key_value_heads": 1}
GEMMA = {**SHARED, "head_dim": 8, "sliding_window": 4}
STACKS = {
    "d_model": 16,
    **{
        f"{side}_{name}": 2
        for side in ("encoder", "decoder")
        for name in ("layers", "attention_heads")
    },
    **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
    "decoder_start_token_id": 0,
}
FAMILIES: dict[str, tuple[Shape, str, dict[str, Any]]] = {
    "llama": ("decoder", "Llama", {}),
    "gpt2": ("decoder", "GPT2", {}),
    "qwen3": ("decoder", "Qwen3", SHARED),
    "gemma2": ("decoder", "Gemma2", {**GEMMA, "final_logit_softcapping": 0.5}),
    "cohere": ("decoder", "Cohere", {"logit_scale": 0.25}),
    "granite": ("decoder", "Granite", {"logits_scaling": 3.0}),
    "bert-causal": ("decoder", "Bert", {}),
    "bert": ("encoder", "Bert", {}),
    "roberta": ("encoder", "Roberta", {"pad_token_id": 1}),
    "eurobert": ("encoder", "EuroBert", {"mask_token_id": 4}),
    "modernbert": ("encoder", "ModernBert", {"cls_token_id": 1, "sep_token_id": 2}),
    "t5": ("encoder_decoder", "T5", {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2}),
    "bart": ("encoder_decoder", "Bart", STACKS),
    "marian": ("encoder_decoder", "Marian", STACKS),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def save_config(folder: Path, family: str, **more: Any) -> str:
    _, kind, sizes = FAMILIES[family]
    getattr(transformers, f"{kind}Config")(**{**SIZES, **sizes, **more}).save_pretrained(folder)
    return str(folder)


def make(family: str, folder: str, **changed: Any) -> HuggingFace:
    settings: dict[str, Any] = {
        "shape": FAMILIES[family][0],
        "vocabulary": VOCABULARY,
        "name_or_path": folder,
        "config": changed.get("config") or read_config(folder),
        "pretrained": False,
    }
    return HuggingFace(**{**settings, **changed})


def make_loud(family: str, folder: Path) -> HuggingFace:
    """Without dropout, and with weights large enough to matter."""
    torch.manual_seed(0)
    model = make(family, save_config(folder, family)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
        if hasattr(model.network, "final_logits_bias"):
            model.network.final_logits_bias.normal_()  # pretrained ones aren't zero
    return model


def batch_of(family: str, lengths: list[int], **more: Any) -> Batch:
    return make_batch(lengths, with_source=FAMILIES[family][0] == "encoder_decoder", **more)


def gradients(model: HuggingFace, loss: Tensor) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


def naive_loss(model: HuggingFace, batch: Batch) -> Tensor:
    """Cross-entropy of all positions' logits, as the network itself makes them, divided once."""
    ids = {"input_ids": batch.input_ids, "attention_mask": batch.is_real.long()}
    if batch.source_ids is not None:
        real = batch.first_side[1].long()
        ids = {f"decoder_{name}": value for name, value in ids.items()}
        ids |= {"input_ids": batch.source_ids, "attention_mask": real}
    elif model.first_position:
        ids["position_ids"] = torch.arange(batch.input_ids.shape[1])[None] + model.first_position
    logits = model.network(**ids).logits
    total = F.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / batch.target_count


@each_family
def test_micro_batches_add_up_to_the_gradient_of_sum_over_count(
    tmp_path: Path, family: str
) -> None:
    model = make_loud(family, tmp_path)
    right = gradients(model, naive_loss(model, batch_of(family, [7, 3, 5, 1])))
    has_source = FAMILIES[family][0] == "encoder_decoder"
    examples = make_examples([7, 3, 5, 1], with_source=has_source)
    parts = [collate(examples[:1], 0), collate(examples[1:], 0, padding_side="left")]
    count = sum(part.target_count for part in parts)
    losses = [target_sums(model(b), model.head, b.targets).loss / count for b in parts]
    found = gradients(model, torch.stack(losses).sum())
    whole = torch.cat([gradient.flatten() for gradient in right.values()]).norm()
    for name, gradient in right.items():
        assert (found[name] - gradient).norm() <= 1e-6 * whole, name
    assert sum(bool(gradient.any()) for gradient in right.values()) > 5


@each_family
def test_padding_changes_nothing(tmp_path: Path, family: str) -> None:
    model = make_loud(family, tmp_path)
    batch = batch_of(family, [6, 2, 4])
    right = model.head(model(batch))
    assert right.std() > 0.01
    for side in ("right", "left"):
        other = pad_anew(batch, extra=3, side=side, garbage=torch.arange(VOCABULARY))
        torch.testing.assert_close(model.head(model(other)), right, rtol=1e-5, atol=1e-6)


def test_an_id_that_is_padding_elsewhere_is_a_token_to_learn(tmp_path: Path) -> None:
    """RoBERTa counts positions by leaving this id out, and BERT's has no gradient."""
    model = make_loud("roberta", tmp_path)
    ids = torch.tensor([[5, 1, 6, 1]])
    batch = Batch.make(input_ids=ids, labels=ids, lengths=torch.tensor([4]))
    swapped = Batch.make(input_ids=ids.where(ids != 1, 7), labels=ids, lengths=torch.tensor([4]))
    table = next(n for n, _ in model.named_parameters() if n.endswith("word_embeddings.weight"))
    with torch.no_grad():
        weight = dict(model.named_parameters())[table]
        weight[7] = weight[1]
    torch.testing.assert_close(model(swapped), model(batch))

    def gradient(batch: Batch) -> torch.Tensor:
        loss = target_sums(model(batch), model.head, batch.targets).loss
        return gradients(model, loss)[table]

    # The output layer shares the weights: only what differs comes through the embedding.
    embedded = gradient(batch) - gradient(swapped)
    assert embedded[1].abs().max() > 1e-3
    torch.testing.assert_close(embedded[1], -embedded[7])


def test_bert_sees_nothing_later_in_a_causal_task(tmp_path: Path) -> None:
    model = make_loud("bert-causal", tmp_path)
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 3]])
    batch = Batch.make(input_ids=ids, labels=ids, lengths=torch.tensor([4, 4]))
    first, second = model(batch).view(2, 4, -1)
    torch.testing.assert_close(first[:2], second[:2])
    assert not torch.allclose(first[2:], second[2:])


@each_family
def test_weights_are_read_in_float32_and_ready_to_train(tmp_path: Path, family: str) -> None:
    model = make_loud(family, tmp_path)
    batch = batch_of(family, [4, 2])
    model.network.save_pretrained(tmp_path)
    again = make(family, str(tmp_path), pretrained=True)
    assert all(part.training for part in again.modules())
    assert torch.equal(again.eval()(batch), model(batch))
    model.network.to(torch.bfloat16).save_pretrained(tmp_path)
    again = make(family, str(tmp_path), pretrained=True)
    assert all(p.dtype == torch.float32 for p in again.parameters())


def config(folder: str, *words: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["logger=none", "model=hf", f"model.name_or_path={folder}", *words])
    check_training(cfg)
    return cfg


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("llama", ["task=causal_lm", "data=pydoc", "task.objective.window_tokens=24"]),
        ("bert", ["task=masked_lm", "data=pydoc", "task.objective.window_tokens=24"]),
        ("t5", ["data.corpus.train_examples=60", "data.corpus.val_examples=40"]),
    ],
)
def test_the_audit_passes(tmp_path: Path, family: str, words: list[str]) -> None:
    folder = save_config(tmp_path / "model", family, vocab_size=300)
    words = [*words, "task.max_new_tokens=null", "tokenizer=byte", "model.pretrained=false"]
    cfg = config(folder, *words, "data.limit_examples=40")
    run = Run.create(tmp_path / "run", cfg)
    assert failures(run_checks(Subject(run), IN_PROCESS)) == {}


def test_targets_start_as_the_model_was_made_for(tmp_path: Path) -> None:
    special = train_byte([]).special
    for family, start in (("marian", 0), ("t5", special.bos)):
        folder = save_config(tmp_path / family, family, vocab_size=300)
        cfg = config(folder, "model.pretrained=false")
        objective = instantiate(cfg.task, "objective", special=special, vocabulary=261)
        [item] = objective.items({"source": [9], "target": [8]})
        assert item.ids[0] == objective.prompt([9]).input_ids[0] == start, family
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            assert compose("train").task.objective.start_id is None


def test_a_run_keeps_the_config_of_its_model(tmp_path: Path) -> None:
    folder = save_config(tmp_path / "model", "marian", vocab_size=300)
    known = read_config(folder)
    run = Run.create(tmp_path / "run", config(folder, "model.pretrained=false"))
    (tmp_path / "model" / "config.json").unlink()
    cfg = run.config
    check_training(cfg)
    assert cfg.model.config == known
    assert cfg.task.objective.start_id == 0
    assert isinstance(instantiate(cfg, "model", vocabulary=261), HuggingFace)


@pytest.mark.bad_input
def test_more_tokens_than_the_model_knows_are_refused_and_fewer_are_not(tmp_path: Path) -> None:
    folder = save_config(tmp_path, "llama")
    make("llama", folder, vocabulary=VOCABULARY - 5)
    with pytest.raises(UserError, match=rf"knows {VOCABULARY} tokens and the tokenizer 24.*path="):
        make("llama", folder, vocabulary=VOCABULARY + 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "roberta", "bart"])
def test_special_tokens_that_a_model_lacks_get_rows(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = make_loud(family, tmp_path)
    before.network.save_pretrained(tmp_path)
    ids = {"vocabulary": VOCABULARY + 2, "new_tokens": 3}
    for pretrained in (True, False):
        model = make(family, str(tmp_path), pretrained=pretrained, **ids).eval()
        table = model.network.get_input_embeddings()
        assert (table.num_embeddings, model.new_tokens) == (VOCABULARY + 2, 2)
        assert model.network.config.vocab_size == VOCABULARY + 2
        assert ("made anew: rows of 2 special tokens" in capsys.readouterr().out) is pretrained
        batch = batch_of(family, [5, 3])
        logits = model.head(model(batch))
        assert logits.shape[1] == VOCABULARY + 2
        if pretrained:
            right = before.head(before(batch))
            torch.testing.assert_close(logits[:, :VOCABULARY], right, rtol=1e-5, atol=1e-5)
            assert logits[:, VOCABULARY:].isfinite().all()
    assert make(family, str(tmp_path), vocabulary=VOCABULARY, new_tokens=3).new_tokens == 0
    with pytest.raises(UserError, match="knows 23 tokens and the tokenizer 27"):
        make(family, str(tmp_path), vocabulary=VOCABULARY + 4, new_tokens=3)


@pytest.mark.bad_input
@pytest.mark.parametrize(("family", "room"), [("gpt2", 64), ("roberta", 62), ("marian", 64)])
def test_a_sequence_longer_than_the_table_of_positions_is_told(
    tmp_path: Path, family: str, room: int
) -> None:
    model = make_loud(family, tmp_path)
    assert model(batch_of(family, [room, 2])).isfinite().all()
    with pytest.raises(UserError, match=rf"{room + 1} tokens.*only {room} positions.*window"):
        model(batch_of(family, [2, room + 1]))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_other_positions_have_no_end(tmp_path: Path, family: str) -> None:
    assert make_loud(family, tmp_path)(batch_of(family, [70])).isfinite().all()


@pytest.mark.bad_input
def test_pretrained_weights_need_their_own_tokenizer(tmp_path: Path) -> None:
    words = ["task=causal_lm", "data=pydoc", "tokenizer=byte"]
    folder = save_config(tmp_path, "llama", vocab_size=300)
    with pytest.raises(UserError, match="tokenizer=pretrained"):
        config(folder, *words)
    config(folder, *words, "model.pretrained=false")
    config(folder, *words[:2], "tokenizer=pretrained", f"tokenizer.path={folder}")


@pytest.mark.bad_input
def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = save_config(tmp_path, "llama")
    with pytest.raises(UserError, match="no weights in safetensors"):
        make("llama", folder, pretrained=True)
    torch.save(make("llama", folder).network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model\.bin"):
        make("llama", folder, pretrained=True)


def test_weights_that_are_missing_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_config(tmp_path, "bert")
    transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).save_pretrained(folder)
    make("bert", folder, pretrained=True)
    assert "start at random" in capsys.readouterr().out


@pytest.mark.bad_input
@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder"])
def test_a_model_of_another_kind_is_refused(tmp_path: Path, shape: Shape) -> None:
    family = {"decoder": "t5", "encoder": "llama", "encoder_decoder": "bert"}[shape]
    folder = save_config(tmp_path, family)
    with pytest.raises(UserError, match=AUTO_CLASSES[shape]):
        make(family, folder, shape=shape)


@pytest.mark.bad_input
def test_logits_made_in_an_unknown_way_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward: Any = transformers.LlamaForCausalLM.forward

    def doubled(self: Any, **inputs: Any) -> Any:
        output: Any = forward(self, **inputs)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", doubled)
    model = make("llama", save_config(tmp_path, "llama"))
    with pytest.raises(UserError, match="changes its logits"):
        model(make_batch([3, 2]))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=hf"], "model.name_or_path="),
        (["model=hf", "model.name_or_path=./nowhere"], "no config.json in ./nowhere"),
        (["model=llama_from_hf", "task=causal_lm", "data=pydoc"], "model.path="),
    ],
)
def test_a_model_that_is_not_there_is_told(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        everytoken.build(*words)
    assert told in str(error.value)


@pytest.mark.bad_input
def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_config(tmp_path, "llama")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[hf\]"'):
        read_config(folder)


@pytest.mark.parametrize("family", ["gpt2", "eurobert", "bart"])
def test_checkpointed_activations_give_the_same_gradients_to_the_bit(family: str, tmp_path: Path):
    folder, batch = save_config(tmp_path, family, attention_dropout=0.2), batch_of(family, [7, 3])
    found: list[dict[str, Tensor]] = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = make(family, folder, checkpoint_activations=checkpointed)
        model(batch)  # for the first time, when its logits are compared
        calls: list[None] = []
        last = [m for m in model.network.modules() if isinstance(m, torch.nn.ModuleList)][-1][-1]
        first = next(last.children())
        first.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        torch.manual_seed(1)
        found.append(gradients(model, target_sums(model(batch), model.head, batch.targets).loss))
        assert len(calls) == 1 + checkpointed
        with torch.inference_mode():
            assert model.eval()(batch).isfinite().all()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.bad_input
def test_a_model_of_transformers_checkpoints_all_layers_or_none(tmp_path: Path):
    words = ["model=hf", f"model.name_or_path={save_config(tmp_path, 'gpt2')}", "logger=none"]
    words += ["task=causal_lm", "data=pydoc", "model.pretrained=false"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [*words, "model.checkpoint_activations=2"])
    with pytest.raises(UserError, match="model=hf must be true or false"):
        check_training(cfg)
