"""python scripts/evidence/compare_topologies.py OUT_DIR: does a batch's cut change the result?

Plain Lightning, the Hugging Face Trainer and everytoken each train one model from the same weights
on the same global batches, cut in several ways (topology: processes x micro-batches of each), on
the CPU. Prints how far apart the results are; writes comparison.json and comparison.png.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import AdamW
from torch.utils.data import DataLoader, DistributedSampler

from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.commands.build import quiet_lightning
from everytoken.corpora.dates import Dates
from everytoken.data.collate import Example, collate, filler
from everytoken.data.cut import Topology, cut
from everytoken.data.objective import CausalLM, ExampleKey, Seq2Seq
from everytoken.decoding.sampling import Greedy
from everytoken.errors import BAD_INPUT
from everytoken.model.transformer import Transformer
from everytoken.runtime.console import console
from everytoken.runtime.launch import launch
from everytoken.runtime.world import global_rank
from everytoken.tokenizer.learned import SPECIAL, train_char
from everytoken.training.loss import masked_cross_entropy
from everytoken.training.module import TokenModule
from everytoken.training.schedule import constant

SETUPS = {
    "lightning": "plain Lightning, encoder-decoder",
    "hf-t5": "Hugging Face Trainer, T5",
    "hf-marian": "Hugging Face Trainer, Marian",
    "hf-llama": "Hugging Face Trainer, Llama",
    "everytoken": "everytoken, encoder-decoder",
    "everytoken-causal": "everytoken, decoder",
}
HUGGING_FACE = ("hf-t5", "hf-marian", "hf-llama")
CAUSAL = ("hf-llama", "everytoken-causal")
UNCUT = "1x1"
TOPOLOGIES = {UNCUT: (1, 1), "1x4": (1, 4), "2x1": (2, 1), "2x2": (2, 2)}
BATCH_SIZE, HELD_OUT, LEARNING_RATE = 8, 32, 2e-3
Results = dict[str, dict[str, dict[str, Any]]]


class Run:
    """One training: data, model, and what is measured. `cuts` are micro-batches per process."""

    def __init__(self, setup: str, ranks: int, cuts: int, steps: int) -> None:
        self.ranks, self.cuts, self.steps = ranks, cuts, steps
        self.causal = setup in CAUSAL
        self.examples, vocabulary = corpus(steps, causal=self.causal)
        torch.manual_seed(0)
        self.model = make_model(setup, vocabulary)
        self.given: list[list[int]] = []  # examples of each micro-batch of this rank
        self.start = parameters_to_vector(self.model.parameters()).detach().clone()
        self.gradient = torch.zeros(())
        self.held_out = collate(self.examples[-HELD_OUT:], SPECIAL.pad)
        self.curve = [self.loss(self.held_out)]
        self.first_loss = self.loss(collate(self.examples[:BATCH_SIZE], SPECIAL.pad))
        self.first_logged: float | None = None

    def micro_batch(self, indices: list[int]) -> Batch:
        """Some training examples."""
        self.given.append(indices)
        if not indices:
            return filler(SPECIAL.pad, with_source=not self.causal)
        return collate([self.examples[i] for i in indices], SPECIAL.pad)

    def optimizer(self, parameters: Any) -> AdamW:
        """The optimizer of all set-ups: its hook sees every trainer at the same moment."""
        # With the default eps, 1e-8, Adam makes whole steps of gradients that are mere rounding.
        optimizer = AdamW(parameters, lr=LEARNING_RATE, eps=1e-6)
        ours = {id(p) for p in self.model.parameters()}
        if any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            optimizer.register_step_post_hook(lambda *_: self.measure())  # in no rehearsal
        return optimizer

    def measure(self) -> None:
        """After each step: the gradient, if it is the first, and where the weights have come to."""
        if global_rank() == 0:
            if len(self.curve) == 1:
                gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
                self.gradient = parameters_to_vector(gradients).clone()
            self.curve.append(self.loss(self.held_out))

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        """Mean over target tokens; added up in float64, so that no rounding looks like drift."""
        if isinstance(self.model, Transformer):
            logits, labels = self.model.head(self.model(batch)), batch.targets
        else:
            inputs = transformers_inputs(batch)
            logits, labels = self.model(**inputs).logits, inputs["labels"]
            if self.causal:
                logits, labels = logits[:, :-1], labels[:, 1:]
        return float(masked_cross_entropy(logits.double(), labels))

    def note_logged(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep the training loss that Lightning logs for the first step."""
        if trainer.global_step == 1 and self.first_logged is None:
            self.first_logged = float(trainer.callback_metrics["train/loss"])


