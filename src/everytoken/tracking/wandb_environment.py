"""The environment that W&B reads: what of it counts, and whether a server can be reached."""

import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import wandb

from everytoken.runtime.redact import hidden

_ours: dict[str, str] = {}
"""Environment variables that were set here, for the run before in this process."""


def keep_inside(run_dir: Path) -> None:
    """Have W&B keep its copies of files in the run directory, and neither print nor phone home."""
    folder = str(run_dir / "wandb" / "data")
    chosen = {"WANDB_DATA_DIR": folder, "WANDB_CACHE_DIR": folder}
    chosen |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    for name, value in chosen.items():
        if os.environ.get(name) == _ours.get(name):
            os.environ[name] = _ours[name] = value


SEEN_TO = {"WANDB_MODE", "WANDB_API_KEY"}
"""Variables that `wandb_logger` obeys itself."""


def overruled(settings: wandb.Settings) -> list[str]:
    """Variables of the environment that W&B would obey, and that a run's settings overrule.

    Args:
        settings: of the run, as it has begun.

    Returns:
        A sentence for each.
    """
    found = []
    for name in sorted(set(os.environ) - SEEN_TO - set(_ours)):
        asked = wandb.Settings()
        asked.update_from_env_vars({name: os.environ[name]})
        for key in asked.model_fields_set:
            value = getattr(settings, key)
            if getattr(asked, key) != value:
                found.append(
                    hidden(f"{name}={os.environ[name]} doesn't count: the run has {key}={value}")
                )
    return found


def why_offline(mode: str, key: str | None) -> str | None:
    """Why a run in that mode has to be recorded offline; None if a server may answer its key."""
    if mode == "offline" or os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return "asked to"
    address = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = address.hostname or ""
    if not (key or os.environ.get("WANDB_API_KEY")) and not _has_netrc_entry(host):
        return "there is no key (set one with: wandb login)"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        return None  # the proxy may reach what this machine can't
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return f"{host} can't be reached ({error})"
    return None


def _has_netrc_entry(host: str) -> bool:
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
