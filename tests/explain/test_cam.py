"""Maps are the library's maps, they sum to the logit, and they lie where the model looked."""

from __future__ import annotations

import gc
import os
import threading

import cv2
import numpy as np
import psutil
import pytest
import pytorch_grad_cam as library
import torch
from explain_models import random_model, red_finder, tissue, with_red_square
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from engine.errors import ExplainError
from engine.explain import cam, geometry, methods
from engine.runs import catalog

LIBRARY = {
    "gradcam": library.GradCAM,
    "hirescam": library.HiResCAM,
    "gradcam++": library.GradCAMPlusPlus,
    "layercam": library.LayerCAM,
    "eigengradcam": library.EigenGradCAM,
}


@pytest.fixture(scope="module")
def b0():
    return random_model("tf_efficientnet_b0", 96)


def head_bias(model: nn.Module) -> np.ndarray:
    return model.get_classifier().bias.detach().numpy()


def as_the_library_scales(raw: np.ndarray, size: int) -> np.ndarray:
    """What pytorch-grad-cam does to a signed map: clip, scale to 0..1, to the input's size, scale again."""
    scaled = scale_cam_image(np.maximum(raw, 0)[None], (size, size))
    return scale_cam_image(np.maximum(scaled, 0))[0]


def library_map(kind, loaded, image, index, **options):
    tensor = loaded.input(image)
    loaded.model.requires_grad_(True)
    layer = cam.find_layer(loaded.model, loaded.architecture.cam_layer)
    reshape = options.pop("reshape_transform", None)
    with kind(loaded.model, [layer], reshape_transform=reshape, **options) as made:
        return made(tensor, [ClassifierOutputTarget(index)])[0]


# --- the identity --------------------------------------------------------------------------------------


def test_the_signed_map_sums_to_logit_minus_bias(b0):
    images = [tissue(seed=seed) for seed in range(3)]
    for method in ("gradcam", "hirescam"):
        for index, name in enumerate(b0.classes):
            for one in cam.explain(b0, images, method=method, target=name, batch_size=2):
                assert one.raw.sum() == pytest.approx(
                    one.logits[index] - head_bias(b0.model)[index], abs=1e-4
                )


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog.STUDY)
def test_the_identity_holds_for_all_ten_architectures_at_their_own_size(name):
    record = catalog.find(name)
    loaded = random_model(name, record.image_size)
    one = cam.explain(loaded, [tissue()], target="malignant")[0]
    gap = abs(float(one.raw.sum(dtype=np.float64)) - (one.score - head_bias(loaded.model)[1]))
    print(
        f"{name}: grid {one.raw.shape}, logit - bias {one.score - head_bias(loaded.model)[1]:.4f}, gap {gap:.1e}"
    )
    assert (
        abs(one.score - head_bias(loaded.model)[1]) > 1e-2
    )  # the identity would hold for a dead network too
    assert gap < 1e-4


def test_the_margin_is_the_difference_of_the_two_maps(b0):
    image = [tissue()]
    maps = {target: cam.explain(b0, image, target=target)[0] for target in ("benign", "malignant", "margin")}
    np.testing.assert_allclose(
        maps["margin"].raw, maps["malignant"].raw - maps["benign"].raw, atol=1e-5, rtol=0
    )
    assert maps["margin"].score == pytest.approx(maps["malignant"].score - maps["benign"].score)


def test_maps_are_signed(b0):
    maps = cam.explain(b0, [tissue(seed=seed) for seed in range(4)], target="margin")
    assert min(one.raw.min() for one in maps) < 0 < max(one.raw.max() for one in maps)
    assert all(one.heat.min() >= 0 for one in maps)


def test_predicted_explains_the_predicted_class(b0):
    one = cam.explain(b0, [tissue(seed=4)], target="predicted")[0]
    assert one.target == one.predicted
    np.testing.assert_array_equal(one.raw, cam.explain(b0, [tissue(seed=4)], target=one.target)[0].raw)


# --- against pytorch-grad-cam --------------------------------------------------------------------------


@pytest.mark.parametrize("method", LIBRARY)
@pytest.mark.parametrize("index", [0, 1])
def test_maps_equal_those_of_pytorch_grad_cam(b0, method, index):
    image = tissue(seed=2)
    ours = cam.explain(b0, [image], method=method, target=index)[0].raw
    theirs = library_map(LIBRARY[method], b0, image, index)
    candidates = (
        [ours] if method != "eigengradcam" else [ours, -ours]
    )  # the library leaves the sign to the SVD
    gaps = [np.abs(as_the_library_scales(raw, 96) - theirs).max() for raw in candidates]
    assert min(gaps) < 1e-5


