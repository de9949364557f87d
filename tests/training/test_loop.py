"""The training loop learns, gives the same for the same seed, and says what it did."""

import hashlib
import io
import pickle
import resource
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

import nas
from nas.errors import NasError
from nas.training.checkpoint import DIGEST_BYTES, LAST_FILE, Checkpoints, best_file
from nas.training.device import is_out_of_memory, pick_precision
from nas.training.loop import DivergedError, TrainSetup, best_epoch, check_settings, train
from nas.training.predict import Preprocess, fingerprint, num_correct, predict
from nas.training.settings import TrainSettings
from tests.data.stripes import Stripes, TwoLayers, architecture, weights

SETTINGS = TrainSettings(epochs=3, batch_size=16, lr=3e-2, min_crop=0.8)
FULL = replace(
    SETTINGS,
    augment="trivial",
    color_jitter=0.2,
    erasing=0.3,
    mixup=0.2,
    cutmix=1.0,
    ema_decay=0.9,
    start_resolution=0.5,
)  # every way in which chance enters
PREPROCESS = Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3)


def setup(settings=SETTINGS, seed=0, resolution=16, dataset=None):
    return TrainSetup(dataset=dataset or Stripes(), settings=settings, resolution=resolution, seed=seed)


def trained(seed=0, settings=SETTINGS, **options):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = TwoLayers()
    return model, train(model, setup(settings, seed), **options)


def test_it_learns_and_reports_every_epoch():
    model, report = trained(settings=replace(SETTINGS, epochs=10))
    assert report.val_top1_pct > 90
    assert [epoch.epoch for epoch in report.history] == list(range(1, 11))
    assert report.history[-1].train_loss < report.history[0].train_loss
    assert report.history[-1].val_top1_pct == report.val_top1_pct
    assert report.precision == "float32"
    assert "1 thread" in report.device
    before = weights(model)
    data = Stripes().load("val")
    logits = predict(model, data, PREPROCESS)
    assert logits.dtype == torch.float32
    assert 100 * num_correct(logits, data) / 96 == report.val_top1_pct
    assert torch.equal(before, weights(model))  # the running statistics too
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    (one, first), (two, second), (three, _) = trained(0, FULL), trained(0, FULL), trained(1, FULL)
    assert torch.equal(weights(one), weights(two))
    assert [e.train_loss for e in first.history] == [e.train_loss for e in second.history]
    assert not torch.equal(weights(one), weights(three))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_too(precision):
    _, report = trained(settings=replace(SETTINGS, epochs=10, precision=precision))
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


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_precision_is_what_the_convolutions_compute_in_while_training(precision, dtype):
    model, seen = TwoLayers(), set()
    model[0].register_forward_hook(lambda module, inputs, output: seen.add((module.training, output.dtype)))
    train(model, setup(replace(SETTINGS, epochs=1, precision=precision)))
    assert seen == {(True, dtype), (False, torch.float32)}


def test_label_smoothing_is_in_the_loss():
    plain, smooth = (trained(settings=replace(SETTINGS, epochs=1, lr=1e-9, label_smoothing=s))[1] for s in (0.0, 0.9))
    assert smooth.history[0].train_loss != pytest.approx(plain.history[0].train_loss, abs=1e-3)


@contextmanager
def watched_steps(look):
    """Calls `look` with the optimizer before each of its steps."""
    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: look(optimizer))
    yield
    handle.remove()


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_the_learning_rate_warms_up_to_its_full_height_and_falls_to_nothing(epochs):
    rates = []
    with watched_steps(lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])):
        trained(settings=replace(SETTINGS, epochs=epochs, batch_size=9, lr=1.0, optimizer="sgd"))
    assert len(rates) == 10 * epochs
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
    cpu = torch.device("cpu")
    assert pick_precision("float16", cpu) == "float16"
    assert pick_precision("auto", cpu) in ("float32", "bfloat16")


def test_images_go_in_channels_last():
    for size in (12, 16, 40):
        x = PREPROCESS(torch.zeros(4, size, size, 3, dtype=torch.uint8))
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


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(NasError, match=r"randaugment_magnitude do nothing with train\.augment trivial"):
        TrainSettings(augment="trivial", randaugment_magnitude=5)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(NasError, match="optimizer 'adamx' does not exist; did you mean 'adam"):
        check_settings(TrainSettings(optimizer="adamx"))


