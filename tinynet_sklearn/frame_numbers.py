"""Numbers of frames as text: all of them for a record, the first few for a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

__all__ = ["frame_ranges", "frames_in_words", "some_frames"]

#: At most this many are listed in a sentence.
MAX_LISTED_FRAMES = 12


def frame_ranges(frames: Sequence[int]) -> str:
    """All numbers in order, neighbours together.

    Examples
    --------
    >>> from tinynet_sklearn.frame_numbers import frame_ranges
    >>> frame_ranges([7, 0, 1, 2, 3])
    '0-3, 7'
    """
    runs = []
    for _, run in groupby(enumerate(sorted(frames)), key=lambda pair: pair[1] - pair[0]):
        members = [frame for _, frame in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(runs)


def some_frames(frames: Sequence[int]) -> str:
    """Numbers in the order given, the first few of many; first and last of three or more that are neighbours.

    Examples
    --------
    >>> from tinynet_sklearn.frame_numbers import some_frames
    >>> some_frames([3, 4, 8]), some_frames(range(81)), some_frames(range(0, 81, 2))
    ('3, 4, 8', '0 to 80', '0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, ... (41 in all)')
    """
    if len(frames) > 2 and list(frames) == list(range(frames[0], frames[0] + len(frames))):
        return f"{frames[0]} to {frames[-1]}"
    shown = ", ".join(map(str, frames[:MAX_LISTED_FRAMES]))
    return shown + (f", ... ({len(frames)} in all)" if len(frames) > MAX_LISTED_FRAMES else "")


def frames_in_words(frames: Sequence[int]) -> str:
    """`some_frames` with the noun: "frame 3", "frames 0 to 80"."""
    return f"frame{'' if len(frames) == 1 else 's'} {some_frames(frames)}"
