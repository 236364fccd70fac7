"""Names, values and the experiments that a sweep makes of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from xampler.config import load_config
from xampler.errors import ConfigError
from xampler.pipeline.experiment import (
    EncoderMethod,
    ExperimentConfig,
    TrainedMethod,
    conf_folder,
    recipe_faults,
    recipes_in_use,
)
from xampler.pipeline.sweep_config import Sweep, load_sweep, parse_over

SIB200 = conf_folder() / "experiments" / "sib200.yaml"


def load(*over: str, overrides: tuple[str, ...] = ()) -> Sweep:
    return load_sweep(SIB200, over, overrides)


@pytest.mark.parametrize(
    "path", sorted((conf_folder() / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_sweep_loads(path: Path) -> None:
    sweep = load_sweep(path, [], [])
    assert len(sweep.points) > 1
    assert path.stem.split("_")[0] in sweep.config.name
    assert sum(point.reference for point in sweep.points) <= len(sweep.config.over)


def test_every_question_has_a_sweep() -> None:
    found = {path.stem for path in (conf_folder() / "sweeps").glob("*.yaml")}
    assert found == {"candidates", "coverage", "demonstrations", "layer", "source_language"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["k=1,5,10"], {"k": [1, 5, 10]}),
        (["recipe=a,b,k=1,5"], {"recipe": ["a", "b"], "k": [1, 5]}),
        (["recipe=a", "layer=null,3"], {"recipe": ["a"], "layer": [None, 3]}),
        (["data.select.dev=[a, b],all"], {"data.select.dev": [["a", "b"], "all"]}),
        (["m={kind: x, y: [1, 2]},{kind: z}"], {"m": [{"kind": "x", "y": [1, 2]}, {"kind": "z"}]}),
        (["prefix=a=b"], {"prefix": ["a=b"]}),
    ],
)
def test_words_to_values(words: list[str], expected: dict[str, Any]) -> None:
    assert parse_over(words) == expected


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["20"], "expected NAME=VALUE"),
        (["=1"], "expected NAME=VALUE"),
        (["k=1", "k=2"], "k is given twice"),
        (["k=[1"], "not valid YAML"),
    ],
)
def test_broken_words_are_named(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_over(words)


def test_short_names_reach_their_places(tmp_path: Path) -> None:
    over = [
        "recipe=contrastive", "k=1,20", "layer=1", "positives=2", "negatives=3", "source_lang=swh_Latn",
        "demonstrations=5", "mine.seed=4",
    ]  # fmt: skip
    sweep = load_sweep(write(tmp_path, methods=["untrained", "xampler"]), over, [])
    assert len(sweep.points) == 2
    point = sweep.points[1].experiment
    xampler, untrained = point.methods["xampler"], point.methods["untrained"]
    assert isinstance(xampler, TrainedMethod)
    assert isinstance(untrained, EncoderMethod)
    assert (xampler.recipe, untrained.encoder.layer) == ("contrastive", 1)
    assert (point.propose.k, point.demonstrations) == (20, 5)
    assert (point.mine.positives, point.mine.negatives, point.mine.seed) == (2, 3, 4)
    assert (point.pool_lang, point.data.select.train) == ("swh_Latn", ("swh_Latn",))
    assert point.data.select.test == "all"


def test_children_have_names_of_their_own() -> None:
    sweep = load("k=10,20", "source_lang=eng_Latn,swh_Latn")
    names = [point.experiment.name for point in sweep.points]
    assert names[0] == "sib200-k-10-source_lang-eng_latn"
    assert len(set(names)) == 4
    assert [point.reference for point in sweep.points] == [True, False, False, False]
    encoders = "{model: mini, layer: 0, pooling: mean, prefix: abcdefghijklm},{model: mini}"
    long = load(f"methods.untrained.encoder={encoders}")
    assert all(len(point.experiment.name) < 90 for point in long.points)


@pytest.mark.parametrize(
    ("over", "complaint"),
    [
        ("depth=1", "unknown name 'depth'; short names are k, recipe, layer"),
        ("k=0", "over k=0: propose.k: Input should be greater than or equal to 1"),
        ("k=ten", "over k=ten: propose.k: Input should be a valid integer"),
        ("recipe=secret", "unknown recipe 'secret'; train.recipes has"),
        ("propose.kk=1", "propose.kk: unknown key"),
        ("k=10,10", "a value is given twice"),
        ("k.x=1", "over k.x=1: .*unknown key"),
        ("demonstrations.x=1", "over demonstrations.x: 'demonstrations' is not a mapping"),
        (
            "k=20,1",
            r"over k=1: train\.recipes\.infonce: hard_negatives 1 needs 2 candidates a query.* leave 1",
        ),
        ("k=7", r"over k=7: train\.recipes\.distill: candidates 8 needs 8 candidates a query"),
        ("mine={positives: 3, negatives: 4}", r"train\.recipes\.distill: candidates 8 .* leave 7"),
        ("train.ranks=17", r"train\.recipes\.paper: 17 ranks and micro-batches .* batch_size 16"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_runs(over: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(over)


def test_layer_needs_an_encoder() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.base_method, bm25, is of kind bm25"):
        load("layer=1", overrides=("evaluate.base_method=bm25",))


def test_an_experiment_without_values_is_refused() -> None:
    with pytest.raises(ConfigError, match="say what to sweep, as in --over"):
        load()


def test_only_recipes_that_a_child_trains_must_be_trainable(tmp_path: Path) -> None:
    file = write(tmp_path, methods=["untrained", "xampler"], over={"k": [1]})
    with pytest.raises(ConfigError, match=r"over k=1: train\.recipes\.infonce: .*; or leave its methods out"):
        load_sweep(file, [], [])
    assert load_sweep(file, [], ["train.recipes.infonce.hard_negatives=0"]).points
    assert load_sweep(write(tmp_path, methods=["untrained"], set={"propose.k": 1}), [], []).points


def test_an_experiment_with_a_recipe_that_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.recipes\.infonce: hard_negatives 10 needs 11 candidates"):
        load_config(ExperimentConfig, SIB200, ["train.recipes.infonce.hard_negatives=10"])
    unused = (
        "train.recipes.unused={loss: distill, candidates: 99, learning_rate: 0.1, batch_size: 8, steps: 1, \
evaluate_every: 1}"
    )
    experiment = load_config(ExperimentConfig, SIB200, [unused])
    assert recipe_faults(experiment, recipes_in_use(experiment)) == []
    [fault] = recipe_faults(experiment, experiment.train.recipes)
    assert "train.recipes.unused: candidates 99" in fault


def test_sweeps_of_the_command_do_not_share_a_folder(tmp_path: Path) -> None:
    file = write(tmp_path, methods=["untrained"])
    titles = [
        load("k=10,20").title,
        load("k=10,50").title,
        load("k=10", "layer=1").title,
        load("k=10,20", overrides=("demonstrations=3",)).title,
        load_sweep(file, [], []).title,
        load_sweep(file, ["methods.untrained.encoder.layer=1"], []).title,
    ]
    assert len(set(titles)) == len(titles)
    assert re.fullmatch("sib200-k-[0-9a-f]{8}", titles[0])
    assert load("k=10,20").title == titles[0], "the same sweep goes on where it was"
    assert re.fullmatch("sib200-k-layer-[0-9a-f]{8}", titles[2])
    assert titles[4] == "s"
    assert re.fullmatch("s-methods-untrained-encoder-layer-[0-9a-f]{8}", titles[5])


def test_a_wrong_change_is_blamed_on_where_it_was_asked_for(tmp_path: Path) -> None:
    fine = {"propose.k": 20}
    for path, value, complaint in (
        ("data.selekt", {}, r"sweep\.yaml: set data\.selekt: data\.selekt: unknown key"),
        ("demonstrations.x", 1, r"sweep\.yaml: set demonstrations\.x: 'demonstrations' is not a mapping"),
        ("evaluate.base_method", "none", r"sweep\.yaml: set evaluate\.base_method: .*unknown method 'none'"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            load_sweep(write(tmp_path, set=fine | {path: value}), [], ["demonstrations=3"])
    for given in ("data.selekt.x={}", "demonstrations.x=1"):
        with pytest.raises(ConfigError, match=f"^--set {given.partition('=')[0]}: "):
            load_sweep(write(tmp_path, set=fine), [], [given])
        with pytest.raises(ConfigError, match=f"^--set {given.partition('=')[0]}: "):
            load("k=10", overrides=(given,))
    spoilt = tmp_path / "experiment.yaml"
    spoilt.write_text(SIB200.read_text(encoding="utf-8") + "colour: red\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"experiment\.yaml: colour: unknown key"):
        load_sweep(write(tmp_path, experiment=str(spoilt), set=fine), [], [])


def write(folder: Path, **values: Any) -> Path:  # noqa: ANN401 - whatever a file may hold
    path = folder / "sweep.yaml"
    values = {"name": "s", "experiment": str(SIB200), "over": {"k": [10]}} | values
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_values_of_the_file_and_of_the_command(tmp_path: Path) -> None:
    path = write(tmp_path, set={"propose.by": {"kind": "bm25"}}, methods=["untrained"])
    sweep = load_sweep(path, ["k=2,3"], ["demonstrations=7"])
    assert [point.values for point in sweep.points] == [{"k": 2}, {"k": 3}]
    assert [point.experiment.name for point in sweep.points] == ["s-k-2", "s-k-3"]
    assert sweep.base.propose.by.kind == "bm25"
    assert sweep.base.demonstrations == 7
    assert sweep.methods == ("untrained",)
    assert sweep.id != load_sweep(path, ["k=2"], ["demonstrations=7"]).id


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"over": []}, "over: "),
        ({"over": {"k": []}}, "every grid needs a name, and every name a value"),
        ({"methods": ["magic"]}, r"the experiment has no \['magic'\]; it has \['majority'"),
        ({"grid": 1}, "grid: unknown key"),
        ({"experiment": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"set": {"data.select": {"test": "all"}, "promote.split": "test"}}, "under data.select.dev"),
    ],
)
def test_faults_of_a_sweep_file(tmp_path: Path, values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_sweep(write(tmp_path, **values), [], [])
