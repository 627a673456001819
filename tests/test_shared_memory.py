"""Segments of shared memory that could not be written."""

import os

import pytest
from lanceloader.transport.shared_memory import WritableSegments


class Failing:
    """A buffer that cannot be copied."""

    def __len__(self):
        return 8


def test_a_segment_that_could_not_be_written_is_written_again():
    """No reader hears of it, so that none would release it."""
    segments = WritableSegments()
    for _ in range(20):
        with pytest.raises(TypeError):
            segments.write([(0, b"12345678"), (8, Failing())], 16)
    segment = segments.write([(0, b"12345678")], 8)
    assert (segment.number, segments.num_created) == (0, 1)
    os.close(segment.file)
