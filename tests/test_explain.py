"""Maps of evidence are what they claim to be, and so are the figures on how far to trust them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import small
from dermdistill.cli import main
from dermdistill.config import NetworkConfig
from dermdistill.data.decode import decode
from dermdistill.data.masks import read_masks
from dermdistill.distill import distill
from dermdistill.errors import ConfigError, DataError, RunError
from dermdistill.evaluate.explain import FOLDER, GALLERY, IMAGES, SUMMARY, explain_run
from dermdistill.evaluate.explain.cam import (
    LIBRARY,
    choose_map,
    class_activation_map,
    evidence_maps,
)
from dermdistill.evaluate.explain.scores import (
    STEPS,
    agreement_score,
    centre_maps,
    deletion_score,
    insertion_score,
    inside_score,
)
from dermdistill.evaluate.opened import open_run
from dermdistill.models import build_backbone, freeze, pools_by_mean
from dermdistill.run import read_json
from dermdistill.runtime import seed_step

EXACT = ("test_resnet", "test_efficientnet", "mobilenetv2_035", "resnet10t")
NOT_EXACT = ("mobilenetv3_small_050", "test_convnext", "test_vit3")
PX, CLASSES, SAMPLES = 64, 5, 3


def network(name: str):
    """An untrained network whose logits differ from class to class."""
    seed_step(4, name)
    options = {"img_size": PX} if "vit" in name else {}
    return freeze(build_backbone(NetworkConfig(name, "none", options), CLASSES))


def images(samples: int = SAMPLES) -> torch.Tensor:
    return torch.rand(samples, 3, PX, PX, generator=torch.Generator().manual_seed(9))


def test_a_class_activation_map_is_the_classifier_at_every_place():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    maps = class_activation_map(features, weight)
    for sample in range(2):
        for code in range(6):
            for row in range(3):
                for col in range(5):
                    expected = sum(
                        float(weight[code, c]) * float(features[sample, c, row, col])
                        for c in range(4)
                    )
                    assert maps[sample, code, row, col].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_mean_of_the_map_and_bias_are_the_logit(name):
    backbone = network(name).double()
    with torch.no_grad():
        taps = backbone(images().double())
    classifier = backbone.network.get_classifier()
    maps = class_activation_map(taps.map, classifier.weight)
    assert taps.logits.std() > 1e-3  # else equality would say nothing
    torch.testing.assert_close(maps.mean((2, 3)) + classifier.bias, taps.logits)


@pytest.mark.parametrize("name", EXACT + NOT_EXACT)
def test_networks_with_and_without_an_exact_map_are_told_apart(name):
    backbone, exact = network(name), name in EXACT
    assert pools_by_mean(backbone, PX) == exact
    assert choose_map(backbone, PX, "auto", name) == ("cam" if exact else "gradcam")
    if not exact:
        with pytest.raises(ConfigError, match=f"{name} has no exact class activation map.*gradcam"):
            choose_map(backbone, PX, "cam", name)


def test_a_network_that_reads_a_token_is_refused():
    with pytest.raises(ConfigError, match="test_vit reads a class token"):
        choose_map(network("test_vit"), PX, "auto", "test_vit")


def test_an_unknown_map_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'gradcam'"):
        choose_map(network("test_resnet"), PX, "gradcan", "test_resnet")


def _spread(maps: torch.Tensor) -> torch.Tensor:
    """Each map from 0 to 1."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


