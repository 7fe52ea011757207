"""Commands about images; heavy imports wait until a command runs."""


def data_fetch(
    name: str = "isic2019", folder: str = "isic2019", base_url: str | None = None
) -> None:
    """Download a public data set, with resume and checksums.

    Args:
        name: which data set.
        folder: where it goes.
        base_url: a mirror to download from instead of the official address.
    """
    from dermdistill.data.fetch import fetch

    print(fetch(name, folder, base_url))


def data_synth(
    folder: str, images: int = 400, px: int = 128, seed: int = 2021, workers: int | None = None
) -> None:
    """Write the synthetic dermoscopy set, in ISIC 2019's layout.

    Args:
        folder: where it goes.
        images: how many, at least 16.
        px: width of an image.
        seed: another seed, other lesions.
        workers: processes; by default one a core.
    """
    from dermdistill.data.phantom import synthesise

    print(synthesise(folder, images, px, seed, workers))


def data_pack(
    folder: str,
    store: str,
    px: int = 224,
    crop: str = "centre",
    layout: str = "auto",
    workers: int | None = None,
    shard_images: int = 0,
) -> None:
    """Decode a folder of images once into a memory-mapped store.

    Args:
        folder: the images and their tables.
        store: where the store goes.
        px: side of the packed images.
        crop: "centre", "squash" or "pad".
        layout: "auto", "isic2019", "ham10000" or "folders".
        workers: processes; by default one a core.
        shard_images: images a file; 0 puts all into one.
    """
    from dermdistill.data.pack import pack
    from dermdistill.data.readers import read_table

    packed = pack(read_table(folder, layout), store, px, crop, workers, shard_images=shard_images)
    for name, reason in packed.broken:
        print(f"broken: {name}: {reason}")


def data_split(
    folder: str,
    split: str,
    protocol: str = "lesion",
    test_fraction: float | None = None,
    folds: int = 5,
    seed: int = 2021,
    layout: str = "auto",
) -> None:
    """Deal images into a test part and folds, whole lesions together, and write the split.

    Args:
        folder: the images and their tables.
        split: the file to write.
        protocol: "lesion", or the paper's "image", which tears lesions apart and warns.
        test_fraction: share of the test part; by default 0.2 by lesion, 0.1 by image.
        folds: how many folds the rest is dealt into.
        seed: another seed, another split.
        layout: "auto", "isic2019", "ham10000" or "folders".
    """
    from dermdistill.data.readers import read_table
    from dermdistill.data.splits import make_split

    table = read_table(folder, layout)
    made = make_split(table, protocol, test_fraction, folds, seed)
    made.save(split)
    counts = made.frame.merge(table.frame[["id", "label"]], on="id")
    print(counts.groupby(["part", "label"]).size().unstack(fill_value=0).to_string())
    print(f"split {made.digest[:12]} written to {split}")


def data_audit(
    folder: str,
    split: str | None = None,
    layout: str = "auto",
    images: bool = True,
    json_file: str | None = None,
) -> int:
    """Find missing, broken and twin images, torn lesions and absent classes; exit 1 if any.

    Args:
        folder: the images and their tables.
        split: a split file to check too.
        layout: "auto", "isic2019", "ham10000" or "folders".
        images: open every image; without, only the tables are read.
        json_file: where to write the findings for a program.
    """
    from dermdistill.data.audit import audit
    from dermdistill.data.readers import read_table
    from dermdistill.data.splits import Split
    from dermdistill.run import write_json

    found = audit(read_table(folder, layout), Split.load(split) if split else None, images)
    print(found.text())
    if json_file:
        write_json(json_file, found.findings)
    return 0 if found.ok else 1


def data_tone(folder: str, table: str, masks: str | None = None, layout: str = "auto") -> None:
    """Measure the apparent skin tone of every photograph, for groups; writes a CSV.

    It is a figure of uncalibrated photographs: lamp, white balance and flushed skin move it.

    Args:
        folder: the images and their tables.
        table: the CSV to write: image, angle in degrees, tone, where skin was found, its share.
        masks: folder with the lesions' outlines; without, skin is taken from the image's rim.
        layout: "auto", "isic2019", "ham10000" or "folders".
    """
    from dermdistill.data.readers import read_table
    from dermdistill.data.tone import write_tones

    for name, images in write_tones(read_table(folder, layout), table, masks).items():
        print(f"{name or 'not measured':<13} {images:>6}")
