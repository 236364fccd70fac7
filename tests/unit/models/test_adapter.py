"""MaLA-500's structure: LoRA, more rows than the base has, both embeddings saved, a tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from xampler.errors import ModelError
from xampler.models.build import (
    LanguageModelConfig,
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


def test_scorer_id_depends_on_the_adapter(folders: tuple[Path, Path, PeftModel]) -> None:
    base, adapter, _ = folders
    config = LanguageModelConfig(model=str(base), adapter=str(adapter))
    assert scorer_id(config) != scorer_id(LanguageModelConfig(model=str(base)))


def test_adapter_without_safetensors(folders: tuple[Path, Path, PeftModel]) -> None:
    base, adapter, _ = folders
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"expected adapter_model\.safetensors"):
        load_language_model(LanguageModelConfig(model=str(base), adapter=str(adapter)))


def _merging(folders: tuple[Path, Path, PeftModel], **changes: str) -> LanguageModelConfig:
    base, adapter, _ = folders
    values = {"model": str(base), "adapter": str(adapter), "merged": str(base.with_name("merged"))}
    return LanguageModelConfig.model_validate(values | changes)


def test_weights_merged_once_score_the_same_without_base_and_adapter(
    folders: tuple[Path, Path, PeftModel],
) -> None:
    config = _merging(folders)
    before = load_language_model.__wrapped__(config).score_labels(PROMPTS, LABELS)
    identity = scorer_id(config)
    merged = merge_adapter(config)
    assert {path.suffix for path in merged.iterdir()} >= {".safetensors", ".json"}
    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert merge_adapter(config) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == written
    # Only the folder is read now; what scores are kept under does not change.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xampler.models.adapter.load_adapted", None)
        after = load_language_model.__wrapped__(config).score_labels(PROMPTS, LABELS)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert scorer_id(config) == identity == scorer_id(_merging(folders, merged="elsewhere"))


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


def test_killed_merge_leaves_no_folder(
    folders: tuple[Path, Path, PeftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _merging(folders)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", die)
        with pytest.raises(KeyboardInterrupt):
            merge_adapter(config)
    assert not Path(str(config.merged)).exists()
    assert merge_adapter(config).is_dir()


def test_unmerged_adapter_is_not_quantised(folders: tuple[Path, Path, PeftModel]) -> None:
    with pytest.raises(ModelError, match="run `xampler model merge` first"):
        load_language_model(_merging(folders, quantization="4bit"))
