"""Threads inside the workers of a search: no more than the worker was given.

joblib's processes, and those of a Dask nanny, are started with ``OMP_NUM_THREADS`` and its like in their
environment, which BLAS and OpenMP obey. Our numba kernels start no threads of their own, and training holds
BLAS to one thread in any case. TensorFlow alone, for "adam" and `build_fn`, takes all cores of the machine in
every worker unless it is told otherwise before it starts.
"""

from __future__ import annotations

import os

__all__ = ["limit_tensorflow_threads"]


def limit_tensorflow_threads() -> int | None:
    """Hold TensorFlow to ``OMP_NUM_THREADS`` threads, where that is set and nothing else was said.

    To be called before the first operation of TensorFlow in the process; later it has no effect. What the
    user has chosen stands: ``TF_NUM_INTRAOP_THREADS``, ``TF_NUM_INTEROP_THREADS``, ``tf.config.threading``.

    Returns
    -------
    int or None
        The number of threads; None where nothing was changed.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if not wanted.isdigit() or int(wanted) < 1:
        return None
    if {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"} & set(os.environ):
        return None
    import tensorflow as tf

    threading = tf.config.threading
    if threading.get_intra_op_parallelism_threads() or threading.get_inter_op_parallelism_threads():
        return None
    try:
        threading.set_intra_op_parallelism_threads(int(wanted))
        threading.set_inter_op_parallelism_threads(int(wanted))
    except RuntimeError:  # it runs already, with as many threads as it found cores
        return None
    return int(wanted)
