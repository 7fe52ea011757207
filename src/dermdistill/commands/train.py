"""Commands that train, and the methods they train by; heavy imports wait until one runs."""

import sys
from dataclasses import fields

from dermdistill.commands.data import data_synth
from dermdistill.commands.deploy import export
from dermdistill.commands.judge import REPORT, report, tell
from dermdistill.config import Config
from dermdistill.errors import ConfigError
from dermdistill.run import RESEARCH_NOTICE, write_text


def teach(config: Config, resume: bool = True) -> None:
    """Train the teacher of a config, or find it trained."""
    from dermdistill.distill import teach as train_teacher
    from dermdistill.runtime import is_first_process

    run = train_teacher(config, resume=resume)
    if is_first_process():
        tell(run)


def distill(config: Config, resume: bool = True) -> None:
    """Run teacher, pretext and student, score them, export the student and write the report."""
    from dermdistill.distill import distill as run_stages
    from dermdistill.runtime import is_first_process

    run = run_stages(config, resume=resume)
    if not is_first_process():
        return
    if config.student.network.metadata == "none":
        export(str(run))
    else:
        print("not exported: the student reads metadata, and a bundle takes images alone",
              file=sys.stderr)  # fmt: skip
    report([str(run)], str(run / REPORT))
    tell(run)


def compare(
    config: Config,
    methods: str,
    seeds: str = "2021",
    folds: str = "0",
    ray: str = "local",
    cpus_per_run: int = 1,
    gpus_per_run: float = 0.0,
) -> int:
    """Distil a grid of methods, seeds and folds; a CSV, and a table with the spread over seeds.

    Exits with 1 if a run failed; the same command tries it again, and trains nothing twice.

    Args:
        config: what all runs share.
        methods: names, with commas between.
        seeds: numbers, with commas between.
        folds: which folds validate in turn, with commas between.
        ray: "local" starts Ray on this machine, "none" runs one after another in this process,
            else the address of a Ray cluster.
        cpus_per_run: processor cores that a run gets.
        gpus_per_run: GPUs that a run gets; 0.5 lets two share one.
    """
    from dermdistill import compare as grid

    path = grid.compare(
        config, methods.split(","), _numbers("seeds", seeds), _numbers("folds", folds), ray,
        cpus_per_run, gpus_per_run,
    )  # fmt: skip
    print(grid.table(path), end="")
    print(f"runs: {path}")
    print(RESEARCH_NOTICE, file=sys.stderr)
    return 1 if grid.failures(path) else 0


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}; it must be whole numbers with commas between, like "
                          "1,2,3") from error  # fmt: skip


def methods(name: str | None = None, write: str | None = None) -> None:
    """List the methods, or explain one with its equation and defaults.

    Args:
        name: the method to explain.
        write: a Markdown file to write the whole table to (docs/methods.md is one).
    """
    from dermdistill.methods import METHODS, build_method
    from dermdistill.methods.listing import SURE, markdown, who_teaches

    if write:
        write_text(write, markdown())
        return
    if name is None:
        for key, method in METHODS.items():
            count, about = method.views.count, method.__doc__.splitlines()[0]
            print(f"{key:<16} {count} view{'s' if count > 1 else ' '}  "
                  f"teacher {who_teaches(method):<18} {about}")  # fmt: skip
        return
    method = build_method(name)
    print(f"{name}: {method.__doc__.strip()}\n\nTeacher: {who_teaches(METHODS[name])}\n\n"
          f"Source: {method.source}\nHow sure: {SURE[method.sure]}\n\n"
          "Hyper-parameters:")  # fmt: skip
    for field in fields(method):
        print(f"  {field.name:<20} {field.default}")


def demo(output: str = "runs/demo", images: int = 640, px: int = 64, seed: int = 2021) -> None:
    """Run the main job on synthetic images, from nothing to a report, in a few minutes.

    Args:
        output: folder of the data, the runs and the report.
        images: synthetic images.
        px: side of the images.
        seed: of images and training.
    """
    from dermdistill.demo import demo_config

    data_synth(f"{output}/data", images, 2 * px, seed)
    distill(demo_config(output, px, seed))
