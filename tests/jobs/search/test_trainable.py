"""What Tune's trials do around the training."""

from jobs.search.trainable import with_epoch
from jobs.training.history import Epoch, Progress


def epoch(number: int, accuracy: float) -> Epoch:
    return Epoch(number, 0.5, 1 - accuracy, accuracy, accuracy, 100.0, 1.0)


def test_epochs_that_were_lost_are_taken_back() -> None:
    """The best of those that are left is the best."""
    progress = Progress()
    for number, accuracy in ((1, 0.5), (2, 0.7), (3, 0.9), (4, 0.8)):
        progress = with_epoch(progress, epoch(number, accuracy), "accuracy")
    assert progress.best == 3
    again = with_epoch(progress, epoch(3, 0.6), "accuracy")
    assert [each.accuracy for each in again.epochs] == [0.5, 0.7, 0.6]
    assert again.best == 2


def test_losses_are_told_from_failures() -> None:
    """An error that a task raised is its own, whoever ran it."""
    from ray.exceptions import ActorDiedError, OwnerDiedError, RayTaskError

    from jobs.search.trainable import is_system_failure

    assert is_system_failure(ActorDiedError())
    assert is_system_failure(OwnerDiedError("0" * 56, None, ""))
    assert not is_system_failure(RayTaskError("f", "traceback", ValueError("x")))
    assert not is_system_failure(ValueError("x"))
