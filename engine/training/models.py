"""Networks: built from a catalogue record, filled with weights, frozen as a recipe says, read back from a run.

Nothing but the catalogue names a network: no `hf-hub:` name and no URL reaches timm.
"""

from __future__ import annotations

import functools
import importlib
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.v2 import functional as transforms

from engine.data.preprocessing import Preprocessing
from engine.errors import WeightsError
from engine.runs import catalog
from engine.runs.catalog import Architecture
from engine.runs.config import EXECUTED
from engine.runs.folder import RunFolder, locate
from engine.training import checkpoint
from engine.training.device import Device, choose

HUB_HOST = ("huggingface.co", 443)


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to predict, with everything its input and output need.

    Attributes:
        model: in eval mode, on `device`.
        classes: label order of the outputs.
        mean, std: per channel, of pixels in 0..1.
        preprocessing: how an image becomes the square that the network sees.
        tta: logits are averaged over the four flips.
        run_id: the run it was read from; empty while it is being trained.
    """

    model: nn.Module
    architecture: Architecture
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: Preprocessing
    device: Device
    tta: bool = False
    run_id: str = ""

    @property
    def image_size(self) -> int:
        """Side of the square the network sees, pixels."""
        return self.preprocessing.size

    @property
    def geometry(self) -> str:
        """`square`, `letterbox` or `tiles`."""
        return self.preprocessing.geometry

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (n, height, width, 3) as float32 (n, 3, height, width), on the device, channels last."""
        return normalise(images, self.mean, self.std, self.device.torch)

    def facts(self) -> dict:
        """What stands in the header of the weights file."""
        return {
            "architecture": self.architecture.name,
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            **self.preprocessing.as_record(),
            "tta": self.tta,
        }


