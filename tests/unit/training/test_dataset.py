import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xampler.config import parse_config
from xampler.core.pairing import NEGATIVE
from xampler.errors import TrainingError
from xampler.training.dataset import Row, draw_rows, plan_rows, training_rows
from xampler.training.recipe import ContrastiveRecipe, DistillRecipe, InfoNceRecipe, Recipe
from xampler.training.shards import Candidate, JudgedQuery

SCHEDULE = {"learning_rate": 1e-3, "batch_size": 4, "steps": 10, "evaluate_every": 5}


def infonce(**changes: object) -> InfoNceRecipe:
    return parse_config(InfoNceRecipe, SCHEDULE | {"loss": "infonce"} | changes, "test")


def contrastive(**changes: object) -> ContrastiveRecipe:
    return parse_config(ContrastiveRecipe, SCHEDULE | {"loss": "contrastive"} | changes, "test")


def distill(**changes: object) -> DistillRecipe:
    return parse_config(DistillRecipe, SCHEDULE | {"loss": "distill"} | changes, "test")


def draw_all(queries: Sequence[JudgedQuery], recipe: Recipe, parts: int = 1) -> tuple[list[Row], int]:
    """All rows of the run and the rows a step."""

    def epoch() -> "itertools.chain[JudgedQuery]":
        return itertools.chain(queries)

    plan = plan_rows(epoch, recipe, parts)
    return list(draw_rows(epoch, recipe, plan)), plan.batch_size


def make_queries(judged: dict[str, tuple[str, str]]) -> list[JudgedQuery]:
    """Queries whose text is their id; ids are letters: {"q": ("positives", "negatives")}."""
    return [
        JudgedQuery(
            query,
            query,
            [Candidate(one, one, gold_log_prob=-0.1) for one in positives],
            [Candidate(one, one, NEGATIVE, same_label=False, gold_log_prob=-3.0) for one in negatives],
        )
        for query, (positives, negatives) in judged.items()
    ]


def ring_of_queries(count: int) -> list[JudgedQuery]:
    """Each query has the next one as positive and the second next as negative."""
    names = [f"text{number:03}" for number in range(count)]
    candidates = [Candidate(name, name) for name in names]
    return [
        JudgedQuery(name, name, [candidates[(i + 1) % count]], [candidates[(i + 2) % count]])
        for i, name in enumerate(names)
    ]


def batches_of(rows: list[Row], size: int) -> list[list[Row]]:
    assert len(rows) % size == 0
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def texts_of(row: Row) -> set[object]:
    """Of query, positive and negatives: those that are in-batch negatives for others."""
    return {text for name, text in row.items() if name.startswith(("anchor", "positive", "negative"))}


def conflicts(batch: list[Row], queries: list[JudgedQuery]) -> list[tuple[Row, Row]]:
    """Pairs of rows of which the second holds the first one's query or one of its positives; row by row."""
    positives: dict[object, set[str]] = {q.text: {one.text for one in q.positives} for q in queries}
    return [
        (row, other)
        for i, row in enumerate(batch)
        for j, other in enumerate(batch)
        if i != j and texts_of(other) & {row["anchor"], *positives[row["anchor"]]}
    ]


def test_contrastive_rows_are_all_pairs_once_an_epoch() -> None:
    queries = make_queries({"a": ("bc", "d"), "b": ("", "ac"), "c": ("a", "")})
    rows, batch_size = draw_all(queries, contrastive(batch_size=3, steps=4))
    assert (batch_size, len(rows)) == (3, 12)
    pairs = {("a", "b", 1), ("a", "c", 1), ("a", "d", 0), ("b", "a", 0), ("b", "c", 0), ("c", "a", 1)}
    drawn = [(row["sentence1"], row["sentence2"], row["label"]) for row in rows]
    assert set(drawn[:6]) == set(drawn[6:]) == pairs
    assert drawn[:6] != drawn[6:]


def test_triplets_are_of_a_query_its_positive_and_its_negative() -> None:
    queries = make_queries(
        {"a": ("bc", "d"), "e": ("f", "gh"), "i": ("j", "k"), "x": ("y", ""), "z": ("", "y")}
    )
    rows, batch_size = draw_all(queries, infonce(batch_size=2, steps=50))
    assert (batch_size, len(rows)) == (2, 100)
    drawn = {(row["anchor"], row["positive"], row["negative_1"]) for row in rows}
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
    rows, batch_size = draw_all(queries, infonce(batch_size=wanted, steps=8, seed=seed))
    assert 1 <= batch_size <= wanted
    batches = batches_of(rows, batch_size)
    assert len(batches) == 8
    assert [conflicts(batch, queries) for batch in batches] == [[]] * 8


