"""The examples' data: data sets that ship with scikit-learn, split into training, validation and test parts.

Nothing is downloaded. A seed determines the split, so that runs can be repeated.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """Rows of inputs (float32), and the class of each row."""

    inputs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Classification:
    """A part to train on, one to choose schedules and epochs by, and one to judge the result by."""

    training: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Regression:
    """Standardised features and a target of mean 0 (float64), for models without an intercept."""

    features: np.ndarray
    target: np.ndarray
    names: tuple[str, ...]


@functools.cache
def digits(seed: int = 0) -> Classification:
    """1,797 images of handwritten digits, 8 by 8 pixels from 0 to 1, in ten classes: 60 %, 20 % and 20 % of them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return split(bunch.data / 16, bunch.target, seed)


@functools.cache
def breast_cancer(seed: int = 0) -> Classification:
    """569 tumours, benign or malignant, with 30 unscaled measurements each, from 0.001 to 4,254."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return split(bunch.data, bunch.target, seed)


def diabetes() -> Regression:
    """442 patients, 10 standardised measurements, and the progression of their disease a year later."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    features = (bunch.data - bunch.data.mean(axis=0)) / bunch.data.std(axis=0)
    return Regression(features, bunch.target - bunch.target.mean(), tuple(bunch.feature_names))


def standardise(data: Classification) -> Classification:
    """Scale inputs to mean 0 and standard deviation 1 in the training part, and the other parts by the same numbers."""
    mean, deviation = data.training.inputs.mean(axis=0), data.training.inputs.std(axis=0)
    parts = (data.training, data.validation, data.test)
    return Classification(*(Part((part.inputs - mean) / deviation, part.labels) for part in parts))


def split(inputs: np.ndarray, labels: np.ndarray, seed: int) -> Classification:
    """Shuffle the rows, and cut them at 60 % and 80 %. The arrays are read-only, because they are cached."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    cuts = np.split(order, [len(order) * 3 // 5, len(order) * 4 // 5])
    parts = [Part(inputs[rows].astype(np.float32), labels[rows]) for rows in cuts]
    for part in parts:
        part.inputs.setflags(write=False)
        part.labels.setflags(write=False)
    return Classification(*parts)
