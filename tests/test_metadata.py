"""Networks that read age, sex and site: what they compute, whose facts they get, what is kept."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import small
from dermdistill.config import NetworkConfig, StudentConfig, TeacherConfig, load_config
from dermdistill.data.readers import read_table
from dermdistill.data.table import Table
from dermdistill.distill import distill, evaluate
from dermdistill.errors import ConfigError, DataError, RunError
from dermdistill.evaluate.images import score_images
from dermdistill.evaluate.opened import open_run
from dermdistill.evaluate.predict import predict_logits
from dermdistill.export import export_run
from dermdistill.methods import METHODS, build_method
from dermdistill.models import MetaBlock, MetadataEncoder, build_backbone, load_network
from dermdistill.models.pooling import pools_by_mean
from dermdistill.run import BEST, HISTORY, PROVENANCE, read_json
from dermdistill.runtime import start_fabric
from dermdistill.stages import Stage
from dermdistill.train import Trainer
from dermdistill.train.teacher_cache import TeacherCache
from dermdistill.types import Metadata, total_loss
from method_contract import classroom, images, patients
from test_resume import through

HOW = ("concat", "metablock")
CLASSES = 3
ENCODER = MetadataEncoder(("female", "male"), ("head/neck", "scalp", "torso"))


def facts(*rows: tuple) -> Metadata:
    """Rows of (age, sex, site), None where not known."""
    age, sex, site = zip(*rows, strict=True)
    ages = np.array([math.nan if value is None else value for value in age], float)
    return Metadata(ages, np.array(sex, object), np.array(site, object))


TWO = facts((50, "male", "torso"), (None, None, "nail"))


def network(how: str, name: str = "test_resnet", **options):
    torch.manual_seed(3)
    return build_backbone(
        NetworkConfig(name, "none", options, metadata=how), CLASSES, ENCODER
    ).eval()


# ---------------------------------------------------------------- numbers


def test_a_patient_in_numbers():
    row = ENCODER(facts((50, "male", "torso")))[0]
    assert row.tolist() == [0.5, 0, 0, 1, 0, 0, 0, 1, 0]
    assert row.shape == (ENCODER.width,)


def test_what_is_missing_is_an_input_of_its_own():
    nothing = ENCODER(Metadata.missing(1))[0]
    assert nothing.tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 1]
    newborn = ENCODER(facts((0, None, None)))[0]
    assert not torch.equal(newborn, nothing), "an age of 0 is no missing age"


def test_unknown_names_count_as_not_known_and_are_listed():
    strange = facts((50, "male", "nail"), (50, "male", "nail"), (50, "x", "scalp"), (1, None, None))
    assert torch.equal(ENCODER(strange)[0], ENCODER(facts((50, "male", None)))[0])
    assert ENCODER.summary(strange) == {
        "missing": {"age": 0, "sex": 1, "site": 1},
        "unknown_names": {"sex": {"x": 1}, "site": {"nail": 2}},
    }
    with pytest.warns(UserWarning, match="did not know: ") as told:
        ENCODER.warn(strange, "the test part")
    assert "2 of 4 images have a site that the network's training did not know: nail (2)" in str(
        told[1].message
    )


def test_the_encoder_knows_the_training_parts_names_and_survives_json():
    made = MetadataEncoder.of(facts((1, "male", "b"), (None, "female", None), (3, None, "a")))
    assert made == MetadataEncoder(("female", "male"), ("a", "b"))
    assert MetadataEncoder.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    with pytest.raises(DataError, match=r"no training image has an age.*metadata to none"):
        MetadataEncoder.of(Metadata.missing(5))


def test_a_table_gives_each_id_its_own_facts_in_any_order():
    table = read_table(small.images())
    mixed = Table(table.frame.sample(frac=1, random_state=4), table.classes)
    ids = small.dataset().train.ids[::-1]
    wanted = table.frame.set_index("id").loc[ids]
    for found in (table.metadata(ids), mixed.metadata(ids)):
        np.testing.assert_array_equal(found.age, wanted["age"].to_numpy(float))
        for fact in ("sex", "site"):
            told = [None if pd_missing(v) else v for v in wanted[fact]]
            assert getattr(found, fact).tolist() == told
    assert table.metadata_digest == mixed.metadata_digest
    older = table.frame.assign(age=table.frame["age"] + 1)
    assert Table(older, table.classes).metadata_digest != table.metadata_digest
    assert Table(older, table.classes).digest == table.digest


def pd_missing(value) -> bool:
    return not isinstance(value, str)


# ---------------------------------------------------------------- what is computed


def by_hand(block: MetaBlock, maps: Tensor, known: Tensor, training: bool) -> Tensor:
    """sigmoid(tanh(V f(U)) + g(U)) in plain loops; f and g are linear, then batch norm."""
    samples, channels, rows, cols = maps.shape
    moved = []
    for branch in (block.scale, block.shift):
        linear, norm = branch
        raw = [
            [
                float(linear.bias[c]) + sum(
                    float(linear.weight[c, k]) * float(known[s, k]) for k in range(known.shape[1])
                )
                for c in range(channels)
            ]
            for s in range(samples)
        ]  # fmt: skip
        for c in range(channels):
            column = [raw[s][c] for s in range(samples)]
            mean = sum(column) / samples if training else float(norm.running_mean[c])
            var = (
                sum((v - mean) ** 2 for v in column) / samples
                if training
                else float(norm.running_var[c])
            )
            for s in range(samples):
                normed = (raw[s][c] - mean) / math.sqrt(var + norm.eps)
                raw[s][c] = float(norm.weight[c]) * normed + float(norm.bias[c])
        moved.append(raw)
    scale, shift = moved
    gated = torch.empty_like(maps)
    for s in range(samples):
        for c in range(channels):
            for i in range(rows):
                for j in range(cols):
                    inner = math.tanh(float(maps[s, c, i, j]) * scale[s][c]) + shift[s][c]
                    gated[s, c, i, j] = 1 / (1 + math.exp(-inner))
    return gated


@pytest.mark.parametrize("training", [True, False])
def test_metablock_is_its_equation_in_every_layout(training):
    torch.manual_seed(0)
    block = MetaBlock(4, ENCODER.width).double().train(training).requires_grad_(False)
    for norm in (block.scale[1], block.shift[1]):
        for values in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(values)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    maps = torch.randn(3, 4, 2, 5, dtype=torch.float64) * 2
    known = ENCODER(facts((50, "male", "torso"), (None, None, None), (9, "female", None))).double()
    wanted = by_hand(block, maps, known, training)
    torch.testing.assert_close(block(maps, known, 1), wanted, rtol=1e-12, atol=1e-12)
    last = block(maps.permute(0, 2, 3, 1), known, -1).permute(0, 3, 1, 2)
    tokens = block(maps.flatten(2).transpose(1, 2), known, -1).transpose(1, 2).view_as(maps)
    torch.testing.assert_close(last, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tokens, wanted, rtol=1e-12, atol=1e-12)


def test_concat_is_one_linear_layer_over_embedding_and_metadata():
    made, plain = network("concat"), network("none")
    pixels = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        taps, image = made.given(TWO)(pixels), plain(pixels)
        wide = torch.cat([image.embedding, ENCODER(TWO)], 1)
        wanted = wide @ made.classifier.weight.T + made.classifier.bias
    torch.testing.assert_close(made.classifier.weight[:, : -ENCODER.width], plain.classifier.weight)
    torch.testing.assert_close(made.classifier.bias, plain.classifier.bias)
    torch.testing.assert_close(taps.map, image.map)
    torch.testing.assert_close(taps.embedding, wide)
    torch.testing.assert_close(taps.logits, wanted)


def test_metablock_gates_the_map_that_the_rest_reads():
    made, plain = network("metablock"), network("none")
    pixels = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        taps = made.given(TWO)(pixels)
        gated = made.gate(plain(pixels).map, ENCODER(TWO), 1)
    torch.testing.assert_close(taps.map, gated)
    torch.testing.assert_close(taps.embedding, gated.mean((2, 3)))
    assert pools_by_mean(made, 48)  # so its class activation map is exact
    assert not pools_by_mean(network("concat"), 48)


NETWORKS = {
    "test_resnet": {}, "test_efficientnet": {}, "test_convnext": {}, "mobilenetv3_small_050": {},
    "test_vit": {"img_size": 48},
}  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_reads_them(name, how):
    """Another age, sex or site is another answer, in every row its own; sizes are told right."""
    made = network(how, name, **NETWORKS[name])
    pixels = torch.rand(1, 3, 48, 48).expand(4, -1, -1, -1)
    others = facts((50, "male", "torso"), (80, "male", "torso"), (50, "female", "torso"),
                   (50, "male", None))  # fmt: skip
    with torch.no_grad():
        taps = made.given(others)(pixels)
        alone = made.given(others.of(np.array([2])))(pixels[:1])
    assert len(taps.logits.unique(dim=0)) == 4
    torch.testing.assert_close(taps.logits[2:3], alone.logits, rtol=1e-4, atol=1e-5)
    widths = made.widths(48)
    assert (widths.map_channels, widths.embedding) == (taps.map.shape[1], taps.embedding.shape[1])


def test_views_of_an_image_are_of_one_patient():
    made = network("metablock")
    pixels = torch.rand(6, 3, 48, 48)
    with torch.no_grad():
        together = made.given(TWO)(pixels).logits
        each = [made.given(TWO.of(np.array([row // 3])))(pixels[row : row + 1]).logits
                for row in range(6)]  # fmt: skip
    torch.testing.assert_close(together, torch.cat(each), rtol=1e-4, atol=1e-5)


def test_a_network_that_reads_none_is_what_it_was():
    made = network("none")
    assert made.given(TWO) is made
    assert made.given(None) is made
    built = build_backbone(NetworkConfig("test_resnet", "none"), CLASSES)
    assert made.state_dict().keys() == built.state_dict().keys()
    assert all(key.startswith("network.") for key in made.state_dict())


@pytest.mark.parametrize("how", HOW)
def test_metadata_are_never_forgotten(how):
    made = network(how)
    for asked in (lambda: made(torch.rand(1, 3, 48, 48)), lambda: made.given(None)):
        with pytest.raises(ConfigError, match="reads age, sex and site"):
            asked()
    made.given(TWO)
    with pytest.raises(ConfigError, match="reads age, sex and site"):
        made(torch.rand(1, 3, 48, 48))  # what one call was given is not left for the next
    with pytest.raises(ConfigError, match=f"by {how}, and no encoder"):
        build_backbone(NetworkConfig("test_resnet", "none", metadata=how), CLASSES)


# ---------------------------------------------------------------- training


TAUGHT = [key for key, method in METHODS.items() if method.teacher in ("frozen", "several")]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("kd", "simkd") else pytest.mark.slow) for name in TAUGHT
])  # fmt: skip
def test_every_method_learns_from_a_teacher_that_sees_metadata(name, how):
    """Finite terms and gradients; what the teacher knows of patients reaches the loss."""
    method = build_method(name)
    if (name, how) == ("simkd", "concat"):
        with pytest.raises(ConfigError, match=r"cannot lend its classifier.*metablock"):
            classroom(method, teacher_metadata=how)
        return
    room = classroom(method, teacher_metadata=how)
    terms = room.all_terms(backward=True)
    assert all(value.isfinite() for _, value in terms.values())
    assert all(p.grad.isfinite().all() for p in room.trained().values() if p.grad is not None)
    assert room.learner.student.encoder is None
    before = total_loss(terms)
    others = patients(len(room.batch.ids)).of(np.arange(len(room.batch.ids))[::-1])
    room.batch = room.batch._replace(metadata=others)
    deaf = READ_STAGES if how == "metablock" else READ_STAGES | READ_THE_MAP
    assert torch.equal(total_loss(room.all_terms()), before) == (name in deaf)


# What they take from a teacher lies before metadata come in.
READ_STAGES, READ_THE_MAP = {"review_kd"}, {"fitnet", "at", "nst", "vid", "sp"}


@pytest.mark.parametrize("how", HOW)
def test_training_batches_carry_each_images_own_facts(how, tmp_path):
    """Through shuffling and drawing twice; a kill in between changes no bit of the result."""
    table, seen = read_table(small.images()), []
    settings = small.fit(sampler_power=0.5)

    def run(name: str, stops: tuple[int, ...] = ()) -> Path:
        folder = tmp_path / name

        def make(**more) -> Trainer:
            made = small.trainer(folder, settings, metadata=how, **more)
            asked = made.teach
            made.teach = lambda batch: seen.append(batch) or asked(batch)
            return made

        return through(folder, stops, make)

    whole, killed = run("whole"), run("killed", stops=(4,))
    for file in (BEST, HISTORY):
        assert (whole / file).read_bytes() == (killed / file).read_bytes()
    assert len(seen) > 8
    for batch in seen:
        wanted = table.metadata(batch.ids)
        np.testing.assert_array_equal(batch.metadata.age, wanted.age)
        assert batch.metadata.sex.tolist() == wanted.sex.tolist()
        assert batch.metadata.site.tolist() == wanted.site.tolist()


def test_kept_answers_of_a_teacher_are_of_the_same_patients(tmp_path):
    teacher = network("metablock")
    asked = []

    def teach(batch):
        asked.append(batch)
        return (teacher.given(batch.metadata)(batch.for_teacher()),)

    cache = TeacherCache(teach, tmp_path, steps=3, read_metadata=True)
    batch = images(2, METHODS["kd"].views)._replace(metadata=TWO)
    other = batch._replace(metadata=facts((51, "male", "torso"), (None, None, "nail")))
    with torch.no_grad():
        first, second = cache(batch), cache(other)
        assert torch.equal(cache(batch)[0].logits, first[0].logits)
    assert len(asked) == 2
    assert not torch.equal(first[0].logits, second[0].logits)


def test_without_metadata_a_stage_is_named_as_before_there_were_any():
    config, data = small.config(small.scratch() / "named"), small.dataset()
    plain = Stage("teacher", "t", NetworkConfig("test_resnet", "none"), build_method("supervised"),
                  small.fit(), {})  # fmt: skip
    key = plain.key(config, data)
    assert set(key["network"]) == {"name", "weights", "options", "mean", "std"}
    assert "metadata" not in key
    told = replace(plain, network=replace(plain.network, metadata="concat")).key(config, data)
    assert told["network"]["metadata"] == "concat"
    assert told["metadata"] == data.table.metadata_digest


# ---------------------------------------------------------------- whole runs


def told(output: Path, method: str, teacher: str, student: str, **changes):
    """A distillation whose teacher and student read metadata in one way or another."""
    made = small.config(output, method, **changes)
    return replace(
        made,
        teacher=TeacherConfig(replace(made.teacher.network, metadata=teacher), made.teacher.fit),
        student=StudentConfig(replace(made.student.network, metadata=student), method, {},
                              made.student.fit),
    )  # fmt: skip


@pytest.mark.slow
def test_a_teacher_that_sees_metadata_leaves_a_student_that_needs_none(tmp_path):
    config = told(tmp_path, "ssd_kd", "metablock", "none", cache_teacher=True)
    run = distill(config, progress=False)
    origin = read_json(run / PROVENANCE)
    assert origin["metadata"] is None
    assert origin["key"]["metadata"] == small.dataset().table.metadata_digest
    (teacher,) = tmp_path.glob("teacher-test_resnet-*")
    known = read_json(teacher / PROVENANCE)["metadata"]
    assert known == MetadataEncoder.of(small.dataset().train.metadata).to_dict()
    part, fabric = small.dataset().test, start_fabric("fp32", "cpu")
    blind, asked = replace(part, metadata=None), load_network(teacher)
    assert not torch.equal(
        predict_logits(asked, part, fabric), predict_logits(asked, blind, fabric)
    )
    student = load_network(run)
    assert torch.equal(
        predict_logits(student, part, fabric), predict_logits(student, blind, fabric)
    )
    assert "onnx" in export_run(run, ["onnx"])
    assert not list(tmp_path.glob("*/bundle.zip"))[1:]
    with pytest.raises(RunError, match=r"reads age, sex and site.*--teacher.run"):
        export_run(teacher, ["onnx"])


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_a_student_that_sees_metadata_is_judged_everywhere_and_exported_nowhere(how, tmp_path):
    from dermdistill.evaluate.explain import explain_run
    from dermdistill.evaluate.robustness import robustness_run

    run = distill(told(tmp_path, "kd", how, how), progress=False)
    before = read_json(run / "metrics.json")["test"]
    assert before["metadata"]["missing"]["site"] > 0
    assert evaluate(run, progress=False)["test"] == before
    explain_run(run, images=4, kind="cam" if how == "metablock" else "gradcam", progress=False)
    robustness_run(run, 4, 1, ("blur",), progress=False)
    with pytest.raises(RunError, match="reads age, sex and site"):
        export_run(run, ["onnx"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in small.images().iterdir():
        (elsewhere / path.name).symlink_to(path)
    metadata = elsewhere / "ISIC_2019_Training_Metadata.csv"
    text = metadata.read_text().replace("head/neck", "scalp")
    metadata.unlink()
    metadata.write_text(text)
    with pytest.warns(UserWarning, match=r"scalp \("):
        found = score_images(run, elsewhere, tmp_path / "scored", progress=False)
    assert read_json(found / "metrics.json")["test"]["metadata"]["unknown_names"]["site"]["scalp"]
    config = load_config(run / "config.yaml")
    assert config.student.network.metadata == how


@pytest.mark.slow
def test_other_ages_are_other_data_to_a_run_that_read_them(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in small.images().iterdir():
        (folder / path.name).symlink_to(path)
    config = told(tmp_path, "supervised", "none", "concat", data=small.data_config(
        folder=str(folder), store=str(tmp_path / "store")))  # fmt: skip
    run = distill(config, progress=False)
    open_run(run, progress=False)
    metadata = folder / "ISIC_2019_Training_Metadata.csv"
    text = metadata.read_text().replace("50.0", "51.0")
    metadata.unlink()
    metadata.write_text(text)
    with pytest.raises(RunError, match="other ages, sexes or sites"):
        open_run(run, progress=False)
    assert distill(config, progress=False) != run