@pytest.mark.parametrize("name", EXACT)
def test_grad_cam_of_the_library_is_the_positive_part_of_the_exact_map(name):
    """Two roads to one map: gradients through the library, and weights by hand."""
    pytest.importorskip("pytorch_grad_cam")
    backbone, classes = network(name), torch.tensor([0, 3, 1])
    theirs = evidence_maps(backbone, images(), classes, "gradcam")
    taps = backbone(images())
    maps = class_activation_map(taps.map, backbone.network.get_classifier().weight)
    ours = _spread(maps[torch.arange(SAMPLES), classes].relu())
    ours = _spread(F.interpolate(ours[:, None], (PX, PX), mode="bilinear")[:, 0])
    assert theirs.std() > 0.05
    torch.testing.assert_close(theirs, ours, atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", LIBRARY)
def test_every_kind_explains_a_transformer_and_leaves_it_frozen(kind):
    pytest.importorskip("pytorch_grad_cam")
    backbone = network("test_vit3")
    maps = evidence_maps(backbone, images(), torch.zeros(SAMPLES, dtype=torch.int64), kind)
    assert maps.shape == (SAMPLES, PX, PX)
    assert torch.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() == pytest.approx(1, abs=1e-3)
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_an_earlier_stage_sees_finer_and_must_exist():
    pytest.importorskip("pytorch_grad_cam")
    backbone, classes = network("resnet10t"), torch.zeros(SAMPLES, dtype=torch.int64)
    coarse, fine = (evidence_maps(backbone, images(), classes, "layercam", stride)
                    for stride in (32, 8))  # fmt: skip
    torch.testing.assert_close(coarse, evidence_maps(backbone, images(), classes, "layercam"))
    rough = [maps.diff(dim=2).abs().mean() for maps in (coarse, fine)]
    assert rough[1] > 1.5 * rough[0]
    with pytest.raises(ConfigError, match=r"stride is 7; resnet10t has stages of stride \[2, 4"):
        choose_map(backbone, PX, "layercam", "resnet10t", 7)
    with pytest.raises(ConfigError, match="which the map 'cam' cannot have"):
        choose_map(backbone, PX, "cam", "resnet10t", 16)


def test_agreement_is_pearsons_correlation():
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(2, 6, 4, 7, generator=generator)
    expected = [np.corrcoef(a.flatten(), b.flatten())[0, 1]
                for a, b in zip(first, second, strict=True)]  # fmt: skip
    found = agreement_score(first, second)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(agreement_score(3 * first - 2, second), found)
    torch.testing.assert_close(agreement_score(first, -first), -torch.ones(6))
    assert not agreement_score(torch.full_like(first, 0.3), second).any()


def test_share_inside_counts_positive_evidence_alone():
    maps = torch.tensor([[[1.0, 2.0], [-5.0, 3.0]], [[1.0] * 2] * 2, [[-1.0] * 2] * 2])
    masks = torch.tensor([[[True, False], [True, False]]] * 3)
    found = inside_score(maps, masks)
    assert found[:2].tolist() == pytest.approx([1 / 6, 1 / 2])
    assert found[2].isnan()


def test_the_middle_blob_is_symmetric_and_strongest_in_the_middle():
    maps = centre_maps(torch.zeros(2, 3, 8, 8))
    assert maps.shape == (2, 8, 8)
    torch.testing.assert_close(maps, maps.flip(1))
    torch.testing.assert_close(maps, maps.transpose(1, 2))
    assert maps[0, 3:5, 3:5].min() == maps.max()


def _red_corner(stack: torch.Tensor) -> torch.Tensor:
    """A classifier that looks at the upper left quarter alone, and says how red it is."""
    red = stack[:, 0, : PX // 2, : PX // 2].mean((1, 2))
    return torch.stack([red, 1 - red], 1)


def test_deletion_and_insertion_areas_are_those_of_plain_loops():
    stack, maps = images(), torch.rand(SAMPLES, PX, PX, generator=torch.Generator().manual_seed(5))
    classes = torch.tensor([0, 1, 0])
    found = deletion_score(_red_corner, stack, maps, classes)
    for sample in range(SAMPLES):
        order = np.argsort(-maps[sample].flatten().numpy(), kind="stable")
        curve = []
        for step in range(STEPS + 1):
            image = stack[sample].clone()
            for place in order[: round(step / STEPS * PX * PX)]:
                image[:, place // PX, place % PX] = 0.5
            curve.append(float(_red_corner(image[None])[0, classes[sample]]))
        area = sum((curve[i] + curve[i + 1]) / 2 for i in range(STEPS)) / STEPS
        assert float(found[sample]) == pytest.approx(area, abs=1e-5)
    # What is inserted last has no say, so an even image gives the same whatever comes first.
    even = torch.full_like(stack, 0.25)
    expected = torch.tensor([0.25, 0.75, 0.25])
    torch.testing.assert_close(insertion_score(_red_corner, even, maps, classes), expected,
                               atol=1e-4, rtol=0)  # fmt: skip


def test_a_true_map_beats_the_middle_and_its_own_reverse():
    dark = torch.zeros(1, 3, PX, PX)
    dark[:, 0, : PX // 2, : PX // 2] = 1
    true, classes = dark[:, 0], torch.tensor([0])
    for score, sign in ((insertion_score, 1), (deletion_score, -1)):
        good, middle, bad = (
            sign * float(score(_red_corner, dark, maps, classes))
            for maps in (true, centre_maps(dark), -true)
        )
        assert good > middle + 0.005 > bad + 0.01


@pytest.mark.parametrize("crop", ["centre", "squash", "pad"])
def test_masks_follow_their_images_crop(tmp_path, crop):
    """A mask of three times the image's size falls on the same square."""
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[8:20, 10:34] = 255
    Image.fromarray(picture).save(tmp_path / "a.ppm")
    Image.fromarray(picture[..., 0]).resize((120, 90), 0).save(tmp_path / "a_segmentation.png")
    masks, present = read_masks(tmp_path, ["b", "a"], 20, crop)
    assert present.tolist() == [False, True]
    assert not masks[0].any()
    expected = decode(tmp_path / "a.ppm", 20, crop)[..., 0] >= 128
    assert (masks[1] != expected).mean() < 0.03
    assert 0.1 < masks[1].mean() < 0.6


def test_a_folder_without_a_fitting_mask_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no mask of any of 2 images.*x_segmentation\.png"):
        read_masks(tmp_path, ["x", "y"], 16, "centre")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A student distilled for an epoch from a teacher of another family."""
    return distill(small.config(tmp_path_factory.mktemp("explain"), "kd",
                                student_fit=small.fit(epochs=1)), progress=False)  # fmt: skip


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """A disc in the middle of every test image but one."""
    folder = tmp_path_factory.mktemp("masks")
    row, col = np.mgrid[:60, :80]
    disc = ((row - 29.5) ** 2 + (col - 39.5) ** 2 < 20**2).astype(np.uint8) * 255
    for name in small.dataset().test.ids[1:]:
        Image.fromarray(disc).save(folder / f"{name}.png")
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_explained_in_files_that_agree(run, masks):
    summary = explain_run(run, images=0, masks=str(masks), progress=False)
    folder = run / FOLDER
    assert summary == read_json(folder / SUMMARY)
    assert (summary["map"], summary["teacher_map"]) == ("cam", "cam")
    rows = _rows(folder / IMAGES)
    assert [row["image"] for row in rows] == small.dataset().test.ids
    predicted = small.predictions(run, "test")
    assert [row["predicted"] for row in rows] == [
        predicted.classes[code] for code in predicted.predicted
    ]
    for name, measure in summary["measures"].items():
        cells = [float(row[name]) for row in rows if row[name]]
        assert measure["images"] == len(cells)
        assert measure["mean"] == pytest.approx(np.mean(cells))
    assert rows[0]["inside"] == "" != rows[1]["inside"]
    area = (np.pi * 20**2) / 60**2
    assert summary["measures"]["inside_even"]["mean"] == pytest.approx(area, abs=0.02)
    with Image.open(folder / GALLERY) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_the_same_question_gets_the_same_answer(run, tmp_path):
    first = explain_run(run, images=9, progress=False)
    values = (run / FOLDER / IMAGES).read_bytes()
    assert explain_run(run, images=9, progress=False) == first
    assert (run / FOLDER / IMAGES).read_bytes() == values
    assert first["images"] == 9
    assert "inside" not in first["measures"]


def test_the_command_explains_a_teacher_and_leaves_its_teacher_out(run, capsys):
    teacher = (run / read_json(run / "provenance.json")["teacher_run"]).resolve()
    assert main(["explain", str(teacher), "--images", "5"]) == 0
    assert "insertion_centre" in capsys.readouterr().out
    assert "agreement" not in read_json(teacher / FOLDER / SUMMARY)["measures"]
    assert main(["explain", str(run), "--part", "tset"]) == 2
    assert "part is 'tset'" in capsys.readouterr().err


def test_a_run_that_moved_still_finds_its_store(run, tmp_path):
    moved = Path(shutil.copytree(run, tmp_path / "elsewhere"))
    opened = open_run(moved, progress=False)
    assert opened.data.store.folder == open_run(run, progress=False).data.store.folder
    assert not opened.network.training
    with pytest.raises(RunError, match="does not exist"):
        opened.teacher()