def normalise(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> torch.Tensor:
    """uint8 (n, height, width, 3) to float32 (n, 3, height, width): moved as bytes, computed on the device."""
    images = images.to(device, non_blocking=True).permute(0, 3, 1, 2)  # a view: channels last in memory
    scaled = transforms.to_dtype(images, torch.float32, scale=True)
    # As torchvision's normalize, bit for bit, which however copies the six numbers to the device at every call: beside
    # a GPU the program would wait twice for all that it had launched before.
    return scaled.sub_(_per_channel(mean, device)).div_(_per_channel(std, device))


@functools.lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(channels, 1, 1), float32, on the device."""
    with torch.inference_mode(False):  # it outlives the call, and the next may want gradients
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def build(
    architecture: Architecture,
    classes: int,
    pretrained: str = "none",
    *,
    dropout: float = 0.0,
    drop_path: float | None = None,
    image_size: int = 0,
) -> nn.Module:
    """A network with its first weights, in float32 on the CPU.

    Args:
        architecture: a record of the catalogue.
        classes: outputs of the last layer.
        pretrained: `hub`, `offline`, `none`, or the path of a .safetensors file.
        dropout: before the last layer.
        drop_path: stochastic depth; the record's unless given.
        image_size: for transformers, whose positions depend on it; 0 = the record's.

    Raises:
        WeightsError: kind `hub` (cannot be fetched), `package` (not installed), `damaged` or `shape`.
    """
    options: dict = {
        "num_classes": classes,
        "drop_rate": dropout,
        "drop_path_rate": architecture.drop_path if drop_path is None else drop_path,
    }
    if architecture.cam_tokens and image_size and image_size != architecture.image_size:
        options["img_size"] = image_size
    if pretrained == "hub":
        model = _from_hub(architecture, options)
        _start_head(model)
        return model
    model = timm.create_model(architecture.timm_name, pretrained=False, **options)
    _start_head(model)
    if pretrained == "offline":
        fill_by_position(model, package_state(architecture), architecture)
    elif pretrained != "none":
        _fill_by_name(model, Path(pretrained))
    return model


def statistics(model: nn.Module, pretrained: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel of 0..1, that the first weights expect."""
    if pretrained == "offline":
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if pretrained.endswith(".safetensors"):
        _, stored = checkpoint.load_weights(Path(pretrained), check=False)
        if "mean" in stored and "std" in stored:  # weights of one of our own runs
            return tuple(stored["mean"]), tuple(stored["std"])
    facts: dict = model.pretrained_cfg  # type: ignore[assignment]
    return tuple(map(float, facts["mean"])), tuple(map(float, facts["std"]))


def _start_head(model: nn.Module) -> None:
    """First weights of the last layer as Keras' Dense has them (Glorot uniform, bias 0).

    timm's EfficientNets draw from +-1/sqrt(classes), 0.7 for two classes: the first loss is then 6 instead of
    0.7, and three epochs on frozen features reached AUC 0.69 instead of 0.93 (sample data, lite0).
    """
    head = model.get_classifier()  # type: ignore[operator]
    if isinstance(head, nn.Linear):
        nn.init.xavier_uniform_(head.weight)
        nn.init.zeros_(head.bias)


def _from_hub(architecture: Architecture, options: dict) -> nn.Module:
    if not _in_hub_cache(architecture) and not _hub_reachable():
        raise _hub_error(architecture, "no connection to huggingface.co within 5 seconds")
    try:
        return timm.create_model(architecture.timm_name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:  # huggingface_hub's errors are OSErrors
        raise _hub_error(architecture, str(error).splitlines()[0]) from error


def _in_hub_cache(architecture: Architecture) -> bool:
    from huggingface_hub import try_to_load_from_cache

    name = f"timm/{architecture.timm_name}"
    found = [try_to_load_from_cache(name, file) for file in ("model.safetensors", "pytorch_model.bin")]
    return any(isinstance(path, str) for path in found)


def _hub_reachable() -> bool:
    """Asked first, because the hub's own client tries for 47 seconds before it gives up (measured)."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes"):
        return False
    if any(os.environ.get(name) for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # another way out: let the client try it
    try:
        with socket.create_connection(HUB_HOST, timeout=5):
            return True
    except OSError:
        return False


def _hub_error(architecture: Architecture, found: str) -> WeightsError:
    offline = [record.name for record in catalog.ARCHITECTURES if catalog.package_installed(record)]
    if architecture.name in offline:
        remedy = "Take --pretrained offline: the weights of this model are installed"
    elif architecture.package:
        remedy = f"pip install {architecture.package}, then take --pretrained offline"
    elif offline:
        remedy = (
            f"Take one of {', '.join(offline)} with --pretrained offline, give --pretrained a .safetensors file "
            "copied from elsewhere, or take --pretrained none"
        )
    else:
        remedy = "Give --pretrained a .safetensors file copied from elsewhere, or take --pretrained none"
    return WeightsError(
        f"The weights of {architecture.name} cannot be fetched", found=found, remedy=remedy, kind="hub"
    )


def package_state(architecture: Architecture) -> dict[str, torch.Tensor]:
    """The tensors of the record's PyPI weight package.

    Raises:
        WeightsError: it has none, or it is not installed.
    """
    if not architecture.package or not catalog.package_installed(architecture):
        problems = catalog.model_problems(architecture.name, "offline")
        found = problems[0] if problems else None
        raise WeightsError(
            found.message if found else f"No package carries weights of {architecture.name}",
            remedy=found.remedy if found else None,
            kind="package",
        )
    module = importlib.import_module(catalog.package_module(architecture))
    stored = sorted((Path(str(module.__file__)).parent / "models").glob("*.pth"))
    if len(stored) != 1:
        raise WeightsError(
            f"The package {architecture.package} holds no weights file",
            found=f"{len(stored)} .pth files",
            remedy=f"pip install --force-reinstall {architecture.package}",
            kind="package",
        )
    return checkpoint.load_foreign(stored[0])


def fill_by_position(model: nn.Module, state: dict[str, torch.Tensor], architecture: Architecture) -> None:
    """Fill a network with tensors that stand in the same order under other names; the last layer stays.

    Every shape is compared, so that a package whose order differs is refused rather than loaded wrongly.

    Raises:
        WeightsError: kind `shape`.
    """
    own = model.state_dict()
    head = _classifier_names(model)
    kept = [name for name in own if name not in head]
    given = list(state.items())
    body = given[: len(given) - len(head)]
    fits = len(body) == len(kept) and all(
        own[name].shape == tensor.shape for name, (_, tensor) in zip(kept, body, strict=False)
    )
    if not fits:
        raise WeightsError(
            f"The packaged weights do not fit {architecture.name}",
            found=f"{len(body)} tensors for {len(kept)}, or other shapes",
            remedy=f"Install the tested version of {architecture.package or 'the package'} (requirements.txt)",
            kind="shape",
        )
    model.load_state_dict({name: tensor for name, (_, tensor) in zip(kept, body, strict=True)}, strict=False)


def _fill_by_name(model: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file; a last layer for other classes is left out."""
    state, _ = checkpoint.load_weights(path, check=False)
    own, head = model.state_dict(), _classifier_names(model)
    state = {k: v for k, v in state.items() if not (k in head and own[k].shape != v.shape)}
    wrong = [
        name
        for name in own
        if name not in head and (name not in state or state[name].shape != own[name].shape)
    ]
    if wrong:
        raise WeightsError(
            f"{path.name} holds the weights of another network",
            found=f"{len(wrong)} of {len(own)} tensors missing or of another shape, for example {wrong[0]}",
            remedy="Give weights of the chosen model, as timm names its tensors",
            kind="shape",
        )
    model.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _classifier_names(model: nn.Module) -> list[str]:
    """State names of the last layer."""
    prefix = classifier_prefix(model)
    return [name for name in model.state_dict() if name.startswith(prefix + ".")]


def classifier_prefix(model: nn.Module) -> str:
    """Dotted name of the last layer (`classifier`, `fc`, `head.fc` ...)."""
    head = model.get_classifier()  # type: ignore[operator]
    return next(name for name, module in model.named_modules() if module is head)


# -- what is trained ----------------------------------------------------------------------------------


def set_trainable(
    model: nn.Module, architecture: Architecture, trainable: str, freeze_batchnorm: bool
) -> list[str]:
    """Freeze a network as a recipe's stage says.

    Args:
        trainable: `head`, `study` or `all` (`engine.runs.presets.TRAINABLE`).
        freeze_batchnorm: BatchNorm keeps its affine parameters too.

    Returns:
        Names of the parameters that are trained.
    """
    head = classifier_prefix(model)
    first = architecture.first_trainable if trainable == "study" else ""
    reached = not first
    for name, module in model.named_modules():
        reached = reached or name == first
        wanted = reached if trainable != "head" else name == head or name.startswith(head + ".")
        if freeze_batchnorm and isinstance(module, _BatchNorm):
            wanted = False
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(wanted)
    if not reached:
        raise WeightsError(
            f"{architecture.name} has no module {first}",
            remedy="Correct first_trainable in its catalogue record",
            kind="shape",
        )
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def train_mode(model: nn.Module, trainable: str, freeze_batchnorm: bool) -> None:
    """Train mode, but for what is frozen: BatchNorm with fixed statistics, a backbone that is not trained."""
    model.train(trainable != "head")
    if trainable == "head":
        model.get_classifier().train()  # type: ignore[operator]
    if freeze_batchnorm:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def features(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Pooled features before the last layer, (n, features)."""
    return model.forward_head(model.forward_features(pixels), pre_logits=True)  # type: ignore[operator]


def head_logits(model: nn.Module, feature: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """The last layer on pooled features (n, features), with the dropout that stands before it: (n, classes)."""
    head = model.get_classifier()  # type: ignore[operator]
    return head(functional.dropout(feature, dropout, training=head.training))


# -- back from a run ----------------------------------------------------------------------------------


def load_run_model(folder: RunFolder, device: str = "cpu") -> LoadedModel:
    """The best checkpoint of a trained run, verified, in eval mode.

    Raises:
        WeightsError: kind `missing` (no checkpoint yet; an ensemble or an import has none), `damaged`.
        RunError, ConfigError: the run's configuration cannot be read.
    """
    config = folder.config()
    if config.kind == "tta":  # another way of looking with the weights of its member
        member = locate(folder.runs, str(next(iter(config.details.get("members") or ()), "")))
        return replace(load_run_model(member, device), tta=True, run_id=folder.id)
    if not folder.best.is_file():
        kind = config.kind
        remedy = (
            "Wait until its first epoch has been validated"
            if kind in EXECUTED
            else f"A run of kind {kind} has no weights of its own: choose one of its members"
        )
        raise WeightsError(
            f"The run {folder.name} has no checkpoint",
            found=f"kind {kind}, state {folder.state()}",
            remedy=remedy,
            kind="missing",
        )
    state, facts = checkpoint.load_weights(folder.best)
    if "fusion" in facts:
        raise WeightsError(
            f"{folder.name} is a fusion: it sees its members' features, not images",
            found=f"{len(facts['fusion'])} members",
            remedy="Choose one of its members, or read the fusion's own predictions",
            kind="fusion",
        )
    missing = [
        name
        for name in ("architecture", "classes", "mean", "std", "image_size", "geometry")
        if name not in facts
    ]
    if missing:
        raise WeightsError(
            f"The checkpoint of {folder.name} does not say what network it holds",
            found=f"a header without {', '.join(missing)}",
            remedy="It was written by another version or tool: train the run again",
            kind="damaged",
        )
    architecture = catalog.find(str(facts["architecture"]))
    target = choose(device, "fp32")
    preprocessing = Preprocessing.from_record(facts)
    model = build(architecture, len(facts["classes"]), image_size=preprocessing.size)
    model.load_state_dict(state)
    model.to(device=target.torch, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return LoadedModel(
        model=model,
        architecture=architecture,
        classes=tuple(facts["classes"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        preprocessing=preprocessing,
        device=target,
        tta=bool(facts.get("tta")),
        run_id=folder.id,
    )
