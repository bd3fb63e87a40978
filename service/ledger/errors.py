"""The one exception for everything that the service refuses, and what the database's constraints mean to a caller."""

from typing import Any

from service.contract import PROBLEMS

# Constraints that repeat a rule of posting.py. The rules decide first, so these stop only what the rules let through by
# a mistake of ours; the caller still gets the true reason, and nothing was applied.
CONSTRAINTS = {
    "account_floor": "insufficient-funds",
    "account_balance_range": "balance-out-of-range",
    "account_held_range": "balance-out-of-range",
    "transfer_captures": "hold-not-open",
}

# Constraints that only a race breaks: two postings used one id at the same time, or a hold came due between a decision
# and its writing. The next try finds the other's row, or the hold expired.
RACES = frozenset({"transfer_pkey", "hold_pkey", "hold_resolved"})


class Refusal(Exception):
    """A refusal with a stable code: `slug` stands in contract/problems.json, which also gives its status.

    `detail` is a sentence for a person. `members` are extension members that the catalogue names for this slug.
    """

    def __init__(self, slug: str, detail: str, **members: Any) -> None:
        if not members.keys() <= set(PROBLEMS[slug].members):
            raise AssertionError(f"bug: {slug} has no members {sorted(members)}")
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.members = members