@pytest.mark.parametrize("name", ["adahessian", "fusedadam"])
def test_an_optimizer_that_cannot_take_a_step_here_is_refused(name):
    with pytest.raises(NasError, match=f"train.optimizer: '{name}' cannot be used here; it raised"):
        check_settings(TrainSettings(optimizer=name))


class StopError(Exception):
    """Raised in the middle of a training, as a kill would come."""


def stop_at(image):
    def on_step(done, total):
        if done >= image:
            raise StopError

    return on_step


def thinned():
    """A real network with dropout and stochastic depth."""
    return nas.build(architecture(), num_classes=2, drop_rate=0.1, drop_path_rate=0.1)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (TwoLayers, SETTINGS),
        (TwoLayers, replace(FULL, precision="float16")),
        (thinned, replace(FULL, batch_size=48, lr=3e-3)),
    ],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, build, settings):
    def begun(**options):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = build()
        return model, train(model, setup(settings), **options)

    whole, expected = begun()
    for image in (50, 150, 250):  # in the first, second and third epoch of 96 images
        with pytest.raises(StopError):
            begun(checkpoints=Checkpoints(folder=tmp_path), on_step=stop_at(image))
    resumed, report = begun(checkpoints=Checkpoints(folder=tmp_path))
    assert torch.equal(weights(whole), weights(resumed))
    assert [(e.epoch, e.train_loss, e.val_top1_pct) for e in report.history] == [
        (e.epoch, e.train_loss, e.val_top1_pct) for e in expected.history
    ]
    assert report.fingerprint == expected.fingerprint
    again, _ = begun(checkpoints=Checkpoints(folder=tmp_path))  # nothing is left to do
    assert torch.equal(weights(whole), weights(again))
    best = best_file(tmp_path, best_epoch(report.history).epoch).name
    assert sorted(path.name for path in tmp_path.iterdir()) == [best, LAST_FILE]


def test_the_best_epoch_is_kept(tmp_path):
    model, report = trained(settings=replace(SETTINGS, epochs=8), checkpoints=Checkpoints(folder=tmp_path))
    model.load_state_dict(load_file(best_file(tmp_path, best_epoch(report.history).epoch)))
    data = Stripes().load("val")
    correct = num_correct(predict(model, data, PREPROCESS), data)
    assert 100 * correct / 96 == max(epoch.val_top1_pct for epoch in report.history)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))
    others = {
        r"train\.lr was 0\.03, and now it is 0\.1; begin in another folder": setup(replace(settings, lr=0.1)),
        "seed was 0, and now it is 1": setup(settings, seed=1),
        "resolution was 16, and now it is 24": setup(settings, resolution=24),
        r"dataset was stripes\(shift=0\), and now it is stripes\(shift=1\)": setup(settings, dataset=Stripes(shift=1)),
    }
    for sentence, other in others.items():
        with pytest.raises(NasError, match=f"another training: its {sentence}"):
            train(TwoLayers(), other, checkpoints=Checkpoints(folder=tmp_path))
    with pytest.raises(NasError, match="another training: its fingerprint of the images was None, and now it is cats"):
        train(TwoLayers(), setup(settings), checkpoints=Checkpoints(folder=tmp_path, images="cats"))
    model = TwoLayers()
    model[0].stride = (1, 1)  # with weights of the same shapes
    with pytest.raises(NasError, match="another training: its network was"):
        train(model, setup(settings), checkpoints=Checkpoints(folder=tmp_path))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))
    whole = (tmp_path / LAST_FILE).read_bytes()
    for damage in (b"", b"no", whole[:-100], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], pickle.dumps(Stripes())):
        (tmp_path / LAST_FILE).write_bytes(damage)
        with pytest.raises(NasError, match="is damaged; remove"):
            trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))


def test_a_checkpoint_with_other_fields_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))
    record = torch.load(io.BytesIO((tmp_path / LAST_FILE).read_bytes()[DIGEST_BYTES:]), weights_only=True)
    for name in record:
        for change in ({},) if name == "scaler" else ({}, {name: 3}):  # one that is off loads nothing
            saved = io.BytesIO()
            torch.save({field: value for field, value in record.items() if field != name} | change, saved)
            (tmp_path / LAST_FILE).write_bytes(hashlib.sha256(saved.getvalue()).digest() + saved.getvalue())
            with pytest.raises(NasError, match=r"last.pt (is not of this version|does not fit)[^\n]*; remove .* to begin anew"):
                trained(settings=settings, checkpoints=Checkpoints(folder=tmp_path))


