"""Leases keep folders, on paths and URIs."""

from pathlib import Path

import pytest

from jobs.model.checkpoint_leases import is_leased, remove_lease, remove_unleased_folder, write_lease


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_leased_folder_is_not_removed(scheme: str, tmp_path: Path) -> None:
    """Neither are the folders around it; it is removed when the last holder has released it."""
    run, checkpoint = tmp_path / "trial-1", tmp_path / "trial-1" / "epoch-0001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    path = f"{scheme}{checkpoint}"
    for holder in ("a", "b"):
        write_lease(path, holder, {"service": "classifier"})
    remove_lease(path, "a")
    remove_lease(path, "a")
    for folder in (path, f"{scheme}{run}"):
        assert is_leased(folder)
        assert not remove_unleased_folder(folder)
    assert (checkpoint / "manifest.json").exists()
    remove_lease(path, "b")
    assert remove_unleased_folder(f"{scheme}{run}")
    assert not run.exists()
