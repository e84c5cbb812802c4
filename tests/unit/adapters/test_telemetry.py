"""Logs are JSON lines with fields; metrics live in a registry of one's own."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from adapters.telemetry import ApiMetrics, configure_logging, exposition, new_registry, request_scope
from crds.nephila import IP_BLOCK


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    output = io.StringIO()
    configure_logging("info", output=output)
    yield output
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def parsed(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_has_time_level_event_and_the_fields_of_its_request(lines: io.StringIO) -> None:
    log = structlog.get_logger()
    with request_scope(request="r1"):
        log.info("lease_claimed", block="b")
    log.warning("pool_exhausted")
    log.debug("unseen")
    first, second = parsed(lines)
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "lease_claimed", "level": "info", "request": "r1", "block": "b"}
    assert "request" not in second


def test_exceptions_stay_on_one_line(lines: io.StringIO) -> None:
    try:
        raise ValueError("reason")
    except ValueError:
        structlog.get_logger().exception("agent_failed")
    (line,) = parsed(lines)
    assert "ValueError: reason" in line["exception"]


def test_libraries_lines_take_the_same_form_from_warnings_on(lines: io.StringIO) -> None:
    logging.getLogger("aiohttp").info("chatty")
    logging.getLogger("aiohttp").warning("odd %s", "thing")
    (line,) = parsed(lines)
    assert (line["event"], line["level"], line["logger"]) == ("odd thing", "warning", "aiohttp")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging("loud")


def test_api_requests_are_counted_by_what_came_back() -> None:
    registry = new_registry("agent", "1.2")
    metrics = ApiMetrics(registry)
    metrics("PATCH", IP_BLOCK, 409, 0.02)
    metrics("WATCH", IP_BLOCK, 200, 300.0)
    assert (
        registry.get_sample_value(
            "nephila_api_requests_total", {"method": "PATCH", "resource": "ipblocks", "code": "409"}
        )
        == 1
    )
    assert (
        registry.get_sample_value("nephila_api_request_seconds_count", {"method": "PATCH", "resource": "ipblocks"}) == 1
    )
    assert (
        registry.get_sample_value("nephila_api_request_seconds_count", {"method": "WATCH", "resource": "ipblocks"})
        is None
    )
    body, content_type = exposition(registry)
    assert b'nephila_build_info{component="agent",version="1.2"} 1.0' in body
    assert content_type.startswith("text/plain")


def test_importing_it_does_not_load_a_console_library_and_leaves_it_importable() -> None:
    program = "import sys, adapters.telemetry; light = 'rich' in sys.modules; import rich.table; print(light)"
    assert (
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "False\n"
    )
