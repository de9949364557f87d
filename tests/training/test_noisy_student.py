"""Images that a teacher labels: which are used, how often, and what a student learns from them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.datasets import ImageData
from nas.errors import NasError
from nas.training.checkpoint import Checkpoints
from nas.training.loop import TrainSetup, train
from nas.training.noisy_student import PseudoLabelled, pseudo_labels, read_unlabelled, select
from nas.training.predict import Preprocess, num_correct, predict
from nas.training.settings import TrainSettings
from nas.training.teacher import Teacher
from tests.data.stripes import Stripes, TwoLayers, striped

PREPROCESS = Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SETTINGS = TrainSettings(epochs=8, batch_size=16, lr=3e-2, min_crop=0.8, label_smoothing=0)


@dataclass(frozen=True)
class Few(Stripes):
    """Four labelled images, and the whole of the other parts."""

    def load(self, part):
        data = super().load(part)
        return ImageData(images=data.images[:4], labels=data.labels[:4]) if part == "train" else data


class Contrary(torch.nn.Module):
    """Says across of stripes that run down, with a confidence that grows with their contrast, and the other way."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(6.0))

    def forward(self, x):
        rows, columns = x.mean((1, 3)).std(1), x.mean((1, 2)).std(1)
        return self.scale * torch.stack((rows - columns, columns - rows), 1)


def contrary():
    return Teacher(name="contrary", network=Contrary().eval(), preprocess=PREPROCESS, outputs=torch.tensor([0, 1]))


@pytest.fixture
def folder(tmp_path):
    """60 new images in folders of folders, of which a third runs across, 14 of the dataset, one that is broken, and a text."""
    images = striped(np.arange(60) < 20, seed=9)
    copies = [Few().load(part).images[:5] for part in ("train", "val", "test")]
    for i, image in enumerate((*images, *np.concatenate(copies))):
        place = tmp_path / "more" / "abc"[i % 3] / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    (tmp_path / "more" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "more" / "read.me").write_text("no image")
    return tmp_path / "more"


def test_confident_images_are_picked_and_every_class_counts_alike():
    probabilities = np.full((20, 3), 0.02, np.float32)
    probabilities[:12, 0] = np.linspace(0.4, 0.95, 12)  # a large class: the most confident of it
    probabilities[12:14, 1] = (0.9, 0.6)  # a small one, repeated
    probabilities[14:, 2] = 0.29  # below the threshold
    rows = select(probabilities, min_confidence=0.3)
    assert sorted(rows.tolist()) == [7, 8, 9, 10, 11] + [12] * 3 + [13] * 2  # 14 confident ones of 3 classes: 5 of each
    assert sorted(set(select(probabilities, min_confidence=0.2).tolist()) & set(range(14, 20))) == [14, 15, 16, 17, 18, 19]
    assert not len(select(probabilities, min_confidence=0.96))


def test_a_class_has_no_more_images_than_the_papers(monkeypatch):
    monkeypatch.setattr("nas.training.noisy_student.MOST_PER_CLASS", 3)
    probabilities = np.eye(2, dtype=np.float32)[np.arange(20) % 2]
    assert len(select(probabilities, min_confidence=0.3)) == 6


def test_a_teacher_labels_whole_new_images_of_any_folder(folder, caplog):
    caplog.set_level("INFO")
    teacher = contrary()
    picked = pseudo_labels(Few(), folder, teacher, min_confidence=0.3)
    assert "74 images, 14 of the dataset's left out, 50 confident and picked; an epoch shows 60" in caplog.text
    assert read_unlabelled(Few(), folder)[0].left_out == "1 unreadable"
    images = picked.load()
    assert np.allclose(teacher.probabilities(images), picked.probabilities)
    across = images[:, 0].astype(float).mean((1, 2)) > 150
    assert np.array_equal(picked.probabilities.argmax(1) == 0, across)
    labels = picked.probabilities[picked.rows].argmax(1)
    assert np.bincount(labels).tolist() == [30, 30]
    assert len(set(picked.rows.tolist())) == len(images)


