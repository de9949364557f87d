"""Noisy Student from beginning to end: a kill in a later round costs no earlier one, and each student is the next teacher."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas.errors import NasError
from nas.exporting.full_training import FullTraining, train_network
from nas.training.checkpoint import saved_processes
from nas.training.settings import TrainSettings
from nas.training.teacher import load_teacher
from tests.data.stripes import Stripes, architecture, striped
from tests.data.teachers import write_teacher

pytestmark = pytest.mark.slow
SETTINGS = TrainSettings(epochs=2, batch_size=16, lr=3e-2, min_crop=0.8)


class KilledError(Exception):
    """Raised in the middle of a training, as a kill would come."""


def killed_at(number, seen):
    def on_epoch(epoch):
        seen.append(epoch.epoch)
        if len(seen) == number:
            raise KilledError

    return on_epoch


@pytest.fixture
def training(tmp_path):
    """One of two rounds, with a folder of 40 images and a teacher that was never trained."""
    images = striped(np.arange(40) < 20, seed=9)
    (tmp_path / "more").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "more" / f"{i}.png")
    return FullTraining(
        network=architecture(),
        dataset=Stripes(),
        train=replace(SETTINGS, teacher=write_teacher(tmp_path / "first", architecture(), Stripes.classes)),
        unlabelled=str(tmp_path / "more"),
        rounds=2,
        output=str(tmp_path / "net"),
    )


def test_a_kill_in_the_second_round_resumes_there(training, tmp_path, caplog):
    caplog.set_level("INFO")
    seen = []
    with pytest.raises(KilledError):
        train_network(training, on_epoch=killed_at(3, seen))
    assert seen == [1, 2, 1]
    assert not (tmp_path / "net").exists()
    with pytest.raises(KilledError):  # before the export of the second round, which takes seconds
        train_network(training, on_epoch=killed_at(4, seen))
    assert seen == [1, 2, 1, 2]
    assert f"{tmp_path / 'net-round1'} is trained already" in caplog.text
    assert f"round 2 of 2: {tmp_path / 'net-round1'} teaches" in caplog.text
    first = json.loads((tmp_path / "net-round1" / "card.json").read_text())["train"]
    assert first["teacher"] == load_teacher(training.train.teacher, Stripes(), torch.device("cpu")).name
    assert first["pseudo_labelled_an_epoch"] == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "more", "net-round1", "net.training"]
    with pytest.raises(NasError, match=r"net\.training holds a training with other --rounds, .* net-round2 is missing; give"):
        train_network(replace(training, rounds=3))
    with pytest.raises(NasError, match=r"net-round1 is there already, from another training: its seed was 0, and now it is 1; g"):
        train_network(replace(training, seed=1))


def test_without_a_teacher_the_network_itself_is_trained_first_on_the_labelled_images(training, tmp_path):
    seen, own = [], replace(SETTINGS, teacher_share=0.0)
    with pytest.raises(KilledError):
        train_network(replace(training, train=own), on_epoch=killed_at(2, seen))
    assert saved_processes(tmp_path / "net-teacher.training") == 1
    assert not (tmp_path / "net.training").exists()
