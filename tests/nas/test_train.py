"""The training loop learns, gives the same for the same seed, and says what it did."""

import hashlib
import io
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

import nas
from nas.augment import Augment
from nas.checkpoints import LAST_FILE, Checkpoints, best_file
from nas.datasets import ImageData
from nas.devices import pick_precision
from nas.errors import NasError
from nas.predict import Preprocess, fingerprint, num_correct, predict
from nas.recipe import TrainSettings
from nas.train import DivergedError, _gradients, _schedule, _set_up, best_epoch, check_settings, train
from search_spaces.mobilenetv3 import MobileNetV3Space

SETTINGS = TrainSettings(epochs=3, batch_size=16, lr=3e-3, min_crop=0.8)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stripes:
    """Noise with bright stripes, down or across: two classes that only a network that sees shapes can tell apart."""

    shift: int = 0
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


def trained(seed=0, settings=SETTINGS, **options):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = nas.build(architecture(), num_classes=2, drop_rate=settings.drop_rate, drop_path_rate=settings.drop_path_rate)
    return model, train(model, Stripes(), settings, resolution=16, device=CPU, seed=seed, **options)


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


FULL = replace(
    SETTINGS,
    augment="trivial",
    color_jitter=0.2,
    erasing=0.3,
    mixup=0.2,
    cutmix=1.0,
    ema_decay=0.9,
    clip_norm=1.0,
    drop_rate=0.1,
    drop_path_rate=0.1,
    start_resolution=0.5,
    schedule="linear",
)  # every way in which chance enters


def test_it_learns_and_reports_every_epoch():
    _, report = trained(settings=replace(SETTINGS, epochs=10))
    assert report.val_top1_pct > 90
    assert [epoch.epoch for epoch in report.history] == list(range(1, 11))
    assert report.history[-1].train_loss < report.history[0].train_loss
    assert report.history[-1].val_top1_pct == report.val_top1_pct == 100 * report.val_correct / 96
    assert report.precision == "float32"
    assert "1 thread" in report.device


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    (one, first), (two, second), (three, _) = trained(0, FULL), trained(0, FULL), trained(1, FULL)
    assert torch.equal(weights(one), weights(two))
    assert [e.train_loss for e in first.history] == [e.train_loss for e in second.history]
    assert not torch.equal(weights(one), weights(three))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_too(precision):
    _, report = trained(settings=replace(SETTINGS, epochs=12, precision=precision))
    assert report.precision == precision
    assert report.val_top1_pct > 90


def test_a_loss_that_is_not_finite_stops_the_training_at_its_step():
    steps = []
    with pytest.raises(
        DivergedError, match=r"the loss was (nan|inf) in epoch 1, step [2-5] of 6; a lower learning rate than 1e\+30"
    ):
        trained(
            settings=replace(SETTINGS, lr=1e30, optimizer="sgd", warmup_share=0), on_step=lambda done, total: steps.append(done)
        )
    assert len(steps) < 6


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


class StopError(Exception):
    """Raised in the middle of a training, as a kill would come."""


def stop_at(image):
    def on_step(done, total):
        if done >= image:
            raise StopError

    return on_step


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("settings", [SETTINGS, FULL])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, settings, precision):
    settings = replace(settings, precision=precision)
    whole, expected = trained(settings=settings)
    for image in (50, 150, 250):  # in the first, second and third epoch of 96 images
        with pytest.raises(StopError):
            trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path), on_step=stop_at(image))
    resumed, report = trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))
    assert torch.equal(weights(whole), weights(resumed))
    assert [(e.epoch, e.train_loss, e.val_top1_pct) for e in report.history] == [
        (e.epoch, e.train_loss, e.val_top1_pct) for e in expected.history
    ]
    assert report.fingerprint == expected.fingerprint
    again, _ = trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))  # nothing is left to do
    assert torch.equal(weights(whole), weights(again))
    best = best_file(tmp_path, best_epoch(report.history).epoch).name
    assert sorted(path.name for path in tmp_path.iterdir()) == [best, LAST_FILE]


