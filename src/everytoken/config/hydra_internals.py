"""All that reading a command line uses of Hydra which it doesn't document.

Checked with Hydra 1.3. tests/config/test_upstream.py says what another version has changed.
"""

from argparse import ArgumentParser

from hydra._internal.utils import get_args_parser


def argument_parser() -> ArgumentParser:
    """Hydra's own parser of a command line: `hydra._internal.utils.get_args_parser`.

    What it finds has `overrides`, `multirun`, `config_dir`, `config_name`, `config_path`,
    `experimental_rerun`, `help`, `hydra_help`, `cfg` and `info`.
    """
    return get_args_parser()
