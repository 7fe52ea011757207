"""What the eight classes of the synthetic set look like: ranges that overlap, as real ones do."""

from dataclasses import dataclass, field

Range = tuple[float, float]
Chance = tuple[float, float, float]  # how often a structure appears, then its strength's range


@dataclass(frozen=True)
class Look:
    """How lesions of one class vary; lengths in half heights of an image, 1 is its half height.

    Attributes:
        share: of the lesions, as in ISIC 2019's training set (NV half of all).
        age: mean age in years.
        head: chance that the site is the head or neck.
        radius: mean radius.
        asymmetry: amplitude of the outline's lowest waves, and of the uneven pigment.
        irregularity: amplitude of its higher waves.
        softness: width of the border.
        melanin, redness: optical density of pigment and of blood inside.
        structures: chance and strength of each structure of `phantom_lesion.STRUCTURES`.
    """

    share: float
    age: int
    head: float
    radius: Range
    asymmetry: Range
    irregularity: Range
    softness: Range
    melanin: Range
    redness: Range
    structures: dict[str, Chance] = field(default_factory=dict)


LOOKS = {
    "MEL": Look(
        0.18, 60, 0.2, (0.45, 0.85), (0.10, 0.32), (0.05, 0.14), (0.03, 0.14), (0.7, 1.9),
        (0.05, 0.45),
        {"blotches": (0.85, 0.6, 1.8), "network": (0.55, 0.3, 0.9), "veil": (0.6, 0.5, 1.0),
         "regression": (0.4, 0.3, 0.8), "globules": (0.5, 0.4, 1.2), "dots": (0.2, 0.3, 0.7)},
    ),
    "NV": Look(
        0.508, 45, 0.1, (0.26, 0.62), (0.02, 0.14), (0.01, 0.06), (0.06, 0.22), (0.6, 1.5),
        (0.02, 0.30),
        {"network": (0.75, 0.3, 1.0), "globules": (0.45, 0.3, 1.0), "blotches": (0.25, 0.3, 0.9),
         "veil": (0.06, 0.2, 0.6), "dots": (0.06, 0.2, 0.5)},
    ),
    "BCC": Look(
        0.131, 68, 0.45, (0.30, 0.70), (0.06, 0.24), (0.03, 0.10), (0.10, 0.30), (0.0, 0.35),
        (0.15, 0.55),
        {"vessels": (0.85, 0.5, 1.2), "nests": (0.65, 0.5, 1.1), "scale": (0.15, 0.2, 0.6),
         "regression": (0.3, 0.2, 0.5), "milia": (0.1, 0.2, 0.6)},
    ),
    "AK": Look(
        0.034, 69, 0.75, (0.35, 0.75), (0.06, 0.22), (0.04, 0.12), (0.16, 0.40), (0.05, 0.50),
        (0.20, 0.60),
        {"scale": (0.75, 0.3, 0.9), "follicles": (0.75, 0.4, 1.0), "dots": (0.3, 0.2, 0.6),
         "network": (0.15, 0.2, 0.5)},
    ),
    "BKL": Look(
        0.104, 64, 0.35, (0.35, 0.75), (0.04, 0.20), (0.03, 0.10), (0.02, 0.08), (0.25, 1.1),
        (0.0, 0.20),
        {"milia": (0.75, 0.5, 1.1), "comedones": (0.65, 0.5, 1.1), "ridges": (0.5, 0.3, 0.8),
         "scale": (0.15, 0.2, 0.5), "network": (0.15, 0.2, 0.6)},
    ),
    "DF": Look(
        0.009, 50, 0.03, (0.30, 0.55), (0.02, 0.12), (0.01, 0.05), (0.14, 0.34), (0.25, 0.75),
        (0.10, 0.40),
        {"scar": (0.9, 0.5, 1.0), "network": (0.75, 0.2, 0.6), "dots": (0.15, 0.2, 0.5)},
    ),
    "VASC": Look(
        0.010, 51, 0.2, (0.22, 0.50), (0.02, 0.16), (0.01, 0.07), (0.03, 0.12), (0.0, 0.30),
        (0.6, 1.4),
        {"lacunae": (0.85, 0.6, 1.4), "veil": (0.3, 0.2, 0.7), "blotches": (0.15, 0.3, 0.9)},
    ),
    "SCC": Look(
        0.025, 71, 0.5, (0.35, 0.80), (0.06, 0.26), (0.04, 0.12), (0.08, 0.26), (0.05, 0.55),
        (0.25, 0.75),
        {"keratin": (0.8, 0.5, 1.0), "dots": (0.7, 0.5, 1.2), "scale": (0.5, 0.3, 0.9),
         "vessels": (0.2, 0.3, 0.8), "lacunae": (0.15, 0.3, 0.7)},
    ),
}  # fmt: skip
CLASSES = tuple(LOOKS)

# Some lesions look like another class, so that no classifier can be right about all of them.
MIMICS = {
    "MEL": ("NV", "BKL"), "NV": ("MEL", "DF"), "BCC": ("SCC", "NV"), "AK": ("BKL", "SCC"),
    "BKL": ("MEL", "AK"), "DF": ("NV", "BCC"), "VASC": ("BCC", "MEL"), "SCC": ("AK", "BCC"),
}  # fmt: skip
MIMIC_CHANCE = 0.12

SITES = ("anterior torso", "posterior torso", "lower extremity", "upper extremity",
         "palms/soles", "lateral torso", "oral/genital")  # fmt: skip
SITE_SHARES = (0.32, 0.24, 0.22, 0.15, 0.04, 0.02, 0.01)  # of the lesions not on head or neck
