"""A CNI request as it arrives over the socket, and the answers that go back (CNI specification 1.1.0).

Everything a runtime sends is read here, once, into frozen values; what does not fit raises one error of `ipam.errors` that names the variable or
key. The container id is only ever a key, never a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ipam.addresses import Family
from ipam.errors import BadConfig, BadEnvironment, BadJson, IncompatibleVersion, NephilaError

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
FALLBACK_VERSION = "1.0.0"
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
_NEEDS = {
    "ADD": ("CONTAINERID", "NETNS", "IFNAME"),
    "DEL": ("CONTAINERID", "IFNAME"),
    "CHECK": ("CONTAINERID", "NETNS", "IFNAME"),
    "GC": (),
    "STATUS": (),
}
_HEADER = {name: name.lower() for names in _NEEDS.values() for name in names}
_CONTAINER_ID = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}"
)  # CNI spec, section 2 "Parameters"; length bounded by us
_IFNAME = re.compile(r"[^\s/:]{1,15}")  # IFNAMSIZ − 1; the kernel refuses '/', ':' and white space


class IpamConf(msgspec.Struct, frozen=True, kw_only=True):
    """The `ipam` block, with Spiderpool's keys; keys that we do not use are ignored, as CNI asks."""

    type: str = ""
    default_ipv4_ippool: tuple[str, ...] = ()
    default_ipv6_ippool: tuple[str, ...] = ()
    clean_gateway: bool = False
    match_master_subnet: bool = False


class ValidAttachment(msgspec.Struct, frozen=True, kw_only=True):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


class NetConf(msgspec.Struct, frozen=True, kw_only=True):
    """The network configuration on stdin. `valid_attachments` None means that GC got no list, which is no information (not an empty list)."""

    cni_version: str = msgspec.field(name="cniVersion", default="")
    name: str = ""
    type: str = ""
    master: str = ""
    ipam: IpamConf = IpamConf()
    prev_result: dict[str, Any] | None = msgspec.field(name="prevResult", default=None)
    spec_attachments: tuple[ValidAttachment, ...] | None = msgspec.field(name="cni.dev/valid-attachments", default=None)
    misspelt_attachments: tuple[ValidAttachment, ...] | None = msgspec.field(name="cni.dev/attachments", default=None)

    @property
    def valid_attachments(self) -> tuple[ValidAttachment, ...] | None:
        """libcni sends the list under the specified key and under an earlier, misspelt one; both, either or none may be there."""
        return self.spec_attachments if self.spec_attachments is not None else self.misspelt_attachments


class CniRequest(msgspec.Struct, frozen=True):
    """One validated request. Pod fields are "" when CNI_ARGS did not carry them (allowed for DEL, GC, STATUS)."""

    verb: str
    container_id: str
    netns: str
    ifname: str
    namespace: str
    pod: str
    pod_uid: str
    conf: NetConf

    @property
    def version(self) -> str:
        return self.conf.cni_version


_DECODER = msgspec.json.Decoder(NetConf)


def parse_request(headers: Mapping[str, str], body: bytes) -> CniRequest:
    """Read a request. `headers`: lower-case names without the `cni-` prefix (`command`, `containerid`, …).

    Raises BadEnvironment, BadJson, BadConfig or IncompatibleVersion.
    """
    verb = headers.get("command", "")
    if verb not in VERBS:
        raise BadEnvironment(f"CNI_COMMAND is {verb!r}", hint=f"set it to one of {', '.join(VERBS)}")
    for name in _NEEDS[verb]:
        if not headers.get(_HEADER[name]):
            raise BadEnvironment(
                f"CNI_{name} is not set", hint=f"the runtime must set it for {verb} (CNI specification, section 2)"
            )
    container_id, ifname = headers.get("containerid", ""), headers.get("ifname", "")
    if container_id and not _CONTAINER_ID.fullmatch(container_id):
        raise BadEnvironment(
            f"CNI_CONTAINERID {container_id[:64]!r} is not valid",
            hint="it must start with a letter or digit, hold letters, digits, '_', '.', '-' only, and at most 253 of them",
        )
    if ifname and not _IFNAME.fullmatch(ifname):
        raise BadEnvironment(
            f"CNI_IFNAME {ifname[:32]!r} is not valid",
            hint="an interface name has 1 to 15 characters, no '/', ':' or space",
        )
    conf = _parse_conf(body)
    arguments = _parse_args(headers.get("args", ""))
    if verb in ("ADD", "CHECK"):
        for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"):
            if not arguments.get(key):
                raise BadEnvironment(
                    f"CNI_ARGS has no {key}", hint="Nephila serves Kubernetes runtimes, which pass the pod there"
                )
    return CniRequest(
        verb=verb,
        container_id=container_id,
        netns=headers.get("netns", ""),
        ifname=ifname,
        namespace=arguments.get("K8S_POD_NAMESPACE", ""),
        pod=arguments.get("K8S_POD_NAME", ""),
        pod_uid=arguments.get("K8S_POD_UID", ""),
        conf=conf,
    )


def _parse_conf(body: bytes) -> NetConf:
    try:
        conf = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise BadConfig(
            f"network configuration: {error}", hint="correct the conflist or NetworkAttachmentDefinition"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(
            f"the network configuration on stdin is not JSON: {error}",
            hint="correct the conflist or NetworkAttachmentDefinition",
        ) from error
    if not conf.name:
        raise BadConfig(
            "network configuration: name is missing", hint="give the network a name; addresses are keyed by it"
        )
    if conf.cni_version not in SUPPORTED_VERSIONS:
        raise IncompatibleVersion(
            f"cniVersion {conf.cni_version!r} is not supported", hint=f"use one of {', '.join(SUPPORTED_VERSIONS)}"
        )
    return conf


def _parse_args(text: str) -> dict[str, str]:
    """`K=V;K=V` (CNI_ARGS). Items without `=` are ignored: runtimes differ, and what we need is checked by name."""
    return dict(item.split("=", 1) for item in text.split(";") if "=" in item)


class ResultIP(msgspec.Struct, frozen=True):
    """One address of the answer: `address` with prefix length, `gateway` "" for none."""

    family: Family
    address: str
    gateway: str


def result(version: str, ips: tuple[ResultIP, ...], routes: tuple[tuple[str, str], ...]) -> bytes:
    """The abbreviated success object of an IPAM plugin (specification section 5): ips, routes, dns, no interfaces."""
    needs_family = version.startswith("0.")  # `ips[].version` exists before 1.0.0 only
    entries = []
    for ip in ips:
        entry: dict[str, str] = {"version": str(int(ip.family))} if needs_family else {}
        entry["address"] = ip.address
        if ip.gateway:
            entry["gateway"] = ip.gateway
        entries.append(entry)
    answer = {
        "cniVersion": version,
        "ips": entries,
        "routes": [{"dst": dst, "gw": gw} for dst, gw in routes],
        "dns": {},
    }
    return msgspec.json.encode(answer)


def failure(error: NephilaError, version: str) -> bytes:
    """The error object of the specification (section "Error")."""
    return msgspec.json.encode(error.cni(version if version in SUPPORTED_VERSIONS else FALLBACK_VERSION))


def version_of(body: bytes) -> str:
    """The cniVersion of a body that may be broken, for error answers."""
    try:
        return msgspec.json.decode(body, type=_VersionOnly).cni_version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return FALLBACK_VERSION


class _VersionOnly(msgspec.Struct):
    cni_version: str = msgspec.field(name="cniVersion", default=FALLBACK_VERSION)
