"""Teacher, pretext, student: found again when finished, trained anew when anything changed."""

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, roc_auc_score

import small
from dermdistill.config import NetworkConfig, TeacherConfig, to_dict
from dermdistill.distill import distill, evaluate, teach
from dermdistill.errors import ConfigError, DataError, RunError
from dermdistill.evaluate.images import score_images
from dermdistill.export import export_run
from dermdistill.models import load_network
from dermdistill.report import write_report
from dermdistill.run import (
    BEST,
    CONFIG,
    HISTORY,
    LAST,
    METRICS,
    PROVENANCE,
    digest_file,
    read_json,
    write_json,
)
from dermdistill.train.checkpoint import CHECKPOINT

CHECKOUT = Path(__file__).parents[1]


def stages(output: Path) -> set[str]:
    """The run directories of an output folder."""
    return {path.name for path in output.iterdir() if (path / PROVENANCE).exists()}


def times(folder: Path) -> dict[Path, int]:
    """When each file below a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def of_kind(output: Path, kind: str) -> Path:
    """The one run directory of a stage."""
    (found,) = (output / name for name in stages(output) if name.startswith(f"{kind}-"))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The output folder of a whole SSD-KD; tests that add to it copy it first."""
    output = tmp_path_factory.mktemp("distilled")
    run = distill(small.config(output), progress=False)
    assert run == of_kind(output, "student")
    return output


@pytest.fixture
def output(finished, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def test_every_stage_has_the_promised_files(finished):
    assert len(stages(finished)) == 3
    for kind in ("teacher", "pretext", "student"):
        names = {path.name for path in of_kind(finished, kind).iterdir()}
        assert {CONFIG, PROVENANCE, METRICS, HISTORY, BEST, LAST} <= names
        assert CHECKPOINT not in names, "a finished run carries no optimiser state"
        if kind != "pretext":
            assert {f"{what}-{part}.csv" for what in ("predictions", "truth")
                    for part in ("validation", "test")} <= names  # fmt: skip


def test_a_second_call_trains_nothing(output):
    before = times(output)
    distill(small.config(output), progress=False)
    assert times(output) == before


def test_another_hyper_parameter_of_the_student_trains_the_student_alone(output):
    before, known = times(output), stages(output)
    distill(small.config(output, options={"kd_temperature": 3.0}), progress=False)
    (new,) = stages(output) - known
    assert new.startswith("student-ssd_kd-")
    after = times(output)
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("change", ["seed", "fold", "fit", "precision"])
def test_anything_that_the_teacher_depends_on_trains_another(output, change):
    known = stages(output)
    config = small.config(output)
    quick = replace(config.teacher, fit=small.fit(epochs=1, max_steps=1))
    changed = {
        "seed": replace(config, seed=6, teacher=quick),
        "fold": replace(config, data=small.data_config(validation_fold=1), teacher=quick),
        "fit": replace(config, teacher=quick),
        "precision": replace(config, precision="bf16", teacher=quick),
    }[change]
    first = teach(replace(config, teacher=quick), progress=False)
    assert first.name not in known
    assert (teach(changed, progress=False) == first) == (change == "fit")


def test_a_given_teacher_teaches_and_none_is_trained(finished, tmp_path):
    given = of_kind(finished, "teacher")
    before = times(given)
    run = distill(small.config(tmp_path, "kd", teacher_run=str(given)), progress=False)
    assert {name.split("-")[0] for name in stages(tmp_path)} == {"student"}
    origin = read_json(run / PROVENANCE)
    assert Path(origin["teacher_run"]) == given.resolve()
    assert origin["key"]["upstream"] == {"teacher": digest_file(given / BEST)}
    assert times(given) == before


def test_a_teacher_of_other_classes_is_refused(finished, tmp_path):
    given = Path(shutil.copytree(of_kind(finished, "teacher"), tmp_path / "given"))
    origin = read_json(given / PROVENANCE)
    origin["classes"][0] = "ROSE"
    write_json(given / PROVENANCE, origin)
    with pytest.raises(ConfigError, match=r"given knows the classes ROSE.*the data have MEL"):
        distill(small.config(tmp_path / "out", "kd", teacher_run=str(given)), progress=False)


def test_an_unfinished_teacher_is_refused_before_data_are_read(tmp_path):
    (tmp_path / "half").mkdir()
    config = small.config(tmp_path / "out", "kd", teacher_run=str(tmp_path / "half"),
                          data=small.data_config(folder=str(tmp_path / "nothing")))  # fmt: skip
    with pytest.raises(RunError, match=r"half, which is no finished run.*dermdistill teach"):
        distill(config, progress=False)
    assert not (tmp_path / "out").exists()


def test_supervised_needs_no_teacher(tmp_path):
    run = distill(small.config(tmp_path, "supervised"), progress=False)
    assert stages(tmp_path) == {run.name}
    origin = read_json(run / PROVENANCE)
    assert origin["teacher_run"] is None
    assert origin["pretext_run"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ssdkd"}, r"no method 'ssdkd'; did you mean 'ssd_kd'"),
        ({"options": {"kd_temprature": 1.0}}, r"no hyper-parameter.*'kd_temprature'.*'kd_temp"),
        ({"options": {"kd_temperature": 0.0}}, r"kd_temperature is 0\.0; it must be above 0"),
    ],
)
def test_wrong_names_die_before_data_are_read(tmp_path, changes, message):
    config = small.config(tmp_path / "out", **changes,
                          data=small.data_config(folder=str(tmp_path / "nothing")))  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        distill(config, progress=False)
    assert not (tmp_path / "out").exists()


