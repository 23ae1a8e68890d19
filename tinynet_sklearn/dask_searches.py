"""Searches and featurization on a Dask cluster that may lose workers.

``joblib.parallel_config("dask")`` is enough while all workers live. Two habits of that backend are in the
way when one dies, or when fits are parallel themselves:

- an argument of more than a kilobyte, such as the indices of a fold, is put on one worker, beside the
  tasks; if that worker dies, it is lost and with it the search. Here it travels with the task, which Dask
  gives to another worker, or, for data that are named, lies on every worker.
- what is parallel inside a task is sent through the cluster once more. Here it stays in its worker, where
  ``n_jobs=None`` means one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import joblib
from joblib import parallel_config

__all__ = ["on_dask"]


@contextmanager
def on_dask(client: Any = None, data: Sequence[Any] = ()) -> Iterator[None]:
    """Run what joblib parallelises, in the block, on the workers of a Dask cluster.

    Parameters
    ----------
    client : dask.distributed.Client or None, default=None
        Of the cluster; None takes the one that was made last.
    data : sequence of object, default=()
        What is large among the arguments of the call, the very objects that it will get, such as X and y:
        they are sent to every worker once, instead of with every task.

    Raises
    ------
    ValueError
        If Dask is not installed, or there is no client.
    ImportError
        If the installed version of joblib has another backend than the one that is changed here.
    TypeError
        If `data` is not a list or tuple of such objects.

    Notes
    -----
    A worker that dies takes its unfinished tasks along; Dask runs them again elsewhere, and gives up a task
    that has seen ``distributed.scheduler.allowed-failures`` (3) workers die. With ``resume="matching"`` in
    a `BPNNRegressor` what was trained before is read instead of trained again, on whichever worker that
    sees the folder.

    Examples
    --------
    >>> from tinynet_sklearn.dask_searches import on_dask
    >>> def run(search, structures, forces, address):
    ...     from dask.distributed import Client
    ...
    ...     with Client(address) as client, on_dask(client, data=[structures, forces]):
    ...         return search.fit(structures, forces)
    """
    if not isinstance(data, list | tuple):
        raise TypeError(
            f"data must be a list of what the call will get, as in data=[X, y]; got {type(data).__name__}."
        )
    with parallel_config(backend=_backend_class()(client=client, scatter=list(data))):
        yield


@dataclass(frozen=True)
class _InWorker:
    """A task of joblib; what is parallel inside of it stays in the worker."""

    batch: Any

    def __call__(self, tasks: Any = None) -> list[Any]:
        with parallel_config("threading", n_jobs=1):
            return [function(*args, **options) for function, args, options in tasks]

    def __repr__(self) -> str:
        return repr(self.batch)  # Dask shows it as the name of the task


def _backend_class() -> Any:
    """Joblib's backend, made when it is needed: its module imports Dask."""
    unknown = (
        f"on_dask changes methods of joblib's Dask backend that joblib {joblib.__version__} does not have. "
        'Use joblib.parallel_config("dask") instead.'
    )
    try:
        from joblib._dask import DaskDistributedBackend
    except ImportError as error:
        raise ImportError(unknown) from error
    there = all(
        hasattr(DaskDistributedBackend, name) for name in ("_to_func_args", "start_call", "stop_call")
    )
    # an attribute that start_call sets is not to be seen on the class
    if not there or "call_data_futures" not in DaskDistributedBackend.start_call.__code__.co_names:
        raise ImportError(unknown)

    class SturdyDaskBackend(DaskDistributedBackend):
        """Sends small data with the tasks, and keeps what is parallel inside a task in its worker."""

        def start_call(self) -> None:
            super().start_call()
            self.call_data_futures: Any = None  # nothing is put on single workers

        def stop_call(self) -> None:
            self.call_data_futures = {}  # which the other clears
            super().stop_call()

        async def _to_func_args(self, func: Any) -> tuple[_InWorker, Any]:
            batch, tasks = await super()._to_func_args(func)
            return _InWorker(batch), tasks

    return SturdyDaskBackend