def test_scorecam_equals_that_of_pytorch_grad_cam():
    loaded = red_finder(64)
    image = cv2.GaussianBlur(tissue(64, 64), (0, 0), 8)
    ours = cam.explain(loaded, [image], method="scorecam")[0].raw
    theirs = library_map(library.ScoreCAM, loaded, image, 1)
    assert np.abs(as_the_library_scales(ours, 64) - theirs).max() < 1e-5


def test_ablationcam_equals_that_of_pytorch_grad_cam_where_the_library_is_right(b0):
    """Activations without negative values (so that the library too ablates to zero) and a positive score."""
    loaded = red_finder(64)
    image = with_red_square(8, 8, 30, 64, 64)
    ours = cam.explain(loaded, [image], method="ablationcam")[0]
    assert ours.score > 0
    theirs = library_map(library.AblationCAM, loaded, image, 1)
    assert np.abs(as_the_library_scales(ours.raw, 64) - theirs).max() < 1e-5


def test_ablation_weights_are_the_loss_of_score_when_a_channel_is_zero(b0):
    """By hand, with the whole network: the shortcut behind the layer changes nothing."""
    image = tissue(seed=3)
    tensor = b0.input(image)
    features = b0.model.forward_features(tensor).detach()
    whole = b0.model.forward_head(features)[0, 1]
    weights = torch.stack(
        [
            whole - b0.model.forward_head(features.index_fill(1, torch.tensor(c), 0.0))[0, 1]
            for c in range(1280)
        ]
    )
    expected = (weights.view(1, -1, 1, 1) * features).sum(dim=1)[0].detach().numpy()
    ours = cam.explain(b0, [image], method="ablationcam")[0].raw
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_transformer_is_reshaped_as_its_catalogue_record_says():
    loaded = random_model("vit_small_patch16_224", 224)
    image = tissue()
    ours = cam.explain(loaded, [image])[0].raw
    assert ours.shape == (14, 14)
    theirs = library_map(
        library.GradCAM,
        loaded,
        image,
        1,
        reshape_transform=lambda x: x[:, 1:].reshape(x.shape[0], 14, 14, -1).permute(0, 3, 1, 2),
    )
    assert np.abs(as_the_library_scales(ours, 224) - theirs).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_tiny", "resnet50"])
def test_every_other_architecture_has_a_map_at_each_offered_layer(name):
    loaded = random_model(name, 224)
    for layer in methods.layers(loaded.architecture):
        one = cam.explain(loaded, [tissue()], layer=layer.name)[0]
        assert one.raw.ndim == 2
        assert min(one.raw.shape) >= 7, layer
        assert np.abs(one.raw).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnetv2_b0"])
def test_offered_layers_exist_and_get_finer(name):
    loaded = random_model(name, 128)
    sides = [
        cam.explain(loaded, [tissue()], method="layercam", layer=layer.name)[0].raw.shape[0]
        for layer in methods.layers(loaded.architecture)
    ]
    assert sides == sorted(sides)
    assert sides[-1] > sides[0]


@pytest.mark.slow
def test_ablation_behind_a_layer_with_a_connection_around_it():
    """ViT's norm1 is bypassed by the residual stream: it must still carry the image."""
    loaded = random_model("vit_small_patch16_224", 224)
    one = cam.explain(loaded, [tissue()], method="ablationcam")[0]
    assert one.raw.shape == (14, 14)
    assert np.isfinite(one.raw).all()
    assert np.abs(one.raw).max() > 0


# --- batches, state, order ------------------------------------------------------------------------------


def test_a_batch_gives_each_image_the_map_it_has_alone(b0):
    images = [tissue(seed=seed) for seed in range(5)]
    for method in ("gradcam", "randomcam"):
        together = cam.explain(b0, images, method=method, batch_size=3)
        for image, one in zip(images, together, strict=True):
            np.testing.assert_allclose(one.raw, cam.explain(b0, [image], method=method)[0].raw, atol=1e-3)


def test_the_random_control_differs_between_images_but_not_between_calls(b0):
    first, second = cam.explain(b0, [tissue(seed=1), tissue(seed=2)], method="randomcam")
    again = cam.explain(b0, [tissue(seed=1)], method="randomcam")[0]
    np.testing.assert_allclose(first.raw, again.raw, atol=1e-3)
    assert np.corrcoef(first.raw.ravel(), second.raw.ravel())[0, 1] < 0.99


