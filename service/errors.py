"""Refusal: the one exception for everything that the service refuses."""

from typing import Any

from service.contract import PROBLEMS


class Refusal(Exception):
    """A refusal with a stable code: `slug` is a key of contract/problems.json, which defines its HTTP status.

    `detail` is a sentence for a person. `members` are extension members that the catalogue lists for this slug.
    """

    def __init__(self, slug: str, detail: str, **members: Any) -> None:
        if not members.keys() <= set(PROBLEMS[slug].members):
            raise AssertionError(f"bug: {slug} has no members {sorted(members)}")
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.members = members