def test_the_best_epoch_is_kept(tmp_path):
    model, report = trained(settings=replace(SETTINGS, epochs=8), checkpoints=Checkpoints(folder=tmp_path))
    model.load_state_dict(load_file(best_file(tmp_path, best_epoch(report.history).epoch)))
    data = Stripes().load("val")
    correct = num_correct(predict(model, data, Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3)), data)
    assert 100 * correct / 96 == max(epoch.val_top1_pct for epoch in report.history)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path):
    trained(settings=replace(SETTINGS, epochs=1), checkpoints=Checkpoints(folder=tmp_path))
    with pytest.raises(NasError, match=r"another training: its train\.lr was 0\.003, and now it is 0\.1; give another --output"):
        trained(settings=replace(SETTINGS, epochs=1, lr=0.1), checkpoints=Checkpoints(folder=tmp_path))
    with pytest.raises(NasError, match="another training: its seed was 0, and now it is 1"):
        trained(1, settings=replace(SETTINGS, epochs=1), checkpoints=Checkpoints(folder=tmp_path))
    whole = (tmp_path / LAST_FILE).read_bytes()
    for damage in (b"", b"no", whole[:-100], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], pickle.dumps(Stripes())):
        (tmp_path / LAST_FILE).write_bytes(damage)
        with pytest.raises(NasError, match="is damaged; remove"):
            trained(settings=replace(SETTINGS, epochs=1), checkpoints=Checkpoints(folder=tmp_path))


def test_a_checkpoint_of_another_network_or_dataset_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))
    options = {"device": CPU, "seed": 0, "checkpoints": Checkpoints(folder=tmp_path)}
    other = replace(architecture(), stem=replace(architecture().stem, stride=2))  # with weights of the same shapes
    with pytest.raises(NasError, match="another training: its network was"):
        train(nas.build(other, num_classes=2), Stripes(), settings, resolution=16, **options)
    with pytest.raises(NasError, match="another training: its resolution was 16, and now it is 24"):
        train(nas.build(architecture(), num_classes=2), Stripes(), settings, resolution=24, **options)
    with pytest.raises(NasError, match=r"another training: its dataset was Stripes\(shift=0\), and now it is Stripes\(shift=1\)"):
        train(nas.build(architecture(), num_classes=2), Stripes(shift=1), settings, resolution=16, **options)


def test_a_kill_between_the_best_and_the_last_epochs_files_loses_neither(tmp_path):
    """The best weights of an epoch are there before the state that knows of it, and the earlier best ones until after it."""
    settings = replace(SETTINGS, epochs=6, lr=1e-2)
    _, whole = trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path / "whole"))
    best_file(tmp_path, 99).write_bytes(b"of an epoch that was lost")
    with pytest.raises(StopError):
        trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path), on_step=stop_at(300))
    _, again = trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))
    best = best_file(tmp_path, best_epoch(again.history).epoch)
    assert [path.name for path in tmp_path.glob("best-*")] == [best.name]
    assert best.read_bytes() == best_file(tmp_path / "whole", best_epoch(whole.history).epoch).read_bytes()


@pytest.mark.parametrize("name", ["adahessian", "fusedadam"])
def test_an_optimizer_that_cannot_take_a_step_here_is_refused(name):
    with pytest.raises(NasError, match=f"train.optimizer: '{name}' cannot be used here; it raised"):
        check_settings(TrainSettings(optimizer=name))


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(NasError, match=r"randaugment_magnitude do nothing with train\.augment trivial"):
        TrainSettings(augment="trivial", randaugment_magnitude=5)