def corpus(steps: int, *, causal: bool) -> tuple[list[Example], int]:
    """Training and then held-out examples of one to four dates, long and short; and V."""
    sizes = {"train": steps * BATCH_SIZE, "val": HELD_OUT}
    source = Dates(4 * sizes["train"], 4 * HELD_OUT, 0, 1900, 2099, seed=1)
    records = []
    for split, size in sizes.items():
        dates = iter(source.examples(split))
        for number in np.random.default_rng(0).integers(1, 5, size).tolist():
            some = list(islice(dates, number))
            pair = {field: ", ".join(date[field] for date in some) for field in Dates.fields}
            records.append({"text": " = ".join(pair.values())} if causal else pair)
    tokenizer = train_char(text for record in records for text in record.values())
    size = len(tokenizer)
    objective = (
        CausalLM(SPECIAL, size, 1000, 1000, "windows")
        if causal
        else Seq2Seq(SPECIAL, size, None, 1000, "refuse")
    )
    ids = [dict(zip(r, tokenizer.encode([*r.values()]), strict=True)) for r in records]
    items = [item for record in ids for item in objective.items(record)]
    return [objective.example(item, ExampleKey(0, 0, 0)) for item in items], size


def transformers() -> Any:
    """The library, which only some set-ups need."""
    return import_module("transformers")


def make_model(setup: str, vocabulary: int) -> nn.Module:
    """A small model without dropout."""
    if setup not in HUGGING_FACE:
        shape = "decoder" if setup in CAUSAL else "encoder_decoder"
        sizes = {"layers": 2, "width": 64, "heads": 4, "key_value_heads": 4, "ffn_width": 128}
        more = {
            "dropout": 0.0,
            "token_dropout": 0.0,
            "tie_embeddings": False,
            "rope_base": 10000.0,
            "norm_eps": 1e-6,
            "window": None,
            "attention": "auto",
        }
        return Transformer(shape=shape, vocabulary=vocabulary, **sizes, **more)
    hf = transformers()
    hf.logging.set_verbosity_error()
    common = {"vocab_size": vocabulary, "decoder_start_token_id": SPECIAL.bos}
    common |= {f"{name}_token_id": getattr(SPECIAL, name) for name in ("pad", "bos", "eos")}
    if setup == "hf-t5":
        sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
        return hf.T5ForConditionalGeneration(hf.T5Config(**common, **sizes, dropout_rate=0.0))
    if setup == "hf-marian":
        each = {"layers": 2, "attention_heads": 4, "ffn_dim": 128}
        sizes = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in each.items()}
        return hf.MarianMTModel(hf.MarianConfig(**common, **sizes, d_model=64, dropout=0.0))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**common, **sizes, num_hidden_layers=2))


class Plain(L.LightningModule):
    """What tutorials write: the mean of a micro-batch; Lightning accumulates and averages."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        assert isinstance(run.model, Transformer)
        self.model = run.model
        self.criterion = nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)
        self.configure_optimizers = partial(run.optimizer, run.model.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The model leaves ignored positions out; the mean over the others is the same."""
        loss = self.criterion(self.model.head(self.model(batch)), batch.targets)
        self.log("train/loss", loss)
        return loss


def fit_lightning(run: Run) -> None:
    """Plain Lightning."""
    indices: Any = range(run.steps * BATCH_SIZE)
    # Without a sampler Lightning would use one that shuffles, whatever the loader says.
    sampler = DistributedSampler(indices, run.ranks, global_rank(), shuffle=False)
    size = BATCH_SIZE // (run.ranks * run.cuts)
    loader = DataLoader(indices, size, sampler=sampler, collate_fn=run.micro_batch)
    lightning_trainer(run, accumulate_grad_batches=run.cuts).fit(Plain(run), loader)


def fit_everytoken(run: Run) -> None:
    """everytoken's module; its loader gives this rank's micro-batches of a step together."""
    lengths = np.array([collate([e], SPECIAL.pad).real_count for e in run.examples])

    def micro_batches(step: Any) -> list[Batch]:
        batch = np.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        topologies = (Topology(run.ranks, global_rank(), limit) for limit in count(1))
        parts = (cut(batch, lengths, topology) for topology in topologies)
        return [*map(run.micro_batch, next(p for p in parts if len(p) <= run.cuts))]

    module = TokenModule(
        model=run.model,
        optimizer=run.optimizer,
        scheduler=partial(constant, warmup_fraction=0.0),
        total_steps=run.steps,
        seed=1,
        label_smoothing=0.0,
        z_loss=0.0,
        clip_norm=None,
        special=SPECIAL,
        decode=str,  # nothing is generated
        max_new_tokens=None,
        decoding=Greedy(),
        more_metrics={},
    )
    steps: Any = range(run.steps)
    loader = DataLoader(steps, batch_size=None, collate_fn=micro_batches)
    lightning_trainer(run, use_distributed_sampler=False).fit(module, loader)


