"""Custom resources: defaults, pruning, validation with field paths, CEL rules, and the definitions themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.apiserver.client import Client, Reply
from tests.contract.apiserver.widgets import definition, widget

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = Path(__file__).resolve().parents[3] / "crds" / "yaml"


async def test_defaults_are_filled_in(server: Client, widgets: str) -> None:
    created = (await server.post(widgets, widget("a", ports=[{"name": "x"}], mode=None))).body["spec"]
    assert (created["mode"], created["subnet"], created["ports"]) == (
        "Safe",
        "10.0.0.0/8",
        [{"name": "x", "number": 80}],
    )


async def test_unknown_fields_are_pruned_but_where_they_may_stay(server: Client, widgets: str) -> None:
    body = widget("a", surprise=1, free={"any": {"thing": [1]}}, ports=[{"name": "x", "odd": True}])
    created = await server.post(widgets, {**body, "extra": {"x": 1}})
    assert created.status == 201
    assert "surprise" not in created.body["spec"]
    assert "extra" not in created.body
    assert "odd" not in created.body["spec"]["ports"][0]
    assert created.body["spec"]["free"] == {"any": {"thing": [1]}}


async def test_strict_field_validation_names_unknown_fields(server: Client, widgets: str) -> None:
    reply = await server.post(widgets, widget("a", surprise=1), fieldValidation="Strict")
    assert (reply.status, 'unknown field "spec.surprise"' in reply.body["message"]) == (400, True)
    warned = await server.post(widgets, widget("a", surprise=1), fieldValidation="Warn")
    assert (warned.status, "spec.surprise" in warned.headers["Warning"]) == (201, True)


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"size": "many"}, "spec.size", "FieldValueTypeInvalid"),
        ({"size": 1.5}, "spec.size", "FieldValueTypeInvalid"),
        ({"size": -1}, "spec.size", "FieldValueInvalid"),
        ({"mode": "Slow"}, "spec.mode", "FieldValueNotSupported"),
        ({"owner": "x" * 64}, "spec.owner", "FieldValueTooLong"),
        ({"ips": ["10.0.0.1"] * 17}, "spec.ips", "FieldValueTooMany"),
        ({"ips": ["10.0.0.1", 7]}, "spec.ips[1]", "FieldValueTypeInvalid"),
        ({"labels": {"a": 1}}, "spec.labels.a", "FieldValueTypeInvalid"),
        ({"ports": [{"number": 1}]}, "spec.ports[0].name", "FieldValueRequired"),
        ({"ports": [{"name": "x"}, {"name": "x"}]}, "spec.ports[1]", "FieldValueDuplicate"),
        ({"port": True}, "spec.port", "FieldValueTypeInvalid"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_violations_name_the_field_and_the_reason(
    server: Client, widgets: str, spec: dict[str, Any], field: str, reason: str
) -> None:
    reply = await server.post(widgets, widget("a", **spec))
    assert (reply.status, reply.reason) == (422, "Invalid")
    assert reply.causes[field] == reason, reply.body


async def test_a_missing_required_field_is_named(server: Client, widgets: str) -> None:
    body = widget("a")
    del body["spec"]["size"]
    assert (await server.post(widgets, body)).causes["spec.size"] == "FieldValueRequired"


async def test_an_update_and_a_status_are_validated_too(server: Client, widgets: str) -> None:
    await server.post(widgets, widget("a"))
    assert (await server.patch(f"{widgets}/a", {"spec": {"mode": "Slow"}})).status == 422
    reply = await server.patch(f"{widgets}/a/status", {"status": {"count": "three"}})
    # A real server may add that rules were not checked because of it.
    assert reply.causes["status.count"] == "FieldValueTypeInvalid"


async def test_int_or_string_takes_both(server: Client, widgets: str) -> None:
    for name, port in (("a", 80), ("b", "http")):
        assert (await server.post(widgets, widget(name, port=port))).body["spec"]["port"] == port


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"subnet": "10.0.0.0"}, "spec.subnet", "FieldValueInvalid"),
        ({"subnet": "10.0.0.0/33"}, "spec.subnet", "FieldValueInvalid"),
        ({"subnet": "fd00::/64", "ips": ["10.0.0.1"]}, "spec.ips", "FieldValueForbidden"),
        ({"ips": ["10.0.0.1", "11.0.0.1"]}, "spec.ips", "FieldValueForbidden"),
        ({"ips": ["10.0.0.01"]}, "spec.ips", "FieldValueForbidden"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_rules_refuse(server: Client, widgets: str, spec: dict[str, Any], field: str, reason: str) -> None:
    reply = await server.post(widgets, widget("a", **spec))
    assert (reply.status, reply.causes) == (422, {field: reason}), reply.body


async def test_rules_accept(server: Client, widgets: str) -> None:
    accepted: dict[str, dict[str, Any]] = {
        "a": {"ips": ["10.0.0.1", "10.255.255.255"]},
        "b": {"subnet": "fd00::/64", "ips": ["fd00::1"]},
        "c": {"size": 2**53 + 1},
    }
    for name, spec in accepted.items():
        reply = await server.post(widgets, widget(name, **spec))
        assert reply.status == 201, reply.body


async def test_transition_rules_hold_on_updates_only(server: Client, widgets: str) -> None:
    assert (await server.post(widgets, widget("a", size=5))).status == 201
    shrunk = await server.patch(f"{widgets}/a", {"spec": {"size": 4}})
    assert shrunk.status == 422
    assert "a Safe widget may not shrink" in shrunk.body["message"]
    assert (await server.patch(f"{widgets}/a", {"spec": {"size": 6}})).status == 200
    assert (await server.patch(f"{widgets}/a/status", {"status": {"phase": "x"}})).status == 200


async def test_transition_rules_follow_list_elements_by_key(server: Client, widgets: str) -> None:
    ports = [{"name": "a", "fixed": "1"}, {"name": "b", "fixed": "2"}]
    await server.post(widgets, widget("a", ports=ports))
    assert (await server.patch(f"{widgets}/a", {"spec": {"ports": ports[::-1]}})).status == 200
    assert (await server.patch(f"{widgets}/a", {"spec": {"ports": [{"name": "c", "fixed": "1"}]}})).status == 200
    changed = await server.patch(f"{widgets}/a", {"spec": {"ports": [{"name": "c", "fixed": "9"}]}})
    assert changed.causes == {"spec.ports[0].fixed": "FieldValueInvalid"}


def _renamed(plural: str) -> dict[str, Any]:
    crd = definition()
    crd["metadata"]["name"] = f"{plural}.contract.nephila.io"
    crd["spec"]["names"] = {"plural": plural, "kind": plural.capitalize()}
    return crd


@pytest.fixture
def plural(unique: str) -> str:
    return "w" + unique.removeprefix("contract-")


async def test_a_definition_gets_established_and_goes_with_its_objects(
    server: Client, namespace: str, plural: str
) -> None:
    crd = _renamed(plural)
    name, path = crd["metadata"]["name"], f"/apis/contract.nephila.io/v1/namespaces/{namespace}/{plural}"
    created = await server.post(CRDS, crd)
    assert (created.status, created.body["spec"]["names"]["singular"]) == (201, plural)
    conditions = {one["type"]: one["status"] for one in (await _established(server, name))["status"]["conditions"]}
    assert (conditions["Established"], conditions["NamesAccepted"]) == ("True", "True")
    kind = crd["spec"]["names"]["kind"]
    assert await _eventually_created(server, path, {**widget("a"), "kind": kind})
    listed = await server.get("/apis/contract.nephila.io/v1")
    assert plural in {one["name"] for one in listed.body["resources"]}
    assert (await server.delete(f"{CRDS}/{name}")).status == 200
    await server.gone(f"{CRDS}/{name}")
    await server.gone(path)


async def _established(server: Client, name: str) -> dict[str, Any]:
    def is_established(reply: Reply) -> bool:
        conditions = reply.body.get("status", {}).get("conditions") or []
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    crd: dict[str, Any] = (await server.until(f"{CRDS}/{name}", is_established)).body
    return crd


async def _eventually_created(server: Client, path: str, body: dict[str, Any]) -> bool:
    return await _eventually(server, path, body, 201)


async def _eventually(server: Client, path: str, body: dict[str, Any], status: int) -> bool:
    """Repeats a create, under generated names if the body asks for them, until the answer is as expected."""
    for _ in range(100):
        if (await server.post(path, body)).status == status:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_a_changed_definition_is_what_the_next_write_meets(server: Client, namespace: str, plural: str) -> None:
    crd = _renamed(plural)
    path = f"/apis/contract.nephila.io/v1/namespaces/{namespace}/{plural}"
    kind, name = crd["spec"]["names"]["kind"], crd["metadata"]["name"]
    await server.post(CRDS, crd)
    await _established(server, name)
    await _eventually_created(server, path, {**widget("a", mode="Fast"), "kind": kind})
    live = await _established(server, name)
    schema = live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["mode"]["enum"] = ["Safe"]
    assert (await server.put(f"{CRDS}/{name}", live)).status == 200
    outdated = {**widget("", mode="Fast"), "kind": kind, "metadata": {"generateName": "x"}}
    assert await _eventually(server, path, outdated, 422)
    await server.delete(f"{CRDS}/{name}")
    await server.gone(f"{CRDS}/{name}")


@pytest.mark.parametrize(
    "breakage",
    [
        "wrong name",
        "no schema",
        "no type",
        "no storage version",
        "rule with a syntax error",
        "rule with an unknown name",
    ],
)
async def test_a_senseless_definition_is_refused(server: Client, plural: str, breakage: str) -> None:
    crd = _renamed(plural)
    version = crd["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    if breakage == "wrong name":
        crd["metadata"]["name"] = "other.contract.nephila.io"
    elif breakage == "no schema":
        del version["schema"]
    elif breakage == "no type":
        spec["properties"]["untyped"] = {"description": "anything"}
    elif breakage == "no storage version":
        version["storage"] = False
    elif breakage == "rule with a syntax error":
        spec["x-kubernetes-validations"].append({"rule": "self.size >", "message": "m"})
    else:
        spec["x-kubernetes-validations"].append({"rule": "nosuchfunction(self.size)", "message": "m"})
    reply = await server.post(CRDS, crd)
    assert (reply.status, reply.reason) == (422, "Invalid"), reply.body


@pytest.mark.parametrize("path", sorted(OURS.glob("*.yaml")), ids=lambda path: path.stem)
async def test_our_own_definitions_are_accepted(server: Client, path: Path) -> None:
    for crd in yaml.safe_load_all(path.read_text()):
        reply = await server.post(CRDS, crd)
        assert reply.status in (201, 409), reply.body
        await _established(server, crd["metadata"]["name"])
