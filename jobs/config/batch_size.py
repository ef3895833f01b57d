"""Number of rows of a training step where the settings name none."""

DEFAULT_BATCH_SIZE = 50
MIN_STEPS = 90  # of an epoch with fewer rows


def choose_batch_size(num_rows: int) -> int:
    """Return the rows of a step for a number of training rows: fewer if an epoch would have fewer than 90 steps."""
    return min(DEFAULT_BATCH_SIZE, max(1, num_rows // MIN_STEPS))
