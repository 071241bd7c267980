"""A checked checkpoint -> the torch executor, every weight as float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from trilens.checkpoints.load import ModelFiles
from trilens.decoder.weights import decoder_weights, own_parameters, parameters, prediction_weights
from trilens.errors import UnsupportedModel

if TYPE_CHECKING:
    from trilens.executors.adapter import Adapter
    from trilens.executors.torch import TorchExecutor


def torch_executor(
    files: ModelFiles, progress: Callable[[int, int], None] | None = None, adapters: Iterable[Adapter] = ()
) -> TorchExecutor:
    """`progress` is called with (bytes read, bytes in all) after each parameter."""
    try:
        import torch
    except ImportError:
        raise UnsupportedModel(
            "running a model needs PyTorch; install it with: pip install 'trilens[torch]' (cards do not need it)"
        ) from None
    from trilens.executors.torch import TorchExecutor

    wanted = list(parameters(decoder_weights(files.spec)))
    if files.has_prediction:
        wanted += own_parameters(prediction_weights(files.spec))
    total, done, tensors = sum(map(files.bytes_of, wanted)), 0, {}
    for parameter in wanted:
        tensors[parameter.name] = torch.from_numpy(files.read(parameter))
        done += files.bytes_of(parameter)
        if progress is not None:
            progress(done, total)
    return TorchExecutor(files.spec, tensors, adapters)