def student_of(picked, settings=SETTINGS, **options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, seen = TwoLayers(), []
    setup = TrainSetup(dataset=Few(), settings=settings, resolution=16, seed=0, pseudo_labelled=picked)
    report = train(model, setup, on_step=lambda done, total: seen.append((done, total)), **options)
    val = Few().load("val")
    return num_correct(predict(model, val, PREPROCESS), val) / len(val), report, seen


def test_a_student_learns_the_labels_of_its_teacher_and_each_epoch_shows_all(folder):
    picked = pseudo_labels(Few(), folder, contrary(), min_confidence=0.3)
    share, _, seen = student_of(picked)
    assert share < 0.1
    assert len(seen) == 8 * ((4 + 60) // 16)


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.2}])
def test_labels_are_as_soft_as_the_teacher_is_sure(folder, mixing):
    picked = pseudo_labels(Few(), folder, contrary(), min_confidence=0.3)
    unsure = replace(picked, probabilities=np.full_like(picked.probabilities, 0.5))
    losses = [student_of(one, replace(SETTINGS, **mixing))[1].history[-1].train_loss for one in (picked, unsure)]
    assert losses[0] < 0.6 < losses[1] < 0.75  # half of ln 2 = 0.69 of each unsure image cannot be learned


def test_a_checkpoint_of_other_labels_is_refused(folder, tmp_path):
    picked, checkpoints = (
        pseudo_labels(Few(), folder, contrary(), min_confidence=0.3),
        Checkpoints(folder=tmp_path / "checkpoint"),
    )
    settings = replace(SETTINGS, epochs=1)
    student_of(picked, settings, checkpoints=checkpoints)
    with pytest.raises(NasError, match="another training: its teacher that labelled images was contrary, and now it is another"):
        student_of(replace(picked, teacher="another"), settings, checkpoints=checkpoints)
    with pytest.raises(
        NasError,
        match=r"another training: its (min_confidence was 0\.3|teacher that labelled images was contrary), and now it is None",
    ):
        student_of(None, settings, checkpoints=checkpoints)


def test_images_that_change_later_are_refused(folder):
    picked = pseudo_labels(Few(), folder, contrary(), min_confidence=0.3)
    names = sorted(path.name for path in folder.rglob("*.png"))
    first = next(folder.rglob(names[0]))
    first.rename(first.with_name("zzz.png"))  # places are counted in the order of the names
    with pytest.raises(NasError, match="have changed; begin again"):
        student_of(picked)
    first.with_name("zzz.png").rename(first)
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(folder / "new.png")
    with pytest.raises(NasError, match="have changed; begin again"):
        student_of(picked)


@dataclass(frozen=True)
class Wide(Few):
    """Images that are no squares."""

    def load(self, part):
        data = super().load(part)
        return replace(data, images=data.images[:, :8])


def refusal(dataset, folder, min_confidence=0.3):
    with pytest.raises(NasError) as caught:
        pseudo_labels(dataset, Path(folder), contrary(), min_confidence=min_confidence)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_that_cannot_be_used_are_one_sentence(folder, tmp_path):
    empty, copies, broken = (tmp_path / name for name in ("empty", "copies", "broken"))
    for place in (empty, copies, broken):
        place.mkdir()
    (broken / "one.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.fromarray(Few().load("test").images[0]).save(copies / "one.png")
    assert "unlabelled: " in refusal(Few(), tmp_path / "nowhere")
    assert "nowhere is not a folder; give a folder of images" in refusal(Few(), tmp_path / "nowhere")
    assert "empty has no images" in refusal(Few(), empty)
    assert "broken can be read; give a folder of images" in refusal(Few(), broken)
    assert "copies is one of dataset stripes; give a folder of other images" in refusal(Few(), copies)
    assert "nowhere as confident as min-confidence 1, and at most 1.00; lower it" in refusal(Few(), folder, 1.0)
    assert "has images of 8 x 12 pixels; they must be square" in refusal(Wide(), folder)


def test_deep_images_of_another_depth_are_refused(tmp_path):
    Image.fromarray(np.full((12, 12), 4000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12) * 28).save(tmp_path / "other.png")
    assert "have 12 bits and those of dataset stripes 10" in refusal(Deep(), tmp_path)
    for name in ("deep", "other"):
        Image.fromarray(np.full((12, 12), 200, np.uint16)).save(tmp_path / f"{name}.png")
    assert "have 8 bits and those of dataset stripes 10" in refusal(Deep(), tmp_path)


@dataclass(frozen=True)
class Deep(Few):
    """Images of ten bits."""

    bits = 10


def test_the_record_says_which_images_there_were(folder):
    picked = pseudo_labels(Few(), folder, contrary(), min_confidence=0.3)
    assert isinstance(picked, PseudoLabelled)
    assert picked.record == {
        "min_confidence": 0.3,
        "unlabelled": picked.digest,
        "pseudo_labelled": 50,
        "pseudo_labelled_an_epoch": 60,
    }
