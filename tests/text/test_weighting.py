"""Weighted words: what brackets mean, what is malformed, and what weights do to embeddings."""

import pytest
import torch

from resdiff.text.weighting import parse_weights, weigh


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
        ("(fur)", [("fur", 1.1)]),
        ("[fur]", [("fur", 1 / 1.1)]),
        ("((fur))", [("fur", 1.1 * 1.1)]),
        ("(a (red:1.5) cat:0.5)", [("a ", 0.5), ("red", 0.75), (" cat", 0.5)]),
        ("([fur])", [("fur", 1.1 / 1.1)]),
        ("(fur: -0.5 )", [("fur", -0.5)]),
        ("(fur:0)", [("fur", 0.0)]),
        ("()(:2)", []),
    ],
)
def test_brackets_weigh_what_is_between_them(text: str, pieces: list[tuple[str, float]]) -> None:
    found = parse_weights(text)
    assert [words for words, _ in found] == [words for words, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        (r"a cat \(old\)", "a cat (old)"),
        (r"\[x\] \\ \: y", r"[x] \ : y"),
        (r"C:\new at 10:30", r"C:\new at 10:30"),
    ],
)
def test_escaped_brackets_and_stray_colons_are_literal(text: str, literal: str) -> None:
    assert parse_weights(text) == [(literal, 1.0)]


def test_a_weight_follows_the_last_colon() -> None:
    assert parse_weights("(10:30 am:1.2)") == [("10:30 am", 1.2)]
    assert parse_weights(r"(cat \(old\): tabby\: grey:2)") == [("cat (old): tabby: grey", 2.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (red cat", r"does not close the \( at character 3"),
        ("a red) cat", r"closes a \) at character 6"),
        ("a (red] cat", r"closes a \] at character 7"),
        ("(a [b) c]", r"closes a \) at character 6"),
        ("cat :)", r"closes a \) at character 6"),
        ("(red:much)", "weight 'much'"),
        ("(red:)", "weight ''"),
        ("(red:nan)", "weight 'nan'"),
        ("(red:inf)", "weight 'inf'"),
    ],
)
def test_malformed_brackets_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_weights(text)
    assert "\n" not in str(error.value)


def embeddings() -> torch.Tensor:
    return torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)) + 0.5


def test_weights_scale_tokens_and_keep_the_mean() -> None:
    z, weights = embeddings(), [1.0, 2.0, 1.0, 0.5, 1.0]
    weighed = weigh(z, weights)
    torch.testing.assert_close(weighed.mean(), z.mean())
    ratio = weighed / z  # (1, 5, 8): one factor per token
    torch.testing.assert_close(ratio[0, :, 0] / ratio[0, 0, 0], torch.tensor(weights))
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    by_hand = z * torch.tensor(weights)[:, None]
    torch.testing.assert_close(weighed, by_hand * (z.mean() / by_hand.mean()))


def test_equal_weights_leave_embeddings_as_they_are() -> None:
    z = embeddings()
    assert torch.equal(weigh(z, [1.0] * 5), z)
    torch.testing.assert_close(weigh(z, [3.0] * 5), z)


def test_half_precision_stays_and_is_weighed_in_float32() -> None:
    z = embeddings().half()
    weighed = weigh(z, [1.0, 1.3, 1.3, 1.0, 1.0])
    assert weighed.dtype == torch.float16
    assert torch.equal(weighed, weigh(z.float(), [1.0, 1.3, 1.3, 1.0, 1.0]).half())


def test_a_mean_of_zero_is_not_restored() -> None:
    z = embeddings()
    z -= z.mean(dim=-1, keepdim=True)  # as after a layer norm without a bias
    torch.testing.assert_close(weigh(z, [1.0, 2.0, 1.0, 1.0, 1.0])[:, 1], 2 * z[:, 1])
