import pandas as pd
import pytest

from xampler.pipeline.prompts import ROWS_PER_CALL, regroup, task_count

MANY = 1_000_000


@pytest.mark.parametrize(
    ("rows", "slots", "tasks"),
    [
        (2000, 4, 4),  # 64 cores and 4 GPUs: by the GPUs
        (50, 2, 2),  # too few to fill a call, but both workers work
        (1, 8, 1),
        (0, 8, 1),
        (4 * ROWS_PER_CALL - 1, 2, 2),
        (4 * ROWS_PER_CALL, 2, 4),  # a second round, each task with a full call
        (5 * ROWS_PER_CALL, 1, 5),  # what is done shows after each
        (5 * ROWS_PER_CALL, 2, 4),  # a fifth task would keep the other slot waiting
    ],
)
def test_tasks_by_rows_and_slots(rows: int, slots: int, tasks: int) -> None:
    assert task_count(rows, slots) == tasks


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tasks_beyond_the_slots_have_full_calls(slots: int) -> None:
    for rows in range(slots, MANY, 10_007):
        tasks = task_count(rows, slots)
        assert tasks % slots == 0
        assert tasks == slots or rows // tasks >= ROWS_PER_CALL


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [
        ([10], [4, 4, 2]),  # Spark hands over 10,000 rows at once
        ([1, 1, 1, 1, 1], [4, 1]),
        ([3, 6, 0, 3], [4, 4, 4]),
        ([0, 0], []),
        ([], []),
    ],
)
def test_batches_are_joined_and_split(sizes: list[int], frames: list[int]) -> None:
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    batches = [pd.DataFrame({"row": range(end - size, end)}) for size, end in zip(sizes, ends, strict=True)]
    regrouped = list(regroup(iter(batches), 4))
    assert [len(frame) for frame in regrouped] == frames
    assert [row for frame in regrouped for row in frame["row"]] == list(range(sum(sizes)))
    assert all(frame.index[0] == 0 for frame in regrouped)
