"""The training loop learns, gives the same for the same seed, and says what it did."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import nas
from nas.datasets import ImageData
from nas.errors import NasError
from nas.predict import Preprocess, fingerprint, predict
from nas.recipe import TrainSettings
from nas.train import DivergedError, _schedule, check_settings, pick_precision, train
from search_spaces.mobilenetv3 import MobileNetV3Space

SETTINGS = TrainSettings(epochs=3, batch_size=16, lr=3e-3, min_crop=0.8)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stripes:
    """Noise with bright stripes, down or across: two classes that only a network that sees shapes can tell apart."""

    name = "stripes"
    classes = ("down", "across")
    mean = std = (0.5, 0.5, 0.5)
    mirrors = True

    def load(self, part):
        generator = np.random.default_rng({"train": 0, "val": 1, "test": 2}[part])
        images = generator.integers(0, 60, (96, 12, 12, 3), dtype=np.uint8)
        labels = np.arange(96) % 2
        images[labels == 0, :, ::4] += 180
        images[labels == 1, ::4] += 180
        return ImageData(images=images, labels=labels.astype(np.int64))


def architecture():
    space = MobileNetV3Space(width_multiple=0.35, head_multiple=0.1, resolutions=(16,), stem_stride=1, skeletons=("small",))
    return space.decode(space.references["mobilenetv3_small_100"])


def trained(seed=0, settings=SETTINGS):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = nas.build(architecture(), num_classes=2)
    return model, train(model, Stripes(), settings, resolution=16, device=CPU, seed=seed)


def test_it_learns_and_reports_every_epoch():
    _, report = trained(settings=replace(SETTINGS, epochs=10))
    assert report.val_top1_pct > 90
    assert [epoch.epoch for epoch in report.history] == list(range(1, 11))
    assert report.history[-1].train_loss < report.history[0].train_loss
    assert report.history[-1].val_top1_pct == report.val_top1_pct == 100 * report.val_correct / 96
    assert report.precision == "float32"
    assert "1 thread" in report.device


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    (one, first), (two, second), (three, _) = trained(0), trained(0), trained(1)
    states = [torch.cat([t.flatten().double() for t in model.state_dict().values()]) for model in (one, two, three)]
    assert torch.equal(states[0], states[1])
    assert [e.train_loss for e in first.history] == [e.train_loss for e in second.history]
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_too(precision):
    _, report = trained(settings=replace(SETTINGS, epochs=12, precision=precision))
    assert report.precision == precision
    assert report.val_top1_pct > 90


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(DivergedError, match="in epoch"):
        trained(settings=replace(SETTINGS, lr=1e30, optimizer="sgd", warmup_share=0))


def test_predictions_are_float32_and_leave_the_running_statistics_alone():
    model, report = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = Stripes().load("val")
    logits = predict(model, data, Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert logits.dtype == torch.float32
    assert int((logits.argmax(1).numpy() == data.labels).sum()) == report.val_correct
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_precision_is_what_the_convolutions_compute_in_while_training(precision, dtype):
    model, seen = nas.build(architecture(), num_classes=2), set()
    model.conv_stem.register_forward_hook(lambda module, inputs, output: seen.add((module.training, output.dtype)))
    train(model, Stripes(), replace(SETTINGS, epochs=1, precision=precision), resolution=16, device=CPU, seed=0)
    assert seen == {(True, dtype), (False, torch.float32)}


def test_label_smoothing_is_in_the_loss():
    plain, smooth = (trained(settings=replace(SETTINGS, epochs=1, lr=1e-9, label_smoothing=s))[1] for s in (0.0, 0.9))
    assert smooth.history[0].train_loss != pytest.approx(plain.history[0].train_loss, abs=1e-3)


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_the_learning_rate_warms_up_to_its_full_height_and_falls_to_nothing(epochs):
    settings = TrainSettings(epochs=epochs, lr=1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = _schedule(optimizer, settings, 10), []
    for update in range(10 * epochs):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == epochs  # a tenth of the training
    assert rates[: epochs + 1] == sorted(rates[: epochs + 1])
    assert rates[epochs:] == sorted(rates[epochs:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_the_fingerprint_tells_whether_every_image_keeps_its_class():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert fingerprint(logits) == fingerprint(logits * 3)
    assert fingerprint(logits) != fingerprint(logits.flip(0))


def test_the_wanted_precision_goes_before_what_the_device_is_fast_at():
    assert pick_precision("float16", CPU) == "float16"
    assert pick_precision("auto", CPU) in ("float32", "bfloat16")


def test_images_go_in_channels_last():
    preprocess = Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    for size in (12, 16, 40):
        x = preprocess(torch.zeros(4, size, size, 3, dtype=torch.uint8))
        assert x.shape == (4, 3, 16, 16)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(x, torch.tensor(-1.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"lr": 0},
        {"lr": float("nan")},
        {"label_smoothing": 2},
        {"warmup_share": 1.5},
        {"lr": float("inf")},
        {"precision": "half"},
    ],
)
def test_a_wrong_setting_is_refused(fields):
    with pytest.raises(NasError, match=rf"train\.{next(iter(fields))}"):
        TrainSettings(**fields)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(NasError, match="optimizer 'adamx' does not exist; did you mean 'adam"):
        check_settings(TrainSettings(optimizer="adamx"))