def test_conflicts_are_seen_by_the_check_itself() -> None:
    queries = make_queries({"a": ("b", "c"), "d": ("e", "b")})
    batch: list[Row] = [
        {"anchor": "a", "positive": "b", "negative_1": "c"},
        {"anchor": "d", "positive": "e", "negative_1": "b"},
    ]
    assert conflicts(batch, queries) == [(batch[0], batch[1])]


def test_batches_are_full_where_the_queries_allow() -> None:
    queries = ring_of_queries(100)
    plan = plan_rows(lambda: iter(queries), infonce(batch_size=16), 1)
    assert (plan.batch_size, plan.warnings) == (16, ())


def test_smaller_batches_are_said() -> None:
    # Every query is every other one's positive: only one fits.
    queries = make_queries({name: ("abcd".replace(name, ""), "n") for name in "abcd"})
    plan = plan_rows(lambda: iter(queries), infonce(batch_size=4), 1)
    assert plan.batch_size == 1
    [warning] = plan.warnings
    assert "steps of 1 rows in place of batch_size 4" in warning
    assert "positive" in warning


def test_rows_that_ranks_cannot_share_are_said() -> None:
    queries = ring_of_queries(9)
    plan = plan_rows(lambda: iter(queries), contrastive(batch_size=16), 3)
    [warning] = plan.warnings
    assert "steps of 15 rows in place of batch_size 16: as many as 3 ranks" in warning


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_step_of_all_ranks_is_one_conflict_free_batch(ranks: int) -> None:
    queries = ring_of_queries(30)  # 5 rows fit for sure, not 7
    alone, size_alone = draw_all(queries, infonce(batch_size=7))
    shared, size_shared = draw_all(queries, infonce(batch_size=7), ranks)
    assert size_shared == size_alone - size_alone % ranks
    assert len(shared) == 10 * size_shared
    assert not any(conflicts(batch, queries) for batch in batches_of(shared, size_shared))
    assert len(alone) == 10 * size_alone


def test_contrastive_step_is_shared_equally() -> None:
    assert draw_all(ring_of_queries(9), contrastive(batch_size=16), 3)[1] == 15


def test_more_ranks_than_rows_are_refused() -> None:
    with pytest.raises(TrainingError, match="2 ranks and micro-batches cannot share a step of 1 rows"):
        draw_all(make_queries({"a": ("b", "c")}), infonce(), 2)


@pytest.mark.parametrize(
    "recipe", [infonce(word_dropout=0.3), contrastive(word_dropout=0.3)], ids=["infonce", "contrastive"]
)
def test_same_seed_same_rows(recipe: Recipe) -> None:
    queries = ring_of_queries(40)
    first, again = (draw_all(queries, recipe)[0] for _ in range(2))
    other = draw_all(queries, recipe.model_copy(update={"seed": 1}))[0]
    assert first == again
    assert first != other


def test_all_queries_get_their_turn() -> None:
    queries = ring_of_queries(40)
    rows, _ = draw_all(queries, infonce(batch_size=8, steps=50))
    assert {row["anchor"] for row in rows} == {query.text for query in queries}


@pytest.mark.parametrize("judged", [{"a": ("b", "")}, {"a": ("", "b")}, {"a": ("b", ""), "c": ("", "d")}])
def test_queries_without_both_roles_teach_infonce_nothing(judged: dict[str, tuple[str, str]]) -> None:
    with pytest.raises(TrainingError, match="both a positive and 1 negative"):
        draw_all(make_queries(judged), infonce())


def test_word_dropout_leaves_out_its_share_of_words_in_order() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    queries = [JudgedQuery("q", text, [Candidate("p", text)])]
    rows, _ = draw_all(queries, contrastive(word_dropout=0.25, steps=10))
    kept = [str(row[side]).split() for row in rows for side in ("sentence1", "sentence2")]
    assert all(words == sorted(words, key=lambda word: int(word[1:])) for words in kept)
    assert {row["label"] for row in rows} == {1}
    share = sum(map(len, kept)) / (100 * len(kept))
    assert share == pytest.approx(0.75, abs=0.03)
    assert len({tuple(words) for words in kept}) > 70