def test_an_unknown_network_is_named_with_its_nearest(tmp_path):
    config = small.config(tmp_path)
    network = replace(config.student.network, name="mobilenetv2_10")
    with pytest.raises(ConfigError, match=r"no timm network.*did you mean.*'mobilenetv2_100'"):
        distill(replace(config, student=replace(config.student, network=network)), progress=False)


def test_provenance_names_what_made_the_student(finished):
    student, data = of_kind(finished, "student"), small.dataset()
    origin = read_json(student / PROVENANCE)
    assert origin["seed"] == 5
    assert origin["store"]["digest"] == data.store.digest
    assert origin["split"] == {"digest": data.split.digest, "protocol": "lesion",
                               "validation_fold": 0}  # fmt: skip
    assert origin["classes"] == list(data.classes)
    assert (origin["network"], origin["input_px"]) == (small.STUDENT, small.PX)
    assert origin["hyper_parameters"]["gram_weight"] == 1000.0
    for kind in ("teacher", "pretext"):
        run = student / origin[f"{kind}_run"]
        assert run.resolve() == of_kind(finished, kind).resolve()
        assert origin["key"]["upstream"][kind] == digest_file(run / BEST)
    assert {"torch", "timm", "numpy"} <= set(origin["versions"])
    described = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if described.returncode == 0 and origin["commit"]:
        assert origin["commit"].removesuffix("-dirty") == described.stdout.strip()
    assert yaml.safe_load((student / CONFIG).read_text()) == to_dict(small.config(finished))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_metrics_are_those_of_the_csv_files(finished, part):
    """Read by the standard library and judged by scikit-learn, not by the package."""
    student = of_kind(finished, "student")
    with open(student / f"predictions-{part}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(student / f"truth-{part}.csv", newline="") as file:
        truth = {row["image"]: row for row in csv.DictReader(file)}
    classes = [name for name in rows[0] if name != "image"]
    probabilities = np.array([[float(row[name]) for name in classes] for row in rows])
    hot = np.array([[float(truth[row["image"]][name]) for name in classes] for row in rows])
    codes, predicted = hot.argmax(1), probabilities.argmax(1)
    figures = read_json(student / METRICS)[part]
    assert [row["image"] for row in rows] == getattr(small.dataset(), part).ids
    assert figures["images"] == len(rows)
    assert figures["accuracy"] == pytest.approx(accuracy_score(codes, predicted))
    recalls = recall_score(codes, predicted, labels=np.unique(codes), average=None)
    assert figures["balanced_accuracy"] == pytest.approx(recalls.mean())
    areas = [roc_auc_score(hot[:, k], probabilities[:, k]) for k in np.unique(codes)]
    assert figures["macro_auc"] == pytest.approx(np.mean(areas))
    counted = confusion_matrix(codes, predicted, labels=range(len(classes)))
    assert figures["confusion_matrix"] == counted.tolist()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_lesions_and_facts_stand_beside_the_predictions(finished, part):
    with open(of_kind(finished, "student") / f"groups-{part}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    data = small.dataset()
    assert [row["image"] for row in rows] == getattr(data, part).ids
    facts = data.table.frame.iloc[data.table.rows(getattr(data, part).ids)]
    assert [row["lesion"] for row in rows] == facts["lesion"].tolist()
    assert [row["sex"] for row in rows] == facts["sex"].fillna("").tolist()


def test_the_best_epochs_figures_are_those_of_the_history(finished):
    student = of_kind(finished, "student")
    metrics = read_json(student / METRICS)
    line = small.history(student, "validation")[metrics["selected_epoch"]]
    assert metrics["validation"]["accuracy"] == pytest.approx(line["accuracy"])
    assert metrics["validation"]["balanced_accuracy"] == pytest.approx(line["balanced_accuracy"])


def test_cost_counts_the_network_alone(finished):
    from safetensors.numpy import load_file

    student = of_kind(finished, "student")
    cost, tensors = read_json(student / METRICS)["cost"], load_file(student / BEST)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    counted = sum(v.size for k, v in tensors.items() if not k.endswith(statistics))
    assert cost["parameters"] == counted
    assert all(name.startswith("network.") for name in tensors), "no adapter is kept"
    assert cost["multiply_adds"] > 0


def test_evaluating_again_gives_the_same_figures(output):
    student = of_kind(output, "student")
    before = read_json(student / METRICS)
    csv_before = (student / "predictions-test.csv").read_bytes()
    (student / "predictions-test.csv").unlink()
    evaluate(student, progress=False)
    assert read_json(student / METRICS) == before
    assert (student / "predictions-test.csv").read_bytes() == csv_before


def test_evaluating_on_other_images_is_refused(output):
    student = of_kind(output, "student")
    config = yaml.safe_load((student / CONFIG).read_text())
    config["data"]["split_seed"] = 1
    (student / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(RunError, match="other images or another split"):
        evaluate(student, progress=False)


def test_another_folder_is_scored_by_the_same_road(finished, tmp_path):
    """The run's own images given as another folder: the same probabilities, image by image."""
    student = of_kind(finished, "student")
    before = {path.name: path.read_bytes() for path in student.iterdir() if path.is_file()}
    made = score_images(student, small.images(), tmp_path / "elsewhere", progress=False)
    everywhere, own = small.predictions(made, "test"), small.predictions(student, "test")
    assert len(everywhere) == small.IMAGES > len(own)
    rows = [everywhere.ids.index(name) for name in own.ids]
    assert everywhere.probabilities[rows] == pytest.approx(own.probabilities, abs=1e-5)
    assert everywhere.labels[rows].tolist() == own.labels.tolist()
    assert read_json(made / METRICS)["test"]["images"] == small.IMAGES
    assert {p.name: p.read_bytes() for p in student.iterdir() if p.is_file()} == before
    digests = [read_json(run / PROVENANCE)["split"]["digest"] for run in (made, student)]
    assert digests[0] != digests[1]
    assert "elsewhere" in write_report([made], tmp_path / "report.html").read_text()


def test_a_folder_with_some_of_the_classes_is_scored_and_with_others_refused(finished, tmp_path):
    student, data = of_kind(finished, "student"), small.dataset()
    for name in data.classes[:2]:
        (tmp_path / "images" / name).mkdir(parents=True)
    facts = data.table.frame.set_index("id")
    for label, paths in facts.groupby("label")["path"]:
        if label in data.classes[:2]:
            for path in paths.iloc[:2]:
                shutil.copy(path, tmp_path / "images" / label)
    with pytest.warns(UserWarning, match="names no lesions"):
        made = score_images(student, tmp_path / "images", tmp_path / "some", progress=False)
    figures = read_json(made / METRICS)["test"]
    assert figures["images"] == 4
    assert figures["absent"] == list(data.classes[2:])
    shutil.copytree(tmp_path / "images" / data.classes[0], tmp_path / "images" / "wart")
    with (
        pytest.warns(UserWarning, match="names no lesions"),
        pytest.raises(DataError, match=r"have the classes wart, which the network .* not know"),
    ):
        score_images(student, tmp_path / "images", tmp_path / "none", progress=False)


def test_a_stage_stopped_before_scoring_is_scored_and_not_trained_again(output):
    """A kill between the last checkpoint and the figures."""
    student = of_kind(output, "student")
    metrics, history = read_json(student / METRICS), (student / HISTORY).read_bytes()
    fresh = output.parent / "fresh"
    shutil.copytree(output, fresh)
    student = of_kind(fresh, "student")
    (student / METRICS).unlink()
    distill(small.config(fresh), progress=False)
    again = read_json(student / METRICS)
    assert {k: again[k] for k in ("validation", "test")} == {
        k: metrics[k] for k in ("validation", "test")
    }
    assert (student / HISTORY).read_bytes() == history


def test_without_resume_an_unfinished_stage_starts_again(output):
    """A checkpoint that cannot be read shows whether it was looked at."""
    student = of_kind(output, "student")
    history = (student / HISTORY).read_bytes()
    fresh = Path(shutil.copytree(output, output.parent / "fresh"))
    student = of_kind(fresh, "student")
    (student / METRICS).unlink()
    (student / CHECKPOINT).write_bytes(b"broken")
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        distill(small.config(fresh), progress=False)
    distill(small.config(fresh), progress=False, resume=False)
    assert (student / HISTORY).read_bytes() == history


def test_several_teachers_are_trained_found_again_and_told(tmp_path):
    run = distill(small.config(tmp_path, "multi_kd"), progress=False)
    origin = read_json(run / PROVENANCE)
    places = [origin["teacher_run"], origin["teacher_2_run"]]
    assert [Path(place).name.split("-")[1] for place in places] == list(small.TEACHERS)
    assert len(stages(tmp_path)) == 3
    before = times(tmp_path)
    given = [TeacherConfig(run=str(tmp_path / Path(place).name)) for place in places]
    assert distill(small.config(tmp_path, "multi_kd", teachers=given), progress=False) == run
    assert times(tmp_path) == before
    # Who comes first is another run: methods may treat them by place.
    key = origin["key"]["upstream"]
    assert set(key) == {"teacher", "teacher_2"}


def test_wrong_teachers_die_before_images_are_read(tmp_path):
    nowhere = small.data_config(folder="nowhere")
    one = [TeacherConfig(NetworkConfig(small.TEACHER, weights="none"))]
    for teachers, error, match in (
        ([], ConfigError, "names 0; it must name at least 2"),
        (one, ConfigError, "names 1; it must name at least 2"),
        ([*one, TeacherConfig(run="no/run")], RunError, r"teachers\[1\]\.run is no/run"),
        ([*one, TeacherConfig(NetworkConfig("resnet51"))], ConfigError, "did you mean"),
    ):
        with pytest.raises(error, match=match):
            distill(small.config(tmp_path, "multi_kd", teachers=teachers, data=nowhere))
    with pytest.raises(ConfigError, match=r"teachers\[0\]\.fit\.epochs is 0"):
        small.config(tmp_path, teachers=[TeacherConfig(fit=small.fit(epochs=0))])


def test_one_teacher_twice_is_refused(tmp_path):
    twice = [TeacherConfig(NetworkConfig(small.TEACHER, weights="none"), small.fit())] * 2
    with pytest.raises(ConfigError, match="twice; every teacher must be another run"):
        distill(small.config(tmp_path, "multi_kd", teachers=twice), progress=False)


def test_simkd_is_kept_with_its_projector_and_exported(tmp_path):
    run = distill(small.config(tmp_path, "simkd"), progress=False)
    network = load_network(run)
    teacher = load_network(tmp_path / Path(read_json(run / PROVENANCE)["teacher_run"]).name)
    own, lent = network.bridge.classifier, teacher.network.get_classifier()
    assert torch.equal(own.weight, lent.weight)
    assert torch.equal(own.bias, lent.bias)
    parity = export_run(run, ["onnx"])["onnx"].parity
    assert parity.source == "test images"
    assert parity.probability < 1e-4


def test_no_folder_is_no_traceback(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        teach(small.config(tmp_path, data=small.data_config(folder="nowhere")), progress=False)
    with pytest.raises(ConfigError, match=r"data\.folder is empty"):
        teach(small.config(tmp_path, data=small.data_config(folder="")), progress=False)


def test_plain_json_holds_no_nan(finished):
    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    for path in finished.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
