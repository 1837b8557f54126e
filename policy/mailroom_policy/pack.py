"""Each rule of rules.py as a policy of the engine; no rule lives here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulumi_policy import EnforcementLevel, PolicyPack, ResourceValidationPolicy, StackValidationPolicy
from pulumi_policy.proxy import UnknownValueError

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the checkout, for standards and the hosts' commands

from mailroom_policy.rules import RULES, Rule
from mailroom_policy.view import UNKNOWN, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pulumi_policy import ReportViolation


def known(value: Any) -> Any:
    """`value` out of the proxies that raise at what a preview does not know."""
    if hasattr(value, "keys"):
        return {key: _item(value, key) for key in value}
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return value
    return [_item(value, position) for position in range(len(value))]


def _item(values: Any, key: Any) -> Any:
    try:
        return known(values[key])
    except UnknownValueError:
        return UNKNOWN


def read(args: Any) -> Resource:
    """A resource as the engine hands it to a policy."""
    return Resource(
        type=args.resource_type,
        name=args.name,
        props=known(args.props),
        secret_outputs=tuple(args.opts.additional_secret_outputs),
        urn=args.urn,
    )


def policy(rule: Rule) -> ResourceValidationPolicy | StackValidationPolicy:
    """The rule as the engine knows it."""
    level = EnforcementLevel.MANDATORY if rule.mandatory else EnforcementLevel.ADVISORY
    if rule.scope == "stack":
        return StackValidationPolicy(rule.name, rule.says, _of_stack(rule), level)
    return ResourceValidationPolicy(rule.name, rule.says, _of_resource(rule), level)


def _of_stack(rule: Rule) -> Callable[[Any, ReportViolation], None]:
    return lambda args, report: rule.judge([read(resource) for resource in args.resources], report)


def _of_resource(rule: Rule) -> Callable[[Any, ReportViolation], None]:
    return lambda args, report: rule.judge([read(args)], report)


PolicyPack("mailroom", [policy(rule) for rule in RULES])
