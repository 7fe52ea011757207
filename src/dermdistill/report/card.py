"""A run's model card: what it is for, what it saw, how it was judged, where it ends."""

from dermdistill.report.runs import RunRecord

INTENDED = (
    "Research on classifying dermoscopy images: comparing methods, measuring what small networks "
    "lose. Its input is a dermoscopy image of one lesion, its output a probability for each class."
)
NOT_INTENDED = (
    "Diagnosis, triage or screening of people; photographs without a dermatoscope; other lesions "
    "than the classes listed. It is no medical device."
)
LIMITS = (
    "Figures hold for images like those of the test part. Other cameras, clinics, skin tones and "
    "sites can lower them. What is none of the classes is named as one of them."
)
LICENCE = (
    "Weights follow the terms of the images they were trained on; ISIC's are CC BY-NC 4.0, for "
    "research and with attribution."
)


def model_card(record: RunRecord) -> list[tuple[str, str]]:
    """(what, words) in the order of a card; what the run does not say is left out."""
    made, test = record.provenance, record.metrics["test"]
    images, split = made.get("images") or {}, made.get("split") or {}
    counted = ", ".join(f"{images[part]:,} {part}" for part in images)
    support = ", ".join(f"{name} {row['support']:,}" for name, row in test["per_class"].items())
    network, built = str(made.get("network") or record.name), made.get("network_config") or {}
    pruned = built.get("prune_ratio")
    px = (record.metrics.get("cost") or {}).get("input_px")
    rows = [
        ("Model", network + (f", RGB images of {px} px" if px else "")),
        ("Trained", "in 8 bits, as 8-bit runtimes compute" if built.get("int8") else None),
        ("Pruned", f"{pruned:.0%} of every layer's channels were taken out" if pruned else None),
        ("Beside the image", _metadata(record)),
        ("Intended use", INTENDED),
        ("Not for", NOT_INTENDED),
        ("Images", counted),
        ("Test images by class", support),
        ("Held out", split.get("protocol") and f"by {split['protocol']}, split digest "
         f"{split.get('digest')}"),
        ("Chosen by", "the validation part; the test part is scored once, after training"),
        ("Limits", LIMITS),
        ("Licence", LICENCE),
    ]  # fmt: skip
    return [(label, str(value)) for label, value in rows if value]


def _metadata(record: RunRecord) -> str | None:
    """What the run reads of patients, or its teachers do; None where nobody reads anything."""
    made = record.provenance
    if made.get("metadata") is None:
        taught = "metadata" in (made.get("key") or {})
        return "nothing; who taught it read age, sex and site too" if taught else None
    how = made["network_config"]["metadata"]
    told = record.metrics["test"].get("metadata") or {"missing": {}, "unknown_names": {}}
    lack = [f"{count:,} without {fact}" for fact, count in told["missing"].items() if count]
    strange = [f"{sum(names.values()):,} of a {fact} unknown to training"
               for fact, names in told["unknown_names"].items() if names]  # fmt: skip
    return f"age, sex and site ({how}); test images: " + (", ".join(lack + strange) or "all known")
