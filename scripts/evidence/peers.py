"""Training code of others, as their documentation writes it, of tiny random sizes: each a function
that makes what the audit takes, `python -m audit target=peers:llama` from this folder.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import datasets
import lightning as L
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

import everytoken
from everytoken.audit import prepare

PAD, BOS, EOS, MASK = range(4)
WORDS = 60
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<s> {% generation %}"
    "{{ message['content'] }} </s>{% endgeneration %} {% else %}<s> {{ message['content'] }} "
    "{% endif %}{% endfor %}"
)
"""A template that marks its answers, as TRL's assistant_only_loss wants it."""

Made = Any
PEERS: dict[str, Callable[[], Made]] = {}


def peer(name: str) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    """A function makes one; the name is shown."""

    def keep(make: Callable[[], Made]) -> Callable[[], Made]:
        PEERS[name] = make
        return make

    return keep


def sentences(count: int, seed: int = 0) -> list[list[int]]:
    """Random sequences of 4 to 17 ids that are no special ones."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 18, (count,), generator=generator).tolist()
    return [torch.randint(4, WORDS, (n,), generator=generator).tolist() for n in lengths]


def texts(count: int, seed: int = 0) -> list[str]:
    """The same as words."""
    return [" ".join(f"w{id_}" for id_ in ids) for ids in sentences(count, seed)]


def tokenizer() -> Any:
    """Of words, with padding, ends and a chat template of their own."""
    words = ["<pad>", "<s>", "</s>", "<mask>", *(f"w{i}" for i in range(4, WORDS))]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")
    engine = Tokenizer(model)
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=engine,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
    )
    made.chat_template = CHAT
    return made


SPECIAL: dict[str, Any] = {
    "vocab_size": WORDS,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def llama_model() -> Any:
    """The decoder that most of the peers train."""
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SPECIAL, **SMALL, num_attention_heads=2))


def trained(model: Any, data: list[dict[str, Any]], collator: Any, kind: Any = None) -> Any:
    """A Trainer, as its documentation makes one."""
    hf.logging.set_verbosity_error()
    kind = kind or hf.Trainer
    rows: Any = data
    arguments = hf.Seq2SeqTrainingArguments if kind is hf.Seq2SeqTrainer else hf.TrainingArguments
    return kind(
        model=model,
        args=arguments(tempfile.mkdtemp(), use_cpu=True, report_to="none", disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows[:9],
        data_collator=collator,
        processing_class=tokenizer(),
    )


def documents() -> list[dict[str, Any]]:
    """Token ids of texts with their ends."""
    rows = [[*ids, EOS] for ids in sentences(40)]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows]


def pairs() -> list[dict[str, Any]]:
    """The same with another text as target."""
    others = [[*ids, EOS] for ids in sentences(40, seed=1)]
    return [{**row, "labels": other} for row, other in zip(documents(), others, strict=True)]


@peer("Trainer, Llama")
def llama() -> Made:
    """A decoder with the collator of language models."""
    collator = hf.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    return trained(llama_model(), documents(), collator)


@peer("Trainer, Llama, left pads")
def llama_left() -> Made:
    """The same with a tokenizer that pads on the left, as those for generation do."""
    words = tokenizer()
    words.padding_side = "left"
    collator = hf.DataCollatorForLanguageModeling(words, mlm=False)
    return trained(llama_model(), documents(), collator)


@peer("Trainer, GPT-2")
def gpt2() -> Made:
    """The same, of 2019."""
    torch.manual_seed(0)
    config = hf.GPT2Config(**SPECIAL, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    collator = hf.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    return trained(hf.GPT2LMHeadModel(config), documents(), collator)


@peer("Trainer, GPT-2, eos pads")
def gpt2_eos() -> Made:
    """As most tutorials have it: tokenizer.pad_token = tokenizer.eos_token."""
    torch.manual_seed(0)
    config = hf.GPT2Config(**SPECIAL, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    words = tokenizer()
    words.pad_token = words.eos_token
    collator = hf.DataCollatorForLanguageModeling(words, mlm=False)
    return trained(hf.GPT2LMHeadModel(config), documents(), collator)


@peer("Trainer, BERT")
def bert() -> Made:
    """An encoder that fills in masked words."""
    torch.manual_seed(0)
    model = hf.BertForMaskedLM(hf.BertConfig(**SPECIAL, **SMALL, num_attention_heads=2))
    collator = hf.DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.3)
    return trained(model, documents(), collator)


def t5_model() -> Any:
    """An encoder and a decoder."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    sizes |= {"decoder_start_token_id": PAD}
    return hf.T5ForConditionalGeneration(hf.T5Config(**SPECIAL, **sizes))


@peer("Trainer, T5")
def t5() -> Made:
    """The collator makes the decoder's inputs."""
    model = t5_model()
    return trained(model, pairs(), hf.DataCollatorForSeq2Seq(tokenizer(), model=model))


@peer("Seq2SeqTrainer, T5")
def t5_seq2seq() -> Made:
    """The Trainer that is made for it."""
    model = t5_model()
    collator = hf.DataCollatorForSeq2Seq(tokenizer(), model=model)
    return trained(model, pairs(), collator, hf.Seq2SeqTrainer)


