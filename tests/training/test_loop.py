"""A run from beginning to end, on a tiny network and tiny images."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch

from engine import files
from engine.data.images import encode_png
from engine.errors import EngineError, WeightsError
from engine.predict.judge import judge
from engine.runs import presets
from engine.runs.reporter import Reporter
from engine.training import checkpoint, loop
from engine.training.device import Device
from engine.training.models import load_run_model
from engine.training.steps import Steps


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    tiny_runs.register()
    folder = tiny_runs.make_run(tmp_path_factory.mktemp("finished"), tiny_data)
    assert tiny_runs.fit(folder) == "completed"
    return folder


def test_a_run_writes_what_the_contract_promises(finished):
    metrics = finished.metrics()
    assert set(zip(metrics["epoch"], metrics["split"], strict=True)) == {
        (epoch, split) for epoch in (1, 2) for split in ("train", "val")
    }
    assert metrics["loss"].notna().all()
    for split in ("val", "test"):
        table = finished.predictions(split)
        assert len(table) == tiny_runs.COUNTS[split]
        assert np.allclose(table["prob_benign"] + table["prob_malignant"], 1)
    assert finished.status().best["metric"] == "accuracy"
    assert finished.status().epochs == 2
    for name in ("best.safetensors", "last.ckpt"):
        path = finished.path / name
        assert files.sha256(path) in checkpoint.sidecar(path).read_text()


def test_the_loaded_model_knows_its_input(finished):
    loaded = load_run_model(finished)
    assert (loaded.image_size, loaded.geometry, loaded.classes) == (32, "square", ("benign", "malignant"))
    assert not loaded.model.training
    pixels = loaded.normalise(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels[0, :, 0, 0], -torch.tensor(loaded.mean) / torch.tensor(loaded.std))


def test_a_flipped_byte_in_the_weights_is_refused(finished, tmp_path):
    data = bytearray(finished.best.read_bytes())
    data[-5] ^= 1
    finished_copy = finished.path.with_name(finished.path.name[:-1] + "f")
    finished_copy.mkdir()
    for name in ("config.json", "status.json", "best.safetensors.sha256"):
        (finished_copy / name).write_bytes((finished.path / name).read_bytes())
    (finished_copy / "best.safetensors").write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        load_run_model(type(finished)(finished_copy))
    assert caught.value.kind == "damaged"


def test_a_run_without_a_checkpoint_says_so(make_run):
    with pytest.raises(WeightsError) as caught:
        load_run_model(make_run())
    assert caught.value.kind == "missing"


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(finished, make_run):
    same, other = make_run(), make_run(training__seed=1)
    for folder in (same, other):
        tiny_runs.fit(folder)
    assert tiny_runs.outcome(same) == tiny_runs.outcome(finished)
    assert tiny_runs.outcome(other)["weights"] != tiny_runs.outcome(finished)["weights"]


@pytest.mark.parametrize(
    ("recipe", "geometry", "stops"),
    [
        ("study-as-run", "square", (7, 3)),
        ("quick", "letterbox", (3, 9)),
        pytest.param("modern", "tiles", (6, 4), marks=pytest.mark.slow),
        pytest.param("study-as-described", "square", (60,), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_and_resumed_run_ends_bit_identical(make_run, recipe, geometry, stops):
    options = {"training__recipe": recipe, "model__geometry": geometry, "training__epochs": 2}
    whole, broken = make_run(**options), make_run(**options)
    assert tiny_runs.fit(whole) == "completed"
    for at in stops:
        assert tiny_runs.fit(broken, tiny_runs.StopAt(broken, at)) == "stopped"
    assert tiny_runs.fit(broken) == "completed"
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


@pytest.mark.parametrize(
    ("recipe", "stops"),
    [
        ("quick", (16,)),
        pytest.param("study-as-run", (9,), marks=pytest.mark.slow),
        pytest.param("modern", (6, 3), marks=pytest.mark.slow),
    ],
)
def test_the_ways_taken_beside_a_gpu_end_with_the_bits_of_the_plain_ones(make_run, request, recipe, stops):
    """Losses read late, batches carried on a stream of their own, passes read one behind; stopped and resumed."""
    options = {"training__recipe": recipe, "training__batch_size": 1 if recipe == "study-as-run" else 4}
    plain, beside = (make_run(**options, training__workers=0) for _ in range(2))
    tiny_runs.fit(plain)
    request.getfixturevalue("like_a_gpu")
    for at in stops:
        assert tiny_runs.fit(beside, tiny_runs.StopAt(beside, at)) == "stopped"
    assert tiny_runs.fit(beside) == "completed"
    assert tiny_runs.outcome(beside) == tiny_runs.outcome(plain)


@pytest.mark.slow
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(make_run):
    whole, broken = make_run(), make_run()
    tiny_runs.fit(whole)
    tiny_runs.fit(broken, tiny_runs.StopAt(broken, 30))
    broken.last.write_bytes(broken.last.read_bytes()[:-7] + b"damaged")
    assert checkpoint.previous(broken.last).is_file()
    assert tiny_runs.fit(broken) == "completed"
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


def test_a_checkpoint_of_other_settings_is_not_continued(make_run):
    folder = make_run()
    tiny_runs.fit(folder, tiny_runs.StopAt(folder, 40))
    record = json.loads((folder.path / "config.json").read_text())
    record["training"]["lr"] = 0.5
    files.write_json(folder.path / "config.json", record)
    with pytest.raises(WeightsError) as caught:
        tiny_runs.fit(folder)
    assert caught.value.kind == "settings"


def test_half_the_batch_and_twice_the_accumulation_is_the_same_training(make_run):
    options = {
        "details": {"recipe": {"label_smoothing": 0.0}},
        "training__augmentation": "none",
        "model__dropout": 0.0,
        "training__epochs": 1,
        "training__lr": 1e-5,
    }
    whole = make_run(**options, training__batch_size=4)
    halves = make_run(**options, training__batch_size=2, training__accumulate=2)
    for folder in (whole, halves):
        tiny_runs.fit(folder)
    difference = whole.predictions("test")["logit_benign"] - halves.predictions("test")["logit_benign"]
    assert difference.abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.2, "cutmix": 1.0},
        {"loss": "focal", "class_weights": True},
        {"freeze_batchnorm": False, "ema": 0.9, "clip": 0.5},
    ],
)
def test_every_option_of_a_recipe_trains_and_resumes(make_run, options):
    whole, broken = make_run(details={"recipe": options}), make_run(details={"recipe": options})
    tiny_runs.fit(whole)
    tiny_runs.fit(broken, tiny_runs.StopAt(broken, 12))
    tiny_runs.fit(broken)
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


def test_early_stopping_ends_after_its_patience(make_run):
    folder = make_run(training__epochs=30, training__patience=2, training__lr=1e-12)
    tiny_runs.fit(folder)
    last = folder.metrics()["epoch"].max()
    assert last == folder.status().best["epoch"] + 2
    assert folder.predicted_splits() == ("val", "test")


# -- failures ------------------------------------------------------------------------------------------


def failure_of(folder) -> EngineError:
    with pytest.raises(EngineError) as caught:
        tiny_runs.fit(folder)
    return caught.value


def test_memory_exhausted_offers_half_the_batch(make_run, monkeypatch):
    def exhausted(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Steps, "backward", exhausted)
    error = failure_of(make_run())
    assert error.kind == "out_of_memory"
    assert "--batch-size 2 --accumulate 2" in error.remedy
    assert "epoch 1, step 1" in error.found


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_checkpoint(make_run, monkeypatch):
    real, made = Steps.backward, []

    def broken(self, *given):
        real(self, *given)
        made.append(given)
        if len(made) == 7:  # five steps an epoch
            self.unread.losses[-1] *= float("nan")

    monkeypatch.setattr(Steps, "backward", broken)
    folder = make_run()
    error = failure_of(folder)
    assert error.kind == "nan_loss"
    assert "epoch 2, step 2" in error.found
    state = checkpoint.load_state(folder.last)
    assert (state["epoch"], state["step"]) == (2, 0)


def test_a_stop_that_ends_the_loader_processes_first_is_a_stop(make_run, monkeypatch):
    """A scheduler that signals a whole group of processes; without a stop it is a failure."""

    def ended(*_):
        raise RuntimeError("DataLoader worker (pid(s) 17) exited unexpectedly")

    folder = make_run()
    with monkeypatch.context() as broken:
        broken.setattr(Steps, "backward", ended)
        assert failure_of(folder).kind == "loader"
        broken.setattr(Steps, "backward", lambda *_: (folder.request_stop(), ended()))
        assert tiny_runs.fit(folder) == "stopped"
    folder.clear_stop()
    assert tiny_runs.fit(folder) == "completed"


def test_a_full_disk_is_named(make_run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "last.ckpt")

    monkeypatch.setattr(checkpoint, "save_state", full)
    assert failure_of(make_run()).kind == "disk_full"


def test_corrupt_images_are_named_and_left_out_and_the_rest_is_trained_on(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    manifest = tiny_runs.write_images(root)
    whole = {name: (root / name).read_bytes() for name in ("train_3.png", "test_1.png")}
    for name, data in whole.items():
        (root / name).write_bytes(data[:300])
    folder = tiny_runs.make_run(tmp_path / "runs", manifest)
    assert tiny_runs.fit(folder, tiny_runs.StopAt(folder, 38)) == "stopped"
    assert "Left out: train_3.png is cut off" in capsys.readouterr().out
    for name, data in whole.items():  # repaired while the run is interrupted: it ends as it began
        (root / name).write_bytes(data)
    assert tiny_runs.fit(folder) == "completed"
    record = folder.pixels()
    assert sorted((left["image_id"], left["kind"]) for left in record["left_out"]) == [
        ("test_1.png", "truncated"),
        ("train_3.png", "truncated"),
    ]
    assert "test_1.png" not in set(folder.predictions("test")["image_id"])
    assert len(folder.predictions("test")) == 5


def test_where_no_image_can_be_read_one_is_named(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    manifest = tiny_runs.write_images(root)
    for path in root.glob("*.png"):
        path.write_bytes(path.read_bytes()[:300])
    error = failure_of(tiny_runs.make_run(tmp_path / "runs", manifest))
    assert "test_0.png" in str(error)
    assert error.remedy


# -- pixels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stain", "geometry"), [("macenko", "tiles"), ("reinhard", "square")])
def test_train_predict_and_explain_see_identical_pixels(tmp_path, stain, geometry):
    """The pixels that the loop packed, those that a loaded run predicts and those that it explains, stain and all."""
    from engine.data.images import decode
    from engine.explain import geometry as seen

    root = tmp_path / "data"
    root.mkdir()
    manifest = tiny_runs.write_images(root)
    options = {"model__stain": stain, "model__geometry": geometry, "training__precision": "fp32"}
    folder = tiny_runs.make_run(tmp_path / "runs", manifest, **options)
    fit = loop.Fit(folder, Reporter(folder), folder.config(), presets.resolve(folder.config()))
    with folder.hold():
        fit.run()
    record = folder.pixels()
    reference = record["preprocessing"]["stain"]["reference"]
    assert reference.startswith("train_")
    assert record["not_normalised"] == []
    (root / reference).write_bytes(encode_png(np.full((40, 48, 3), 9, np.uint8)))  # it is not asked for again
    loaded = load_run_model(folder)
    assert loaded.preprocessing.interpolation == "bilinear"  # the recipe study-as-run
    for row in fit.parts["test"].rows:
        image = decode(manifest.absolute(manifest.table["path"].iloc[row]))
        trained_on = fit.loaded.preprocessing.views(fit.packed[int(row)])
        assert np.array_equal(loaded.preprocessing.squares(image), trained_on)
        explained = [view.pixels for view in seen.views(image, loaded.preprocessing)]
        assert np.array_equal(np.stack(explained), trained_on)
        assert not np.array_equal(replace(loaded.preprocessing, stain=None).squares(image), trained_on)
    table = folder.predictions("test")
    again = judge(folder, [manifest.absolute(name) for name in table["image_id"]], device="cpu").table
    assert np.abs(again["logit_malignant"] - table["logit_malignant"]).max() < 1e-5
    resumed = loop.Fit(folder, Reporter(folder), folder.config(), fit.recipe)
    assert resumed.loaded.preprocessing.key == fit.loaded.preprocessing.key


def test_an_image_damaged_while_the_run_was_stopped_is_named_and_put_back_it_goes_on(finished, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    folder = tiny_runs.make_run(tmp_path / "runs", tiny_runs.write_images(root))
    assert tiny_runs.fit(folder, tiny_runs.StopAt(folder, 40)) == "stopped"
    whole = (root / "train_5.png").read_bytes()
    (root / "train_5.png").write_bytes(b"damaged")
    error = failure_of(folder)
    assert "train_5.png" in str(error)
    assert "Put the files back" in str(error.remedy)
    (root / "train_5.png").write_bytes(whole)
    assert tiny_runs.fit(folder) == "completed"
    assert tiny_runs.outcome(folder) == tiny_runs.outcome(finished)


def test_weights_that_cannot_be_fetched_end_the_run_with_what_to_do(make_run, monkeypatch):
    from engine.runs.exit_codes import EXIT_CODES
    from engine.runs.worker import exit_code
    from engine.training import models

    monkeypatch.setattr(models, "_in_hub_cache", lambda record: False)
    monkeypatch.setattr(models, "_hub_reachable", lambda: False)
    error = failure_of(make_run(model__pretrained="hub"))
    assert error.kind == "hub"
    assert "offline" in str(error.remedy)
    assert exit_code(error) == EXIT_CODES["weights"]


@pytest.mark.slow
def test_a_loader_process_that_hangs_ends_the_run(make_run, monkeypatch):
    from engine.training import loading

    monkeypatch.setattr(loading, "LOADER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(loading.TrainingImages, "__getitem__", lambda *_: time.sleep(20))
    error = failure_of(make_run(training__workers=1))
    assert error.kind == "hung"
    assert "--workers 0" in str(error.remedy)


# -- machinery -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scaled_loss_trains_and_its_scale_survives_a_stop(make_run, monkeypatch):
    """What fp16 on a GPU does, on the CPU: the scaler is the same."""
    scaled = Device(torch.device("cpu"), torch.bfloat16, scaled=True)
    monkeypatch.setattr(loop, "choose", lambda *_: scaled)
    options = {"details": {"recipe": {"clip": 0.5, "ema": 0.9}}}
    whole, broken = make_run(**options), make_run(**options)
    tiny_runs.fit(whole)
    tiny_runs.fit(broken, tiny_runs.StopAt(broken, 9))
    state = checkpoint.load_state(broken.last)
    assert state is not None
    assert state["scaler"]["scale"] > 1
    tiny_runs.fit(broken)
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


def test_compiling_is_asked_for_and_a_failure_of_it_is_no_failure_of_the_run(make_run, monkeypatch, capsys):
    def broken(network):
        def forward(pixels):
            raise RuntimeError("no C compiler")

        return forward

    plain, compiled = make_run(training__epochs=1), make_run(training__epochs=1, training__compile=True)
    tiny_runs.fit(plain)
    monkeypatch.setattr(torch, "compile", broken)
    tiny_runs.fit(compiled)
    assert "torch.compile failed, going on without: no C compiler" in capsys.readouterr().out
    assert tiny_runs.outcome(compiled)["weights"] == tiny_runs.outcome(plain)["weights"]


def test_a_compiled_network_is_what_trains(make_run, monkeypatch):
    called = []

    def counted(network):
        def forward(pixels):
            called.append(len(pixels))
            return network(pixels)

        return forward

    monkeypatch.setattr(torch, "compile", counted)
    tiny_runs.fit(make_run(training__epochs=1, training__compile=True))
    assert sum(called) == tiny_runs.COUNTS["train"]


def test_the_network_is_channels_last_and_its_optimizer_fused(make_run):
    folder = make_run()
    fit = loop.Fit(folder, Reporter(folder, writes=False), folder.config(), presets.resolve(folder.config()))
    fit._enter_stage(None)
    assert fit.steps is not None
    assert fit.steps.optimizer.defaults["fused"]
    weight = dict(fit.model.named_parameters())["conv_stem.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_progress_grows_to_the_end(make_run):
    folder = make_run()
    seen = []
    report = Reporter(folder, listener=lambda status: seen.append(status.progress))
    tiny_runs.fit(folder, report)
    assert seen == sorted(seen)
    assert seen[-1] > 0.5
