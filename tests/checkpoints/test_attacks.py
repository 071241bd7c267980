"""Every hostile file ends in one line that names the file and the fault, and damage never in a traceback."""

import random
from pathlib import Path

import attacks
import pytest
from attacks import ATTACKS, GOOD_GGUF, GOOD_SAFETENSORS, Attack

from trilens.checkpoints.checkpoint import Checkpoint
from trilens.checkpoints.gguf import GgufArray, GgufFile, read_gguf
from trilens.checkpoints.safetensors import read_safetensors
from trilens.errors import BadCheckpoint, TrilensError


def read_all(path: Path) -> None:
    """Opens the checkpoint and reads every value in it."""
    checkpoint: Checkpoint = read_gguf(path) if path.suffix == ".gguf" else read_safetensors(path)
    try:
        for name in checkpoint.tensors:
            checkpoint.read(name)
        if isinstance(checkpoint, GgufFile):
            for value in checkpoint.metadata.values():
                if isinstance(value, GgufArray):
                    list(value)
    finally:
        checkpoint.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_hostile_file_is_refused_in_one_line(attack: Attack, tmp_path: Path) -> None:
    path = attack.write(tmp_path)
    with pytest.raises(BadCheckpoint, match=attack.fault) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / attack.file}: ")
    assert message.isprintable() and len(message) < 600


@pytest.mark.parametrize("name, good", [("model.gguf", GOOD_GGUF), ("model.safetensors", GOOD_SAFETENSORS)])
def test_truncated_anywhere(name: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(good)
    read_all(path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(BadCheckpoint) as caught:
            read_all(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name, good", [("model.gguf", GOOD_GGUF), ("model.safetensors", GOOD_SAFETENSORS)])
@pytest.mark.parametrize("seed", range(4))
def test_random_damage_never_ends_in_a_traceback(name: str, good: bytes, seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    path = tmp_path / name
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 8))):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] ^= 1 << dice.randrange(8)
                case 1:
                    data[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    data[at : at + 8] = dice.choice((0, 1, 2**31, 2**60, 2**63, 2**64 - 1)).to_bytes(8, "little")
                case 3:
                    del data[at : at + dice.randrange(1, 9)]
        path.write_bytes(data)
        try:
            read_all(path)
        except TrilensError as error:
            assert str(error).isprintable()


def test_the_attacks_can_be_written_for_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["attacks.py", str(tmp_path)])
    attacks.main()
    assert len(list(tmp_path.iterdir())) == len(ATTACKS)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(BadCheckpoint, match=r"no such file|is a directory"):
            read_gguf(path)
