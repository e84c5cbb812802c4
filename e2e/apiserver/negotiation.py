"""Media types: what form the client wants the answer in, and how to read what it sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import yaml

from e2e.apiserver import protobuf
from e2e.apiserver.errors import bad_request, not_acceptable, unsupported_media_type

JSON, YAML = "application/json", "application/yaml"
_YAML_TYPES = frozenset({YAML, "application/x-yaml", "text/yaml"})
_encode = msgspec.json.Encoder().encode


class Form(Enum):
    PLAIN = ""
    TABLE = "Table"
    PARTIAL = "PartialObjectMetadata"
    PARTIAL_LIST = "PartialObjectMetadataList"
    DISCOVERY = "APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Answer:
    form: Form = Form.PLAIN
    media_type: str = JSON
    version: str = ""


PLAIN = Answer()


def parse_accept(header: str) -> Answer:
    """The first form in the list that this server speaks; raises 406 if there is none."""
    if not header or header == "*/*" or header == JSON:
        return PLAIN
    for part in header.split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media_type in ("*/*", "application/*"):
            media_type = JSON
        if media_type not in (JSON, *_YAML_TYPES):
            continue
        wanted = options.get("as", "")
        if not wanted:
            return Answer(media_type=JSON if media_type == JSON else YAML)
        if wanted == "APIGroupDiscoveryList" and options.get("v") == "v2":
            return Answer(Form.DISCOVERY, version="v2")
        if wanted in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList") and options.get("v") == "v1":
            return Answer(Form(wanted), version="v1")
    raise not_acceptable()


def encode(body: Any, answer: Answer) -> bytes:
    if answer.media_type == YAML:
        return yaml.safe_dump(body, sort_keys=False).encode()
    return _encode(body)


def decode(data: bytes, content_type: str) -> Any:
    """Reads JSON or YAML; raises 400 for what cannot be read and 415 for other media types."""
    media_type = content_type.partition(";")[0].strip() or JSON
    try:
        if media_type == JSON or (media_type.startswith("application/") and media_type.endswith("+json")):
            return msgspec.json.decode(data) if data else None
        if media_type in _YAML_TYPES or media_type == "application/apply-patch+yaml":
            # Apply bodies are usually JSON, which the fast decoder reads.
            return msgspec.json.decode(data) if data.lstrip()[:1] == b"{" else _from_yaml(data)
        if media_type == protobuf.MEDIA_TYPE:
            return protobuf.decode(data)
    except protobuf.Unreadable as exc:
        raise unsupported_media_type([JSON, YAML]) from exc
    except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError) as exc:
        raise bad_request(f"the object provided is unrecognized: {exc}") from exc
    raise unsupported_media_type([JSON, YAML])


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: timestamps stay strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _from_yaml(data: bytes) -> Any:
    return yaml.load(data, Loader=_Loader)


def load_documents(text: str) -> list[Any]:
    """All documents of a manifest."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document]
