"""MaLA-500's structure: LoRA, more rows than the base has, both embeddings saved, a tokenizer."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import sentencepiece
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from xampler.errors import ModelError
from xampler.models import source
from xampler.models.build import (
    LanguageModelConfig,
    check_label_words,
    language_model_licence,
    load_language_model,
    merge_adapter,
    scorer_id,
)
from xampler.models.causal_lm import CausalLanguageModel

PROMPTS = ["water is here and is", "Новости is"]
LABELS = ["science/technology", "sports"]
BASE_ROWS, ROWS = 250, 300


def _base(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=BASE_ROWS,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            initializer_range=0.4,
            tie_word_embeddings=tied,
        )
    )


def _fill(model: torch.nn.Module) -> None:
    """Random numbers where LoRA and new rows start with zeros or means."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folders(
    request: pytest.FixtureRequest, tmp_path: Path, word_tokenizer: PreTrainedTokenizerBase
) -> tuple[Path, Path, PeftModel]:
    """Base, adapter, and the unmerged model."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = _base(request.param)
    model.save_pretrained(base)
    model.resize_token_embeddings(ROWS, mean_resizing=False)
    if request.param:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    lora = LoraConfig(
        r=8,
        lora_alpha=32,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    _fill(adapted)
    adapted.save_pretrained(str(adapter))
    word_tokenizer.save_pretrained(adapter)
    adapted.eval()
    return base, adapter, adapted


def test_merged_equals_unmerged(
    folders: tuple[Path, Path, PeftModel], word_tokenizer: PreTrainedTokenizerBase
) -> None:
    base, adapter, unmerged = folders
    scorer = load_language_model(LanguageModelConfig(model=str(base), adapter=str(adapter)))
    assert isinstance(scorer, CausalLanguageModel)
    assert scorer.model.get_output_embeddings().weight.shape[0] == ROWS
    tokens = torch.tensor([word_tokenizer(PROMPTS[0])["input_ids"]])
    fresh = load_language_model.__wrapped__(LanguageModelConfig(model=str(base), adapter=str(adapter)))
    fresh.model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = unmerged(input_ids=tokens).logits
        torch.testing.assert_close(fresh.model(input_ids=tokens).logits, expected, atol=1e-5, rtol=1e-5)
        whole = word_tokenizer(f"{PROMPTS[0]} {LABELS[1]}")["input_ids"]
        log_probs = torch.log_softmax(unmerged(input_ids=torch.tensor([whole])).logits[0], dim=-1)
    wanted = sum(float(log_probs[at - 1, whole[at]]) for at in range(tokens.shape[1], len(whole)))
    np.testing.assert_allclose(scorer.score_labels(PROMPTS, LABELS)[0, 1], wanted, atol=1e-4)


def test_tokenizer_that_is_published_as_a_sentencepiece_model_alone(
    folders: tuple[Path, Path, PeftModel], plain_scores: Callable[..., NDArray[np.float64]]
) -> None:
    """As MaLA-500's: byte pairs with bytes to fall back on, and a border of words in front of the text."""
    base, adapter, unmerged = folders
    (adapter / "tokenizer.json").unlink()
    _save_sentencepiece(adapter)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(adapter / "tokenizer.model"))
    config = LanguageModelConfig(model=str(base), adapter=str(adapter))
    check_label_words(config, LABELS)
    scorer = load_language_model(config)
    tokenizer = scorer._tokenizer.tokenizer
    for text in (*PROMPTS, f"{PROMPTS[0]} {LABELS[0]}"):
        assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *theirs.encode(text)]
    [prompt] = scorer._tokenizer.tokenize([(PROMPTS[0],)], LABELS[1:])
    assert [*prompt.context[1:], *prompt.tails[0]] == theirs.encode(f"{PROMPTS[0]} {LABELS[1]}")
    expected = plain_scores(unmerged, tokenizer, PROMPTS, LABELS)
    np.testing.assert_allclose(scorer.score_labels(PROMPTS, LABELS), expected, rtol=0, atol=1e-4)


def _save_sentencepiece(folder: Path) -> None:
    texts = [PROMPTS[0], *LABELS, "water is here and everywhere"] * 4  # Cyrillic falls back on bytes
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            model_type="bpe",
            vocab_size=ROWS,
            byte_fallback=True,
            normalization_rule_name="identity",
            pad_id=-1,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            minloglevel=2,
        )
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"eos_token": "</s>", "unk_token": "<unk>"})
    )


def test_scorer_id_depends_on_the_adapter(folders: tuple[Path, Path, PeftModel]) -> None:
    base, adapter, _ = folders
    config = LanguageModelConfig(model=str(base), adapter=str(adapter))
    assert scorer_id(config) != scorer_id(LanguageModelConfig(model=str(base)))


def test_adapter_without_safetensors(folders: tuple[Path, Path, PeftModel]) -> None:
    base, adapter, _ = folders
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"expected adapter_model\.safetensors"):
        load_language_model(LanguageModelConfig(model=str(base), adapter=str(adapter)))


def _merging(folders: tuple[Path, Path, PeftModel], **changes: str | None) -> LanguageModelConfig:
    base, adapter, _ = folders
    values = {"model": str(base), "adapter": str(adapter), "merged": str(base.with_name("merged"))}
    return LanguageModelConfig.model_validate(values | changes)