def test_nothing_stays_on_the_model(b0):
    before = cam.find_layer(b0.model, "bn2")._forward_hooks.copy()
    b0.model.zero_grad()
    cam.explain(b0, [tissue()], method="gradcam")
    with pytest.raises(ExplainError):
        cam.explain(b0, [tissue()], layer="classifier")
    assert cam.find_layer(b0.model, "bn2")._forward_hooks == before
    assert not any(module._forward_hooks for module in b0.model.modules())
    assert all(parameter.grad is None for parameter in b0.model.parameters())


def test_two_viewers_at_once_get_the_maps_they_asked_for(b0):
    """Eight threads, one model, other images and targets each; one predicts without asking for maps."""
    images = [tissue(seed=seed) for seed in range(4)]
    asked = [(image, target) for image in images for target in b0.classes]
    alone = [cam.explain(b0, [image], target=target)[0] for image, target in asked]
    found: dict[int, np.ndarray] = {}
    wrong: list[str] = []

    def view(position: int) -> None:
        image, target = asked[position]
        for _ in range(3):
            found[position] = cam.explain(b0, [image], target=target)[0].raw

    def predict() -> None:
        tensor = torch.zeros(1, 3, 96, 96)
        with torch.no_grad():
            expected = b0.model(tensor)
            for _ in range(20):
                if not torch.allclose(b0.model(tensor), expected, atol=1e-5):
                    wrong.append("a prediction changed while maps were made")

    threads = [threading.Thread(target=view, args=(k,)) for k in range(len(asked))]
    threads.append(threading.Thread(target=predict))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for position, one in enumerate(alone):
        np.testing.assert_allclose(found[position], one.raw, atol=1e-6)


def test_an_earlier_layer_before_an_addition_in_place_keeps_its_activations():
    """ResNet adds its shortcut in place: the tapped output must not be what the addition writes to."""
    loaded = random_model("resnet50", 64)
    image = tissue()
    ours = cam.explain(loaded, [image], layer="layer4.2.bn3")[0].raw
    seen = []
    handle = loaded.model.layer4[2].bn3.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    cam.explain(loaded, [image], layer="layer4")
    handle.remove()
    assert ours.shape == tuple(seen[0].shape[-2:])
    assert np.isfinite(ours).all()


# --- geometry ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [460, 456])
@pytest.mark.parametrize("mode", ["square", "letterbox", "tiles"])
@pytest.mark.parametrize(("top", "left"), [(20, 30), (180, 300), (370, 600)])
def test_a_model_that_must_look_at_a_square_does_at_the_right_place(height, mode, top, left):
    image = with_red_square(top, left, 70, height)
    one = cam.explain(red_finder(224, mode), [image])[0]
    assert one.heat.shape == (height, 700)
    assert one.heat.dtype == np.float32
    assert one.heat.min() >= 0
    weight = one.heat / one.heat.sum()
    rows, columns = np.mgrid[:height, :700]
    centre = (rows * weight).sum(), (columns * weight).sum()
    # at the border the plateau is cut off, which moves the centre of mass by some pixels
    assert centre[0] == pytest.approx(min(top + 34.5, height - 36), abs=9)
    assert centre[1] == pytest.approx(left + 34.5, abs=14 if mode == "square" else 9)
    inside = weight[max(0, top - 40) : top + 110, max(0, left - 40) : left + 110].sum()
    assert inside > 0.96


