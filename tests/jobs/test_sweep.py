"""A sweep, killed after its first child, goes on and ends with a table and a plot."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run
from rich.console import Console

from xampler.errors import DataError
from xampler.pipeline import sweep as module
from xampler.pipeline.context import Context, Engines
from xampler.pipeline.plan import RunSummary, run_parts
from xampler.pipeline.stage import Part
from xampler.pipeline.sweep import SWEEP_TAG, run_sweep
from xampler.pipeline.sweep_config import load_sweep
from xampler.pipeline.sweep_page import sweep_tables, write_results
from xampler.pipeline.sweep_results import SweepResults
from xampler.tables.schema import DEMONSTRATIONS, PREDICTIONS

OpenSample = Callable[..., Context]
OTHER_TEXTS = 2 * 14
PARENT = "mlflow.parentRunId"


@pytest.fixture
def sweep_file(experiment: Path) -> Path:
    path = experiment.with_name("sweep.yaml")
    path.write_text(
        f"name: shown\nexperiment: {experiment.name}\nmethods: [untrained, bm25]\n"
        "over: {demonstrations: [3, 1]}\nsplit: test\ngroups: [script]\n",
        encoding="utf-8",
    )
    return path


def test_a_killed_sweep_goes_on(
    open_sample: OpenSample, sweep_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engines = open_sample().engines
    sweep = load_sweep(sweep_file, [], [])

    def killed(context: Context, parts: list[Part]) -> RunSummary:
        if context.name == "shown-demonstrations-1":
            raise KeyboardInterrupt
        return run_parts(context, parts)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(engines, sweep)
    assert engines.store.read(PREDICTIONS).count() > 0

    results = run_sweep(engines, sweep)
    assert 0 < results.prompts_scored <= 2 * (3 * 14 + 56)
    assert {row["experiment"] for row in engines.store.read(DEMONSTRATIONS).collect()} == {
        "shown-demonstrations-3",
        "shown-demonstrations-1",
    }
    check_results(results)
    check_files(results, tmp_path / "out")
    check_runs(runs_of(engines, "shown"))

    unknown = load_sweep(sweep_file, ["source_lang=swh_Latn"], [])
    with pytest.raises(DataError, match=r"child shown-source_lang-swh_latn: .*swh_Latn has no train split"):
        run_sweep(engines, unknown)


def runs_of(engines: Engines, name: str) -> list[Run]:
    experiment = engines.tracker.client.get_experiment_by_name(name)
    assert experiment is not None
    return list(engines.tracker.client.search_runs([experiment.experiment_id]))


def check_results(results: SweepResults) -> None:
    assert results.references == ("shown-demonstrations-3",), "the experiment's own value"
    found = {(r.child[-1], r.method, r.group_name): r for r in results.results}
    assert {group for _, _, group in found} == {"non_pool", "Latn", "Deva"}
    assert {(value, method) for value, method, _ in found} == {
        (value, method) for value in "31" for method in ("untrained", "bm25")
    }
    assert found["1", "bm25", "non_pool"].texts == OTHER_TEXTS
    assert found["3", "bm25", "non_pool"].change is None
    change, gain = found["1", "bm25", "non_pool"].change, found["1", "bm25", "non_pool"].gain
    assert change is not None
    assert gain is not None
    accuracy = {key[:2]: result.accuracy.value for key, result in found.items() if key[2] == "non_pool"}
    assert change.value == pytest.approx(accuracy["1", "bm25"] - accuracy["3", "bm25"])
    assert gain.value == pytest.approx(accuracy["1", "bm25"] - accuracy["1", "untrained"])
    assert change.low <= change.value <= change.high


def check_files(results: SweepResults, folder: Path) -> None:
    screen = io.StringIO()
    Console(width=160, file=screen).print(*sweep_tables(results))
    assert "all others" in screen.getvalue()
    write_results(results, folder)
    rows = list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text(encoding="utf-8"))))
    values = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert len(rows) == len(values) == len(results.results)
    assert rows[0]["over.demonstrations"] == "3"
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "src=" not in page, "the page must need nothing else"
    assert 'href="http' not in page


def check_runs(runs: list[Run]) -> None:
    """One parent, a run for each child beneath it, and the children's stages beneath those."""
    [parent] = [run for run in runs if PARENT not in run.data.tags and SWEEP_TAG in run.data.tags]
    beneath = [run for run in runs if run.data.tags.get(PARENT) == parent.info.run_id]
    assert len(beneath) == 2
    assert {run.info.status for run in (parent, *beneath)} == {"FINISHED"}
    assert {run.data.params["over.demonstrations"] for run in beneath} == {"3", "1"}
    assert all("eval/accuracy_non_pool/test/bm25" in run.data.metrics for run in beneath)
    stages = [run for run in runs if run.data.tags.get(PARENT) in {run.info.run_id for run in beneath}]
    assert [run.info.run_name for run in stages].count("ingest") == 1, "the second child has the first one's"
    assert len(stages) + len(beneath) + 1 == len(runs)
