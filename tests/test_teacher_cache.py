"""A run on kept answers is the run that asks, bit for bit; an answer meets its own pixels alone."""

from pathlib import Path

import pytest
import torch

import small
from dermdistill.distill import distill
from dermdistill.run import BEST, HISTORY, LAST
from dermdistill.stages import TEACHER_CACHE
from dermdistill.train import teacher_cache
from dermdistill.train.teacher_cache import TeacherCache, digest_of_images
from dermdistill.types import Batch, Taps
from test_resume import StopAt, StoppedError

FILES = (BEST, LAST, HISTORY)


def batch(images: torch.Tensor) -> Batch:
    count = len(images)
    return Batch(images[:, None], torch.zeros(count, dtype=torch.int64), [""] * count,
                 torch.arange(count))  # fmt: skip


class Asked:
    """A teacher that counts how often it is asked; its maps lie in memory channels last."""

    def __init__(self):
        self.times = 0

    def __call__(self, given: Batch) -> tuple[Taps, ...]:
        self.times += 1
        images = given.for_teacher()
        maps = images.contiguous(memory_format=torch.channels_last) * 2
        mean = images.mean((2, 3))
        half = mean.bfloat16()
        return (Taps(maps, mean, half, (maps, maps[..., :2])), Taps(maps + 1, mean, half))


def same(first: tuple[Taps, ...], second: tuple[Taps, ...]) -> bool:
    pairs = [
        (a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip((*one[:3], *one.stages), (*other[:3], *other.stages), strict=True)
    ]
    return all(
        torch.equal(a, b) and a.dtype == b.dtype and in_memory(a) == in_memory(b) for a, b in pairs
    )


def in_memory(tensor: torch.Tensor) -> list[int]:
    return sorted(range(tensor.ndim), key=tensor.stride)


def test_an_answer_is_given_again_as_it_was(tmp_path):
    asked = Asked()
    cache = TeacherCache(asked, tmp_path, steps=3)
    images = torch.rand(3, 3, 4, 6)
    live = Asked()(batch(images))
    assert same(cache(batch(images)), live)
    assert same(cache(batch(images)), live)
    assert same(TeacherCache(asked, tmp_path, 3)(batch(images.clone())), live)
    assert asked.times == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.flip(0),
        lambda images: images.flip(3),
        lambda images: images.reshape(3, 3, 8, 3),
        lambda images: torch.nextafter(images, torch.tensor(2.0)),
        lambda images: images[:2],
    ],
    ids=["other order", "mirrored", "other shape", "one bit", "fewer"],
)
def test_other_pixels_are_asked_anew(tmp_path, change):
    asked = Asked()
    cache = TeacherCache(asked, tmp_path, steps=3)
    images = torch.rand(3, 3, 4, 6)
    cache(batch(images))
    other = change(images)
    assert digest_of_images(other) != digest_of_images(images)
    assert same(cache(batch(other)), Asked()(batch(other)))
    assert asked.times == 2


def test_a_broken_file_is_written_anew(tmp_path):
    asked = Asked()
    cache = TeacherCache(asked, tmp_path, steps=3)
    images = torch.rand(3, 3, 4, 6)
    cache(batch(images))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        assert same(cache(batch(images)), Asked()(batch(images)))
    assert asked.times == 2, "it is asked once more, and the new answer is kept"


def test_a_disk_too_small_is_told_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "MOST_OF_FREE_DISK", 0.0)
    asked = Asked()
    cache = TeacherCache(asked, tmp_path, steps=3)
    images = torch.rand(2, 3, 4, 4)
    with pytest.warns(UserWarning, match="GB are free .* not kept"):
        cache(batch(images))
    cache(batch(images))
    assert asked.times == 2
    assert not list(tmp_path.iterdir())


def test_kept_and_live_runs_are_equal_with_shuffling_and_a_kill(tmp_path):
    """Live, cold, killed in between and warm: the same bits; the warm one asks nobody."""
    teacher, runs = small.teacher(), {}
    settings = small.fit(epochs=2, sampler_power=0.5)

    def trainer(name: str, cached: bool, **more):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made = small.trainer(folder, settings, "d_kd", teacher=teacher, **more)
        if cached:
            made.teach = TeacherCache(made.teach, tmp_path / "answers", made.schedule.total)
        runs[name] = folder
        return made

    trainer("live", cached=False).run()
    with pytest.raises(StoppedError):
        trainer("cold", cached=True, before_step=StopAt(4)).run()
    trainer("cold", cached=True).run()
    warm = trainer("warm", cached=True)
    warm.teach.teach = asked_in_vain
    warm.run()
    for name in ("cold", "warm"):
        for file in FILES:
            assert (runs[name] / file).read_bytes() == (runs["live"] / file).read_bytes(), name


def test_another_method_of_the_same_seed_asks_nobody(tmp_path):
    distill(small.config(tmp_path, "kd", cache_teacher=True), progress=False)
    answers = {path: path.stat().st_mtime_ns for path in answers_in(tmp_path)}
    assert answers
    distill(small.config(tmp_path, "rkd", cache_teacher=True), progress=False)
    assert {path: path.stat().st_mtime_ns for path in answers_in(tmp_path)} == answers
    distill(small.config(tmp_path, "kd", seed=6, cache_teacher=True), progress=False)
    assert len(answers_in(tmp_path)) > len(answers)


def asked_in_vain(given: Batch) -> tuple[Taps, ...]:
    pytest.fail("a teacher is asked for answers that are kept")


def answers_in(output: Path) -> list[Path]:
    return sorted((output / TEACHER_CACHE).rglob("*.safetensors"))
