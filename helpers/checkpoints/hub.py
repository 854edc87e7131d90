"""From a name to a folder: a path, a model of the zoo, or an id of the Hugging Face hub.

Nothing is downloaded unless it is asked for. The hub's cache, its variables (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN) and its
resumable downloads are the library's own.
"""

import os
import re
from pathlib import Path

from helpers import zoo
from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.folder import CONFIG

ZOO_DEFAULT = "tiny-qwen3"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
WANTED = ["*.safetensors", "*.json", "tokenizer*", "*.model", "vocab*", "merges*", "*.jinja", "LICENSE*", "README.md"]
UNWANTED = ["original/*", "onnx/*", "consolidated*"]  # the same weights once more


def resolve(folder_or_hub_id: str | os.PathLike, download: bool = False) -> Path:
    """The folder of a checkpoint: ``"zoo"``, ``"zoo:NAME"``, a folder, or a hub id such as ``"Qwen/Qwen3-0.6B"``.

    A hub id is looked for in the local cache; with ``download`` it is fetched, and a broken download goes on where it
    stopped. CheckpointError, one line, when there is no such thing or no network.
    """
    asked = os.fspath(folder_or_hub_id)
    if asked == "zoo" or asked.startswith("zoo:"):
        return _in_the_zoo(asked.partition(":")[2] or ZOO_DEFAULT)
    if os.path.exists(asked):
        return Path(asked)
    if not HUB_ID.fullmatch(asked):
        raise CheckpointError(repr(asked), "is neither a folder, nor 'zoo:NAME', nor a hub id (OWNER/NAME)")
    return _download(asked) if download else _cached(asked)


def _in_the_zoo(name: str) -> Path:
    try:
        return zoo.folder(name)
    except ValueError as error:
        advice = "" if zoo.names() else "; `git checkout helpers/zoo` brings back what belongs to this course"
        raise CheckpointError(f"zoo:{name}", f"{error}{advice}") from None


def _cached(hub_id: str) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub_id, CONFIG)
    except HFValidationError as error:
        raise CheckpointError(hub_id, f"is no hub id ({_first_line(error)})") from None
    if not isinstance(config, str):
        raise CheckpointError(
            hub_id,
            "there is no such folder here, and no such model in the Hugging Face cache of this machine; "
            f"resolve({hub_id!r}, download=True) fetches it where there is a network",
        )
    return Path(config).parent


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except GatedRepoError:
        reason = "its owner asks you to accept a licence on huggingface.co first, then `hf auth login`"
    except RepositoryNotFoundError:
        reason = "the Hugging Face hub has no such public model"
    except HFValidationError as error:
        reason = f"is no hub id ({_first_line(error)})"
    except Exception as error:  # no network, no disk, a server's fault: each layer below has its own classes for it
        reason = f"could not be downloaded ({_first_line(error)}); the same call carries on from there"
        reason += ", and 'zoo' needs no network"
    raise CheckpointError(hub_id, reason)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
