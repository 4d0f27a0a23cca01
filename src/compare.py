"""python -m compare 'run=[DIR,DIR]' [out=FILE]: several runs laid over each other on one page."""

from omegaconf import DictConfig

from everytoken.config.cli import main
from everytoken.report.compare import check_comparison
from everytoken.report.compare import compare as write


def compare(cfg: DictConfig) -> None:
    """Write the page, and say where."""
    print(f"written: {write(cfg)}")


if __name__ == "__main__":
    main("compare", compare, check=check_comparison)
