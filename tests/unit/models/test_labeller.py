"""What is registered holds no code, and says which terms it stands under."""

import shutil
from pathlib import Path

import pytest

from xampler.core.prompt import PromptConfig
from xampler.core.task import Task
from xampler.errors import ModelError
from xampler.models.build import EncoderConfig, LanguageModelConfig, scorer_id
from xampler.models.fake import FakeEncoder
from xampler.models.index import CandidatePool, EncoderIndex
from xampler.models.labeller import (
    RETRIEVER,
    SPEC_FILE,
    Labeller,
    LabellerSpec,
    load_labeller,
    save_labeller,
)
from xampler.models.source import MINI_MODELS, model_licence

POOL = CandidatePool(("a", "b"), ("The team won.", "The law passed."), ("sports", "politics"))


@pytest.fixture
def spec() -> LabellerSpec:
    model = LanguageModelConfig(model="mini")
    return LabellerSpec(
        task=Task(name="t", labels=("sports", "politics"), template='"{text}" is {label}'),
        pool_lang="eng_Latn",
        demonstrations=1,
        prompt=PromptConfig(),
        language_model=model,
        scorer_id=scorer_id(model),
        encoder=EncoderConfig(model="mini", trust_remote_code=True),
    )


@pytest.fixture
def retriever(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI_MODELS / "encoder", tmp_path / "encoder"))


def test_a_retriever_with_code_is_not_registered(tmp_path: Path, spec: LabellerSpec, retriever: Path) -> None:
    (retriever / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match=r"modeling\.py would be run"):
        save_labeller(tmp_path / "labeller", spec, POOL, retriever)
    assert not (tmp_path / "labeller").exists()


def test_code_put_into_a_labeller_is_not_run(tmp_path: Path, spec: LabellerSpec, retriever: Path) -> None:
    folder = tmp_path / "labeller"
    save_labeller(folder, spec, POOL, retriever)
    assert '"trust_remote_code": true' in (folder / SPEC_FILE).read_text(encoding="utf-8")
    (folder / RETRIEVER / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = folder / RETRIEVER / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace("{", '{"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},', 1),
        encoding="utf-8",
    )
    [labelled] = load_labeller(folder).label_texts(["The team lost."])
    assert labelled.demonstrations == ["The team won."]
    assert not (tmp_path / "ran").exists()


def test_what_a_prompt_lost_is_told(spec: LabellerSpec) -> None:
    model = spec.language_model.model_copy(update={"max_tokens": 80})
    long = CandidatePool(POOL.ids, tuple(f"{text} " * 8 for text in POOL.texts), POOL.labels)
    encoder = FakeEncoder()
    labeller = Labeller(
        spec.model_copy(update={"language_model": model, "demonstrations": 2}),
        long,
        EncoderIndex(long, encoder.encode(long.texts), encoder),
    )
    [short, shortened] = labeller.label_texts(["The team lost.", "The team lost. " * 40])
    assert (short.demonstrations_dropped, short.texts_shortened) == (1, 0)
    assert (shortened.demonstrations_dropped, shortened.texts_shortened) == (1, 1)
    assert short.demonstration_ids == shortened.demonstration_ids == ["a"], "only what was shown"
    assert labeller.statistics.prompts == 2
    assert labeller.statistics.tokens > 0
    assert labeller.label_texts([]) == []
    assert labeller.statistics.tokens == 0


@pytest.mark.parametrize(
    ("card", "config", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "{}", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama2\n---\n", "{}", "llama2"),
        ("---\nlicense: other\n---\n", "{}", "other"),
        ("# No front matter", '{"license": "mit"}', "mit"),
        (None, '{"license": "mit"}', "mit"),
        ("---\nlanguage: en\n---\n", "{}", "unknown"),
        (None, None, "unknown"),
    ],
)
def test_licence_of_a_card_or_config(
    tmp_path: Path, card: str | None, config: str | None, licence: str
) -> None:
    for name, text in (("README.md", card), ("config.json", config)):
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
    assert model_licence(tmp_path) == licence
