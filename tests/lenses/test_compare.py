"""Cards side by side: the table, the JSON and the picture."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import command as trilens
from trilens.errors import UsageError
from trilens.lenses.cards.card import Card
from trilens.lenses.plans.compare import compare

MODELS = ["qwen3-8b", "qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3", "llama-3.3-70b-instruct", "gpt-4o"]


class TestTable:
    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    def test_it_fits(self, width: int) -> None:
        text = compare(MODELS, offline=True).as_text(width)
        assert max(map(len, text.splitlines())) <= width
        assert all(name in text for name in MODELS)

    def test_numbers_at_one_context(self) -> None:
        made = compare(["qwen3-8b"], context=100, offline=True)
        [card] = made.cards
        assert isinstance(card, Card) and card.context == 100

    def test_a_shorter_model_is_taken_at_its_maximum(self) -> None:
        [card] = compare(["qwen3-8b"], context=1_000_000, offline=True).cards
        assert isinstance(card, Card) and card.context == card.spec.context == 40960

    def test_a_hosted_model_is_unknown(self) -> None:
        text = compare(["qwen3-8b", "gpt-4o"], offline=True).as_text(120)
        [line] = [line for line in text.splitlines() if line.startswith("gpt-4o")]
        assert line.count("unknown") == 7

    def test_nothing_to_compare(self) -> None:
        with pytest.raises(UsageError, match="nothing to compare"):
            compare([])


class TestCommand:
    def test_json(self) -> None:
        done = trilens("compare", "qwen3-8b", "qwen3-30b-a3b", "--json", "--offline")
        first, second = json.loads(done.stdout)
        assert (first["backbone"], second["backbone"]) == ("dense", "routed")
        assert first["flops_per_token"]["context"] == 4096

    def test_without_a_model(self) -> None:
        assert trilens("compare").returncode == 2

    def test_tags(self, tmp_path: Path) -> None:
        names = tmp_path / "names.txt"
        names.write_text("# models\nLlama 3.3 70B\n\n- GPT-4o\n* mixtral 8x22b\nfrankenmodel\n")
        done = trilens("tag", str(names), "--json")
        tags = [(t["name"], t["backbone"], t["inference"]) for t in json.loads(done.stdout)]
        assert tags == [
            ("Llama 3.3 70B", "dense", "standard"),
            ("GPT-4o", "unknown", "standard"),
            ("mixtral 8x22b", "routed", "standard"),
            ("frankenmodel", "unknown", "unknown"),
        ]

    def test_tags_from_standard_input(self) -> None:
        done = trilens("tag", "-", stdin="phi4\no3-mini\n")
        lines = done.stdout.splitlines()
        assert lines[1].split() == ["phi4", "dense", "standard"]
        assert any("o3-mini: " in line and "OpenAI" in line for line in lines[4:])

    def test_an_empty_list_and_a_missing_file(self, tmp_path: Path) -> None:
        assert trilens("tag", "-", stdin="\n# nothing\n").returncode == 2
        done = trilens("tag", str(tmp_path / "nowhere"))
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


class TestPicture:
    def test_without_matplotlib(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from trilens.lenses.plans.plot import plot

        real = builtins.__import__

        def refuse(name: str, *arguments: Any, **options: Any) -> Any:
            if name.partition(".")[0] == "matplotlib":
                raise ImportError(name)
            return real(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(UsageError, match=r"pip install 'trilens\[plot\]'"):
            plot(compare(["qwen3-8b"], offline=True), tmp_path / "a.svg")

    def test_another_ending(self, tmp_path: Path) -> None:
        from trilens.lenses.plans.plot import plot

        with pytest.raises(UsageError, match=r"\.pdf; expected \.svg or \.png"):
            plot(compare(["qwen3-8b"], offline=True), tmp_path / "a.pdf")

    def test_nothing_to_draw(self, tmp_path: Path) -> None:
        from trilens.lenses.plans.plot import plot

        with pytest.raises(UsageError, match="nothing to draw"):
            plot(compare(["gpt-4o"], offline=True), tmp_path / "a.svg")

    @pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
    def test_a_file_of_either_kind(self, tmp_path: Path, ending: str, start: bytes) -> None:
        pytest.importorskip("matplotlib")
        from trilens.lenses.plans.plot import plot

        path, again = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
        compared = compare(MODELS, offline=True)
        plot(compared, path)
        plot(compared, again)
        assert path.read_bytes().startswith(start)
        assert path.read_bytes() == again.read_bytes()

    def test_labels_do_not_overlap(self) -> None:
        """Twelve names around points that all but coincide, and none on another or outside the frame."""
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        from matplotlib import pyplot

        from trilens.lenses.plans.plot import place_labels

        figure, axes = pyplot.subplots(figsize=(9, 6))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        points = [(0.5 + i / 1000, 0.5 + (i % 3) / 1000) for i in range(12)]
        figure.canvas.draw()
        boxes = place_labels(axes, points, [f"a-model-with-a-name-{i}" for i in range(12)])
        frame = axes.get_window_extent().extents
        pyplot.close(figure)
        for i, a in enumerate(boxes):
            assert a[0] >= frame[0] and a[1] >= frame[1] and a[2] <= frame[2] and a[3] <= frame[3]
            for b in boxes[:i]:
                assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
