"""What an optimiser, a checkpoint and an export can reach of a stage, and what not."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dermdistill.methods import METHODS, Method, build_method
from dermdistill.methods.view_pretext import ViewPretext
from dermdistill.types import Views, rotated, upright
from method_contract import CLASSES, ROWS_AN_IMAGE, classroom


@dataclass(frozen=True)
class Toy(Method):
    """A term that reaches all that learns; its subclasses differ in who teaches."""

    teacher = "none"

    def terms(self, lesson):
        taught = sum(taps.logits.mean() for taps in lesson.teachers)
        learns = sum(taps.logits.square().mean() for taps in (lesson.student, *lesson.peers))
        return {"toy": (1.0, learns + taught)}


class Averaged(Toy):
    teacher = "average"
    views = Views(2, apart=True)
    teacher_decay_ratio = 0.6


class Own(Toy):
    teacher = "self"
    views = Views(2, apart=True)


class Peers(Toy):
    peers = 2


class Several(Toy):
    teacher = "several"
    stages = True


class Counting(Toy):
    """Remembers how often each training image was seen."""

    def memory(self, student, labels):
        bank = nn.Module()
        bank.register_buffer("seen", torch.zeros(len(labels), dtype=torch.int64))
        return {"bank": bank}

    def remember(self, lesson):
        lesson.memory["bank"].seen[lesson.batch.rows] += 1


def pointers(module: nn.Module) -> set[int]:
    """Where a module's numbers lie in memory."""
    return {t.data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}


@pytest.mark.parametrize("name", METHODS)
def test_teacher_and_pretext_are_out_of_reach(name):
    room = classroom(build_method(name))
    room.loss()
    learner = room.learner
    for frozen in filter(None, (*room.teachers, room.pretext)):
        assert not {id(m) for m in frozen.modules()} & {id(m) for m in learner.modules()}
        assert not pointers(frozen) & pointers(learner)
    inside = ("student.", "peers.", "adapters.")
    assert all(key.startswith(inside) for key in room.trained())
    kept = (*inside, "memory.", "average.")
    assert all(key.startswith(kept) for key in learner.state_dict())


def test_training_mode_and_dtype_do_not_reach_the_pretext():
    room = classroom(build_method("ssd_kd"))
    room.learner.train()
    room.learner.double()
    assert not any(module.training for module in room.pretext.modules())
    assert {p.dtype for p in room.pretext.parameters()} == {torch.float32}
    assert {p.dtype for p in room.learner.parameters()} == {torch.float64}


def test_state_dict_restores_a_learner():
    room, other = (classroom(build_method("ssd_kd")) for _ in range(2))
    room.train(2)
    assert room.loss().item() != pytest.approx(other.loss().item(), rel=1e-3)
    # BatchNorm's statistics moved by those two looks, so they are part of the state too.
    other.learner.load_state_dict(copy.deepcopy(room.learner.state_dict()))
    assert room.loss().item() == other.loss().item()


def test_class_weights_are_settings_not_state():
    learner = classroom(build_method("kd")).learner
    assert "class_weights" not in learner.state_dict()
    assert learner.double().class_weights.dtype == torch.float64
    assert len(learner.class_weights) == CLASSES


def test_pretext_learner_has_no_student():
    room = classroom(ViewPretext(), student=False)
    assert room.learner.student is None
    assert set(room.terms()) == {"view_contrast"}


def test_student_sees_every_view_once():
    room = classroom(build_method("sskd"))
    seen = []
    room.learner.student.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    room.loss()
    (images,) = seen
    assert torch.equal(images, room.batch.images.flatten(0, 1))


def test_rows_are_image_major():
    views = 4
    rows = torch.tensor([[i, v] for i in range(3) for v in range(views)])
    assert upright(rows, views).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert rotated(rows, views).tolist() == [[i, v] for i in range(3) for v in (1, 2, 3)]


def seen_by(network: nn.Module) -> list[torch.Tensor]:
    """A list that fills with what a network looks at."""
    images = []
    network.register_forward_pre_hook(lambda _, args: images.append(args[0]))
    return images


def test_an_average_teaches_from_its_own_view_and_follows_the_student():
    room = classroom(Averaged())
    student, average = room.learner.student, room.learner.average.module
    for who, view in ((student, 0), (average, 1)):
        images = seen_by(who)
        room.loss()
        assert torch.equal(images[0], room.batch.images[:, view])
    names = [name for name, p in student.named_parameters()]
    wanted = {name: p.detach().clone() for name, p in student.named_parameters()}
    for step in range(5):
        room.learner.train()
        optimiser = torch.optim.SGD(room.trained().values(), 0.1)
        loss = room.loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        room.learner.after_step(step + 1)
        keep = min(1 - 1 / (step + 1), 0.6)
        for name, p in student.named_parameters():
            wanted[name] = keep * wanted[name] + (1 - keep) * p.detach()
    found = dict(average.named_parameters())
    for name in names:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
    assert not any(module.training for module in average.modules())
    assert all(p.grad is None and not p.requires_grad for p in average.parameters())
    assert not any(name.startswith("average") for name in room.trained())


def test_a_student_that_teaches_itself_sees_another_view_without_gradient():
    room = classroom(Own())
    images = seen_by(room.learner.student)
    room.loss()
    assert all(map(torch.equal, images, (room.batch.images[:, 1], room.batch.images[:, 0])))
    assert not room.learner._lesson.teacher.logits.requires_grad
    assert room.learner._lesson.student.logits.requires_grad
    assert room.learner._lesson.views == 1


def test_peers_start_elsewhere_and_learn_beside_the_student():
    room = classroom(Peers())
    networks = [room.learner.student, *room.learner.peers]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    room.train(1)
    key = "network.classifier.weight"
    assert len({float(state[key].sum()) for state in before}) == 3
    for network, state in zip(networks, before, strict=True):
        assert not torch.equal(network.state_dict()[key], state[key])


def test_several_teachers_and_their_stages():
    room = classroom(Several())
    room.loss()
    lesson = room.learner._lesson
    assert len(lesson.teachers) == 2
    assert lesson.teacher is lesson.teachers[0]
    assert len({taps.map.shape[1:] for taps in lesson.teachers}) == 2
    for network, taps in zip(room.teachers, lesson.teachers, strict=True):
        shapes = [(stage.shape[1], stage.shape[2]) for stage in taps.stages]
        assert shapes == list(network.widths(room.batch.images.shape[-1], stages=True).stages)
        assert len(shapes) == 4
    assert all(stage.requires_grad for stage in lesson.student.stages)


def test_memory_knows_the_images_of_a_batch_and_is_saved():
    room = classroom(Counting())
    room.train(3)
    seen = room.learner.memory["bank"].seen
    assert seen[::ROWS_AN_IMAGE].tolist() == [3] * len(room.batch.target)
    assert seen.sum() == 3 * len(room.batch.target)
    assert "memory.bank.seen" in room.learner.state_dict()