@peer("Trainer, Marian")
def marian() -> Made:
    """A translator."""
    torch.manual_seed(0)
    each: dict[str, Any] = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}
    sizes: dict[str, Any] = {
        f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in each.items()
    }
    start: dict[str, Any] = {"decoder_start_token_id": PAD, "forced_eos_token_id": None}
    model = hf.MarianMTModel(hf.MarianConfig(**SPECIAL, **sizes, **start, d_model=32))
    return trained(model, pairs(), hf.DataCollatorForSeq2Seq(tokenizer(), model=model))


def sft(rows: list[dict[str, Any]], **options: Any) -> Any:
    """TRL's trainer for fine-tuning."""
    hf.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    arguments = SFTConfig(
        tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        **{"max_length": 64, **options},
    )
    data = datasets.Dataset.from_list(rows)
    return SFTTrainer(
        model=llama_model(),
        args=arguments,
        train_dataset=data,
        eval_dataset=data.select(range(9)),
        processing_class=tokenizer(),
    )


def prompts() -> list[dict[str, Any]]:
    """Texts, and what answers them."""
    two = zip(texts(40), texts(40, seed=1), strict=True)
    return [{"prompt": f"{prompt} ", "completion": answer} for prompt, answer in two]


def chats() -> list[dict[str, Any]]:
    """Conversations of two questions and two answers."""
    said = zip(*(texts(40, seed) for seed in range(4)), strict=True)
    roles = ("user", "assistant") * 2
    return [
        {"messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]}
        for turns in said
    ]


@peer("SFTTrainer, completion only")
def sft_completion() -> Made:
    """Of a prompt and its completion the latter is learned."""
    return sft(prompts(), completion_only_loss=True)


@peer("SFTTrainer, assistant only")
def sft_assistant() -> Made:
    """Of a conversation the answers are learned."""
    return sft(chats(), assistant_only_loss=True)


@peer("SFTTrainer, packing")
def sft_packing() -> Made:
    """Several texts in a row."""
    return sft([{"text": text} for text in texts(120)], packing=True)


@peer("SFTTrainer, wrapped packing")
def sft_wrapped() -> Made:
    """All texts as one, cut into rows."""
    rows = [{"text": text} for text in texts(120)]
    return sft(rows, packing=True, packing_strategy="wrapped")


@peer("SFTTrainer, padding-free")
def sft_padding_free() -> Made:
    """All texts of a micro-batch in one row."""
    return sft([{"text": text} for text in texts(40)], padding_free=True, max_length=None)


class Plain(L.LightningModule):
    """A small decoder, trained as Lightning's documentation does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, 32)
        self.places = nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, WORDS)
        self.criterion = nn.CrossEntropyLoss(ignore_index=-100)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T)."""
        width = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(width)
        hidden = self.words(ids) + self.places(torch.arange(width))
        return self.head(self.body(hidden, mask=mask, is_causal=True))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean of a micro-batch."""
        loss = self.criterion(self(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The same."""
        loss = self.criterion(self(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
        self.log("val_loss", loss, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def shifted(rows: list[list[int]]) -> dict[str, Tensor]:
    """Padded inputs, and the next tokens as labels."""
    pad = nn.utils.rnn.pad_sequence
    inputs, labels = ([torch.tensor(r[part]) for r in rows] for part in (slice(-1), slice(1, None)))
    return {
        "input_ids": pad(inputs, batch_first=True, padding_value=PAD),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


@peer("Lightning, as documented")
def lightning() -> Made:
    """Plain Lightning."""
    rows: Any = [[BOS, *ids, EOS] for ids in sentences(40)]
    train = DataLoader(rows, 4, shuffle=True, collate_fn=shifted)
    val = DataLoader(rows[:9], 4, collate_fn=shifted)
    return prepare(Plain(), train_dataloaders=train, val_dataloaders=val, eos_id=EOS)


def ours(*words: str) -> Made:
    """A module and its data, as `python -m train` makes them."""
    sizes = ("model.layers=1", "model.width=32", "model.ffn_width=48", "task.max_new_tokens=null")
    parts = everytoken.build(*sizes, *words)
    return prepare(parts.module, datamodule=parts.data)


FEW = ("data.batch_size=16", "data.corpus.train_examples=300", "data.corpus.val_examples=40")


@peer("everytoken, seq2seq")
def everytoken_seq2seq() -> Made:
    """Dates."""
    return ours(*FEW, "data.corpus.test_examples=1")


@peer("everytoken, causal")
def everytoken_causal() -> Made:
    """Python's own documentation."""
    limits = ("data.limit_examples=40", "task.objective.window_tokens=24")
    return ours("task=causal_lm", "data=pydoc", *limits)


@peer("everytoken, masked")
def everytoken_masked() -> Made:
    """The same, with words masked."""
    limits = ("data.limit_examples=40", "task.objective.window_tokens=24")
    return ours("task=masked_lm", "data=pydoc", *limits)
