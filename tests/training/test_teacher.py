"""A student learns what its teacher says, of the very images that it sees, and the teacher stays as it is."""

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import nas
from nas.errors import NasError
from nas.models.export_folder import write_digests
from nas.training.checkpoint import Checkpoints
from nas.training.loop import TrainSetup, train
from nas.training.predict import Preprocess, num_correct, predict
from nas.training.settings import TrainSettings, check_teacher_settings
from nas.training.teacher import Teacher, distillation_loss, load_teacher
from tests.data.stripes import Stripes, TwoLayers, architecture, weights
from tests.data.teachers import write_teacher

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=8, batch_size=16, lr=3e-2, min_crop=0.8)
PREPROCESS = Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3)
VAL = Stripes().load("val")


@dataclass(frozen=True)
class Swapped(Stripes):
    """Stripes that lie about their class."""

    def load(self, part):
        data = super().load(part)
        return replace(data, labels=1 - data.labels)


def trained(settings=SETTINGS, dataset=None, model=TwoLayers, **options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = model()
    setup = TrainSetup(dataset=dataset or Stripes(), settings=settings, resolution=16, seed=0)
    return student, train(student, setup, **options)


@pytest.fixture(scope="module")
def liar(tmp_path_factory):
    """The folder of a teacher that takes a stripe down for one across, and the other way; its images are normalised otherwise."""
    settings = replace(SETTINGS, epochs=12, cutmix=1.0, mixup=0.2)
    network, _ = trained(settings, Swapped(), model=lambda: nas.build(architecture(), num_classes=2))
    folder = tmp_path_factory.mktemp("liar")
    return write_teacher(folder, architecture(), Stripes.classes, model=network)


def truths(model):
    """The share of images whose class a model gives."""
    return num_correct(predict(model, VAL, PREPROCESS), VAL) / len(VAL)


@pytest.mark.parametrize(
    "views",
    [{}, {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.2}, {"start_resolution": 0.5, "precision": "bfloat16"}],
    ids=["plain", "mixed", "resized"],
)
def test_a_student_believes_its_teacher_as_far_as_the_share_goes(liar, views):
    """The teacher lies, so that no student agrees with it by itself."""
    told = replace(SETTINGS, teacher=liar, teacher_temperature=1.0, **views)
    assert truths(trained(replace(told, teacher_share=1.0))[0]) < 0.1
    assert truths(trained(replace(told, teacher_share=0.0))[0]) > 0.9


def test_a_share_of_nothing_gives_the_bits_of_a_training_without_a_teacher(liar):
    settings = replace(SETTINGS, epochs=1)
    alone, taught = trained(settings)[0], trained(replace(settings, teacher=liar, teacher_share=0.0))[0]
    assert torch.equal(weights(alone), weights(taught))


@pytest.fixture
def teacher():
    """A teacher that is normalised otherwise than its student, whose classes have another order, and which was never trained."""
    torch.manual_seed(1)
    network = TwoLayers().eval().requires_grad_(requires_grad=False)
    how = Preprocess(resolution=24, mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))
    return Teacher(name="two layers", network=network, preprocess=how, outputs=torch.tensor([1, 0]))


def test_a_training_leaves_its_teacher_as_it_is(teacher, monkeypatch):
    """Its weights and the statistics of its norms, though both are seen in training mode by a student of the same kind."""
    seen = []
    teacher.network.register_forward_hook(lambda module, inputs, output: seen.append((module.training, inputs[0].shape[-1])))
    monkeypatch.setattr("nas.training.loop.load_teacher", lambda *_: teacher)
    before = weights(teacher.network)
    student, report = trained(replace(SETTINGS, epochs=2, teacher="two layers", ema_decay=0.9, drop_rate=0.1))
    assert torch.equal(before, weights(teacher.network))
    assert seen == [(False, 24)] * 12
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert not torch.equal(before, weights(student))
    assert len(report.history) == 2


def test_teacher_and_student_see_the_same_crops_mixtures_and_erasures(teacher, monkeypatch):
    views, student_views = [], []
    alike = replace(teacher, preprocess=PREPROCESS)
    alike.network.register_forward_hook(lambda module, inputs, output: views.append(inputs[0]))
    monkeypatch.setattr("nas.training.loop.load_teacher", lambda *_: alike)
    student = TwoLayers()
    student.register_forward_hook(lambda module, inputs, output: student_views.append(inputs[0]) if module.training else None)
    settings = replace(SETTINGS, epochs=1, teacher="two layers", augment="trivial", erasing=0.5, mixup=0.2, cutmix=1.0)
    trained(settings, model=lambda: student)
    assert len(views) == len(student_views) == 6
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(views, student_views, strict=True))


@pytest.mark.parametrize("side", [16, 24])
def test_a_teacher_sees_its_students_view_in_its_own_way(teacher, side):
    images = torch.from_numpy(Stripes().load("train").images)
    student = replace(PREPROCESS, resolution=side)
    given = teacher.logits(student(images), student)
    own = teacher.network(teacher.preprocess(images))[:, [1, 0]]
    assert torch.allclose(given, own, atol=1e-4 if side == 24 else 0.2)
    unlike = teacher.network(student(images))[:, [1, 0]]  # without its own mean and deviation
    assert (given - own).abs().max() < (unlike - own).abs().max() / 3


