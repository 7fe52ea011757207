"""The settings: defaults hold, wrong values are named, and a config survives JSON."""

import dataclasses
import json
import math

import pytest

from dermdistill.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    FitConfig,
    PretextConfig,
    StudentConfig,
    TeacherConfig,
    ViewsConfig,
    to_dict,
)
from dermdistill.errors import ConfigError

DATA = [
    ("px", 15), ("test_fraction", 0.0), ("test_fraction", 1.0), ("test_fraction", math.nan),
    ("folds", 1), ("validation_fold", -1), ("validation_fold", 5), ("workers", 0),
]  # fmt: skip
VIEWS = [
    ("scale", (0.0, 1.0)), ("scale", (1.2, 0.8)), ("rotation_deg", -1.0),
    ("translate_ratio", -0.1), ("translate_ratio", 1.1), ("brightness", -0.1),
    ("contrast", -0.1), ("saturation", -0.1), ("hue", -0.1), ("hue", 0.6),
    ("flip_probability", -0.1), ("flip_probability", 1.1), ("light_probability", 1.1),
    ("blur_probability", 2.0),
    ("blur_sigma_px", (0.0, 1.0)), ("blur_sigma_px", (2.0, 1.0)), ("noise_probability", -1.0),
    ("noise_std", -0.1), ("dropout_probability", 1.5), ("dropout_area", (0.0, 0.1)),
    ("dropout_area", (0.2, 0.1)), ("dropout_area", (0.2, 1.1)),
]  # fmt: skip
FIT = [
    ("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", -1.0), ("lr", math.nan),
    ("lr_factor", 0.0), ("weight_decay", -0.1), ("momentum", -0.1), ("momentum", 1.0),
    ("warmup_epochs", -1.0), ("patience_epochs", -1), ("min_lr", -1.0),
    ("early_stop_epochs", -1), ("class_weight_power", -1.0), ("sampler_power", -1.0),
    ("ema_decay", -0.1), ("ema_decay", 1.0), ("clip_norm", -1.0), ("max_steps", -1),
    ("save_every_steps", 0),
]  # fmt: skip


def refused(where: str, name: str, value, **parts) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**parts)
    message = str(caught.value)
    assert message.startswith(f"{where}.{name} is {value!r}; it must be "), message


def test_the_defaults_are_valid_and_are_the_papers_training():
    fit = Config().student.fit
    assert Config().student.method == "ssd_kd"
    assert (fit.optimiser, fit.lr, fit.batch_size, fit.epochs) == ("sgd", 1e-3, 32, 150)
    assert (fit.patience_epochs, fit.early_stop_epochs) == (10, 15)


@pytest.mark.parametrize(("name", "value"), DATA)
def test_a_wrong_data_setting_is_named(name, value):
    refused("data", name, value, data=DataConfig(**{name: value}))


@pytest.mark.parametrize(("name", "value"), VIEWS)
def test_a_wrong_views_setting_is_named(name, value):
    refused("views", name, value, views=ViewsConfig(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("operating_levels", [0.0]), ("operating_levels", [0.9, 1.1]), ("draws", 99),
     ("level", 0.0), ("level", 1.0)],
)  # fmt: skip
def test_a_wrong_evaluation_setting_is_named(name, value):
    refused("evaluation", name, value, evaluation=EvaluationConfig(**{name: value}))


@pytest.mark.parametrize("stage", [TeacherConfig, PretextConfig, StudentConfig])
@pytest.mark.parametrize(("name", "value"), FIT)
def test_a_wrong_fit_setting_is_named_with_its_stage(stage, name, value):
    part = stage.__name__.removesuffix("Config").lower()
    fit = FitConfig(**{name: value})
    refused(f"{part}.fit", name, value, **{part: stage(fit=fit)})


def test_every_number_of_a_fit_has_a_refused_value():
    """A new setting without a check, or without a case above, shows here."""
    numbers = {f.name for f in dataclasses.fields(FitConfig) if f.type in (int, float)}
    assert numbers == {name for name, _ in FIT}
    floats = {f.name for f in dataclasses.fields(ViewsConfig)}
    assert floats == {name for name, _ in VIEWS}


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().student.fit.lr = 1.0


def test_a_config_survives_json():
    config = Config(student=StudentConfig(options={"kd_temperature": 3.0}, fit=FitConfig(lr=0.1)))
    plain = to_dict(config)
    again = json.loads(json.dumps(plain))
    assert again == plain
    assert again["student"]["options"] == {"kd_temperature": 3.0}
    assert again["views"]["scale"] == [0.8, 1.2]
    assert {f.name for f in dataclasses.fields(Config)} == set(plain)
