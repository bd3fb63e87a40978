"""A short soak of a running service, and a check that the soak finds violations. `make soak` takes longer."""

from tests.support import live
from tests.support.soak import Soak


def test_a_soak_finds_no_violation_and_finds_those_that_are_made(environment: dict[str, str]) -> None:
    """A service under load breaks no promise. Five records that are changed afterwards are five violations."""
    with live.serving(environment) as service:
        soak = Soak(service.url, callers=16)
        soak.run(seconds=1)
        assert soak.violations == []
        changed, declined, *_ = soak.acknowledged
        soak.acknowledged["lost"] = {}
        soak.acknowledged[changed] = {}
        soak.declined.add(declined)
        soak.placed[next(iter(soak.placed))] = {}
        soak.opened[next(iter(soak.opened))] = {}
        soak.check()
    assert len(soak.violations) == 5
