"""Builds with one broken rule each. The model of the tests must find each of them.

For each: the function, a piece of its source, the replacement, and the kinds of steps that show the difference. The
kinds are names of methods in tests/support/steps.py.
"""

from collections.abc import Callable
from typing import Any

from service.http import accounts as http_accounts
from service.ledger import accounts, clock, holds, posting, rules, transfers, trial_balance

BROKEN_RULES: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    "an atomic batch continues after a refusal": (rules.decide, "if atomic and", "if False and", "batch"),
    "a capture frees only its own amount": (
        rules.decide_transfer,
        "(hold.amount if hold else 0)",
        "(transfer.amount if hold else 0)",
        "hold post get",
    ),
    "a replay ignores a missing amount": (
        rules.decide_transfer,
        '"takes_rest": command.amount is None',
        "",
        "post vary",
    ),
    "a reversal has the accounts of the original": (
        rules.build_transfer,
        "original.to_account, original.from",
        "original.from_account, original.from",
        "post",
    ),
    "a hold that is not open can be captured": (
        rules.find_transfer_violation,
        'if hold and hold.status != "open":',
        "if False:",
        "hold post release",
    ),
    "a capture can exceed its hold": (
        rules.find_transfer_violation,
        "transfer.amount > hold.amount",
        "False",
        "hold post",
    ),
    "a hold can expire at its own time": (
        rules.find_hold_violation,
        "hold.expires_at <= state.now",
        "hold.expires_at < state.now",
        "hold",
    ),
    "a release frees nothing": (rules.decide_release, "held=source.held - hold.amount", "", "hold release"),
    "a declined transfer is replayed as posted": (
        rules.replay,
        'if known.status == "declined":',
        "if False:",
        "post repeat",
    ),
    "a decline is not stored": (rules.decline, "records[record.id] = declined", "pass", "post repeat"),
    "earlier reversals do not count": (rules.reversible_amount, "- state.reversed.get(original.id, 0)", "", "post"),
    "a decline can be reversed": (rules.reversible_amount, 'if original.status == "posted" else 0', "", "post"),
    "a reserved amount can be spent": (rules.find_common_violation, "source.available", "source.balance", "post hold"),
    "a frozen account refuses captures": (rules.find_common_violation, "and not allow_frozen", "", "post hold change"),
    "a closed account accepts transfers": (
        rules.find_common_violation,
        'account.status == "closed" or',
        "",
        "hold change",
    ),
    "an expired hold is shown as open": (
        holds.get_and_advance_time,
        'if hold.status == "open" else hold',
        "if False else hold",
        "hold get",
    ),
    "a posting does not store expiries": (clock.read, "AND expires_at <= now", "AND false", "hold"),
    "a change lists members that are the same": (
        accounts.change,
        "if members[name] != getattr(account, name)",
        "",
        "change list",
    ),
    "a floor can exceed the available amount": (
        accounts.check_change,
        "changed.available <",
        "changed.balance <",
        "hold post change",
    ),
    "a time excludes its own transfers": (
        clock.final_number,
        "created_at <= %(at)s",
        "created_at < %(at)s",
        "post past_balance",
    ),
    "a page repeats a row": (transfers.list_after, '"after": after', '"after": after - 1', "post list"),
    "an opening is compared with the newest members": (
        rules.decide_account,
        "**state.first_values.get(known.id, {})",
        "",
        "open change",
    ),
    "a floor below 0 does not require the scope admin": (
        http_accounts.require_scope,
        "command.min_balance < 0",
        "False",
        "open",
    ),
    "a batch does not see the accounts that it opens": (
        rules._require_accounts,
        "if id not in state.accounts",
        "if getattr(state.accounts.get(id), 'created_at', id) is None or id not in state.accounts",
        "batch",
    ),
    "a batch cannot capture the holds that it places": (
        rules.build_transfer,
        "if hold is None or",
        "if hold is None or not hold.created_at or",
        "batch",
    ),
    "a batch cannot release the holds that it places": (
        rules.decide_release,
        "if hold is None or",
        "if hold is None or not hold.created_at or",
        "batch",
    ),
    "a batch cannot reverse the transfers that it posts": (
        rules.build_transfer,
        "if original is None or",
        "if original is None or not original.created_at or",
        "batch",
    ),
    "a batch shows a hold as later items leave it": (
        rules.decide,
        "return results",
        "return [Result(state.holds[r.record.id], r.refusal, r.is_new) if isinstance(r.record, Hold) else r "
        "for r in results]",
        "batch",
    ),
    "a batch shows an account as later items leave it": (
        rules.decide,
        "return results",
        "return [Result(state.accounts[r.record.id], r.refusal, r.is_new) if isinstance(r.record, Account) else r "
        "for r in results]",
        "batch",
    ),
    "an atomic batch opens its accounts before a refusal": (
        rules.decide,
        "if atomic and result.refusal",
        "if atomic and result.refusal and not isinstance(commands[0], AccountCommand)",
        "batch",
    ),
    "an account of a batch has no time": (
        posting._Changes.add_numbers,
        "case Account(created_at=None):",
        "case Account(created_at=0):",
        "batch",
    ),
    "a release in a batch is shown as created": (
        rules.decide_release,
        "return Result(state.holds[hold.id])",
        "return Result(state.holds[hold.id], is_new=True)",
        "hold batch",
    ),
    "a ceiling is ignored": (
        rules.find_transfer_violation,
        "target.balance + transfer.amount > target.max_balance",
        "False",
        "post change",
    ),
    "a ceiling counts the holds from its account": (
        rules.find_transfer_violation,
        "target.balance + transfer.amount > target.max_balance",
        "target.available + transfer.amount > target.max_balance",
        "post hold change",
    ),
    "a ceiling does not apply to captures and reversals": (
        rules.find_transfer_violation,
        "if target.max_balance is not None and",
        "if not allow_frozen and target.max_balance is not None and",
        "post change",
    ),
    "a ceiling is checked before the floor": (
        rules.find_transfer_violation,
        "if violation := find_common_violation(",
        "if target.max_balance is not None and target.balance + transfer.amount > target.max_balance:\n"
        "        return Violation('max-balance-exceeded', target, target.max_balance - target.balance)\n"
        "    if violation := find_common_violation(",
        "post change",
    ),
    "a ceiling can be below the balance": (
        accounts.check_change,
        "changed.balance > changed",
        "-1 > changed",
        "post change",
    ),
    "a capture does not take the reference of its hold": (
        rules.build_transfer,
        "reference or hold.reference",
        "reference",
        "hold post",
    ),
    "a reversal does not take the reference of its transfer": (
        rules.build_transfer,
        "reference or original.reference",
        "reference",
        "post",
    ),
    "a reversal takes the reference of its transfer instead of its own": (
        rules.build_transfer,
        "reference or original.reference",
        "original.reference or reference",
        "post",
    ),
    "a replay ignores a missing reference": (
        rules.decide_transfer,
        'given |= {"has_own_reference": command.reference is not None}',
        "pass",
        "post vary",
    ),
    "a replay of a hold ignores the reference": (
        rules.decide_hold,
        "replay(known, vars(command))",
        "replay(known, {**vars(command), 'reference': known.reference})",
        "hold vary",
    ),
    "a list with a reference has all transfers": (
        transfers.list_after,
        "_WITH_REFERENCE if reference else _AFTER",
        "_AFTER",
        "post list",
    ),
    "a reversal continues the sum of another transfer": (
        transfers.sum_reversals,
        "ON last_reversal.reverses = reversed.id",
        "ON true",
        "post",
    ),
    "a reversal stores its own amount as the sum": (
        rules.decide_transfer,
        "state.reversed.get(transfer.reverses, 0) + transfer.amount",
        "transfer.amount",
        "post",
    ),
    "the entries from a time are all entries": (
        transfers.list_entries,
        '"earliest": earliest',
        '"earliest": None',
        "post list",
    ),
    "the entries until a time include it": (
        transfers.list_entries,
        '"until": until',
        '"until": until and until.replace(microsecond=min(until.microsecond + 1, 999_999))',
        "post list",
    ),
    "the entries until a time can be read before it": (transfers.list_entries, "if rows else None", "", "post list"),
    "the list of holds ignores its cursor": (
        holds._select_open,
        "{**parameters,",
        '{**parameters, "after": "",',
        "hold list",
    ),
    "the trial balance has a negative debit": (trial_balance._select, "int(debit)", "-int(debit)", "post list"),
    "the trial balance ignores its prefix": (trial_balance._select, "{**parameters,", '{"prefix": "",', "list"),
}