def test_a_kill_between_the_best_and_the_last_epochs_files_loses_neither(tmp_path):
    """The best weights of an epoch are there before the state that knows of it, and the earlier best ones until after it."""
    _, whole = trained(checkpoints=Checkpoints(folder=tmp_path / "whole"))
    best_file(tmp_path, 99).write_bytes(b"of an epoch that was lost")
    with pytest.raises(StopError):
        trained(checkpoints=Checkpoints(folder=tmp_path), on_step=stop_at(150))
    _, again = trained(checkpoints=Checkpoints(folder=tmp_path))
    best = best_file(tmp_path, best_epoch(again.history).epoch)
    assert [path.name for path in tmp_path.glob("best-*")] == [best.name]
    assert best.read_bytes() == best_file(tmp_path / "whole", best_epoch(whole.history).epoch).read_bytes()


def test_a_batch_that_batchnorm_cannot_take_is_one_sentence():
    with pytest.raises(NasError, match=r"train\.batch_size: 1 images cannot be shared evenly by 1 process"):
        train(TwoLayers(), setup(replace(SETTINGS, batch_size=1)))


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    saved = io.BytesIO()
    torch.save({"progress": Evil()}, saved)
    (tmp_path / LAST_FILE).write_bytes(hashlib.sha256(saved.getvalue()).digest() + saved.getvalue())
    with pytest.raises(NasError, match="is not of this version"):
        trained(checkpoints=Checkpoints(folder=tmp_path))
    assert not (tmp_path / "executed").exists()


def test_the_average_of_the_weights_is_what_is_validated_and_kept():
    plain, _ = trained(settings=replace(SETTINGS, epochs=2))
    averaged, report = trained(settings=replace(SETTINGS, epochs=2, ema_decay=0.99))
    assert not averaged.training
    assert not torch.equal(weights(plain), weights(averaged))
    assert fingerprint(predict(averaged, Stripes().load("val"), PREPROCESS)) == report.fingerprint
    still, _ = trained(settings=replace(SETTINGS, epochs=2, ema_decay=1e-9))  # an average of the last weights alone
    assert torch.allclose(weights(plain), weights(still), atol=1e-5)


def test_progressive_resizing_grows_to_the_networks_resolution():
    sizes = []
    model = TwoLayers()
    model[0].register_forward_hook(lambda module, inputs, output: sizes.append((module.training, inputs[0].shape[-1])))
    train(model, setup(replace(SETTINGS, start_resolution=0.5), resolution=48))
    seen = [size for training, size in sizes if training]
    assert seen == [24] * 6 + [32] * 6 + [48] * 6
    assert {size for training, size in sizes if not training} == {48}


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixed_images_have_mixed_classes(mixing):
    """What is mixed can never be told for sure, while the stripes themselves are learnt to the last image."""
    _, report = trained(settings=replace(SETTINGS, epochs=20, label_smoothing=0, **mixing))
    assert report.val_top1_pct > 90
    assert (report.history[-1].train_loss > 0.2) == bool(mixing)


@pytest.mark.parametrize("megabytes", [16, 400])  # not even for the images of a step, and for the images alone
def test_a_batch_that_does_not_fit_is_told_from_other_errors(megabytes):
    settings = replace(SETTINGS, epochs=1)
    train(nas.build(architecture(), num_classes=2), setup(settings))  # whatever is loaded once
    model = nas.build(architecture(), num_classes=2)
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) for line in status if line.startswith("VmSize"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + megabytes * 2**20, hard))
    try:
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            train(model, setup(settings, resolution=1024))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert is_out_of_memory(caught.value)


def test_a_training_writes_after_every_epoch_and_a_trial_when_it_has_the_time():
    whole = Checkpoints(folder=Path())
    assert whole.is_due(5.0, 0.1)
    sparing = Checkpoints(folder=Path(), max_share=0.05)
    assert sparing.is_due(0.0, 0.1)
    assert not sparing.is_due(1.0, 19.0)
    assert sparing.is_due(1.0, 21.0)


@dataclass(frozen=True)
class StripesInAFile(Stripes):
    """Stripes at a place."""

    root: Path = Path("/here")


def test_a_training_resumes_when_its_images_have_moved(tmp_path):
    settings, checkpoints = replace(SETTINGS, epochs=1), Checkpoints(folder=tmp_path)
    torch.manual_seed(0)
    first = train(TwoLayers(), setup(settings, dataset=StripesInAFile()), checkpoints=checkpoints)
    there = StripesInAFile(root=Path("/there"))
    assert train(TwoLayers(), setup(settings, dataset=there), checkpoints=checkpoints).history == first.history