def lightning_trainer(run: Run, **more: Any) -> L.Trainer:
    """A trainer that shows and writes nothing."""
    quiet_lightning()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(
        accelerator="cpu",
        devices=run.ranks,
        strategy="ddp" if run.ranks > 1 else "auto",
        max_steps=run.steps,
        log_every_n_steps=1,
        callbacks=[LambdaCallback(on_train_batch_end=run.note_logged)],
        **dict.fromkeys(off, False),
        **more,
    )


def fit_transformers(run: Run) -> None:
    """The Hugging Face Trainer."""
    hf = transformers()
    optimizer = run.optimizer(run.model.parameters())
    indices: Any = range(run.steps * BATCH_SIZE)
    arguments = hf.TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written
        max_steps=run.steps,
        per_device_train_batch_size=BATCH_SIZE // (run.ranks * run.cuts),
        gradient_accumulation_steps=run.cuts,
        train_sampling_strategy="sequential",
        max_grad_norm=0.0,  # no clipping
        remove_unused_columns=False,
        use_cpu=True,
        ddp_backend="gloo" if run.ranks > 1 else None,
        ddp_find_unused_parameters=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = hf.Trainer(
        model=run.model,
        args=arguments,
        train_dataset=indices,
        data_collator=lambda some: transformers_inputs(run.micro_batch(some)),
        optimizers=(optimizer, constant(optimizer, run.steps, warmup_fraction=0.0)),
    )
    trainer.remove_callback(hf.PrinterCallback)
    trainer.train()
    run.first_logged = trainer.state.log_history[0]["loss"]


def transformers_inputs(batch: Batch) -> dict[str, Tensor]:
    """The batch as transformers wants it: its models make decoder inputs, and shift."""
    (ids, is_real), labels = batch.first_side, batch.labels
    if batch.source_ids is None:
        labels = torch.cat([ids[:, :1], labels], dim=1)
        is_real = labels != IGNORE_INDEX
        ids = labels.where(is_real, SPECIAL.pad)
    return {"input_ids": ids, "attention_mask": is_real.long(), "labels": labels}


