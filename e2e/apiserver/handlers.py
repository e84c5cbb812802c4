"""HTTP requests to operations and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from e2e.apiserver import discovery, patches, reading, routes, subresources
from e2e.apiserver.admission import Admission
from e2e.apiserver.errors import ApiError, Obj, bad_request, no_such_path, unsupported_media_type
from e2e.apiserver.negotiation import PLAIN, Answer, Form, decode, encode, parse_accept
from e2e.apiserver.operations import APPLY, JSON_PATCH, MERGE_PATCH, STRATEGIC, Cluster, DeleteOptions, Target
from e2e.apiserver.resources import NAMESPACES, PODS
from e2e.apiserver.routes import Route
from e2e.apiserver.server_side_apply import Conflicts
from e2e.apiserver.storage import Record
from e2e.apiserver.writing import Write

_PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY)
_RETURNS_DELETED = frozenset(
    {PODS, NAMESPACES, "/services", "/serviceaccounts", "apiextensions.k8s.io/customresourcedefinitions"}
)
MAX_BODY_BYTES = 3 * 1024 * 1024
_yes = ("true", "1")


class Api:
    """The request handler. `requests` counts by (verb, resource, subresource, user agent)."""

    def __init__(self, cluster: Cluster, timing: reading.Timing, admission: Admission) -> None:
        self.cluster = cluster
        self.requests: Counter[tuple[str, str, str, str]] = Counter()
        self._timing = timing
        self._admission = admission

    async def handle(self, request: web.Request) -> web.StreamResponse:
        answer = PLAIN
        try:
            answer = parse_accept(request.headers.get("Accept", ""))
            parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
            found = routes.group_version(parts)
            if found is not None and parts[0] in ("api", "apis"):
                return await self._resource(request, answer, *found)
            return await self._document(request, answer, parts)
        except ApiError as refused:
            headers = {}
            if refused.details and "retryAfterSeconds" in refused.details:
                headers["Retry-After"] = str(refused.details["retryAfterSeconds"])
            plain = Answer(media_type=answer.media_type)
            return _reply(encode(refused.status(), plain), plain, status=refused.code, headers=headers)
        except web.HTTPRequestEntityTooLarge:
            too_big = ApiError(413, "RequestEntityTooLarge", f"limit is {MAX_BODY_BYTES}")
            return _reply(encode(too_big.status(), PLAIN), PLAIN, status=413)

    # documents

    async def _document(self, request: web.Request, answer: Answer, parts: list[str]) -> web.StreamResponse:
        if parts[0] == "debug":
            return self._debug(request, parts)
        if parts[0] in ("healthz", "livez", "readyz"):
            return web.Response(text="ok")
        body = self._find_document(answer, parts)
        if body is None:
            raise no_such_path()
        if parts[0] in ("api", "apis") and len(parts) == 1 and answer.form is Form.DISCOVERY:
            media_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            return web.Response(body=encode(body, PLAIN), headers={"Content-Type": media_type})
        return _reply(encode(body, Answer(media_type=answer.media_type)), answer)

    def _find_document(self, answer: Answer, parts: list[str]) -> Obj | None:
        registry = self.cluster.registry
        match parts:
            case ["version"]:
                return discovery.VERSION
            case [("api" | "apis") as root] if answer.form is Form.DISCOVERY:
                return discovery.aggregated(registry, core=root == "api")
            case ["api"]:
                return discovery.core_versions()
            case ["apis"]:
                return discovery.group_list(registry)
            case ["apis", group] if group in (served := discovery.versions(registry)):
                return {"kind": "APIGroup", "apiVersion": "v1", **discovery.group_entry(group, served[group])}
            case ["api", version]:
                return discovery.resource_list(registry, "", version)
            case ["apis", group, version]:
                return discovery.resource_list(registry, group, version)
            case ["openapi", *rest]:
                return discovery.openapi(registry, rest)
            case [""]:
                return {"paths": ["/api", "/apis", "/healthz", "/openapi/v2", "/openapi/v3", "/version"]}
        return None

    def _debug(self, request: web.Request, parts: list[str]) -> web.Response:
        """Hooks for tests and the lab; no Kubernetes API has them."""
        if parts[1:] == ["requests"]:
            names = ("verb", "resource", "subresource", "userAgent")
            rows = [
                dict(zip(names, key, strict=True)) | {"count": count} for key, count in sorted(self.requests.items())
            ]
            if request.method == "DELETE":
                self.requests.clear()
            return _reply(encode({"requests": rows}, PLAIN), PLAIN)
        if parts[1:] == ["compact"] and request.method == "POST":
            return _reply(encode({"revision": self.cluster.store.compact()}, PLAIN), PLAIN)
        raise no_such_path()

    # resources

    async def _resource(
        self, request: web.Request, answer: Answer, group: str, version: str, rest: list[str]
    ) -> web.StreamResponse:
        plural = rest[2] if rest[0] == "namespaces" and len(rest) == 3 else rest[0]
        if any(one[:2] == (group, plural) for one in discovery.REVIEWS) and request.method == "POST":
            body = await _body(request)
            self._count(request, "create", f"{plural}.{group}", "")
            return _reply(encode(subresources.review(plural, body), answer), answer, status=201)
        query = request.rel_url.query
        route = routes.find(self.cluster.registry, request.method, group, version, rest, query)
        resource = route.target.resource
        name = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
        self._count(request, route.verb, name, route.target.subresource)
        if route.verb == "watch":
            return await self._watch(request, route.target, answer)
        if route.verb == "list":
            page = reading.list_page(self.cluster, route.target, query)
            body = reading.encode_list(resource, page, answer, query.get("includeObject", ""))
            return _converted(body, answer)
        if route.verb == "get":
            record = self.cluster.read(route.target)
            if route.target.subresource == "scale":
                return _reply(encode(subresources.scale_of(record.obj), answer), answer)
            return _converted(reading.encode_object(resource, record, answer), answer)
        return await self._write(request, route, answer)

    def _count(self, request: web.Request, verb: str, resource: str, subresource: str) -> None:
        self.requests[verb, resource, subresource, request.headers.get("User-Agent", "")] += 1

    async def _watch(self, request: web.Request, target: Target, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        try:
            stream = reading.Stream(self.cluster, target, request.rel_url.query, answer, self._timing)
        except ApiError as refused:
            if refused.code != 410:
                raise
            # A watch that starts too far back is answered inside the stream, as a real server's watch cache does.
            await response.prepare(request)
            await response.write(reading.expired_frame(refused))
            return response
        try:
            await response.prepare(request)
            async for frame in stream.frames():
                await response.write(frame)
        except ConnectionResetError:
            pass  # the client has left
        finally:
            stream.close()
        return response

    # writes

    async def _write(self, request: web.Request, route: Route, answer: Answer) -> web.StreamResponse:
        query, target = request.rel_url.query, route.target
        write = _circumstances(request, query)
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        if route.verb == "patch" and media_type not in _PATCH_TYPES:
            raise unsupported_media_type(_PATCH_TYPES)
        body = await _body(request)
        if route.verb == "deletecollection":
            return self._delete_collection(target, query, body, write, answer)
        if target.subresource in ("binding", "eviction", "token", "scale"):
            return self._subresource(route, query, media_type, body, write, answer)
        if route.verb == "delete":
            return await self._delete(target, query, body, write, answer)
        if body is None:
            raise bad_request("the request needs a body")
        conflicts = Conflicts.FORCE if query.get("force") in _yes else Conflicts.REFUSE
        if media_type == APPLY and not query.get("fieldManager"):
            raise bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
            )

        def attempt(given: Any, under: Write) -> tuple[Record, bool]:
            if route.verb == "create":
                return self.cluster.create(target, given, under), True
            if route.verb == "update":
                return self.cluster.update(target, given, under)
            return self.cluster.patch(target, media_type, given, under, conflicts)

        record, created = await self._admission.admit(self.cluster, route, body, write, attempt)
        data = reading.encode_object(target.resource, record, answer)
        return _converted(data, answer, status=201 if created else 200, warnings=write.warnings)

    def _subresource(
        self, route: Route, query: Mapping[str, str], media_type: str, body: Any, write: Write, answer: Answer
    ) -> web.Response:
        target = route.target
        if target.subresource == "scale":
            record = self.cluster.read(target)
            scale = body
            if route.verb == "patch":
                scale = _patched_scale(subresources.scale_of(record.obj), media_type, body)
            whole = Target(target.resource, target.namespace, target.name)
            changed, _ = self.cluster.update(whole, subresources.scaled(target, record, scale), write)
            return _reply(encode(subresources.scale_of(changed.obj), answer), answer)
        if target.subresource == "binding":
            result = subresources.bind(self.cluster, target, body, write)
        elif target.subresource == "token":
            result = subresources.issue_token(self.cluster, target, body)
        else:
            options = _delete_options(query, (body or {}).get("deleteOptions"))
            result = subresources.evict(self.cluster, target, body, options, write)
        return _reply(encode(result, answer), answer, status=201)

    async def _delete(
        self, target: Target, query: Mapping[str, str], body: Any, write: Write, answer: Answer
    ) -> web.StreamResponse:
        options = _delete_options(query, body)
        await self._admission.admit_delete(self.cluster, target, write)
        record, gone = self.cluster.delete(target, options, write)
        if not gone or target.resource.stored_as in _RETURNS_DELETED:
            return _converted(reading.encode_object(target.resource, record, answer), answer)
        resource = target.resource
        details = {"name": target.name, "kind": resource.plural, "uid": record.obj["metadata"]["uid"]}
        if resource.group:
            details["group"] = resource.group
        return _reply(encode(subresources.SUCCESS | {"details": details}, Answer(media_type=answer.media_type)), answer)

    def _delete_collection(
        self, target: Target, query: Mapping[str, str], body: Any, write: Write, answer: Answer
    ) -> web.Response:
        options = _delete_options(query, body)
        page = reading.list_page(self.cluster, target, query)
        deleted = []
        for record in page.records:
            metadata = record.obj["metadata"]
            one = Target(target.resource, metadata.get("namespace", ""), metadata["name"])
            deleted.append(self.cluster.delete(one, options, write)[0])
        done = reading.Page(deleted, {"resourceVersion": str(self.cluster.store.revision)})
        return _converted(reading.encode_list(target.resource, done, answer, ""), answer)


def _patched_scale(scale: Obj, media_type: str, body: Any) -> Any:
    if media_type == JSON_PATCH:
        return patches.json_patch(scale, body)
    return patches.merge(scale, body)


async def _body(request: web.Request) -> Any:
    data = await request.read()
    return decode(data, request.headers.get("Content-Type", "")) if data else None


def _circumstances(request: web.Request, query: Mapping[str, str]) -> Write:
    dry_run = query.getall("dryRun", []) if hasattr(query, "getall") else []
    if any(one not in ("All", "") for one in dry_run):
        raise bad_request(f'dryRun: Unsupported value: {dry_run}: supported values: "All"')
    manager = query.get("fieldManager") or request.headers.get("User-Agent", "unknown").partition("/")[0]
    return Write(manager[:128], dry_run="All" in dry_run, field_validation=query.get("fieldValidation") or "Warn")


def _delete_options(query: Mapping[str, str], body: Any) -> DeleteOptions:
    given = body if isinstance(body, dict) else {}
    preconditions = given.get("preconditions") or {}
    grace = given.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    return DeleteOptions(
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        grace_s=int(grace) if grace is not None else None,
        propagation=given.get("propagationPolicy") or query.get("propagationPolicy") or "Background",
    )


def _reply(body: bytes, answer: Answer, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    media_type = answer.media_type
    return web.Response(body=body, status=status, headers={"Content-Type": media_type, **(headers or {})})


def _converted(body: bytes, answer: Answer, *, status: int = 200, warnings: list[str] | None = None) -> web.Response:
    """JSON bytes as the answer; YAML is made from them for the few who ask."""
    headers: dict[str, str] = {}
    if warnings:
        headers["Warning"] = ", ".join(f'299 - "{_quoted(text)}"' for text in warnings)
    if answer.media_type != PLAIN.media_type:
        body = encode(msgspec.json.decode(body), answer)
    return _reply(body, answer, status=status, headers=headers)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
