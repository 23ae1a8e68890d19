"""Numbers of frames as text."""

import pytest

from tinynet_sklearn.frame_numbers import frame_ranges, frames_in_words, some_frames


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], ""),
        ([5], "5"),
        ([5, 6], "5-6"),
        ([7, 0, 1, 2, 3], "0-3, 7"),
        (range(0, 40, 2), ", ".join(map(str, range(0, 40, 2)))),
    ],
)
def test_a_record_has_all_frames_in_order(frames, text):
    assert frame_ranges(frames) == text


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([5], "frame 5"),
        ([5, 6], "frames 5, 6"),
        ([5, 6, 7], "frames 5 to 7"),
        ([2, 3, 4, 7], "frames 2, 3, 4, 7"),
        ([7, 6, 5], "frames 7, 6, 5"),
        (range(100), "frames 0 to 99"),
        (range(0, 24, 2), "frames 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22"),
        (range(0, 26, 2), "frames 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, ... (13 in all)"),
    ],
)
def test_a_sentence_has_the_first_few(frames, text):
    assert frames_in_words(frames) == text
    assert some_frames(frames) == text.split(" ", 1)[1]
