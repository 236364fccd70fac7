from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from xampler.config import Config, load_config, parse_config, read_yaml
from xampler.errors import ConfigError


class InnerConfig(Config):
    learning_rate: float = Field(default=2e-5, gt=0)
    langs: tuple[str, ...] = ("eng_Latn",)


class OuterConfig(Config):
    name: str
    steps: int = 10
    shuffle: bool = False
    kind: Literal["a", "b"] = "a"
    inner: InnerConfig = InnerConfig()
    by_name: dict[str, InnerConfig] = {}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def load(path: Path, text: str, *overrides: str) -> OuterConfig:
    path.write_text(text, encoding="utf-8")
    return load_config(OuterConfig, path, overrides)


def refusal(path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, text, *overrides)
    return str(caught.value)


def test_yaml_becomes_the_config(config_file: Path) -> None:
    text = """
        name: Yorùbá  # in any script
        steps: 3
        shuffle: true
        inner: {learning_rate: 1, langs: [yor_Latn, amh_Ethi]}
        by_name: {paper: {learning_rate: 0.5}}
    """
    assert load(config_file, text) == OuterConfig(
        name="Yorùbá",
        steps=3,
        shuffle=True,
        inner=InnerConfig(learning_rate=1.0, langs=("yor_Latn", "amh_Ethi")),
        by_name={"paper": InnerConfig(learning_rate=0.5)},
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: x\nstep: 3", "step: unknown key (misspelt?)"),
        ("name: x\ninner: {learning_rat: 1.0}", "inner.learning_rat: unknown key (misspelt?)"),
        ("name: x\nby_name: {paper: {lang: []}}", "by_name.paper.lang: unknown key (misspelt?)"),
        ("steps: 3", "name: Field required"),
        ("name: x\nsteps: '32'", "steps: Input should be a valid integer (given: '32')"),
        ("name: x\nsteps: 3.5", "steps: Input should be a valid integer"),
        ("name: x\nsteps: true", "steps: Input should be a valid integer"),
        ("name: 7", "name: Input should be a valid string (given: 7)"),
        ("name: no", "name: Input should be a valid string (given: False)"),  # YAML's bare no
        ("name: x\nshuffle: 1", "shuffle: Input should be a valid boolean (given: 1)"),
        (
            "name: x\ninner: {learning_rate: 2e-5}",
            "inner.learning_rate: Input should be a valid number (given: '2e-5')",
        ),
        ("name: x\ninner: {learning_rate: 0.0}", "inner.learning_rate: Input should be greater than 0"),
        ("name: x\ninner: {learning_rate: .nan}", "inner.learning_rate: Input should be greater than 0"),
        ("name: x\ninner: {langs: eng_Latn}", "inner.langs: Input should be a valid array"),
        ("name: x\ninner: {langs: [eng_Latn, no]}", "inner.langs.1: Input should be a valid string"),
        ("name: x\ninner:", "inner: "),
        ("name: x\nkind: c", "kind: Input should be 'a' or 'b' (given: 'c')"),
        ("name: 2026-01-02", "only plain YAML values"),
        ("name: x\nby_name: &self {paper: *self}", "only plain YAML values"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(config_file: Path, text: str, complaint: str) -> None:
    assert f"{config_file}: " in (message := refusal(config_file, text))
    assert complaint in message
    assert "\n" not in message


def test_all_faults_are_listed_at_once(config_file: Path) -> None:
    message = refusal(config_file, "steps: many\nnmae: x")
    assert all(fault in message for fault in ("name: Field required", "steps: Input", "nmae: unknown key"))


def test_number_in_scientific_notation_needs_a_point_and_a_sign(config_file: Path) -> None:
    # YAML 1.1: 2e-5 is a string, 2.0e-5 a number. The string is refused (above), never read as 0.
    assert load(config_file, "name: x\ninner: {learning_rate: 2.0e-5}").inner.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["steps=5"], OuterConfig(name="x", steps=5)),
        (["steps=5", "steps=6"], OuterConfig(name="x", steps=6)),
        (["name=a=b"], OuterConfig(name="a=b")),
        (["name='5'"], OuterConfig(name="5")),
        (["inner.learning_rate=0.1"], OuterConfig(name="x", inner=InnerConfig(learning_rate=0.1))),
        (["inner.langs=[a, b]"], OuterConfig(name="x", inner=InnerConfig(langs=("a", "b")))),
        (["by_name.new.langs=[]"], OuterConfig(name="x", by_name={"new": InnerConfig(langs=())})),
        (
            ["inner={langs: [a]}", "shuffle=true"],
            OuterConfig(name="x", shuffle=True, inner=InnerConfig(langs=("a",))),
        ),
    ],
)
def test_set_changes_single_values(config_file: Path, overrides: list[str], expected: OuterConfig) -> None:
    assert load(config_file, "name: x", *overrides) == expected


def test_set_leaves_its_neighbours_alone(config_file: Path) -> None:
    config = load(config_file, "name: x\ninner: {learning_rate: 0.5, langs: [a]}", "inner.learning_rate=0.25")
    assert config.inner == InnerConfig(learning_rate=0.25, langs=("a",))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("steps", "--set 'steps': expected dotted.path=value"),
        ("=5", "expected dotted.path=value"),
        ("name.first=5", "'name' is not a mapping"),
        ("inner.langs.0=a", "'langs' is not a mapping"),
        ("steps=[1", "not valid YAML"),
        ("stepps=5", "stepps: unknown key"),
        ("inner.rate=5", "inner.rate: unknown key"),
        ("inner.learning_rate=2e-5", "inner.learning_rate: Input should be a valid number"),
        ("steps=", "steps: Input should be a valid integer"),
        ("a..b=1", "a: unknown key"),
    ],
)
def test_broken_set_is_refused(config_file: Path, override: str, complaint: str) -> None:
    assert complaint in refusal(config_file, "name: x\ninner: {langs: [a]}", override)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "expected a mapping"),
        (b"- a\n- b", "expected a mapping"),
        (b"just words", "expected a mapping"),
        (b"name: [", "not valid YAML"),
        (b"name: \tx\n\tsteps: 1", "not valid YAML"),
        (b"name: !!python/object:os.system x", "not valid YAML"),
        (b"name: \xff\xfe", "cannot be read"),
    ],
)
def test_file_that_holds_no_mapping_is_refused(config_file: Path, content: bytes, complaint: str) -> None:
    config_file.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_yaml(config_file)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(OuterConfig, path)


def test_configs_cannot_be_changed() -> None:
    config = OuterConfig(name="x")
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 5  # type: ignore[misc]


def test_json_of_a_config_reads_back_as_the_same() -> None:
    config = OuterConfig(name="x", by_name={"paper": InnerConfig(langs=("a", "b"))})
    values: dict[str, Any] = config.model_dump(mode="json")
    assert parse_config(OuterConfig, values, "run") == config
