"""`x-kubernetes-validations`: compiled once per CRD version, evaluated on every write.

Beside a real server: there is no cost budget, no optional field selection (`.?`), and expressions are checked for syntax, variables and
function names, not for types.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cel

from e2e.apiserver.cel_library import FUNCTIONS
from e2e.apiserver.errors import Cause, Obj
from e2e.apiserver.schema import Node, SchemaError, copied

_BUILT_IN = frozenset(
    [
        "size",
        "has",
        "all",
        "exists",
        "exists_one",
        "map",
        "filter",
        "contains",
        "startsWith",
        "endsWith",
        "matches",
        "int",
        "uint",
        "double",
        "string",
        "bool",
        "bytes",
        "type",
        "timestamp",
        "duration",
        "dyn",
        "of",
        "none",
        "value",
        "hasValue",
        "orValue",
        "or",
        "optMap",
        "getFullYear",
        "getMonth",
        "getDate",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getDayOfWeek",
        "getDayOfMonth",
        "getDayOfYear",
        "getMilliseconds",
        "abs",
    ]
)
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_REASONS = frozenset({"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"})
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(slots=True)
class Rule:
    program: Any
    text: str
    message: str
    message_program: Any | None
    reason: str
    field_path: str
    transition: bool
    optional_old: bool


@dataclass(slots=True)
class RuleNode:
    """A level of the schema that has rules at it or below it; levels without rules are not visited at all."""

    node: Node
    rules: list[Rule]
    converts: bool
    properties: dict[str, RuleNode] = field(default_factory=dict)
    items: RuleNode | None = None
    additional: RuleNode | None = None


def compile_rules(node: Node, path: str = "openAPIV3Schema") -> RuleNode | None:
    """None when there are no rules. Raises SchemaError for a rule that does not compile."""
    rules = [_compile(raw, f"{path}.x-kubernetes-validations") for raw in node.raw.get("x-kubernetes-validations", ())]
    root = not path.partition(".")[2]
    found = RuleNode(node, rules, bool(rules) and _needs_conversion(node, at_root=root))
    for name, child in node.properties.items():
        if (below := compile_rules(child, f"{path}.properties[{name}]")) is not None:
            found.properties[name] = below
    if node.items is not None:
        found.items = compile_rules(node.items, f"{path}.items")
    if node.additional is not None:
        found.additional = compile_rules(node.additional, f"{path}.additionalProperties")
    has_any = found.rules or found.properties or found.items or found.additional
    return found if has_any else None


def _compile(raw: Obj, path: str) -> Rule:
    text = raw.get("rule", "")
    if not text.strip():
        raise SchemaError(f"{path}.rule: Required value: rule is not specified")
    program = _program(text, f"{path}.rule")
    if raw.get("reason", "FieldValueInvalid") not in _REASONS:
        raise SchemaError(f'{path}.reason: Unsupported value: "{raw["reason"]}"')
    if "\n" in text and not raw.get("message") and not raw.get("messageExpression"):
        raise SchemaError(f"{path}.message: Required value: message must be specified if rule contains line breaks")
    expression = raw.get("messageExpression", "")
    return Rule(
        program=program,
        text=text,
        message=raw.get("message") or f"failed rule: {text.strip()}",
        message_program=_program(expression, f"{path}.messageExpression") if expression else None,
        reason=raw.get("reason", "FieldValueInvalid"),
        field_path=raw.get("fieldPath", ""),
        transition="oldSelf" in program.variables(),
        optional_old=raw.get("optionalOldSelf", False),
    )


def _program(text: str, path: str) -> Any:
    try:
        program = cel.compile(text)
    except ValueError as exc:
        raise SchemaError(f'{path}: Invalid value: "{text}": compilation failed: {exc}') from exc
    for name in program.functions():
        if _PLAIN.fullmatch(name) and name not in FUNCTIONS and name not in _BUILT_IN:
            raise SchemaError(f'{path}: Invalid value: "{text}": compilation failed: undeclared reference to {name!r}')
    bound = set(re.findall(r"(?:all|exists|exists_one|map|filter|optMap)\(\s*([A-Za-z_]\w*)\s*,", text))
    for name in program.variables():
        if name not in {"self", "oldSelf", "ip", "optional", "cel", *_TYPES} | bound:
            raise SchemaError(f'{path}: Invalid value: "{text}": compilation failed: undeclared reference to {name!r}')
    return program


_TYPES = frozenset({"int", "uint", "double", "string", "bool", "bytes", "list", "map", "null_type", "type"})


def _escaped(name: str) -> str:
    if name in _RESERVED:
        return f"__{name}__"
    name = name.replace("__", "__underscores__")
    return name.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")


def _needs_conversion(node: Node, *, at_root: bool = False) -> bool:
    """JSON alone is not what CEL sees: `number` is a double, date-time a timestamp, and awkward names are escaped."""
    if node.type == "number" or node.raw.get("format") in {"date-time", "byte"}:
        return True
    children = {name: child for name, child in node.properties.items() if not (at_root and name == "metadata")}
    if any(_escaped(name) != name for name in children):
        return True
    below = [*children.values(), *filter(None, (node.items, node.additional))]
    return any(_needs_conversion(child) for child in below)


def _converted(node: Node, value: Any) -> Any:
    if isinstance(value, dict):
        result = {}
        for name, item in value.items():
            child = node.properties.get(name)
            if child is not None:
                result[_escaped(name)] = _converted(child, item)
            else:
                result[name] = _converted(node.additional, item) if node.additional is not None else item
        return result
    if isinstance(value, list):
        return value if node.items is None else [_converted(node.items, item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and node.type == "number":
        return float(value)
    if isinstance(value, str) and node.raw.get("format") == "date-time":
        return datetime.fromisoformat(value)
    if isinstance(value, str) and node.raw.get("format") == "byte":
        return base64.b64decode(value)
    return value


def _at_root(value: Obj) -> Obj:
    """Rules at the root see only name and generateName of the metadata."""
    metadata = value.get("metadata", {})
    return {**value, "metadata": {key: metadata[key] for key in ("name", "generateName") if key in metadata}}


class _Absent:
    """There is no old value to compare with."""


ABSENT = _Absent()


class Evaluator:
    """Evaluates the rules of one CRD version. Not reentrant: it reuses one evaluation context."""

    def __init__(self, rules: RuleNode) -> None:
        self._rules = rules
        self._context = cel.Context(variables={"ip": {}}, functions=dict(FUNCTIONS))

    def check(self, obj: Obj, old: Obj | None, causes: list[Cause]) -> None:
        """Appends a cause for each rule that is broken, or that cannot be evaluated."""
        before: Any = ABSENT if old is None else _at_root(copied(old))
        self._visit(self._rules, _at_root(obj), before, "", causes)

    def _visit(self, level: RuleNode, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
        if value is None:
            return
        for rule in level.rules:
            self._apply(level, rule, value, old, path, causes)
        for below, item, before, where in _children(level, value, old, path):
            self._visit(below, item, before, where, causes)

    def _apply(self, level: RuleNode, rule: Rule, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
        known = not isinstance(old, _Absent) and old is not None
        if rule.transition:
            if not known and not rule.optional_old:
                return
            before = (_converted(level.node, old) if level.converts else old) if known else None
            if rule.optional_old:
                before = cel.OptionalValue.of(before) if known else cel.OptionalValue.none()
            self._context.add_variable("oldSelf", before)
        self._context.add_variable("self", _converted(level.node, value) if level.converts else value)
        where = f"{path}{rule.field_path}".lstrip(".") or "<nil>"
        try:
            holds = rule.program.execute(self._context)
        except Exception as exc:  # noqa: BLE001 - whatever evaluation raises is a refusal of this object, not a fault of the server
            causes.append(
                Cause("FieldValueInvalid", f"{_kind_of(value)}: {exc} evaluating rule: {rule.message}", where)
            )
            return
        if holds is not True:
            causes.append(Cause(rule.reason, _worded(rule, value, self._message(rule)), where))

    def _message(self, rule: Rule) -> str:
        if rule.message_program is None:
            return rule.message
        try:
            text = rule.message_program.execute(self._context)
        except Exception:  # noqa: BLE001 - documented: a failing messageExpression falls back to the message
            return rule.message
        return text if isinstance(text, str) and text.strip() and "\n" not in text else rule.message


def _children(level: RuleNode, value: Any, old: Any, path: str) -> Iterator[tuple[RuleNode, Any, Any, str]]:
    """Sub-levels with the old value that correlates: by field name, by map key, by list-map keys; never by list index."""
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, below in level.properties.items():
            if name in value:
                yield below, value[name], before.get(name, ABSENT), f"{path}.{name}" if path else name
        if level.additional is not None:
            for name, item in value.items():
                yield level.additional, item, before.get(name, ABSENT), f"{path}[{name}]"
    elif isinstance(value, list) and level.items is not None:
        keys = level.node.map_keys
        earlier = {}
        if keys and isinstance(old, list):
            earlier = {tuple(item.get(key) for key in keys): item for item in old}
        for index, item in enumerate(value):
            match = earlier.get(tuple(item.get(key) for key in keys), ABSENT) if keys else ABSENT
            yield level.items, item, match, f"{path}[{index}]"


def _kind_of(value: Any) -> str:
    if isinstance(value, dict):
        return 'Invalid value: "object"'
    if isinstance(value, list):
        return 'Invalid value: "array"'
    return f"Invalid value: {value!r}"


def _worded(rule: Rule, value: Any, message: str) -> str:
    if rule.reason == "FieldValueForbidden":
        return f"Forbidden: {message}"
    if rule.reason == "FieldValueRequired":
        return f"Required value: {message}"
    if rule.reason == "FieldValueDuplicate":
        return f"Duplicate value: {message}"
    return f"{_kind_of(value)}: {message}"
