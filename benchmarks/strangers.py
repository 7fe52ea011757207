"""Pictures that are no dermoscopy, from what scikit-image and scikit-learn ship, for `ood`.

    python benchmarks/strangers.py FOLDER
    dermdistill ood RUN --others FOLDER

Writes random crops as PNG into FOLDER/photographs, FOLDER/textures, FOLDER/documents and
FOLDER/other_modalities (fundus photograph, histology, fluorescence and a phantom of tomography).
Nothing is downloaded, and nothing of it belongs into a repository: each has a licence of its own.
"""

import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from sklearn.datasets import load_sample_images

KINDS = {
    "photographs": ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png",
                    "hubble_deep_field.jpg", "motorcycle_left.png", "coins.png"],
    "textures": ["brick.png", "grass.png", "gravel.png"],
    "documents": ["page.png", "text.png"],
    "other_modalities": ["retina.jpg", "ihc.png", "microaneurysms.png", "cell.png", "phantom.png"],
}  # fmt: skip
CROPS, PX, SEED = 16, 256, 2021


def crops(rng: np.random.Generator, image: Image.Image) -> list[Image.Image]:
    """Squares of 40 to 100 % of the shorter side, anywhere."""
    found = []
    for _ in range(CROPS):
        side = int(min(image.size) * rng.uniform(0.4, 1.0))
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        found.append(image.crop((left, top, left + side, top + side)).resize((PX, PX)))
    return found


def main(folder: Path) -> None:
    """Write every kind's crops."""
    shipped, rng = Path(skimage.__file__).parent / "data", np.random.default_rng(SEED)
    for kind, names in KINDS.items():
        pictures = [Image.open(shipped / name).convert("RGB") for name in names]
        if kind == "photographs":
            pictures += [Image.fromarray(image) for image in load_sample_images().images]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            for part, crop in enumerate(crops(rng, picture)):
                crop.save(folder / kind / f"{number:02d}-{part:02d}.png")
        print(f"{kind}: {len(pictures)} pictures, {len(pictures) * CROPS} crops")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