def test_tiles_share_one_scale_and_sum_to_the_mean_logit():
    loaded = red_finder(224, "tiles")
    image = with_red_square(180, 300, 70)
    one = cam.explain(loaded, [image], batch_size=5)[0]
    assert one.raw.shape == (12, 14, 14)
    assert one.raw.sum() == pytest.approx(one.score - float(loaded.model.head.bias[1]), abs=1e-4)
    weak = cam.explain(loaded, [image // 2 + 64], batch_size=5)[0]
    assert weak.heat.max() < one.heat.max()  # strength survives


@pytest.mark.parametrize("shape", [(460, 700), (456, 700), (100, 120), (224, 224), (225, 449), (50, 700)])
def test_boxes_are_the_windows_that_tiles_are_cut_from(shape):
    from engine.data.images import cut_tiles

    image = tissue(*shape)
    big = np.pad(image, [(0, max(0, 224 - shape[0])), (0, max(0, 224 - shape[1])), (0, 0)], mode="symmetric")
    tiles = cut_tiles(image, 224)
    found = geometry.boxes(*shape, 224, "tiles")
    assert len(found) == len(tiles)
    for (top, left, height, width), tile in zip(found, tiles, strict=True):
        np.testing.assert_array_equal(big[top : top + height, left : left + width], tile)


@pytest.mark.parametrize("mode", ["square", "tiles"])
def test_with_flips_at_test_time_the_map_is_the_mean_of_the_flips_turned_back(mode):
    image = with_red_square(20, 30, 70)
    plain = cam.explain(red_finder(224, mode), [image])[0]
    flipped = cam.explain(red_finder(224, mode, tta=True), [image], batch_size=3)[0]
    assert flipped.raw.shape == plain.raw.shape
    assert flipped.raw.sum() == pytest.approx(
        flipped.score - float(red_finder().model.head.bias[1]), abs=1e-4
    )
    np.testing.assert_allclose(flipped.heat, plain.heat, atol=plain.heat.max() * 0.05)


def test_letterbox_ignores_its_frame():
    from engine.data import images

    frame = images.resize(np.zeros((456, 700, 3), np.uint8), 224, "letterbox")
    top, left, height, width = geometry.letterbox_box(456, 700, 224)
    inside = frame[top : top + height, left : left + width]
    assert (inside == 0).all()
    assert (frame == 0).all(axis=2).sum() == height * width


def test_small_images_have_tiles_too():
    one = cam.explain(red_finder(224, "tiles"), [with_red_square(10, 10, 30, 100, 120)])[0]
    assert one.heat.shape == (100, 120)
    assert one.heat[10:40, 10:40].mean() > one.heat[60:, 60:].mean()


# --- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": 2}, "out of range"),
        ({"target": -1}, "out of range"),
        ({"target": "99"}, "out of range"),
        ({"target": "maligant"}, "Did you mean malignant"),
        ({"method": "gradcan"}, "no such method"),
        ({"layer": "classifier"}, "no spatial map"),
        ({"layer": "global_pool"}, "no spatial map"),
        ({"layer": "blocks.0.0.se.conv_expand"}, "no spatial map"),
        ({"layer": "blocks.99"}, "no such layer"),
        ({"layer": "../bn2"}, "no such layer"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(b0, asked, words):
    with pytest.raises(ExplainError, match=words):
        cam.explain(b0, [tissue()], **asked)


def test_an_image_that_is_no_rgb_array_is_refused(b0):
    with pytest.raises(ExplainError, match="uint8"):
        cam.explain(b0, [tissue().astype(np.float32)])


def test_a_margin_of_eight_classes_is_refused():
    with pytest.raises(ExplainError, match="two classes"):
        methods.check_target("margin", tuple("ABCDEFGH"))


def test_a_map_of_zeros_stays_one():
    grey = np.full((460, 700, 3), 128, np.uint8)
    one = cam.explain(red_finder(), [grey])[0]
    assert one.is_empty
    assert not one.heat.any()


def test_no_images_give_no_maps(b0):
    assert cam.explain(b0, []) == []


# --- memory --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_flat_over_500_maps(b0):
    images = [tissue(96, 96, seed=seed) for seed in range(20)]
    process = psutil.Process(os.getpid())

    def fifty() -> float:
        for start in range(0, 60, 20):
            cam.explain(b0, images, target=("benign", "malignant", "margin")[start // 20])
        gc.collect()
        return process.memory_info().rss / 2**20

    fifty(), fifty()
    seen = [fifty() for _ in range(9)]
    print("MB after each 60 maps:", [round(value) for value in seen])
    assert seen[-1] - seen[0] < 10


# --- the same as a prediction --------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "tta"), [("square", False), ("letterbox", True), ("tiles", True)])
def test_what_is_explained_is_what_is_predicted(mode, tta):
    """The engine's own network and its own prediction: same pixels, same flips and tiles, same logits."""
    from engine.data.preprocessing import Preprocessing
    from engine.data.stain import StainNormaliser, fit
    from engine.training.device import choose
    from engine.training.evaluate import logits
    from engine.training.models import LoadedModel

    plain = random_model("tf_efficientnet_lite0", 64)
    loaded = LoadedModel(
        plain.model.to(memory_format=torch.channels_last),
        plain.architecture,
        ("benign", "malignant"),
        (0.5, 0.4, 0.3),
        (0.2, 0.3, 0.4),
        Preprocessing(
            64, mode, "bilinear", StainNormaliser(fit("macenko", "reference", tissue(92, 140, seed=3)))
        ),
        choose("cpu", "fp32"),
        tta=tta,
    )
    images = [tissue(92, 140, seed=1), tissue(91, 140, seed=2)]
    found = cam.explain(loaded, images, batch_size=5)
    expected = logits(loaded, lambda row: loaded.preprocessing.prepare(images[row])[0], range(2))
    np.testing.assert_allclose([one.logits for one in found], expected, atol=1e-4)
    bias = float(head_bias(loaded.model)[1])
    for one in found:
        assert one.raw.sum() == pytest.approx(one.score - bias, abs=1e-3)
