import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from xampler import models
from xampler.errors import ModelError
from xampler.models import source
from xampler.models.build import (
    EncoderConfig,
    LanguageModelConfig,
    encoder_id,
    load_encoder,
    load_language_model,
    scorer_id,
)
from xampler.models.placement import language_model_options


def test_score_labels_loads_once_and_scores(language_model_folder: Path) -> None:
    folder = str(language_model_folder)
    scores = models.score_labels(folder, ["water is", "x is"], ["sports", "health"])
    separate = models.score_labels(folder, ["water is"], ["sports"], label_tokens="separate")
    assert scores.shape == (2, 2)
    assert scores.dtype == np.float64
    assert (scores < 0).all()
    assert separate.shape == (1, 1)
    config = LanguageModelConfig(model=folder)
    assert load_language_model(config) is load_language_model(LanguageModelConfig(model=folder))


def test_importing_costs_no_torch() -> None:
    code = "import sys, xampler.models.build, xampler.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torch_and_transformers_are_enough(language_model_folder: Path) -> None:
    code = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

needed = set()

def need(name):
    if (name := name.lower().replace("_", "-")) in needed:
        return
    try:
        requirements = requires(name) or []
    except PackageNotFoundError:
        return
    needed.add(name)
    for requirement in requirements:
        if "extra ==" not in requirement:
            need(re.match(r"[A-Za-z0-9_.-]+", requirement)[0])

need("torch"), need("transformers")
for module, names in packages_distributions().items():
    if module != "xampler" and not {name.lower().replace("_", "-") for name in names} & needed:
        sys.modules[module] = None  # as if it were not installed

import xampler

assert sys.modules["peft"] is sys.modules["pandas"] is sys.modules["pyspark"] is None
assert xampler.score_labels(sys.argv[1], ["water is"], ["sports", "health"]).shape == (1, 2)
demonstrations = [[("water", "health")]]
assert xampler.score_demonstrations(sys.argv[1], ["x"], demonstrations, ["sports", "health"]).shape == (1, 2)
assert len(xampler.embed_texts("mini", ["water"])) == 1
"""
    command = [sys.executable, "-c", code, str(language_model_folder)]
    subprocess.run(command, check=True)


def test_scorer_id_follows_content_not_place(language_model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(language_model_folder, copy)
    config = LanguageModelConfig(model=str(language_model_folder))
    same = scorer_id(LanguageModelConfig(model=str(copy), tokens_per_batch=7, device="cpu"))
    assert scorer_id(config) == same
    assert scorer_id(config) != scorer_id(config.model_copy(update={"dtype": "bfloat16"}))
    assert scorer_id(config) != scorer_id(config.model_copy(update={"label_tokens": "separate"}))
    (copy / "README.md").write_text("nothing that scores depend on")
    assert scorer_id(LanguageModelConfig(model=str(copy))) == same
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert scorer_id(LanguageModelConfig(model=str(copy))) != same


def test_ids_at_a_commit_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_hub_answers", lambda: pytest.fail("the commit is known"))
    first = LanguageModelConfig(model="owner/name", revision="a" * 40)
    assert len(scorer_id(first)) == 16
    assert scorer_id(first) != scorer_id(first.model_copy(update={"revision": "b" * 40}))
    adapted = {"adapter": "owner/adapter", "adapter_revision": "a" * 40}
    assert scorer_id(first) != scorer_id(first.model_copy(update=adapted))
    encoder = EncoderConfig(model="owner/name", revision="a" * 40)
    assert encoder_id(encoder) != encoder_id(encoder.model_copy(update={"prefix": "query: "}))


def test_a_branch_counts_as_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's own cache, laid out as it lays it out, with a branch that moves."""
    cache = tmp_path / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
    (cache / "refs").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def id_at(commit: str) -> str:
        (cache / "refs" / "main").write_text(commit)
        source._commit_of.cache_clear()
        return encoder_id(EncoderConfig(model="owner/name"))

    assert id_at("a" * 40) == encoder_id(EncoderConfig(model="owner/name", revision="a" * 40))
    assert id_at("b" * 40) != id_at("a" * 40)


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'no-such/model-xyz' is neither in the local cache nor"):
        load_encoder(EncoderConfig(model="no-such/model-xyz"))


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not source._hub_answers()


