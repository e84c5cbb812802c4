"""The page of the chart's values: what it reads, and that it refuses a value which nobody explained or which the schema does not know."""

from __future__ import annotations

import pytest

from e2e.reference.settings import Undocumented
from e2e.reference.values import comments_of, rows

TEXT = """\
# A group.
part:
  # First line,
  # second line.
  size: 3
  nodeSelector:
    kubernetes.io/os: linux
"""
SCHEMA = {"properties": {"part": {"properties": {"size": {"type": "integer"}, "nodeSelector": {"type": "object"}}}}}


def test_a_comment_belongs_to_the_key_below_it() -> None:
    assert comments_of(TEXT) == {("part",): "A group.", ("part", "size"): "First line, second line."}


def test_a_row_has_type_default_and_meaning() -> None:
    assert list(rows(TEXT, SCHEMA)) == [
        ("part", "object", "", "A group."),
        ("part.size", "whole number", "`3`", "First line, second line."),
        ("part.nodeSelector", "object", '`{"kubernetes.io/os": "linux"}`', "As in a pod's `spec`."),
    ]


def test_a_value_without_explanation_is_refused() -> None:
    with pytest.raises(Undocumented, match=r"part\.size has no comment"):
        list(rows(TEXT.replace("  # First line,\n  # second line.\n", ""), SCHEMA))


def test_a_value_that_the_schema_would_refuse_is_noticed() -> None:
    with pytest.raises(Undocumented, match=r"does not know part\.size"):
        list(rows(TEXT, {"properties": {"part": {"properties": {}}}}))
