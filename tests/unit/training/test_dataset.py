import logging
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xampler.config import parse_config
from xampler.core.pairing import HELD_OUT, NEGATIVE, POSITIVE, TRAIN
from xampler.errors import TrainingError
from xampler.training.dataset import JudgedQuery, held_out_samples, read_queries, training_rows
from xampler.training.recipe import ContrastiveRecipe, InfoNceRecipe

Triplet = dict[str, str]
SCHEDULE = {"learning_rate": 1e-3, "batch_size": 4, "steps": 10, "evaluate_every": 5}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def infonce(**changes: object) -> InfoNceRecipe:
    return parse_config(InfoNceRecipe, SCHEDULE | {"loss": "infonce"} | changes, "test")


def contrastive(**changes: object) -> ContrastiveRecipe:
    return parse_config(ContrastiveRecipe, SCHEDULE | {"loss": "contrastive"} | changes, "test")


def make_queries(judged: dict[str, tuple[str, str]]) -> list[JudgedQuery]:
    """Queries whose text is their id; ids are letters: {"q": ("positives", "negatives")}."""
    return [
        JudgedQuery(query, query, [(one, one) for one in positives], [(one, one) for one in negatives])
        for query, (positives, negatives) in judged.items()
    ]


def ring_of_queries(count: int) -> list[JudgedQuery]:
    """Each query has the next one as positive and the second next as negative."""
    names = [f"text{number:03}" for number in range(count)]
    return [
        JudgedQuery(
            name,
            name,
            [(names[(i + 1) % count], names[(i + 1) % count])],
            [(names[(i + 2) % count], names[(i + 2) % count])],
        )
        for i, name in enumerate(names)
    ]


def batches_of(rows: datasets.Dataset, size: int) -> list[list[Triplet]]:
    listed = [dict(row) for row in rows]
    assert len(listed) % size == 0
    return [listed[start : start + size] for start in range(0, len(listed), size)]


def conflicts(batch: list[Triplet], queries: list[JudgedQuery]) -> list[tuple[Triplet, Triplet]]:
    """Pairs of rows of which the second holds the first one's query or one of its positives; row by row."""
    positives = {query.text: {text for _, text in query.positives} for query in queries}
    return [
        (row, other)
        for i, row in enumerate(batch)
        for j, other in enumerate(batch)
        if i != j and set(other.values()) & {row["anchor"], *positives[row["anchor"]]}
    ]


def write_shards(folder: Path, rows: list[tuple[str, str, str, str]], files: int = 1) -> str:
    """Rows (query, candidate, role, split) in the layout of the export; texts are `text of <id>`."""
    folder.mkdir()
    for number in range(files):
        part = rows[number::files]
        columns = {
            "query_id": [query for query, _, _, _ in part],
            "query_text": [f"text of {query}" for query, _, _, _ in part],
            "candidate_id": [candidate for _, candidate, _, _ in part],
            "candidate_text": [f"text of {candidate}" for _, candidate, _, _ in part],
            "role": [role for _, _, role, _ in part],
            "split": [split for _, _, _, split in part],
        }
        pq.write_table(pa.table(columns), folder / f"part-{number}.parquet")
    return str(folder)


ROWS = [
    ("q2", "c9", POSITIVE, TRAIN),
    ("q2", "c1", POSITIVE, TRAIN),
    ("q2", "c5", NEGATIVE, TRAIN),
    ("q1", "c2", NEGATIVE, TRAIN),
    ("q3", "c1", POSITIVE, HELD_OUT),
    ("q3", "c2", NEGATIVE, HELD_OUT),
]


