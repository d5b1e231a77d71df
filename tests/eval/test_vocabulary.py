"""What words do to pictures: measured for those that are known, once for each meaning, and written into a card."""

import json

import pytest

from resdiff.eval import vocabulary

from .worded import worded_pipeline, write_pairs


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    worded_pipeline("sharp").save_pretrained(tmp_path / "model")
    data = str(write_pairs(tmp_path / "tiny"))
    return ["--data", data, "--out", str(tmp_path / "run"), "--model", str(tmp_path / "model"), "--num_workers", "1"]


def test_the_card_gets_what_each_known_word_does(arguments, tmp_path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# net\n\n## Words\n\nof before\n\n## Limits\n\nmany\n")
    vocabulary.main(vocabulary.parse_args([*arguments, "--card", str(card)]))
    section = (tmp_path / "run" / "words.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| ")}
    assert list(rows) == ["prompt", "sharp", "very sharp", "slightly sharp", "not sharp"]  # no other word is known
    assert "over 2 of tiny images" in section
    effects = [float(cell) for cell in rows["sharp"].split("|")[6:8]]
    assert any(effects) and rows["sharp"].split("|")[2:] == rows["very sharp"].split("|")[2:]
    images = json.loads((tmp_path / "run" / "vocabulary.json").read_text())["images"]
    mean = sum(image["detail sharp"] for image in images.values()) / 2
    assert effects[0] == pytest.approx(100 * (2.718281828**mean - 1), abs=0.51)
    assert card.read_text() == f"# net\n\n{section.rstrip()}\n\n## Limits\n\nmany\n"


def test_a_card_without_the_section_gets_it_at_its_end() -> None:
    section = "## Words\n\nnew\n"
    card = vocabulary.section_replaced("# net\n\ntext\n", section)
    assert card == "# net\n\ntext\n\n## Words\n\nnew\n"
    assert vocabulary.section_replaced(card, section) == card


def test_a_model_without_words_and_a_card_that_is_none_are_refused_in_one_line(arguments, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        vocabulary.parse_args([*arguments, "--card", str(tmp_path / "gone.md")])
    assert "gone.md is no file; give the card of the model" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the model has no text encoder"):
        vocabulary.main(vocabulary.parse_args([*arguments[:-3], "bicubic", *arguments[-2:]]))
    assert not (tmp_path / "run").exists()
