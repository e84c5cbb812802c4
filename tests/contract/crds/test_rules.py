"""The API server accepts and refuses exactly what the table of cases says."""

from __future__ import annotations

from typing import Any

import pytest

from crds.meta import Kind
from tests.contract.crds.cases import CASES, Case, Json
from tests.contract.crds.conftest import Answer, Api


def _path(kind: Kind[Any], name: str = "") -> str:
    return kind.path(namespace="default" if kind.namespaced else "", name=name)


def _whole(case: Case, body: Json) -> Json:
    return {"apiVersion": case.kind.api_version, "kind": case.kind.kind, "metadata": {"name": case.name}, **body}


def _write(api: Api, case: Case) -> Answer:
    """Create `new`, or create `old` and replace it by `new`."""
    if case.old is None:
        return api.request("POST", _path(case.kind), _whole(case, case.new))
    created = api.request("POST", _path(case.kind), _whole(case, case.old))
    assert created.status == 201, created.message
    replacement = _whole(case, case.new)
    replacement["metadata"]["resourceVersion"] = created.body["metadata"]["resourceVersion"]
    return api.request("PUT", _path(case.kind, case.name), replacement)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_object_is_accepted_or_refused_with_the_reason(api: Api, case: Case) -> None:
    api.request("DELETE", _path(case.kind, case.name))
    try:
        answer = _write(api, case)
    finally:
        api.request("DELETE", _path(case.kind, case.name))
    if case.refused:
        assert answer.status == 422, answer
        assert case.refused in answer.message
        assert "evaluating rule" not in answer.message, "a rule must judge every object, not fail on it"
    else:
        assert answer.status in (200, 201), answer.message
