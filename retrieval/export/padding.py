"""TensorFlow's padding in integers, so that it can be exported for any size."""

from typing import Any

import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

PLAIN: dict[type, type] = {Conv2dSame: nn.Conv2d, MaxPool2dSame: nn.MaxPool2d, AvgPool2dSame: nn.AvgPool2d}
FLAGS = ("same_pad", "dynamic_padding")  # of StdConv2dSame and CondConv2d


def pad_beforehand(model: nn.Module) -> None:
    """Have each layer of TensorFlow's padding take what is padded already; its weights and their names stay.

    timm rounds a float up for each layer, which torch.export follows for minutes, and ONNX for longer.
    """
    for layer in model.modules():
        flag = next((name for name in FLAGS if getattr(layer, name, False)), None)
        if type(layer) in PLAIN:
            layer.__class__ = PLAIN[type(layer)]
        elif flag:
            setattr(layer, flag, False)
        else:
            continue
        layer.register_forward_pre_hook(padded)


def padded(layer: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The layer's arguments, the first, (B, C, H, W), padded as the layer needs it, the odd pixel at the end."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, getattr(layer, "dilation", (1, 1))
    height, width = (
        same(side, (k - 1) * d + 1, s)
        for side, k, s, d in zip(given[0].shape[-2:], kernel, stride, dilation, strict=True)
    )
    pad = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(given[0], pad, value=-float("inf") if isinstance(layer, nn.MaxPool2d) else 0.0), *given[1:]


def same(side: int, reach: int, stride: int) -> int:
    """Pixels to add to a side so that a window of `reach` pixels has ceil(side / stride) places: (ceil(side / stride)
    - 1) stride + reach - side, at least 0 (TensorFlow, tf.nn, "SAME")."""
    total = reach - stride + -side % stride
    return total if reach >= stride else max(total, 0)