def train_rank(setup: str, ranks: int, cuts: list[str], steps: int, folder: str) -> None:
    """The job of each process: train with the cuts for so many, leave the results in a folder."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # in one process as in several
    fits = {"lightning": fit_lightning} | dict.fromkeys(HUGGING_FACE, fit_transformers)
    names = ("start", "gradient", "curve", "first_loss", "first_logged", "given")
    for topology in cuts:
        processes, micro_batches = TOPOLOGIES[topology]
        if processes == ranks:
            run = Run(setup, ranks, micro_batches, steps)
            fits.get(setup, fit_everytoken)(run)
            weights = parameters_to_vector(run.model.parameters()).detach()
            results = {name: getattr(run, name) for name in names} | {"weights": weights}
            torch.save(results, Path(folder) / f"{topology}-{global_rank()}.pt")


def train(setup: str, cuts: list[str], steps: int) -> dict[str, dict[str, Any]]:
    """Train uncut and with each cut, in as many processes as it has; what rank 0 measured."""
    topologies = {name: TOPOLOGIES[name] for name in [UNCUT, *cuts]}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in sorted({ranks for ranks, _ in topologies.values()}):
            arguments = {"setup": setup, "ranks": ranks, "cuts": [*topologies], "steps": steps}
            arguments |= {"folder": folder}
            launch("compare_topologies:train_rank", arguments, ranks)
        found = {
            topology: [torch.load(Path(folder) / f"{topology}-{rank}.pt") for rank in range(ranks)]
            for topology, (ranks, _) in topologies.items()
        }
    for topology, results in found.items():
        check_examples(f"{setup} {topology}", results, topologies[topology][1])
    return {topology: results[0] for topology, results in found.items()}


def check_examples(name: str, results: list[dict[str, Any]], cuts: int) -> None:
    """A difference must come from the cut, never from the data."""
    given = [r["given"][i::cuts] for r in results for i in range(cuts)]
    for step, parts in enumerate(zip(*given, strict=True)):
        expected = range(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        if sorted(i for part in parts for i in part) != [*expected]:
            raise RuntimeError(f"{name}: step {step} was given {parts}")


def differences(result: dict[str, Any], uncut: dict[str, Any]) -> dict[str, Any]:
    """How far a run is from the one whose batches were not cut."""

    def relative(difference: Tensor, whole: Tensor) -> float:
        return float(difference.double().norm() / whole.double().norm())

    way = uncut["weights"] - uncut["start"]
    return {
        "gradient": relative(result["gradient"] - uncut["gradient"], uncut["gradient"]),
        "weights": relative(result["weights"] - uncut["weights"], way),
        "loss": result["curve"][-1] - uncut["curve"][-1],
        "logged_over_true": result["first_logged"] / result["first_loss"],
        "curve": result["curve"],
    }


def table(results: Results, *, markdown: bool) -> Table:
    """A line for each set-up and each way to cut."""
    columns = ("set-up", "topology", "gradient", "weights", "held-out", "logged/true")
    grid = Table(*columns, box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    for setup, runs in results.items():
        for topology, run in runs.items():
            if topology != UNCUT:
                numbers = (f"{run['gradient']:.1e}", f"{run['weights']:.1e}", f"{run['loss']:+.1e}")
                grid.add_row(setup, topology, *numbers, f"{run['logged_over_true']:.3f}")
    return grid


def draw(results: Results, path: Path) -> None:
    """A panel for each set-up: how held-out loss departs from that of the uncut run."""
    import matplotlib  # here: ranks don't draw

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    size = (1.2 + 3.1 * columns, 1.4 + 2.3 * rows)
    figure, panels = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    styles = {"1x4": ("#0072B2", "-"), "2x1": ("#E69F00", "-"), "2x2": ("#CC3311", "--")}
    for panel in panels.flat[len(results) :]:
        panel.set_visible(False)
    for panel, (setup, runs) in zip(panels.flat, results.items(), strict=False):
        uncut = np.array(runs[UNCUT]["curve"])
        for topology in (name for name in styles if name in runs):
            color, line = styles[topology]
            distance = np.abs(runs[topology]["curve"] - uncut)[1:].clip(1e-9)
            ranks, cuts = TOPOLOGIES[topology]
            steps = np.arange(1, len(uncut))
            panel.plot(steps, distance, line, color=color, label=f"{ranks} × {cuts}")
        worst = max(run["weights"] for run in runs.values())
        note = f"uncut: loss {uncut[0]:.2f} → {uncut[-1]:.2f}\nweights end up to {worst:.1g} apart"
        panel.text(0.97, 0.37, note, transform=panel.transAxes, ha="right", fontsize=8.5)
        panel.set_title(SETUPS[setup], fontsize=10.5)
        panel.set(yscale="log", ylim=(1e-9, 1))
        panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("optimizer steps")
    figure.supylabel("distance of the held-out loss to the uncut run's\n(nats per token)", size=10)
    figure.suptitle("The same batches, cut differently: does it change what is learned?")
    lines = panels.flat[0].get_legend_handles_labels()
    title = "processes × micro-batches of each (uncut: 1 × 1)"
    figure.legend(*lines, title=title, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def machine() -> dict[str, Any]:
    """What the numbers were measured with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    packages = ("torch", "lightning", "transformers", "accelerate")
    versions = {name: version(name) for name in packages if find_spec(name)}
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description="Does the cut of a batch change what is learned?")
    parser.add_argument("out", type=Path, help="directory for comparison.json and comparison.png")
    names = ", ".join(SETUPS)
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=[*SETUPS], help=names)
    others = [name for name in TOPOLOGIES if name != UNCUT]
    help_cuts = "processes x micro-batches of each"
    parser.add_argument("--cuts", nargs="+", choices=others, default=others, help=help_cuts)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each run")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args()
    missing = not (find_spec("transformers") and find_spec("accelerate"))
    if missing and set(HUGGING_FACE) & set(arguments.setups):
        print('error: set-ups hf-* need: pip install "everytoken[compare]"', file=sys.stderr)
        return BAD_INPUT
    # Processes import this file to find their job.
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    for setup in arguments.setups:
        started = time.perf_counter()
        runs = train(setup, arguments.cuts, arguments.steps)
        console.print(f"{setup}: {time.perf_counter() - started:.0f} s")
        results[setup] = {name: differences(run, runs[UNCUT]) for name, run in runs.items()}
    settings = {"steps": arguments.steps, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
    report = {"settings": settings, "machine": machine(), "results": results}
    text = json.dumps(report, indent=2)
    (arguments.out / "comparison.json").write_text(text + "\n", encoding="utf-8")
    draw(results, arguments.out / "comparison.png")
    console.print(table(results, markdown=arguments.markdown))
    console.print(
        "gradient of the first step, weights and held-out loss at the end: distance to 1x1"
    )
    console.print("logged/true: training loss as the trainer logs it for the first step")
    console.print(f"comparison.json and comparison.png are in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
