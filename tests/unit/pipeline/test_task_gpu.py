import pytest
import torch
from pyspark import TaskContext
from pyspark.resource import ResourceInformation

from xampler.errors import SetupError
from xampler.pipeline.task_gpu import device_number, take_task_gpu


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> TaskContext:
    """What a Python worker has; this process is a driver again afterwards."""
    monkeypatch.setattr(TaskContext, "_taskContext", None)
    made = TaskContext._getOrCreate()
    made._resources = {}
    return made


@pytest.mark.parametrize(
    ("address", "visible", "devices", "number"),
    [
        ("3", "", 4, 3),
        ("3", "", 1, 0),  # a container that shows one
        ("4", "4,5", 2, 0),
        ("5", "4, 5", 2, 1),
        ("0", "1,0", 2, 1),
        ("5", "5", 1, 0),
        ("GPU-b", "GPU-a,GPU-b", 2, 1),
        ("MIG-a", "MIG-a", 1, 0),
        ("MIG-a", "", 1, 0),
    ],
)
def test_the_device_that_spark_means(address: str, visible: str, devices: int, number: int) -> None:
    assert device_number(address, visible, devices) == number


@pytest.mark.parametrize(
    ("address", "visible", "devices"),
    [
        ("0", "", 0),
        ("4", "", 4),
        ("0", "4,5", 2),  # not device 0: that is Spark's GPU 4
        ("GPU-c", "GPU-a,GPU-b", 2),
        ("GPU-a", "", 2),
        ("MIG-b", "MIG-a,MIG-b", 1),  # CUDA shows the first alone
    ],
)
def test_no_device_that_another_task_may_have(address: str, visible: str, devices: int) -> None:
    with pytest.raises(SetupError, match=rf"GPU '{address}', .* {devices} devices .* is '{visible}'; let"):
        device_number(address, visible, devices)


def test_a_task_takes_its_gpu(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is stood in for: the numbers are what counts here."""
    chosen: list[int] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    context._resources = {"gpu": ResourceInformation("gpu", ["5"])}
    take_task_gpu()
    assert chosen == [1]


def test_no_gpu_scheduling_no_choice(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("nothing to choose"))
    assert context.resources() == {}
    take_task_gpu()
