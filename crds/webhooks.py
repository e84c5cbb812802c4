"""The two webhook configurations, from which the chart's are made.

The leader's own writes are not asked about: it must go on working when the webhook does not answer and `failurePolicy` is Fail. Nor are those of the
garbage collector, which only carries out a deletion that was asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crds.policies import LEADER, account
from crds.spiderpool import GROUP, VERSION

NAME = "nephila"
TIMEOUT_S = 10
_GARBAGE_COLLECTOR = "system:serviceaccount:kube-system:generic-garbage-collector"
_ALL = ("spiderippools", "spidersubnets", "spiderreservedips")


def _rule(operations: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {
        "apiGroups": [GROUP],
        "apiVersions": [VERSION],
        "operations": list(operations),
        "resources": list(resources),
        "scope": "Cluster",
    }


def _configuration(kind: str, path: str, rules: list[dict[str, Any]], **more: str) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": NAME},
        "webhooks": [
            {
                "name": f"{path}.nephila.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "service": {"name": "nephila-webhook", "namespace": "nephila-system", "path": f"/{path}"}
                },
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT_S,
                **more,
                "rules": rules,
                "matchConditions": [
                    {"name": "not-the-leader", "expression": f"request.userInfo.username != '{account(LEADER)}'"},
                    {
                        "name": "not-the-garbage-collector",
                        "expression": f"request.userInfo.username != '{_GARBAGE_COLLECTOR}'",
                    },
                ],
            }
        ],
    }


def configurations() -> dict[str, dict[str, Any]]:
    """The object of each generated file, by the file's name without its ending."""
    return {
        "mutating": _configuration(
            "MutatingWebhookConfiguration",
            "mutate",
            [_rule(("CREATE", "UPDATE"), _ALL)],
            reinvocationPolicy="Never",
        ),
        "validating": _configuration(
            "ValidatingWebhookConfiguration",
            "validate",
            [_rule(("CREATE", "UPDATE"), _ALL), _rule(("DELETE",), _ALL[:2])],
        ),
    }
