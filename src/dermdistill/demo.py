"""The demonstration: the whole street at a size that two cores walk in minutes."""

from dermdistill.config import (
    Config,
    DataConfig,
    FitConfig,
    NetworkConfig,
    PretextConfig,
    StudentConfig,
    TeacherConfig,
)

TEACHER, STUDENT = "test_resnet", "test_efficientnet"  # timm's smallest: no download, minutes


def demo_config(output: str, px: int, seed: int) -> Config:
    """SSD-KD between timm's two smallest networks, from random weights, on synthetic images."""
    fit = FitConfig(
        epochs=20, batch_size=32, optimiser="adamw", lr=2e-3, weight_decay=0.02,
        schedule="cosine", warmup_epochs=1, early_stop_epochs=0, watch="balanced_accuracy",
        class_weight_power=0.5, sampler_power=0.5, clip_norm=5.0,
    )  # fmt: skip
    short = FitConfig(epochs=3, batch_size=32, optimiser="adamw", lr=1e-3, schedule="cosine")
    return Config(
        output=output,
        seed=seed,
        precision="bf16",
        data=DataConfig(folder=f"{output}/data", px=px),
        teacher=TeacherConfig(NetworkConfig(TEACHER, weights="none"), fit),
        pretext=PretextConfig(short),
        student=StudentConfig(NetworkConfig(STUDENT, weights="none"), fit=fit),
    )