def test_shards_become_queries_in_order_of_id(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", ROWS)
    assert read_queries(shards, TRAIN) == [
        JudgedQuery("q1", "text of q1", [], [("c2", "text of c2")]),
        JudgedQuery("q2", "text of q2", [("c1", "text of c1"), ("c9", "text of c9")], [("c5", "text of c5")]),
    ]
    assert [query.query_id for query in read_queries(shards, HELD_OUT)] == ["q3"]


def test_order_and_number_of_files_are_of_no_account(tmp_path: Path) -> None:
    one = read_queries(write_shards(tmp_path / "one", ROWS), TRAIN)
    assert read_queries(write_shards(tmp_path / "three", ROWS[::-1], files=3), TRAIN) == one


def test_rewritten_shards_are_read_anew(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", ROWS)
    read_queries(shards, TRAIN)
    (tmp_path / "shards").rename(tmp_path / "old")
    write_shards(tmp_path / "shards", [("q7", "c1", POSITIVE, TRAIN)])
    assert [query.query_id for query in read_queries(shards, TRAIN)] == ["q7"]


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", [row for row in ROWS if row[3] == HELD_OUT])
    assert read_queries(shards, HELD_OUT)
    with pytest.raises(TrainingError, match="no train pair"):
        read_queries(shards, TRAIN)


def test_nothing_held_out_is_no_error(tmp_path: Path) -> None:
    assert read_queries(write_shards(tmp_path / "shards", ROWS[:4]), HELD_OUT) == []


def test_held_out_samples_have_both_roles() -> None:
    queries = make_queries({"a": ("pq", "n"), "b": ("p", ""), "c": ("", "n")})
    assert held_out_samples(queries) == [{"query": "a", "positive": ["p", "q"], "negative": ["n"]}]


def test_contrastive_rows_are_all_pairs_once_an_epoch() -> None:
    queries = make_queries({"a": ("bc", "d"), "b": ("", "ac"), "c": ("a", "")})
    rows, batch_size = training_rows(queries, contrastive(batch_size=3, steps=4), ranks=1)
    assert (batch_size, len(rows), rows.column_names) == (3, 12, ["sentence1", "sentence2", "label"])
    pairs = {("a", "b", 1), ("a", "c", 1), ("a", "d", 0), ("b", "a", 0), ("b", "c", 0), ("c", "a", 1)}
    drawn = [(row["sentence1"], row["sentence2"], row["label"]) for row in rows]
    assert set(drawn[:6]) == set(drawn[6:]) == pairs
    assert drawn[:6] != drawn[6:]


def test_triplets_are_of_a_query_its_positive_and_its_negative() -> None:
    queries = make_queries(
        {"a": ("bc", "d"), "e": ("f", "gh"), "i": ("j", "k"), "x": ("y", ""), "z": ("", "y")}
    )
    rows, batch_size = training_rows(queries, infonce(batch_size=2, steps=50), ranks=1)
    assert (batch_size, len(rows), rows.column_names) == (2, 100, ["anchor", "positive", "negative"])
    drawn = {(row["anchor"], row["positive"], row["negative"]) for row in rows}
    expected = {"abd", "acd", "efg", "efh", "ijk"}
    assert drawn == {tuple(triplet) for triplet in expected}


@st.composite
def judged_queries(draw: st.DrawFn) -> list[JudgedQuery]:
    """Up to 12 queries among 14 texts that are one another's candidates, as in a real pool."""
    names = "abcdefghijklmn"
    queries = draw(st.lists(st.sampled_from(names), min_size=1, max_size=12, unique=True))
    judged = {}
    for query in queries:
        others = draw(st.permutations([name for name in names if name != query]))
        positives, negatives = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        judged[query] = ("".join(others[:positives]), "".join(others[positives : positives + negatives]))
    return make_queries(judged)


@settings(deadline=None, max_examples=60)
@given(judged_queries(), st.integers(2, 8), st.integers(0, 3))
def test_no_row_holds_another_rows_query_or_positive(
    queries: list[JudgedQuery], wanted: int, seed: int
) -> None:
    rows, batch_size = training_rows(queries, infonce(batch_size=wanted, steps=8, seed=seed), ranks=1)
    assert 1 <= batch_size <= wanted
    batches = batches_of(rows, batch_size)
    assert len(batches) == 8
    assert [conflicts(batch, queries) for batch in batches] == [[]] * 8


def test_conflicts_are_seen_by_the_check_itself() -> None:
    queries = make_queries({"a": ("b", "c"), "d": ("e", "b")})
    batch = [
        {"anchor": "a", "positive": "b", "negative": "c"},
        {"anchor": "d", "positive": "e", "negative": "b"},
    ]
    assert conflicts(batch, queries) == [(batch[0], batch[1])]


def test_batches_are_full_where_the_queries_allow(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, batch_size = training_rows(ring_of_queries(100), infonce(batch_size=16), ranks=1)
    assert batch_size == 16
    assert not caplog.records


def test_smaller_batches_are_said(caplog: pytest.LogCaptureFixture) -> None:
    # Every query is every other one's positive: only one fits.
    judged = {name: ("abcd".replace(name, ""), "n") for name in "abcd"}
    with caplog.at_level(logging.WARNING):
        _, batch_size = training_rows(make_queries(judged), infonce(batch_size=4), ranks=1)
    assert batch_size == 1
    assert "batches of 1 rows" in caplog.text


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_step_of_all_ranks_is_one_conflict_free_batch(ranks: int) -> None:
    queries = ring_of_queries(30)  # 5 rows fit for sure, not 7
    alone, size_alone = training_rows(queries, infonce(batch_size=7), ranks=1)
    shared, size_shared = training_rows(queries, infonce(batch_size=7), ranks=ranks)
    assert size_shared == size_alone - size_alone % ranks
    assert len(shared) == 10 * size_shared
    assert not any(conflicts(batch, queries) for batch in batches_of(shared, size_shared))
    assert len(alone) == 10 * size_alone


def test_contrastive_step_is_shared_equally() -> None:
    assert training_rows(ring_of_queries(9), contrastive(batch_size=16), ranks=3)[1] == 15


def test_more_ranks_than_rows_are_refused() -> None:
    with pytest.raises(TrainingError, match="2 ranks cannot share a step of 1 rows"):
        training_rows(make_queries({"a": ("b", "c")}), infonce(), ranks=2)


@pytest.mark.parametrize(
    "recipe", [infonce(word_dropout=0.3), contrastive(word_dropout=0.3)], ids=["infonce", "contrastive"]
)
def test_same_seed_same_rows(recipe: InfoNceRecipe | ContrastiveRecipe) -> None:
    queries = ring_of_queries(40)
    first, again = (training_rows(queries, recipe, ranks=1)[0].to_list() for _ in range(2))
    other = training_rows(queries, recipe.model_copy(update={"seed": 1}), ranks=1)[0].to_list()
    assert first == again
    assert first != other


def test_all_queries_get_their_turn() -> None:
    queries = ring_of_queries(40)
    rows, _ = training_rows(queries, infonce(batch_size=8, steps=50), ranks=1)
    assert {row["anchor"] for row in rows} == {query.text for query in queries}


@pytest.mark.parametrize("judged", [{"a": ("b", "")}, {"a": ("", "b")}, {"a": ("b", ""), "c": ("", "d")}])
def test_queries_without_both_roles_teach_infonce_nothing(judged: dict[str, tuple[str, str]]) -> None:
    with pytest.raises(TrainingError, match="both a positive and a negative"):
        training_rows(make_queries(judged), infonce(), ranks=1)


def test_word_dropout_leaves_out_its_share_of_words_in_order() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    queries = [JudgedQuery("q", text, [("p", text)], [])]
    rows, _ = training_rows(queries, contrastive(word_dropout=0.25, steps=10), ranks=1)
    kept = [row[side].split() for row in rows for side in ("sentence1", "sentence2")]
    assert all(words == sorted(words, key=lambda word: int(word[1:])) for words in kept)
    assert {row["label"] for row in rows} == {1}
    share = sum(map(len, kept)) / (100 * len(kept))
    assert share == pytest.approx(0.75, abs=0.03)
    assert len({tuple(words) for words in kept}) > 70


def test_word_dropout_never_empties_a_text() -> None:
    queries = make_queries({"a": ("b", "c")})
    rows, _ = training_rows(queries, contrastive(word_dropout=0.95, steps=20), ranks=1)
    assert all(row["sentence1"] and row["sentence2"] for row in rows)


def test_without_word_dropout_texts_keep_their_blanks() -> None:
    queries = [JudgedQuery("q", "two  blanks\nand a line", [("p", "\u0627\u0644 \u0637")], [])]
    rows, _ = training_rows(queries, contrastive(steps=1), ranks=1)
    assert rows[0] == {"sentence1": "two  blanks\nand a line", "sentence2": "\u0627\u0644 \u0637", "label": 1}
