"""α and exchange by network family."""

from __future__ import annotations

import pytest

from octavize.errors import InputError
from octavize.plans import policies
from octavize.plans.policies import exchange_of, policy, policy_of


def test_every_named_network_has_a_policy() -> None:
    from octavize.zoo.models import list_models

    for name in list_models():
        found = policy_of(name, 0.25)
        assert found == policy_of(name.removesuffix("_small"), 0.25)
        assert 0.25 in found.values()
        assert set(policy_of(name, 0).values()) == {0}
        assert exchange_of(name) == "every"


def test_a_family_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_POLICIES", list(policies._POLICIES))

    @policy("oct_mine*", exchange="low_to_high")
    def mine(alpha: float) -> dict[str, float]:
        return {"*": alpha, "head.*": 0}

    assert policy_of("oct_mine7_small", 0.5) == {"*": 0.5, "head.*": 0}
    assert exchange_of("oct_mine7") == "low_to_high"
    with pytest.raises(InputError, match="exchange='up'"):
        policy("x", exchange="up")


@pytest.mark.parametrize(
    ("name", "alpha", "words"),
    [("oct_resnet51", 0.5, "'oct_resnet51' is unknown"), ("oct_resnet50", 2, "alpha=2")],
)
def test_bad_input(name: str, alpha: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        policy_of(name, alpha)
