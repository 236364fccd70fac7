import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xampler.config import parse_config
from xampler.core.pairing import HELD_OUT, NEGATIVE, POSITIVE, TRAIN
from xampler.errors import TrainingError
from xampler.training.recipe import InfoNceRecipe
from xampler.training.shards import JudgedQuery, shuffled, stream_queries

# (id, role, same label, log-probability of the gold label), nearest first
JUDGED = [
    ("right", POSITIVE, True, -0.5),
    ("lucky", POSITIVE, False, -0.2),
    ("missed", NEGATIVE, True, -1.5),
    ("wrong", NEGATIVE, False, -4.0),
    ("best", POSITIVE, True, -0.1),
    ("far", NEGATIVE, False, -2.0),
]


def recipe(**changes: object) -> InfoNceRecipe:
    values = {"loss": "infonce", "learning_rate": 1e-3, "batch_size": 4, "steps": 1, "evaluate_every": 1}
    return parse_config(InfoNceRecipe, values | changes, "test")


def row(query_id: str, split: str = TRAIN) -> dict[str, object]:
    candidates = [
        {
            "rank": rank,
            "candidate_id": candidate_id,
            "candidate_text": f"text of {candidate_id}",
            "role": role,
            "same_label": same,
            "gold_log_prob": log_prob,
        }
        for rank, (candidate_id, role, same, log_prob) in enumerate(JUDGED)
    ]
    return {
        "query_id": query_id,
        "query_text": f"text of {query_id}",
        "split": split,
        "candidates": candidates,
    }


def write(folder: Path, files: Sequence[Sequence[dict[str, object]]]) -> str:
    folder.mkdir()
    for number, rows in enumerate(files):
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"part-{number:05}.parquet")
    return str(folder)


def ids(query: JudgedQuery) -> tuple[list[str], list[str], list[str]]:
    lists = (query.positives, query.negatives, query.others)
    return tuple([one.candidate_id for one in found] for found in lists)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("by", "positives", "negatives", "others"),
    [
        ("judgement", ["right", "lucky", "best"], ["missed", "wrong", "far"], []),
        ("label", ["right", "missed", "best"], ["lucky", "wrong", "far"], []),
        ("both", ["right", "best"], ["lucky", "wrong", "far"], ["missed"]),
    ],
)
def test_roles_by_the_recipe_s_signal(
    tmp_path: Path, by: str, positives: list[str], negatives: list[str], others: list[str]
) -> None:
    shards = write(tmp_path / "shards", [[row("q")]])
    [query] = stream_queries(shards, TRAIN, recipe(positives_by=by))
    assert ids(query) == (positives, negatives, others)
    assert (query.text, query.positives[0].text) == ("text of q", "text of right")


def test_splits_apart_and_in_the_order_of_the_files(tmp_path: Path) -> None:
    files = [[row("c"), row("x", HELD_OUT)], [row("a")], [row("b")]]
    shards = write(tmp_path / "shards", files)
    assert [query.query_id for query in stream_queries(shards, TRAIN, recipe())] == ["c", "a", "b"]
    assert [query.query_id for query in stream_queries(shards, HELD_OUT, recipe())] == ["x"]
    one = write(tmp_path / "one", [list(itertools.chain(*files))])
    assert list(stream_queries(one, TRAIN, recipe())) == list(stream_queries(shards, TRAIN, recipe()))


def test_rewritten_shards_are_read_anew(tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", [[row("a")]])
    assert [query.query_id for query in stream_queries(shards, TRAIN, recipe())] == ["a"]
    (tmp_path / "shards").rename(tmp_path / "old")
    write(tmp_path / "shards", [[row("b")]])
    assert [query.query_id for query in stream_queries(shards, TRAIN, recipe())] == ["b"]


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no Parquet file"):
        list(stream_queries(str(tmp_path), TRAIN, recipe()))


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    """A stream, not a table in memory: the second file is spoilt, and nobody notices until it is reached."""
    shards = write(tmp_path / "shards", [[row(f"q{number}") for number in range(50)]])
    (tmp_path / "shards" / "part-00001.parquet").write_bytes(b"not Parquet")
    first = list(itertools.islice(stream_queries(shards, TRAIN, recipe()), 20))
    assert len(first) == 20


@pytest.mark.parametrize("buffer_size", [1, 5, 100])
def test_shuffling_keeps_all_and_looks_no_further_than_its_buffer(buffer_size: int) -> None:
    queries = [JudgedQuery(str(number), "") for number in range(30)]
    drawn = [int(query.query_id) for query in shuffled(iter(queries), buffer_size, random.Random(0))]
    assert sorted(drawn) == list(range(30))
    assert all(query <= place + buffer_size for place, query in enumerate(drawn))
    assert (drawn == list(range(30))) == (buffer_size == 1)