def test_word_dropout_never_empties_a_text() -> None:
    queries = make_queries({"a": ("b", "c")})
    rows, _ = draw_all(queries, contrastive(word_dropout=0.95, steps=20))
    assert all(row["sentence1"] and row["sentence2"] for row in rows)


def test_a_text_without_blanks_loses_no_word() -> None:
    queries = [JudgedQuery("q", "球队赢了比赛", [Candidate("p", "ทีมชนะการแข่งขัน")])]
    rows, _ = draw_all(queries, contrastive(word_dropout=0.5, steps=20))
    assert {(row["sentence1"], row["sentence2"]) for row in rows} == {("球队赢了比赛", "ทีมชนะการแข่งขัน")}


def test_without_word_dropout_texts_keep_their_blanks() -> None:
    queries = [JudgedQuery("q", "two  blanks\nand a line", [Candidate("p", "\u0627\u0644 \u0637")])]
    rows, _ = draw_all(queries, contrastive(steps=1))
    assert rows[0] == {"sentence1": "two  blanks\nand a line", "sentence2": "\u0627\u0644 \u0637", "label": 1}


@pytest.mark.parametrize("buffer", [1, 7, 1000])
def test_a_run_that_goes_on_draws_the_rows_that_come_next(buffer: int) -> None:
    queries = ring_of_queries(40)
    for recipe in (infonce(word_dropout=0.3, shuffle_buffer=buffer), contrastive(shuffle_buffer=buffer)):
        plan = plan_rows(lambda: iter(queries), recipe, 1)
        whole = list(draw_rows(lambda: iter(queries), recipe, plan))
        rest = list(draw_rows(lambda: iter(queries), recipe, plan, first_step=7))
        assert rest == whole[7 * plan.batch_size :]
        streamed = training_rows(lambda: iter(queries), recipe, plan, first_step=7)
        assert list(streamed) == rest
        assert streamed.column_names == list(whole[0])


def test_a_small_buffer_still_shows_every_pair_once_an_epoch() -> None:
    queries = ring_of_queries(20)
    rows, _ = draw_all(queries, contrastive(shuffle_buffer=3, batch_size=4, steps=20))
    epochs = [{(row["sentence1"], row["sentence2"]) for row in rows[half : half + 40]} for half in (0, 40)]
    assert len(epochs[0]) == 40
    assert epochs[0] == epochs[1]


def test_epochs_are_steps_of_all_rows() -> None:
    pairs = contrastive(steps=None, epochs=50, batch_size=16)
    assert plan_rows(lambda: iter(ring_of_queries(100)), pairs, 1).steps == 50 * 200 / 16
    queries = infonce(steps=None, epochs=1.5, batch_size=8)
    assert plan_rows(lambda: iter(ring_of_queries(100)), queries, 1).steps == 19  # 150 / 8, rounded up


def test_hard_negatives_are_different_ones() -> None:
    queries = make_queries({"a": ("b", "cde"), "f": ("g", "hi"), "j": ("k", "l")})
    rows, _ = draw_all(queries, infonce(hard_negatives=2, steps=30, batch_size=2))
    assert {row["anchor"] for row in rows} == {"a", "f"}  # the third has one negative only
    assert all(row["negative_1"] != row["negative_2"] for row in rows)
    alone, _ = draw_all(queries, infonce(hard_negatives=0, steps=5, batch_size=2))
    assert set(alone[0]) == {"anchor", "positive"}


def test_distillation_lists_carry_the_teachers_log_probabilities() -> None:
    queries = make_queries({"a": ("bcd", "efg"), "h": ("ij", "klmn")})
    queries[0].others.append(Candidate("o", "o", NEGATIVE, gold_log_prob=-2.0))
    rows, _ = draw_all(queries, distill(candidates=4, steps=40, batch_size=2))
    target = {"o": -2.0} | dict.fromkeys("bcdij", -0.1) | dict.fromkeys("efgklmn", float("-inf"))
    for row in rows:
        shown = [row["positive"], row["negative"], row["candidate_3"], row["candidate_4"]]
        assert row["label"] == [target[str(text)] for text in shown]
        assert len(set(shown)) == 4
        assert target[str(row["positive"])] == -0.1
        assert target[str(row["negative"])] == float("-inf")
    assert {row["candidate_3"] for row in rows} >= {"o", "b", "e"}


def test_lists_too_short_to_distill_are_refused() -> None:
    with pytest.raises(TrainingError, match="no query has 8 candidates"):
        draw_all(make_queries({"a": ("b", "c")}), distill())
