"""Shared weights are trained by the one loop: each step draws a feasible network, and a resumed training gives equal bits."""

from dataclasses import replace

import pytest
import torch

from nas.datasets.digits import Digits
from nas.errors import NasError
from nas.models.cost import cost
from nas.supernet.drawing import make_draws
from nas.supernet.scoring import make_scorer, read_shared
from nas.supernet.training import WEIGHTS_FILE, SharedTraining, train_shared
from nas.training.settings import LAST_FILE, TrainSettings
from search_spaces.mobilenetv3 import MobileNetV3Space
from tests.data.stripes import architecture
from tests.data.teachers import write_teacher

SPACE = MobileNetV3Space(width_multiple=0.2, head_multiple=0.05, skeletons=("small",), resolutions=(24, 16), stem_stride=1)
SETTINGS = TrainSettings(epochs=2, batch_size=256, optimizer="lamb", lr=0.01)


def is_light(params):
    return cost(SPACE.decode(params), 10).macs < 0.25e6


def training(folder, **changes):
    fields = {"space": SPACE, "feasible": is_light, "dataset": Digits(), "settings": SETTINGS, "seed": 1, "folder": folder}
    return SharedTraining(**fields | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a whole training, and the epochs that it reported."""
    folder, epochs = tmp_path_factory.mktemp("shared"), []
    train_shared(training(folder), on_epoch=epochs.append)
    return folder, epochs


def test_a_training_writes_its_weights_and_a_second_one_goes_on_from_its_checkpoint(trained):
    folder, epochs = trained
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert epochs[1].train_loss < epochs[0].train_loss
    weights = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).unlink()
    repeated = train_shared(training(folder))  # as after a kill before the run has its record
    assert [epoch.train_loss for epoch in repeated.history] == [epoch.train_loss for epoch in epochs]
    assert repeated.history[0] == epochs[0]
    assert (folder / WEIGHTS_FILE).read_bytes() == weights


def test_a_resumed_training_gives_equal_bits(trained, tmp_path):
    def kill(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_shared(training(tmp_path), on_epoch=kill)
    assert (tmp_path / LAST_FILE).is_file()
    train_shared(training(tmp_path))
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == (trained[0] / WEIGHTS_FILE).read_bytes()


def test_shared_weights_are_taught_too(trained, tmp_path):
    teacher = write_teacher(tmp_path / "net", architecture(), Digits.classes)
    taught = replace(SETTINGS, epochs=1, teacher=teacher, teacher_share=1.0)
    report = train_shared(training(tmp_path / "shared", settings=taught))
    assert report.history[0].train_loss < 0.5 * trained[1][0].train_loss  # a teacher that was never trained is easy to follow


def test_a_resume_with_another_space_is_refused(tmp_path):
    def kill(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_shared(training(tmp_path), on_epoch=kill)
    other = MobileNetV3Space(width_multiple=0.3, head_multiple=0.05, skeletons=("small",), resolutions=(24, 16), stem_stride=1)
    with pytest.raises(NasError, match="checkpoint of another training"):
        train_shared(training(tmp_path, space=other, feasible=lambda params: True))


def test_infeasible_networks_are_never_drawn():
    draws = make_draws(SPACE, is_light, seed=0)
    networks = [draws.draw(step, 1, 0) for step in range(200)]
    assert all(cost(network, 10).macs < 0.25e6 for network in networks)
    assert len({network.id for network in networks}) > 150
    assert networks[7] == make_draws(SPACE, is_light, seed=0).draw(7, 1, 0)
    assert networks[7] != draws.draw(7, 1, 1)


def test_draws_spread_from_the_network_in_the_middle():
    draws = make_draws(SPACE, is_light, seed=0)
    networks = [draws.draw(step, 1000, 0) for step in range(1000)]
    assert networks[0] == SPACE.decode(draws.middle)
    assert len({network.id for network in networks[:20]}) < 20
    assert len({network.id for network in networks[400:600]}) > 190


def test_every_choice_is_drawn_about_as_often():
    draws = make_draws(SPACE, lambda params: True, seed=0)
    kernels = [draws.draw(step, 1, 0).stages[1][0].kernel for step in range(1, 601)]
    assert all(120 < kernels.count(kernel) < 280 for kernel in (3, 5, 7))


def test_limits_that_no_network_meets_are_said():
    with pytest.raises(NasError, match="none of 20,000 random networks of space mobilenetv3 meets the limits"):
        make_draws(SPACE, lambda params: False, seed=0)


def test_a_score_is_what_its_network_gives_when_it_is_loaded_again(trained):
    shared = read_shared(trained[0] / WEIGHTS_FILE, 10)
    scorer = make_scorer(shared, Digits())
    architecture = make_draws(SPACE, is_light, seed=3).draw(9, 1, 0)
    model, report = scorer.score(architecture)
    again, same = scorer.score(architecture)
    assert report == same
    assert report.history == ()
    assert 0 < report.val_loss < 10
    assert all(
        torch.equal(one, other) for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    x = torch.randn(2, 3, architecture.resolution, architecture.resolution)
    alone = scorer.network(architecture)
    with torch.no_grad():
        torch.testing.assert_close(alone(x[:1]), alone(x)[:1], rtol=1e-4, atol=1e-3)  # no statistics of the batch


def test_scores_leave_the_shared_weights_as_they_are(trained):
    shared = read_shared(trained[0] / WEIGHTS_FILE, 10)
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    model, _ = make_scorer(shared, Digits()).score(make_draws(SPACE, is_light, seed=3).draw(9, 1, 0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in shared.state_dict().items())


def test_a_file_that_is_no_shared_weights_is_said(tmp_path):
    (tmp_path / WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(NasError, match="cannot be read"):
        read_shared(tmp_path / WEIGHTS_FILE, 10)
