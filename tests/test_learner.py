"""What an optimiser, a checkpoint and an export can reach of a stage, and what not."""

import copy

import pytest
import torch
from torch import nn

from dermdistill.methods import METHODS, build_method
from dermdistill.methods.view_pretext import ViewPretext
from dermdistill.types import rotated, upright
from method_contract import CLASSES, classroom


def pointers(module: nn.Module) -> set[int]:
    """Where a module's numbers lie in memory."""
    return {t.data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}


@pytest.mark.parametrize("name", METHODS)
def test_teacher_and_pretext_are_out_of_reach(name):
    room = classroom(build_method(name))
    room.loss()
    learner = room.learner
    for frozen in filter(None, (room.teacher, room.pretext)):
        assert not {id(m) for m in frozen.modules()} & {id(m) for m in learner.modules()}
        assert not pointers(frozen) & pointers(learner)
    inside = ("student.", "adapters.")
    assert all(key.startswith(inside) for key in learner.state_dict())
    assert all(key.startswith(inside) for key, _ in learner.named_parameters())


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
    assert set(room.learner(room.batch, room.taught())) == {"view_contrast"}


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
