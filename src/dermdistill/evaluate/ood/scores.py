"""How unlike the training images an image is: five scores, NumPy alone, so that a phone can too.

Every score is high for strangers. What a score needs to know is a few named arrays, fitted once on
the training part, which a file or a bundle carries as plain data.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int64
from scipy.special import logsumexp
from sklearn.cluster import MiniBatchKMeans
from sklearn.covariance import ledoit_wolf

Fitted = dict[str, np.ndarray]
BANK = 1000  # training images that the neighbours are sought among: 2.6 MB at 1280 numbers each
NEIGHBOUR = 5  # the distance to this one, from 1
PROTOTYPES, IMAGES_PER_PROTOTYPE = 256, 8  # clusters at most; training images a cluster at least
RANK = 16  # of the prototypes: 100 kB at 1280 numbers an embedding, and no worse than all
TINY = 1e-12


def fit_scores(
    embeddings: Float[np.ndarray, "images width"], labels: Int64[np.ndarray, " images"], seed: int
) -> Fitted:
    """What the scores know of the training images.

    Args:
        embeddings: of training images.
        labels: their classes.
        seed: of the choice of the bank.

    Returns:
        means: [classes with an image, width]. whitening: [width, width], turning a difference of
        embeddings into one whose squared length is its Mahalanobis distance. bank: [at most BANK,
        width] unit vectors. axes, prototypes: of `fit_prototypes`.
    """
    rows = embeddings.astype(np.float64)
    present = np.unique(labels)
    means = np.stack([rows[labels == code].mean(0) for code in present])
    residuals = rows - means[np.searchsorted(present, labels)]
    # More numbers than a class has images: without shrinkage the covariance has no inverse.
    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    size, axes = np.linalg.eigh(covariance)
    whitening = axes / np.sqrt(np.maximum(size, TINY))
    kept = np.random.default_rng(seed).permutation(len(rows))[:BANK]
    return {
        "means": means.astype(np.float32),
        "whitening": whitening.astype(np.float32),
        "bank": _unit(rows[np.sort(kept)]).astype(np.float32),
    } | fit_prototypes(embeddings, seed)


def fit_prototypes(embeddings: Float[np.ndarray, "images width"], seed: int) -> Fitted:
    """The directions of the training images' clusters, as a product of two small matrices.

    Args:
        embeddings: of training images.
        seed: of the clusters.

    Returns:
        axes: [at most RANK, width], orthonormal. prototypes: [at most PROTOTYPES, rank]; their
        products with the axes are the clusters' unit centres, as near as this rank allows.
    """
    rows = _unit(embeddings.astype(np.float64))
    count = min(PROTOTYPES, max(1, len(rows) // IMAGES_PER_PROTOTYPE))
    clusters = MiniBatchKMeans(count, random_state=seed, n_init=1).fit(rows)
    left, size, axes = np.linalg.svd(_unit(clusters.cluster_centers_), full_matrices=False)
    prototypes = left[:, :RANK] * size[:RANK]
    return {"axes": np.ascontiguousarray(axes[:RANK], np.float32),
            "prototypes": prototypes.astype(np.float32)}  # fmt: skip


def softmax_score(fitted: Fitted, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Minus the largest probability, -1 to -1/classes: the baseline that others must beat.

    Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples, ICLR 2017.
    """
    return -np.exp(logits.max(1) - logsumexp(logits, axis=1))


def energy_score(fitted: Fitted, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Minus the log of the summed exponentials of the logits, unbounded.

    Source: Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, eq. 4, T = 1.
    """
    return -logsumexp(logits, axis=1)


def mahalanobis_score(fitted: Fitted, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance to the nearest class mean, at least 0.

    Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples,
    NeurIPS 2018, eq. 2, with a shrunken covariance (Ledoit and Wolf).
    """
    here = embeddings.astype(np.float64) @ fitted["whitening"]
    means = fitted["means"].astype(np.float64) @ fitted["whitening"]
    return _squared_distances(here, means).min(1)


def knn_score(fitted: Fitted, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Distance of the unit embedding to its 5th nearest in the bank, 0 to 2.

    Source: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, eq. 1.
    """
    distances = _squared_distances(_unit(embeddings.astype(np.float64)),
                                   fitted["bank"].astype(np.float64))  # fmt: skip
    place = min(NEIGHBOUR, distances.shape[1]) - 1
    return np.sqrt(np.partition(distances, place, axis=1)[:, place])


def prototype_score(fitted: Fitted, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """1 - the cosine to the nearest cluster of training images, 0 to 2: small and quick to ask.

    Source: as `knn_score`, with k-means clusters for neighbours.
    """
    near = _unit(embeddings.astype(np.float64)) @ fitted["axes"].T @ fitted["prototypes"].T
    return 1 - near.max(1)


SCORES: dict[str, Callable[[Fitted, np.ndarray, np.ndarray], np.ndarray]] = {
    "softmax": softmax_score,
    "energy": energy_score,
    "mahalanobis": mahalanobis_score,
    "knn": knn_score,
    "prototypes": prototype_score,
}


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)


def _squared_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[rows, others]; one product of matrices instead of a table of differences."""
    squares = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    return np.maximum(squares, 0)
