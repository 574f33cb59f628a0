"""Keras' optimizers with a native step, on Keras' torch backend: `pip install 'fastopt[keras]'`.

    os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported
    model.compile(optimizer=fastopt.keras.Adam(1e-3), loss=...)

Each is a subclass of Keras' class of the same name, with its arguments, variables, configuration and files.
"""

import keras

if keras.backend.backend() != "torch":
    raise ImportError(
        f"fastopt.keras needs Keras' torch backend, whose variables are in main memory, and the backend is "
        f"{keras.backend.backend()!r}: set the environment variable KERAS_BACKEND to 'torch' before Keras is imported, "
        "or use Keras' own optimizers"
    )

from .optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, Nadam, NativeOptimizer, RMSprop

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Nadam", "NativeOptimizer", "RMSprop"]
