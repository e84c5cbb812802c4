"""The shim's parsers against Python's, on generated and on mutated text, under the sanitizers."""

import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni import build
from tests.unit.cni.harness import RESULT, reply

SEED = 20260714
KEYS = st.sampled_from(["ipam", "ipam_unix_socket_path", "cniVersion", "x"]) | st.text(max_size=4)
PATHS = st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PATHS
VALUES = st.recursive(LEAVES, lambda deeper: st.lists(deeper) | st.dictionaries(KEYS, deeper), max_leaves=6)
CONFIGS = st.dictionaries(KEYS, VALUES, max_size=4)


class Probe:
    """``parse_probe.c`` as a function from records to lines."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def __call__(self, kind: str, texts: list[bytes]) -> list[str]:
        records = b"".join(kind.encode() + len(text).to_bytes(4, "little") + text for text in texts)
        done = subprocess.run([self.binary], input=records, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stdout.decode().splitlines()
        assert len(lines) == len(texts)
        return lines


@pytest.fixture(scope="module")
def probe(short_root: Path) -> Probe:
    source = Path(__file__).with_name("parse_probe.c")
    flags = ("-std=gnu11", *build.SANITIZED, "-Wno-unused-function", f"-I{build.HERE}")
    return Probe(build.compile_c("gcc", source, short_root / "bin" / "parse-probe", flags))


def expected_path(config: object) -> str:
    """What ``parse_probe`` must print for a valid configuration."""
    ipam = config.get("ipam") if isinstance(config, dict) else None
    path = ipam.get("ipam_unix_socket_path") if isinstance(ipam, dict) else None
    if not isinstance(path, str):
        return "-"
    encoded = path.encode()
    return "!" if len(encoded) > 107 or any(byte < 0x20 or byte == 0x7F for byte in encoded) else encoded.hex()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(CONFIGS, st.booleans(), st.sampled_from([None, 1])), min_size=1, max_size=4))
def test_finds_the_same_path_as_python(probe: Probe, cases: list[tuple[dict[str, object], bool, int | None]]) -> None:
    texts = [json.dumps(config, ensure_ascii=ascii_only, indent=indent) for config, ascii_only, indent in cases]
    # Code points beyond the BMP are escaped as surrogates, which the shim declines in a path rather than decode.
    usable = [text for text in texts if not re.search(r"\\ud[89ab]", text)]
    assert probe("p", [text.encode() for text in usable]) == [expected_path(json.loads(text)) for text in usable]


def mutated(chance: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = b""
            case 1:
                data[at:at] = chance.choice(
                    [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\u00", b"\xff", b"\0", b"0", b"-", b"e"]
                )
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                del data[at:]
            case _:
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + chance.randrange(1, 20)]
    return bytes(data)


def strict(text: bytes) -> bool:
    """Whether ``text`` is one JSON object by RFC 8259; Python also takes NaN and Infinity, which are refused here."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    try:
        return isinstance(json.loads(text.decode("utf-8"), parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


def bodies() -> Iterator[bytes]:
    chance = random.Random(SEED)
    rich = (
        b'{"cniVersion":"1.1.0","ips":[{"address":"10.6.0.7/16"},{"address":"fd00::7/64","x":[[],{},null,true,false]}],'
        b'"n":[0,-0,1.5,-2e10,3E-2,0.0e+1],"s":"\\u00e9\\n\\"\\\\\\/ \xc3\xa9 \xf0\x9f\x95\xb7"}'
    )
    for _ in range(4000):
        yield mutated(chance, chance.choice([rich, rich, RESULT, b"{}", b' {"a" : 1 } ']))


def test_accepts_exactly_the_bodies_that_are_one_json_object(probe: Probe) -> None:
    texts = [body for body in bodies() if body]
    verdicts = [line.split()[0] for line in probe("r", [reply(body) for body in texts])]
    wrong = [text for text, verdict in zip(texts, verdicts, strict=True) if (verdict == "1") != strict(text)]
    assert wrong == []
    assert 100 < verdicts.count("1") < 3900  # both outcomes really occur


def test_survives_mutated_configurations_and_answers(probe: Probe) -> None:
    chance = random.Random(SEED + 1)
    config = b'{"cniVersion":"1.1.0","x":{"ipam":{}},"ipam":{"type":"nephila","ipam_unix_socket_path":"/run/\\u00e9/s.sock"}}'
    probe("p", [mutated(chance, config) for _ in range(4000)])
    raw = reply(RESULT, head=b"Content-Type: application/json\r\n")
    lines = probe("r", [mutated(chance, raw) for _ in range(4000)])
    assert {line.split()[0] for line in lines} == {"1", "0", "-1"}


def test_judges_a_reply_the_same_however_it_is_cut(probe: Probe) -> None:
    raw = reply(RESULT, head=b"X-Other: 1\r\n")
    verdicts = [line.split()[0] for line in probe("r", [raw[:size] for size in range(len(raw) + 1)])]
    assert verdicts == ["0"] * len(raw) + ["1"]
