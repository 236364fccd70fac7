"""The GPU that Spark gave to a task, and how many tasks run at once."""

import os
from typing import Any

from pyspark import SparkContext, TaskContext

from xampler.errors import SetupError


def take_task_gpu() -> None:
    """Make it the default of this Python worker, where Spark hands out GPUs; models then load onto it.

    Call it in a task before a model is loaded. A worker that serves several tasks stays on the GPU on which
    its models are. Without GPU scheduling, the default stays what CUDA_VISIBLE_DEVICES makes it.

    Raises:
        SetupError: CUDA shows this worker no such device.
    """
    addresses = task_gpus()
    if not addresses:
        return
    import torch  # seconds, and only where there is a GPU

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    torch.cuda.set_device(device_number(addresses[0], visible, torch.cuda.device_count()))


def task_gpus() -> list[str]:
    """What Spark calls the GPUs that it gave to this task; none where it hands out no GPUs."""
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    return [] if gpus is None else list(gpus.addresses)


def device_number(address: str, visible: str, devices: int) -> int:
    """CUDA's number of the GPU that Spark calls ``address``; CUDA counts only what it sees, from 0.

    Args:
        address: a number, or an id (``GPU-...``, ``MIG-...``).
        visible: CUDA_VISIBLE_DEVICES, empty if it is not set.
        devices: how many CUDA sees.

    Raises:
        SetupError: none of these is that GPU.
    """
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if address in names:
        number = names.index(address)
    elif devices == 1:
        return 0  # a container that shows one device numbers it 0, whatever Spark calls it
    else:
        number = int(address) if address.isdecimal() and not names else devices
    if number < devices:
        return number
    raise SetupError(
        f"Spark gave a task GPU {address!r}, but CUDA shows its worker {devices} devices and "
        f"CUDA_VISIBLE_DEVICES is {visible!r}; let the executors' discovery script name the devices as "
        "CUDA_VISIBLE_DEVICES does, or show each executor one device (of MIG devices CUDA shows no more)"
    )


def tasks_at_once(context: SparkContext) -> int:
    """How many tasks Spark can run now: by cores and, where it hands out GPUs, by these; at least 1.

    ``defaultParallelism`` goes by cores alone. Executors that are still to be started do not count.
    """
    spark: Any = context._jsc.sc()
    profile = spark.resourceProfileManager().defaultResourceProfile()
    return max(1, int(spark.maxNumConcurrentTasks(profile)))


def gpu_tasks_at_once(context: SparkContext) -> int:
    """Of the tasks that run at once, those that share no GPU that Spark handed out; at least 1.

    With ``spark.task.resource.gpu.amount`` below 1 several share one, and are no faster for it.
    """
    amount = float(context.getConf().get("spark.task.resource.gpu.amount") or 1)
    return max(1, round(tasks_at_once(context) * min(1.0, amount)))
