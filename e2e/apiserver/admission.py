"""Admission webhooks that are reached by URL. Without any, a write goes straight through."""

from __future__ import annotations

import base64
import ssl
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import cel
import msgspec

from e2e.apiserver.cel_library import FUNCTIONS
from e2e.apiserver.errors import ApiError, Obj
from e2e.apiserver.operations import Cluster, Target
from e2e.apiserver.patches import json_patch
from e2e.apiserver.routes import Route
from e2e.apiserver.selectors import LabelRequirement, Operator, parse_labels
from e2e.apiserver.storage import Record
from e2e.apiserver.subresources import ADMINISTRATOR
from e2e.apiserver.writing import Write

MUTATING = "admissionregistration.k8s.io/mutatingwebhookconfigurations"
VALIDATING = "admissionregistration.k8s.io/validatingwebhookconfigurations"
Attempt = Callable[[Any, Write], tuple[Record, bool]]
Call = Callable[[Obj, Obj], Awaitable[Obj]]
MAX_ATTEMPTS = 5


class Admission:
    """Asks the webhooks that match. `call(webhook, review)` is the HTTP edge."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def _matching(self, cluster: Cluster, configuration: str, target: Target, operation: str) -> list[Obj]:
        found = []
        for record in cluster.store.collection(configuration).records.values():
            for webhook in record.obj.get("webhooks") or []:
                reachable = "url" in (webhook.get("clientConfig") or {})
                if reachable and _matches(webhook, target, operation) and _in_namespace(cluster, webhook, target):
                    found.append(webhook)
        return found

    async def admit(
        self, cluster: Cluster, route: Route, body: Any, write: Write, attempt: Attempt
    ) -> tuple[Record, bool]:
        """Runs `attempt`, after the webhooks had their say. Raises what they refuse with, and 409 when the object will not hold still."""
        operation = "CREATE" if route.verb == "create" else "UPDATE"
        mutating = self._matching(cluster, MUTATING, route.target, operation)
        validating = self._matching(cluster, VALIDATING, route.target, operation)
        if not mutating and not validating:
            return attempt(body, write)
        for _ in range(MAX_ATTEMPTS):
            before = cluster.collection(route.target.resource).get(route.target.key)
            trial = Write(write.manager, dry_run=True, field_validation=write.field_validation)
            proposed, created = attempt(msgspec.json.decode(msgspec.json.encode(body)), trial)
            wanted = await self._ask_all(mutating, route.target, proposed.obj, before, operation, write)
            await self._ask_all(validating, route.target, wanted, before, operation, write)
            if cluster.collection(route.target.resource).get(route.target.key) is not before:
                continue
            if wanted == proposed.obj:
                return attempt(body, write)
            if created:
                metadata = {key: value for key, value in wanted["metadata"].items() if key != "resourceVersion"}
                return cluster.create(route.target, {**wanted, "metadata": metadata}, write), True
            return cluster.update(route.target, wanted, write)
        raise ApiError(409, "Conflict", "the object kept changing while webhooks were asked")

    async def admit_delete(self, cluster: Cluster, target: Target, write: Write) -> None:
        validating = self._matching(cluster, VALIDATING, target, "DELETE")
        if validating:
            await self._ask_all(validating, target, {}, cluster.read(target), "DELETE", write)

    async def _ask_all(
        self, webhooks: list[Obj], target: Target, obj: Obj, before: Record | None, operation: str, write: Write
    ) -> Obj:
        """The object as the webhooks leave it."""
        for webhook in webhooks:
            review = _review(target, obj, before, operation, write)
            if not _conditions_hold(webhook, review["request"]):
                continue
            try:
                answer = (await self._call(webhook, review)).get("response") or {}
            except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as exc:
                if webhook.get("failurePolicy", "Fail") == "Ignore":
                    continue
                why = f'Internal error occurred: failed calling webhook "{webhook["name"]}": {exc}'
                raise ApiError(500, "InternalError", why) from exc
            write.warnings += answer.get("warnings") or []
            if not answer.get("allowed"):
                status = answer.get("status") or {}
                message = f'admission webhook "{webhook["name"]}" denied the request: {status.get("message", "")}'
                raise ApiError(status.get("code", 403), status.get("reason", "Forbidden"), message)
            if patch := answer.get("patch"):
                obj = json_patch(obj, msgspec.json.decode(base64.b64decode(patch)))
        return obj


def _matches(webhook: Obj, target: Target, operation: str) -> bool:
    resource = target.resource
    wanted = f"{resource.plural}/{target.subresource}" if target.subresource else resource.plural
    for rule in webhook.get("rules") or []:
        names = rule.get("resources") or []
        fits = wanted in names or "*/*" in names or ("*" in names and not target.subresource)
        if (
            fits
            and {operation, "*"} & set(rule.get("operations") or [])
            and {resource.group, "*"} & set(rule.get("apiGroups") or [])
            and {resource.version, "*"} & set(rule.get("apiVersions") or [])
        ):
            return True
    return False


def _conditions_hold(webhook: Obj, request: Obj) -> bool:
    """`matchConditions`: the webhook is asked only if all are true."""
    context = cel.Context(variables={"request": request}, functions=dict(FUNCTIONS))
    context.add_variable("object", request["object"])
    context.add_variable("oldObject", request["oldObject"])
    return all(
        cel.compile(condition["expression"]).execute(context) is True
        for condition in webhook.get("matchConditions") or []
    )


def _in_namespace(cluster: Cluster, webhook: Obj, target: Target) -> bool:
    selector = webhook.get("namespaceSelector") or {}
    if not selector or not target.namespace:
        return True
    record = cluster.store.collection("/namespaces").get(("", target.namespace))
    labels = (record.obj["metadata"].get("labels") or {}) if record is not None else {}
    pairs = ",".join(f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items())
    requirements = [*parse_labels(pairs)]
    words = {"In": Operator.IN, "NotIn": Operator.NOT_IN, "Exists": Operator.EXISTS, "DoesNotExist": Operator.ABSENT}
    for one in selector.get("matchExpressions") or []:
        values = frozenset(one.get("values") or ())
        requirements.append(LabelRequirement(one["key"], words[one["operator"]], values))
    return all(requirement.matches(labels) for requirement in requirements)


def _review(target: Target, obj: Obj, before: Record | None, operation: str, write: Write) -> Obj:
    resource = target.resource
    request = {
        "uid": str(uuid.uuid4()),
        "kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "resource": {"group": resource.group, "version": resource.version, "resource": resource.plural},
        "subResource": target.subresource,
        "name": target.name or obj.get("metadata", {}).get("name", ""),
        "namespace": target.namespace,
        "operation": operation,
        "userInfo": ADMINISTRATOR,
        "object": obj or None,
        "oldObject": before.obj if before is not None else None,
        "dryRun": write.dry_run,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def _asked_within(webhook: Obj) -> dict[str, str]:
    """As a real server does, which adds it to whatever URL it was told."""
    return {"timeout": f"{webhook.get('timeoutSeconds', 10)}s"}


class UrlCaller:
    """POSTs reviews, over connections that are kept, as a real server keeps them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._tls: dict[str, ssl.SSLContext] = {}

    async def __call__(self, webhook: Obj, review: Obj) -> Obj:
        """Raises aiohttp.ClientError, TimeoutError or msgspec.DecodeError."""
        client = webhook["clientConfig"]
        if self._session is None:
            self._session = aiohttp.ClientSession()
        async with self._session.post(
            client["url"],
            params=_asked_within(webhook),
            data=msgspec.json.encode(review),
            headers={"Content-Type": "application/json"},
            ssl=self._trusting(client.get("caBundle", "")),
            timeout=aiohttp.ClientTimeout(total=webhook.get("timeoutSeconds", 10)),
        ) as response:
            response.raise_for_status()
            answer: Obj = msgspec.json.decode(await response.read())
            return answer

    def _trusting(self, bundle: str) -> ssl.SSLContext | bool:
        if bundle and bundle not in self._tls:
            # Only the present one is of use: connections that trust a former one end by themselves.
            self._tls = {bundle: ssl.create_default_context(cadata=base64.b64decode(bundle).decode())}
        return self._tls.get(bundle, True)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
