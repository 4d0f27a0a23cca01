"""Several runs laid over each other on one page: python -m compare 'run=[DIR,DIR]' [out=FILE]."""

from omegaconf import DictConfig

from everytoken.config import cli
from everytoken.config.check import Command
from everytoken.report.compare import check_comparison
from everytoken.report.compare import compare as write


def compare(cfg: DictConfig, command: Command) -> None:
    """Write the page, and print where it is."""
    print(f"written: {write(cfg)}")


def main() -> None:
    """The command."""
    cli.main("compare", compare, check=check_comparison)
