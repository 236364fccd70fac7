"""The GPU that Spark gave to a task."""

from pyspark import TaskContext


def take_task_gpu() -> None:
    """Make it the default of this Python worker, where Spark hands out GPUs; models then load onto it.

    Call it in a task before a model is loaded. A worker that serves several tasks stays on the GPU on which
    its models are. Without GPU scheduling, the default stays what CUDA_VISIBLE_DEVICES makes it.
    """
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    if gpus is None:
        return
    import torch  # seconds, and only where there is a GPU

    address = int(gpus.addresses[0])
    # A container that shows one device numbers it 0, whatever Spark calls it.
    torch.cuda.set_device(address if address < torch.cuda.device_count() else 0)
