import pytest
import torch
from pyspark import TaskContext
from pyspark.resource import ResourceInformation

from xampler.pipeline.task_gpu import take_task_gpu


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> TaskContext:
    """What a Python worker has; this process is a driver again afterwards."""
    monkeypatch.setattr(TaskContext, "_taskContext", None)
    made = TaskContext._getOrCreate()
    made._resources = {}
    return made


@pytest.mark.parametrize(("devices", "taken"), [(4, 3), (1, 0)])
def test_the_address_that_spark_gave(
    devices: int, taken: int, context: TaskContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA is stood in for: the numbers are what counts here."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    context._resources = {"gpu": ResourceInformation("gpu", ["3"])}
    take_task_gpu()
    assert chosen == [taken]


def test_no_gpu_scheduling_no_choice(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("nothing to choose"))
    assert context.resources() == {}
    take_task_gpu()
