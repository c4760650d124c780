"""BiSeNet face parsing (arXiv:1808.00897), 19 classes of CelebAMask-HQ, with facexlib's key names (pulid.md §A5)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from pipelines.checkpoint import assign_state, sizes_of

CLASSES = 19


def global_average(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1), by the same kernel as facexlib, so that ties between labels fall alike."""
    return functional.avg_pool2d(x, x.shape[2:])


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """ResNet-18's block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(residual + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Features at 1/8, 1/16 and 1/32 of the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class AttentionRefinement(nn.Module):
    """Channel attention from the global average (§3.2 of the paper)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        attention = self.bn_atten(self.conv_atten(global_average(features)))
        return features * attention.sigmoid()


class ContextPath(nn.Module):
    """Large receptive field: features at 1/8 straight from the ResNet, and refined ones from 1/16 and 1/32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        context = 2 * width
        self.resnet = ResNet18(width)
        self.arm16 = AttentionRefinement(4 * width, context)
        self.arm32 = AttentionRefinement(8 * width, context)
        self.conv_head32 = ConvBNReLU(context, context)
        self.conv_head16 = ConvBNReLU(context, context)
        self.conv_avg = ConvBNReLU(8 * width, context, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, last = self.resnet(x)
        coarse = self.arm32(last) + self.conv_avg(global_average(last))
        coarse = self.conv_head32(functional.interpolate(coarse, sixteenth.shape[2:]))
        fine = self.conv_head16(functional.interpolate(self.arm16(sixteenth) + coarse, eighth.shape[2:]))
        return eighth, fine


class FeatureFusion(nn.Module):
    """Joins spatial and context features with channel attention (§3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(width, width, kernel=1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        features = self.convblk(torch.cat([spatial, context], 1))
        attention = self.conv2(functional.relu(self.conv1(global_average(features))))
        return features * attention.sigmoid() + features


class Head(nn.Module):
    """Class scores."""

    def __init__(self, inputs: int, middle: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, middle)
        self.conv_out = nn.Conv2d(middle, CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(ModelMixin, ConfigMixin):
    """The parser. Two heads of the checkpoint serve its training only and are held but never run."""

    @register_to_config
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cp = ContextPath(width)
        self.ffm = FeatureFusion(4 * width)
        self.conv_out = Head(4 * width, 4 * width)
        self.conv_out16 = Head(2 * width, width)
        self.conv_out32 = Head(2 * width, width)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], file: Path) -> "BiSeNet":
        """Built from the checkpoint's shapes, in float32. Raises LoadError when the keys do not fit."""
        width = sizes_of(state, file, "cp.resnet.conv1.weight", 4)[0]
        with init_empty_weights():
            self = cls(width)
        assign_state(self, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, file)
        return self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """ImageNet-normalised images (B, 3, H, W) -> labels (B, H, W) int64."""
        scores = self.conv_out(self.ffm(*self.cp(image)))
        return functional.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=True).argmax(1)
