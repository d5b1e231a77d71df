"""The gallery: what its page and its pictures show, and what it is refused for."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdiff.eval import gallery
from resdiff.eval.gallery import ZOOM, main, parse_args
from resdiff.eval.harness.page.photos import chosen_box, photo_row
from resdiff.eval.harness.sheets import GAP, HEAD, side_by_side
from resdiff.eval.harness.shown_photos import ShownPhoto
from resdiff.eval.harness.variants import NO_PROMPT, Asked, Variants, make_variants
from resdiff.runs.launcher import run_script

from .conftest import decoded
from .worded import HOSTILE, worded_pipeline, write_photos


@pytest.fixture(scope="module")
def pipe():
    return worded_pipeline()


@pytest.fixture(scope="module")
def shown(pipe, tmp_path_factory) -> Path:
    """A folder with a gallery of two photos with originals and one damaged, its pictures, and nothing else."""
    folder = tmp_path_factory.mktemp("gallery")
    photos = write_photos(folder / "lr", originals=folder / "hr")
    (photos / "broken.png").write_bytes((photos / "otter.png").read_bytes()[:60])
    arguments = ["--photos", str(photos), "--hr", str(folder / "hr"), "--out", str(folder / "page.html")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gallery, "load_pipeline", lambda settings: pipe)
        main(parse_args([*arguments, "--pictures", str(folder / "pictures"), "--prompt", "soft", "--prompt", HOSTILE]))
    return folder


def articles(page: Path) -> list[str]:
    return re.findall(r'<article class="photo">(.*?)</article>', page.read_text(), re.S)


def captions(article: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", article)]


# --- the variants


def test_the_variants_are_what_the_pipeline_makes_of_the_same_noise(pipe) -> None:
    lr = np.random.default_rng(1).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    asked = Asked(model="net", scale=4.0, prompts=["sharp fur"], fidelities=[0.0, 1.0], seed=3)
    variants = make_variants(pipe, lr, None, asked)
    assert list(variants.enlarged) == ["bicubic", "net"]
    assert list(variants.prompts) == [NO_PROMPT, "“sharp fur”"] and list(variants.dial) == ["fidelity 0", "fidelity 1"]
    np.testing.assert_array_equal(variants.prompts[NO_PROMPT], variants.enlarged["net"])
    np.testing.assert_array_equal(variants.dial["fidelity 0"], variants.enlarged["net"])
    pictures = [*variants.enlarged.values(), variants.prompts["“sharp fur”"], variants.dial["fidelity 1"]]
    assert all(picture.shape == (40, 48, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 4


# --- the page


def test_the_page_needs_nothing_from_outside_and_escapes_everything(shown) -> None:
    text = (shown / "page.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert not re.findall(r"@import|url\(|https?://", text)
    assert "default-src 'none'" in text
    assert HOSTILE not in text and "a<b>" not in text
    assert text.count("<script>") == 1


def test_each_photo_has_its_squares_no_prompt_first_and_its_credit(shown) -> None:
    hostile, otter = articles(shown / "page.html")
    dial = [f"fidelity {f}" for f in ("0", "0.25", "0.5", "0.75", "1")]
    own = ["bicubic", "resdiff-small", "original", "no prompt", "“soft”", f"“{HOSTILE}”", *dial]
    assert captions(hostile) == captions(otter) == own
    assert f"Photo: A. {HOSTILE}, CC0-1.0" in html.unescape(otter) and "Photo:" not in hostile
    assert re.search("50.40 → 200.160", otter) and "a<b>&c" in html.unescape(hostile)
    assert otter.count('<img class="over"') == 1 and otter.count('<img class="under"') == 2
    alts = [html.unescape(alt) for alt in re.findall(r'alt="([^"]*)"', otter)]
    assert len(alts) == len(set(alts)) == 3 + len(own) and all("otter" in alt for alt in alts)


def test_the_squares_are_cut_pixel_by_pixel_where_the_frame_is(shown) -> None:
    otter = articles(shown / "page.html")[1]
    square = decoded(re.search(r'src="(data:[^"]+)"[^>]*alt="otter, a square of it: original"', otter).group(1))
    frame = re.search(r'class="spot" style="top: (.*?)%; left: (.*?)%; height: (.*?)%; width: (.*?)%"', otter)
    top, left, height, width = (float(percent) / 100 for percent in frame.groups())
    rows, columns = (slice(round(a), round(a + n)) for a, n in ((160 * top, 160 * height), (200 * left, 200 * width)))
    original = np.asarray(Image.open(shown / "hr" / "otter.png"))[:160, :200]
    np.testing.assert_array_equal(square, original[rows, columns])


def test_a_damaged_photo_is_listed_and_the_rest_is_shown(shown) -> None:
    text = (shown / "page.html").read_text()
    assert len(articles(shown / "page.html")) == 2
    assert re.search(r"Not shown:.*broken\.png", text)
    assert '<p class="summary">2 photos · ' in text and "MB of pictures" in text


def test_the_pictures_stay_within_their_budget() -> None:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (600, 800, 3), dtype=np.uint8) for name in ("bicubic", "net")}
    photo = ShownPhoto(name="noise", lr=images["net"][:150, :200], hr=None, credit="", note="")
    variants = Variants(enlarged=images, prompts={f"{i}": images["net"] for i in range(4)}, dial={})
    row = photo_row(photo, variants, (0, 0, 160, 160), 500_000)
    assert row.bytes <= 500_000 and row.reduced
    whole = photo_row(photo, variants, (0, 0, 160, 160), 10_000_000)
    assert whole.bytes > 300_000 and not whole.reduced
    assert decoded(whole.sides["net"]).shape == (600, 800, 3)


# --- pictures for a README


def test_the_words_stand_on_either_side_of_no_prompt(shown) -> None:
    names = sorted(path.name for path in (shown / "pictures").iterdir())
    assert names == [f"{name}_{kind}.png" for name in ("a<b>&c", "otter") for kind in ("before_after", "prompts")]
    article = articles(shown / "page.html")[1]
    with Image.open(shown / "pictures" / "otter_prompts.png") as sheet:
        pixels = np.asarray(sheet)
    side = 160 * ZOOM
    assert pixels.shape == (side + HEAD, 3 * (side + GAP) - GAP, 3)
    for i, caption in enumerate(("“soft”", "no prompt", f"“{HOSTILE}”")):
        alt = re.escape(
            html.escape(f"otter, a square of it: {caption}").replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
        )
        square = decoded(re.search(rf'src="(data:[^"]+)"[^>]*alt="{alt}"', article).group(1))
        panel = pixels[HEAD::ZOOM, i * (side + GAP) : i * (side + GAP) + side : ZOOM]
        np.testing.assert_array_equal(panel, square)


def test_panels_stand_side_by_side_enlarged_by_whole_pixels_and_captions_stay_over_their_own() -> None:
    images = {name: np.asarray(Image.new("RGB", (8, 6), name)) for name in ("red", "green", "blue")}
    sheet = np.asarray(side_by_side(images, 3))
    assert sheet.shape == (6 * 3 + HEAD, 3 * (8 * 3 + GAP) - GAP, 3)
    for i, colour in enumerate(([255, 0, 0], [0, 128, 0], [0, 0, 255])):
        assert (sheet[HEAD:, i * (24 + GAP) : i * (24 + GAP) + 24] == colour).all()
    blank = {"W" * 60: images["red"], "": images["green"]}
    assert (np.asarray(side_by_side(blank, 3))[:HEAD, 24:] == 255).all()


# --- what is refused


def test_a_square_outside_the_picture_is_refused() -> None:
    image = np.zeros((40, 48, 3), np.uint8)
    variants = Variants(enlarged={"bicubic": image, "net": image}, prompts={}, dial={})
    assert chosen_box(variants, (8, 4, 32, 40), 4, "otter") == (8, 4, 32, 40)
    with pytest.raises(ValueError, match="crop 4,9,40,32 does not lie in the 48x40 px of otter"):
        chosen_box(variants, (9, 4, 32, 40), 4, "otter")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "sharp"], "bicubic takes no prompt; leave --prompt out"),
        (["--fidelity", "0.5"], "bicubic takes no fidelity; leave --fidelity out"),
        (["--crop", "cat=0,0,8,8"], "--crop names cat, which is none of the 2 photos"),
        (["--out", "nowhere/page.html"], "nowhere is not a folder; make it"),
        (["--out", "."], ". is a folder; name a file as --out"),
        (["--hr", ".", "--scale", "2.5"], "scale=2.5 with --hr: originals need a whole number"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line_before_the_work(tmp_path, monkeypatch, arguments, said) -> None:
    monkeypatch.chdir(write_photos(tmp_path))
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        main(parse_args(["--photos", ".", "--model", "bicubic", "--out", "page.html", *arguments]))
    assert "\n" not in str(caught.value) and not Path("page.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fidelity", "1.5"],
        ["--fidelity", "x"],
        ["--crop", "1,2,3"],
        ["--crop", "1,2,0,3"],
        ["--limit", "0"],
        ["--scale", "nan"],
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(arguments, capsys) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--photos", "x", "--out", "y", *arguments])
    assert f"{arguments[1]!r} is not" in capsys.readouterr().err


def test_no_readable_photo_is_one_line_and_leaves_no_page(tmp_path, capsys) -> None:
    (tmp_path / "otter.png").write_bytes(b"\x89PNG")
    arguments = ["--photos", str(tmp_path), "--model", "bicubic", "--out", str(tmp_path / "p.html")]
    assert run_script(lambda: main(parse_args(arguments))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: none of the 1 photos can be read; the first: ") and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["otter.png"]


def test_a_model_without_words_and_dial_has_the_slider_alone(tmp_path, capsys) -> None:
    write_photos(tmp_path)
    out = tmp_path / "page.html"
    main(parse_args(["--photos", str(tmp_path), "--model", "bicubic", "--out", str(out), "--limit", "1"]))
    assert captions(articles(out)[0]) == ["bicubic", "bicubic (model)"]
    assert "1 photo, 1 more left out (--limit)" in out.read_text()
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 1 photo, ") and said.endswith(" MB\n")
