"""Metrics through pyiqa: what is said without it, and what is asked of it, on a stand-in for the package."""

import builtins
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from resdiff.metrics.optional_pyiqa import PYIQA, PyiqaMissing, load_pyiqa
from resdiff.metrics.weights import MissingWeights


@pytest.fixture
def stand_in(monkeypatch):
    """Install a pyiqa whose `create_metric` is the function given."""

    def install(create_metric) -> None:
        module = ModuleType("pyiqa")
        module.create_metric = create_metric
        monkeypatch.setitem(sys.modules, "pyiqa", module)

    return install


@pytest.fixture
def not_installed(monkeypatch):
    """Let the import of a package fail as if it were not there."""
    real = builtins.__import__

    def without(missing: str) -> None:
        def refuse(name, *rest):
            if name.split(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
            return real(name, *rest)

        monkeypatch.delitem(sys.modules, missing, raising=False)
        monkeypatch.setattr(builtins, "__import__", refuse)

    return without


def images(count: int = 3, side: int = 224) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_table_has_the_metrics_of_papers_with_direction_range_and_weights() -> None:
    papers = (
        "musiq maniqa maniqa-pipal topiq_nr topiq_fr liqe liqe_mix qalign nrqm pi brisque piqe ilniqe hyperiqa dbcnn"
    )
    assert set(papers.split()) <= set(PYIQA)
    assert {name for name, metric in PYIQA.items() if metric.better == "lower"} == {
        "pi", "brisque", "piqe", "ilniqe", "afine_fr", "afine_nr", "afine_all", "afine_all_scale", "pieapp", "stlpips",
    }  # fmt: skip
    assert {name for name, metric in PYIQA.items() if metric.needs_hr} == {
        "topiq_fr", "topiq_fr-pipal", "afine_fr", "afine_all", "afine_all_scale", "ahiq", "pieapp", "stlpips",
    }  # fmt: skip
    assert (PYIQA["musiq"].low, PYIQA["musiq"].high) == (0, 100)
    assert (PYIQA["liqe"].low, PYIQA["liqe"].high, PYIQA["liqe"].smallest) == (1, 5, (224, 224))
    assert PYIQA["maniqa-pipal"].weights == "MANIQA_PIPAL-ae6d356b.pth"
    assert all(metric.weights or name == "piqe" for name, metric in PYIQA.items())
    assert all(name == metric.name for name, metric in PYIQA.items())


def test_importing_the_table_does_not_import_pyiqa(stand_in) -> None:
    stand_in(lambda *_, **__: pytest.fail("it was used"))
    assert PYIQA["musiq"].name == "musiq"


def test_without_pyiqa_the_message_says_how_to_install_it(not_installed) -> None:
    not_installed("pyiqa")
    with pytest.raises(PyiqaMissing, match=r"pip install 'resdiff\[pyiqa\]' \(non-commercial licence") as raised:
        load_pyiqa("musiq")
    assert isinstance(raised.value, MissingWeights), "so that a benchmark that skips what is missing skips it"
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("package", "remedy"), [("pkg_resources", "pip install 'setuptools<81'"), ("icecream", "pip install icecream")]
)
def test_a_package_that_pyiqa_does_not_declare_is_named(stand_in, package, remedy) -> None:
    def create_metric(*_, **__):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    stand_in(create_metric)
    with pytest.raises(PyiqaMissing, match=remedy):
        load_pyiqa("liqe")


@pytest.mark.parametrize("error", [OSError("<urlopen error [Errno -2]\nName or service not known>"), RuntimeError("x")])
def test_weights_that_cannot_be_fetched_are_named_with_their_repository(stand_in, error) -> None:
    def create_metric(*_, **__):
        raise error

    stand_in(create_metric)
    with pytest.raises(MissingWeights, match=r"musiq_koniq_ckpt-e95806b9\.pth of .*IQA-PyTorch-Weights") as raised:
        load_pyiqa("musiq")
    assert "\n" not in str(raised.value) and not isinstance(raised.value, PyiqaMissing)


def test_every_image_is_scored_alone_on_the_asked_device(stand_in) -> None:
    asked = []

    def create_metric(name, device):
        asked.append((name, device))
        return lambda x: x.mean().reshape(1, 1) if len(x) == 1 else pytest.fail("a batch")

    stand_in(create_metric)
    x = images()
    scores = load_pyiqa("musiq", "cpu")(x, None)
    assert asked == [("musiq", torch.device("cpu"))]
    assert scores.shape == (3,) and scores.dtype == torch.float32
    assert torch.allclose(scores, x.mean(dim=(1, 2, 3)))


def test_hr_goes_only_to_metrics_that_compare(stand_in) -> None:
    stand_in(lambda name, device: lambda *given: torch.tensor(float(len(given))))
    x = images(2)
    assert load_pyiqa("topiq_fr")(x, x).tolist() == [2, 2]
    assert load_pyiqa("musiq")(x, x).tolist() == [1, 1]


def test_bad_images_are_refused(stand_in) -> None:
    stand_in(lambda name, device: lambda *given: torch.zeros(1))
    with pytest.raises(ValueError, match="hr is None"):
        load_pyiqa("topiq_fr")(images(), None)
    with pytest.raises(ValueError, match="needs equal ones"):
        load_pyiqa("topiq_fr")(images(), images(3, 230))
    with pytest.raises(ValueError, match="223x223, liqe needs 224"):
        load_pyiqa("liqe")(images(1, 223), None)
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        load_pyiqa("musiq")(images()[:, :1], None)


def test_random_crops_repeat_and_leave_the_generators_alone(stand_in) -> None:
    stand_in(lambda name, device: lambda x: x.mean() + torch.rand(1) + float(np.random.rand()))
    score = load_pyiqa("hyperiqa")
    np.random.seed(7)
    torch.manual_seed(7)
    expected = np.random.rand(), torch.rand(1).item()
    np.random.seed(7)
    torch.manual_seed(7)
    x = images(4)
    assert torch.equal(score(x, None), torch.cat([score(one, None) for one in x.split(1)]))
    assert (np.random.rand(), torch.rand(1).item()) == expected


def test_what_pyiqa_prints_goes_to_the_log(stand_in, capsys, caplog) -> None:
    def create_metric(name, device):
        print("Loading pretrained model")
        return lambda x: torch.zeros(1)

    stand_in(create_metric)
    with caplog.at_level("INFO", logger="resdiff"):
        load_pyiqa("musiq")
    assert capsys.readouterr().out == "" and "pyiqa: Loading pretrained model" in caplog.text


def test_an_unexpected_answer_is_refused(stand_in) -> None:
    stand_in(lambda name, device: lambda x: torch.zeros(2))
    with pytest.raises(ValueError, match="for one image"):
        load_pyiqa("musiq")(images(1), None)


def test_the_first_of_several_answers_is_the_score(stand_in) -> None:
    stand_in(lambda name, device: lambda x: (torch.ones(1, 1), torch.zeros(1, 5)))
    assert load_pyiqa("nima")(images(1), None).tolist() == [1]