def test_the_loss_is_the_divergence_at_a_temperature_and_none_between_equals():
    student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    assert distillation_loss(student, teacher, 4.0) == pytest.approx(16 * float((p * (p / q).log()).sum()), rel=1e-5)
    assert distillation_loss(teacher, teacher + 5, 2.0) == pytest.approx(0, abs=1e-6)


def test_a_teacher_of_more_classes_in_another_order_gives_those_of_the_images(tmp_path):
    name = write_teacher(tmp_path, architecture(), ["left", "across", "up", "down"])
    teacher = load_teacher(name, Stripes(), CPU)
    x = PREPROCESS(torch.from_numpy(VAL.images))
    whole = nas.load(tmp_path)
    assert teacher.outputs.tolist() == [3, 1]
    assert teacher.preprocess.mean == (0.4, 0.5, 0.6)
    with torch.no_grad():
        own = whole(teacher.preprocess(torch.from_numpy(VAL.images)))
    assert np.allclose(teacher.probabilities(VAL.images), own.softmax(1)[:, [3, 1]].numpy(), atol=1e-5)  # of all four
    assert teacher.logits(x, PREPROCESS).shape == (96, 2)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./nowhere", "train.teacher: there is no folder ./nowhere; put it back, or give another teacher: an export's folder"),
        (".", "train.teacher: . is not an exported network: it has no SHA256SUMS"),
        ("mobilenetv2_35", "train.teacher: network 'mobilenetv2_35' does not exist; did you mean 'mobilenetv2_035'?"),
        ("tiny.json", "train.teacher: tiny.json is an architecture without weights; give another teacher: an export's folder"),
        ("timm:resnet5", "train.teacher: timm network 'resnet5' does not exist"),
        ("mobilenetv2_035", "timm has no weights for mobilenetv2_035; give another teacher"),
        (
            "timm:resnet18",
            "timm:resnet18 has 1,000 classes, such as n01440764, and lacks down, a class of dataset stripes; train it on these "
            "images first, with `nas train timm:resnet18 --weights pretrained`",
        ),
        ("three", "three has 3 classes, such as down, and lacks across, a class of dataset stripes; give a teacher that was"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_sentence(name, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(architecture().to_json())
    write_teacher(tmp_path / "three", architecture(), ["down", "up", "left"])
    with pytest.raises(NasError) as caught:
        load_teacher(name, Stripes(), CPU)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_teacher_is_refused_wherever_its_folder_is(tmp_path):
    settings, checkpoints = replace(SETTINGS, epochs=1), Checkpoints(folder=tmp_path / "checkpoint")
    here = write_teacher(tmp_path / "here", architecture(), Stripes.classes)
    there = write_teacher(tmp_path / "there", architecture(), Stripes.classes)
    other = write_teacher(tmp_path / "other", architecture(), Stripes.classes, seed=1)
    _, first = trained(replace(settings, teacher=here), checkpoints=checkpoints)
    assert trained(replace(settings, teacher=there), checkpoints=checkpoints)[1].history == first.history
    with pytest.raises(NasError, match=r"another training: its teacher was \w+ \(\w+\), and now it is \w+ \("):
        trained(replace(settings, teacher=other), checkpoints=checkpoints)
    with pytest.raises(NasError, match=r"another training: its teacher was .*, and now it is None"):
        trained(settings, checkpoints=checkpoints)


def test_a_teacher_that_changes_while_a_run_goes_on_is_refused(tmp_path):
    here = write_teacher(tmp_path / "here", architecture(), Stripes.classes)
    name = load_teacher(here, Stripes(), CPU).name
    setup = TrainSetup(dataset=Stripes(), settings=replace(SETTINGS, epochs=1, teacher=here), resolution=16, seed=0, teacher=name)
    train(TwoLayers(), setup)
    write_teacher(tmp_path / "here", architecture(), Stripes.classes[::-1])  # the same weights say something else
    with pytest.raises(NasError, match=rf"train\.teacher: .*here has changed; it was {re.escape(name)}, and now it is"):
        train(TwoLayers(), setup)


def test_a_teacher_whose_images_have_no_deviation_is_refused(tmp_path):
    here = write_teacher(tmp_path, architecture(), Stripes.classes)
    card = json.loads((tmp_path / "card.json").read_text())
    card["preprocess"]["std"] = [0, 0.5, 0.5]
    (tmp_path / "card.json").write_text(json.dumps(card))
    write_digests(tmp_path)
    with pytest.raises(NasError, match=r"card\.json is damaged: it has no id, classes, or mean and std"):
        load_teacher(here, Stripes(), CPU)


@pytest.mark.parametrize("fields", [{"teacher_temperature": 0}, {"teacher_share": 1.1}, {"teacher_share": -0.1}])
def test_a_wrong_setting_is_refused(fields):
    with pytest.raises(NasError, match=rf"train\.{next(iter(fields))}"):
        TrainSettings(teacher="net", **fields)


def test_settings_of_a_teacher_need_one():
    check_teacher_settings(TrainSettings(teacher="net", teacher_share=0.1))
    with pytest.raises(NasError, match=r"do nothing without a teacher; give --train\.teacher too"):
        check_teacher_settings(TrainSettings(teacher_share=0.1))
    with pytest.raises(NasError, match=r"train\.teacher: net does nothing with train\.teacher_share 0; give a higher share"):
        check_teacher_settings(TrainSettings(teacher="net", teacher_share=0))
