"""Checkpoints of strangers: tensors are read, programs and tar files refused before any loader."""

import io
import tarfile
from pathlib import Path

import pytest
import torch

from ml.artifacts import ArtifactError
from ml.labels.untrusted import load_tensors


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_tensors_are_read_in_both_formats_of_torch(tmp_path: Path):
    for name, is_zip in (("new.pt", True), ("old.pt", False)):
        weights = {"a": torch.arange(3.0)}
        torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=is_zip)
        found = load_tensors(tmp_path / name, expected="weights")
        assert torch.equal(found["a"], weights["a"])


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_program_is_refused_by_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.jit.save(torch.jit.trace(Doubled(), torch.ones(1)), tmp_path / "program.pt")
    monkeypatch.setattr(torch.jit, "load", None)  # nobody may ask for it
    with pytest.raises(ArtifactError, match=r"program\.pt is a TorchScript program.*weights"):
        load_tensors(tmp_path / "program.pt", expected="weights")


def test_a_tar_archive_of_old_torch_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "old.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    with pytest.raises(ArtifactError, match=r"old\.tar is a tar archive.*before version 0\.2"):
        load_tensors(tmp_path / "old.tar", expected="weights")


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ArtifactError, match=r"cut\.pt cannot be read.*expected weights"):
        load_tensors(tmp_path / "cut.pt", expected="weights")
    with pytest.raises(ArtifactError, match=r"gone\.pt does not exist"):
        load_tensors(tmp_path / "gone.pt", expected="weights")
