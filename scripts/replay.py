"""python scripts/replay.py FILE: replays a step whose gradient was NaN or infinite.

FILE is in the folder nonfinite/ of a run: the micro-batches of one rank and the weights before the
step. Shows what each layer gave and where it first went wrong. Exit code 0 if it does so again, 1
if everything is finite now, after a change of the code, say.
"""

import argparse
import pickle
import sys
from collections.abc import Collection
from functools import reduce
from pathlib import Path

import torch
from rich.table import Column, Table
from rich.text import Text

from everytoken.batch import Batch, select
from everytoken.callbacks.replay import Observed, Range, Step
from everytoken.commands.adapting import adapt
from everytoken.commands.build import build_module
from everytoken.config.trust import typed_names
from everytoken.errors import BAD_INPUT, UserError, one_line
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.runtime.console import console
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
SHOWN_TEXTS = 5


def main() -> int:
    """Replay and show; mistakes are one line."""
    parser = argparse.ArgumentParser(description="Replays a step that wasn't finite.")
    parser.add_argument("file", type=Path, help="RUN_DIR/nonfinite/step-STEP-rank-RANK.pt")
    parser.add_argument(
        "trust", nargs="*", help="trust=a.Name: code that the run's config may call"
    )
    arguments = parser.parse_args()
    try:
        return replay(arguments.file.absolute(), typed_names(arguments.trust))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def replay(file: Path, trusted: Collection[str] = ()) -> int:
    """The exit code.

    Raises:
        UserError: no such file, or one that isn't of the run that it lies in.
    """
    if not file.is_file():
        raise UserError(f"no file {file}: give one of RUN_DIR/nonfinite/")
    run = Run.open_whole(file.parent.parent, trusted, NOT_BUILT)
    tokenizer = Tokenizer.load(run.tokenizer_file)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        step, weights = Step.load(file, device)
        module = module_of(run, tokenizer, weights, same_device=step.device == device.type)
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        reason = one_line(error, 150)
        raise UserError(f"{file} is of no step of this run's model: {reason}") from error
    dtype = AUTOCAST.get(step.precision)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        observed = step.repeat(module.to(device))
    if step.device != device.type:
        console.print(f"on {device.type} now, and on {step.device} then: other random numbers")
    finding = step.finding(observed)
    shown = 0 if finding is None else finding.micro_batch
    place = f"step {step.steps_made + 1}, rank {step.rank}"
    place += f", micro-batch {shown + 1} of {len(observed)}"
    console.print(table(module, observed[shown]))
    console.print(texts(step.micro_batches[shown], observed[shown].rows, tokenizer))
    if finding is None:
        console.print(f"{place}: everything is finite now, in all micro-batches")
        return 1
    console.print(f"{place}: {finding.what}")
    return 0


def module_of(
    run: Run, tokenizer: Tokenizer, weights: dict[str, torch.Tensor], *, same_device: bool
) -> TokenModule:
    """The run's module as it was before the step, in training mode."""
    cfg = run.config
    if "attention" in cfg.model and not same_device:
        cfg.model.attention = "auto"
    if "pretrained" in cfg.model:
        cfg.model.pretrained = False
    module = build_module(cfg, tokenizer, total_steps=1)
    adapt(cfg, module)
    module.model.load_state_dict(weights)
    return module.train()


def table(module: TokenModule, seen: Observed) -> Table:
    """A row for each layer, in the order in which they were done."""
    columns = "weights", "input", "output", "gradient"
    shown = Table(Column("layer", no_wrap=True), *columns, show_edge=False, pad_edge=False)
    layers = {name or type(module.model).__name__: name for name, _ in module.model.named_modules()}
    for name, output in seen.outputs.items():
        layer = module.model.get_submodule(layers[name])
        prefix = f"{layers[name]}." if layers[name] else ""
        own = {f"{prefix}{n}": p for n, p in layer.named_parameters(recurse=False)}
        cells = (
            [Range.of(parameter) for parameter in own.values()],
            [seen.inputs[name]] if name in seen.inputs else [],
            [output],
            [seen.gradients[n] for n in own if n in seen.gradients],
        )
        is_first = seen.where == name or seen.where in own
        mark, style = (" ◄ first", "bold red") if is_first else ("", None)
        shown.add_row(name + mark, *map(extent, cells), style=style)
    return shown


def extent(ranges: list[Range]) -> str:
    """From the least to the largest value, and how many are NaN or infinite."""
    if not ranges:
        return ""
    low, high, bad, count = reduce(Range.__or__, ranges)
    if bad == count > 0:
        return "none finite"
    return f"{low:.2g} … {high:.2g}" + (f", {bad:,} of {count:,} not finite" if bad else "")


def texts(batch: Batch, rows: list[int], tokenizer: Tokenizer) -> Table:
    """The examples concerned, as text."""
    shown = Table("example", "text", show_edge=False, pad_edge=False)
    inputs, sources = select(batch.input_ids, batch.is_real), select(*batch.first_side)
    for row in rows[:SHOWN_TEXTS]:
        sides = [inputs[row]] if batch.source_ids is None else [sources[row], inputs[row]]
        name = "" if batch.indices is None else str(int(batch.indices[row]))
        shown.add_row(name, Text(" → ".join(map(tokenizer.show, sides))))
    if len(rows) > SHOWN_TEXTS:
        shown.add_row("…", f"{len(rows) - SHOWN_TEXTS} more")
    return shown


if __name__ == "__main__":
    sys.exit(main())