_RESPONSE = MagicMock(headers={})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            GatedRepoError("no", response=_RESPONSE),
            r"huggingface\.co/owner/gated and set the variable HF_TOKEN",
        ),
        (RepositoryNotFoundError("no", response=_RESPONSE), "no such model, or it is private"),
        (RevisionNotFoundError("no", response=_RESPONSE), "at revision 'x'.*not this revision"),
        (OSError("no space left"), "could not be downloaded: no space left"),
    ],
)
def test_hub_refusals(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", MagicMock(side_effect=error))
    with pytest.raises(ModelError, match=message):
        load_language_model(LanguageModelConfig(model="owner/gated", revision="x"))


def test_missing_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_encoder(EncoderConfig(model=str(tmp_path / "nothing")))
    monkeypatch.setattr(source, "MINI_MODELS", tmp_path)
    load_language_model.cache_clear()  # another test may have loaded it in this process
    with pytest.raises(ModelError, match="xampler mini build"):
        load_language_model(LanguageModelConfig(model="mini"))


def test_folder_without_safetensors(language_model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(language_model_folder, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_language_model(LanguageModelConfig(model=str(copy)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 17.00 GiB."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
        MemoryError(),
    ],
)
def test_end_of_memory_is_no_fault_of_the_files(
    error: Exception, language_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for auto_class in ("AutoModel", "AutoModelForCausalLM"):
        monkeypatch.setattr(f"transformers.{auto_class}.from_pretrained", MagicMock(side_effect=error))
    folder = str(language_model_folder)
    with pytest.raises(ModelError, match=r"does not fit into memory.*fewer Spark tasks.*or device_map\)"):
        load_language_model.__wrapped__(LanguageModelConfig(model=folder))
    with pytest.raises(ModelError, match=r"does not fit into memory.*fewer Spark tasks.*bfloat16\)"):
        load_encoder.__wrapped__(EncoderConfig(model=folder))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xla", "hpu"])
def test_device_that_is_not_there(device: str, language_model_folder: Path) -> None:
    """Told before the weights are read."""
    folder = str(language_model_folder)
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used.*expected: auto, cpu"):
        language_model_options(LanguageModelConfig(model=folder, device=device))
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used"):
        load_encoder(EncoderConfig(model=folder, device=device))


@pytest.mark.parametrize("config", [LanguageModelConfig, EncoderConfig])
def test_lengths_and_budgets_have_lower_bounds(
    config: type[LanguageModelConfig | EncoderConfig],
) -> None:
    for values in ({"max_tokens": 0}, {"tokens_per_batch": 0}):
        with pytest.raises(ValueError, match="greater than or equal"):
            config.model_validate({"model": "mini"} | values)


def test_device_map_gives_the_same_scores(language_model_folder: Path) -> None:
    folder = str(language_model_folder)
    whole = load_language_model(LanguageModelConfig(model=folder, device="cpu"))
    spread = load_language_model(LanguageModelConfig(model=folder, device_map="auto"))
    prompts = ["water is", "x is"]
    np.testing.assert_allclose(
        spread.score_labels(prompts, ["sports"]), whole.score_labels(prompts, ["sports"]), atol=1e-3
    )
    with pytest.raises(ValueError, match="give device or device_map"):
        LanguageModelConfig(model=folder, device_map="auto", device="cpu")


def test_quantization_says_what_it_needs(
    language_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LanguageModelConfig(model=str(language_model_folder), quantization="4bit")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="quantization 4bit needs a CUDA device"):
        load_language_model(config)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("xampler.models.placement.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        load_language_model(config)
    monkeypatch.setattr("xampler.models.placement.find_spec", lambda name: name)
    options = language_model_options(config.model_copy(update={"quantization": "8bit"}))
    assert options["quantization_config"].load_in_8bit
    assert options["device_map"] == {"": "cuda"}


def test_quantization_is_part_of_the_scorers_id(language_model_folder: Path) -> None:
    plain = LanguageModelConfig(model=str(language_model_folder))
    kinds = [plain, *(plain.model_copy(update={"quantization": kind}) for kind in ("8bit", "4bit"))]
    assert len({scorer_id(config) for config in kinds}) == 3
    with pytest.raises(ValueError, match="needs merged"):
        LanguageModelConfig(model="base", adapter="adapter", quantization="4bit")
