"""The one place where operators meet their rules."""

from __future__ import annotations

from collections.abc import Callable

from ..rule_context import RuleContext

Rule = Callable[[RuleContext], None]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for `operators` of `domain` ("" is ai.onnx).

    A rule reads `ctx.axes(slot)`, says with `ctx.join` or `ctx.labels.equate` which labels are equal and
    gives the outputs theirs with `ctx.set`. It raises RuleDoesNotApply on a form it does not cover.
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            if (domain, operator) in RULES:
                raise ValueError(f"operator {domain}:{operator} has two rules")
            RULES[domain, operator] = function
        return function

    return register