def test_weights_merged_once_score_the_same_without_base_and_adapter(
    folders: tuple[Path, Path, PeftModel],
) -> None:
    base, adapter, _ = folders
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    config = _merging(folders)
    unmerged = config.model_copy(update={"merged": None})
    before = load_language_model.__wrapped__(unmerged).score_labels(PROMPTS, LABELS)
    identity = scorer_id(config)
    assert identity == scorer_id(unmerged) == scorer_id(_merging(folders, merged="elsewhere"))
    merged = merge_adapter(config)
    assert {path.suffix for path in merged.iterdir()} >= {".safetensors", ".json"}
    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert merge_adapter(config) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == written
    # Only the folder is read now; what scores are kept under does not change.
    shutil.rmtree(base)
    shutil.rmtree(adapter)
    check_label_words(config, LABELS)
    after = load_language_model.__wrapped__(config).score_labels(PROMPTS, LABELS)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert scorer_id(config) == identity
    assert language_model_licence(config) == "mit + unknown"
    with pytest.raises(ModelError, match="not the merge of this base"):
        load_language_model.__wrapped__(_merging(folders, adapter=str(adapter.with_name("another"))))


def test_merge_of_local_folders_is_known_without_hashing_them(
    folders: tuple[Path, Path, PeftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _, _ = folders
    config = _merging(folders)
    merge_adapter(config)
    identity = scorer_id(config)
    weights = base / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(source, "_file_hash", None)
        load_language_model.__wrapped__(config)
        assert scorer_id(config) == identity
    os.utime(weights, ns=(1, 1))  # other times alone do not make it another model
    load_language_model.__wrapped__(config)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="not the merge of this base"):
        load_language_model.__wrapped__(config)
    assert scorer_id(config) == scorer_id(config.model_copy(update={"merged": None})) != identity


def test_merge_of_hub_models_needs_no_hub(
    folders: tuple[Path, Path, PeftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {"owner/base": "a" * 40, "owner/adapter": "b" * 40}
    snapshots = {
        model: folder.rename(folder.with_name(commit))  # the hub's cache names a folder by its commit
        for (model, commit), folder in zip(commits.items(), folders[:2], strict=True)
    }
    config = _merging(folders, model="owner/base", adapter="owner/adapter")
    with monkeypatch.context() as patch:
        patch.setattr(source, "_download", lambda model, *_: snapshots[model])
        source._commit_of.cache_clear()
        merge_adapter(config)
    source._commit_of.cache_clear()
    monkeypatch.setattr(source, "_download", None)
    load_language_model.__wrapped__(config)
    pinned = config.model_copy(update={"revision": "a" * 40, "adapter_revision": "b" * 40})
    load_language_model.__wrapped__(pinned)
    assert scorer_id(config) == scorer_id(pinned) == scorer_id(pinned.model_copy(update={"merged": None}))
    with pytest.raises(ModelError, match="not the merge of this base"):
        load_language_model.__wrapped__(config.model_copy(update={"revision": "c" * 40}))


@pytest.mark.parametrize("quantization", [None, "4bit"])
def test_missing_merge_is_no_silent_merge_in_every_worker(
    folders: tuple[Path, Path, PeftModel], quantization: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _merging(folders, merged="nowhere", quantization=quantization)
    monkeypatch.chdir(folders[0])
    for use in (load_language_model, lambda missing: check_label_words(missing, LABELS)):
        with pytest.raises(ModelError, match=rf"no folder {folders[0]}/nowhere.*xampler model merge"):
            use(config)


def test_folder_of_another_merge_is_refused(folders: tuple[Path, Path, PeftModel]) -> None:
    merge_adapter(_merging(folders))
    other = _merging(folders, dtype="bfloat16")
    with pytest.raises(ModelError, match="not the merge of this base, adapter and dtype"):
        load_language_model.__wrapped__(other)
    with pytest.raises(ModelError, match="xampler model merge"):
        merge_adapter(other)


def test_merge_without_adapter_or_folder_is_refused(folders: tuple[Path, Path, PeftModel]) -> None:
    base, adapter, _ = folders
    for config in (
        LanguageModelConfig(model=str(base), merged="merged"),
        LanguageModelConfig(model=str(base), adapter=str(adapter)),
    ):
        with pytest.raises(ModelError, match="give adapter, and merged"):
            merge_adapter(config)


@pytest.mark.parametrize(
    ("fault", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(28, "No space left on device"), ModelError, "merged: .* cannot be written: .*No space left"),
    ],
    ids=["killed", "disk full"],
)
def test_merge_that_ends_early_leaves_nothing(
    folders: tuple[Path, Path, PeftModel],
    fault: BaseException,
    raised: type[BaseException],
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = _merging(folders)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", MagicMock(side_effect=fault))
        with pytest.raises(raised, match=message):
            merge_adapter(config)
    assert sorted(path.name for path in folders[0].parent.iterdir()) == ["adapter", "base"]
    assert merge_adapter(config).is_dir()


def test_two_merges_at_once_do_not_disturb_each_other(
    folders: tuple[Path, Path, PeftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _merging(folders)
    save = PreTrainedTokenizerBase.save_pretrained
    second: list[Path] = []

    def save_during_another_merge(
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        **options: Any,  # noqa: ANN401 - what transformers passes on
    ) -> object:
        if not second:
            second.append(folder)
            assert merge_adapter(config).is_dir()
        return save(tokenizer, folder, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save_during_another_merge)
    merged = merge_adapter(config)
    assert sorted(path.name for path in merged.parent.iterdir()) == ["adapter", "base", "merged"]
    load_language_model.__wrapped__(config)