def test_a_batch_that_batchnorm_cannot_take_is_one_sentence():
    with pytest.raises(NasError, match=r"train\.batch_size: 1 is too small for this network's BatchNorm; give 2 or more"):
        trained(settings=replace(SETTINGS, batch_size=1))


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    saved = io.BytesIO()
    torch.save({"progress": Evil()}, saved)
    (tmp_path / LAST_FILE).write_bytes(hashlib.sha256(saved.getvalue()).digest() + saved.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        trained(checkpoints=Checkpoints(folder=tmp_path))
    assert not (tmp_path / "executed").exists()


def test_the_average_of_the_weights_is_what_is_validated_and_kept():
    plain, _ = trained(settings=replace(SETTINGS, epochs=2))
    averaged, report = trained(settings=replace(SETTINGS, epochs=2, ema_decay=0.99))
    assert not averaged.training
    assert not torch.equal(weights(plain), weights(averaged))
    data = Stripes().load("val")
    logits = predict(averaged, data, Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert fingerprint(logits) == report.fingerprint
    still, _ = trained(settings=replace(SETTINGS, epochs=2, ema_decay=1e-9))  # an average of the last weights alone
    assert torch.allclose(weights(plain), weights(still), atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_have_been_clipped_at_their_true_size_when_the_optimizer_steps(precision):
    norms = {}
    for clip in (0.0, 0.01):
        seen = norms[clip] = []

        def record(optimizer, args, kwargs, seen=seen):
            gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
            seen.append(float(torch.cat(gradients).norm()))

        handle = register_optimizer_step_pre_hook(record)
        trained(settings=replace(SETTINGS, clip_norm=clip, precision=precision))
        handle.remove()
    scale = 1 if precision == "float32" else 2**8  # without clipping, float16's are still scaled up
    assert min(norms[0.0]) > 0.02 * scale
    assert norms[0.01] == pytest.approx([0.01] * len(norms[0.01]), rel=1e-2)


def test_progressive_resizing_grows_to_the_networks_resolution():
    sizes = []
    model = nas.build(architecture(), num_classes=2)
    model.conv_stem.register_forward_hook(lambda module, inputs, output: sizes.append((module.training, inputs[0].shape[-1])))
    train(model, Stripes(), replace(SETTINGS, start_resolution=0.5), resolution=48, device=CPU, seed=0)
    seen = [size for training, size in sizes if training]
    assert seen == [24] * 6 + [32] * 6 + [48] * 6
    assert {size for training, size in sizes if not training} == {48}


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixed_images_have_mixed_classes(mixing):
    torch.manual_seed(0)
    run = _set_up(nas.build(architecture(), 2), Stripes(), replace(SETTINGS, **mixing), resolution=16, device=CPU, seed=0)
    _, y = run.mix(torch.rand(16, 3, 16, 16), torch.arange(16) % 2)
    assert y.shape == (16, 2)
    assert torch.allclose(y.sum(1), torch.ones(16))
    assert ((y > 0.01) & (y < 0.99)).any()
    _, report = trained(settings=replace(SETTINGS, epochs=10, label_smoothing=0, **mixing))
    assert report.history[-1].train_loss > 0.1  # a mixed class can never be told for sure


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))  # without BatchNorm
    run = _set_up(model, Stripes(), SETTINGS, resolution=16, device=CPU, seed=0)
    augment = Augment(preprocess=run.preprocess(16), settings=SETTINGS, mirrors=True)
    draws, chosen = augment.draw(16, (12, 12), torch.Generator().manual_seed(0)), torch.arange(16)
    found = {}
    for micro in (16, 7, 1):
        loss, used = _gradients(run, augment, chosen, draws, micro)
        found[micro] = (float(loss), model[1].weight.grad.clone())
        assert used == micro
    for micro in (7, 1):
        assert found[micro][0] == pytest.approx(found[16][0], rel=1e-5)
        assert torch.allclose(found[micro][1], found[16][1], atol=1e-6)


# Takes away all memory but what the second argument says, in MB, and prints what came of a training.
SHORT = """
import resource, sys
from dataclasses import replace
from pathlib import Path
import torch
from nas.evaluate import evaluate
from nas.objectives import objective
from nas.train import train
from tests.nas.test_train import CPU, SETTINGS, Hungry, Stripes, architecture

def outcome_at(resolution):
    text = replace(architecture(), resolution=resolution).to_json()
    objectives, folder = (objective("val_top1_pct"),), Path(sys.argv[3], str(resolution))
    return evaluate(text, dataset=Stripes(), objectives=objectives, settings=SETTINGS, seed=0, folder=folder)

outcome_at(16)  # whatever is loaded once
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + int(sys.argv[2]) * 2**20, -1))
if sys.argv[1] == "hungry":
    report = train(Hungry(), Stripes(), replace(SETTINGS, batch_size=96), resolution=16, device=CPU, seed=0)
    print(report.micro_batch, len(report.history), torch.get_num_threads())
else:
    outcome = outcome_at(1024)
    print(outcome.status, outcome.reason)
"""


class Hungry(torch.nn.Module):
    """A small network that takes 100 MB for each image of a batch while it computes."""

    def __init__(self):
        super().__init__()
        self.inner = nas.build(architecture(), num_classes=2)

    def forward(self, x):
        taken = torch.empty(len(x), 100 * 2**20, dtype=torch.uint8)
        return self.inner(x) + 0 * taken[0, 0]


def short_of_memory(what, megabytes, folder):
    line = [sys.executable, "-c", SHORT, what, str(megabytes), str(folder / "0.safetensors")]
    answer = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return answer.stdout.split()


@pytest.mark.slow
def test_where_memory_is_short_the_micro_batch_shrinks_and_is_reported(tmp_path):
    assert short_of_memory("hungry", 2000, tmp_path) == ["12", "3", "1"]  # of 96 images; 24 would take 2,400 MB


@pytest.mark.slow
def test_where_not_one_image_fits_it_is_an_oom(tmp_path):
    assert short_of_memory("large", 16, tmp_path) == ["failed", "oom"]


def test_a_training_writes_after_every_epoch_and_a_trial_when_it_has_the_time():
    whole = Checkpoints(folder=Path())
    assert whole.is_due(5.0, 0.1)
    sparing = Checkpoints(folder=Path(), max_share=0.05)
    assert sparing.is_due(0.0, 0.1)
    assert not sparing.is_due(1.0, 19.0)
    assert sparing.is_due(1.0, 21.0)
