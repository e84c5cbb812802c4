"""`x-kubernetes-validations`: compiled once per CRD version, evaluated on every write.

Beside a real server: there is no cost budget, no optional field selection (`.?`), and expressions are checked for syntax, variables and
function names, not for types.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
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
MAX_REMEMBERED = 4096
_REASONS = frozenset({"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"})
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


Conversion = Callable[[Any], Any]


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
    passed: set[str] = field(default_factory=set)


@dataclass(slots=True)
class RuleNode:
    """A level of the schema that has rules at it or below it; levels without rules are not visited at all."""

    node: Node
    rules: list[Rule]
    convert: Conversion | None
    properties: dict[str, RuleNode] = field(default_factory=dict)
    items: RuleNode | None = None
    additional: RuleNode | None = None


def compile_rules(node: Node, path: str = "openAPIV3Schema") -> RuleNode | None:
    """None when there are no rules. Raises SchemaError for a rule that does not compile."""
    rules = [_compile(raw, f"{path}.x-kubernetes-validations") for raw in node.raw.get("x-kubernetes-validations", ())]
    root = not path.partition(".")[2]
    found = RuleNode(node, rules, _conversion(node, at_root=root) if rules else None)
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


def _conversion(node: Node, *, at_root: bool = False) -> Conversion | None:
    """How CEL's view of a value differs from its JSON: `number` is a double, date-time a timestamp, and awkward names are escaped.

    None where it does not, which is nearly everywhere: such parts are passed on as they are.
    """
    if node.type == "number":
        return lambda value: float(value) if isinstance(value, int) else value
    if node.type == "string" and node.raw.get("format") == "date-time":
        return lambda value: datetime.fromisoformat(value) if isinstance(value, str) else value
    if node.type == "string" and node.raw.get("format") == "byte":
        return lambda value: base64.b64decode(value) if isinstance(value, str) else value
    if node.items is not None:
        return _list_conversion(_conversion(node.items))
    if node.additional is not None and (each := _conversion(node.additional)) is not None:
        return lambda value: {name: each(item) for name, item in value.items()} if isinstance(value, dict) else value
    children = {name: child for name, child in node.properties.items() if not (at_root and name == "metadata")}
    return _map_conversion({name: (_escaped(name), _conversion(child)) for name, child in children.items()})


def _list_conversion(each: Conversion | None) -> Conversion | None:
    if each is None:
        return None
    return lambda value: [each(item) for item in value] if isinstance(value, list) else value


def _map_conversion(fields: dict[str, tuple[str, Conversion | None]]) -> Conversion | None:
    changed = {name: found for name, found in fields.items() if found[0] != name or found[1] is not None}
    if not changed:
        return None

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        result = dict(value)
        for name, (escaped, each) in changed.items():
            if name in result:
                item = result.pop(name)
                result[escaped] = item if each is None else each(item)
        return result

    return convert


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
        if level.rules:
            self._judge(level, value, old, path, causes)
        for below, item, before, where in _children(level, value, old, path):
            self._visit(below, item, before, where, causes)

    def _judge(self, level: RuleNode, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
        known = not isinstance(old, _Absent) and old is not None
        convert = level.convert or (lambda same: same)
        self._context.add_variable("self", convert(value))
        before = convert(old) if known and any(rule.transition for rule in level.rules) else None
        for rule in level.rules:
            if rule.transition:
                if not known and not rule.optional_old:
                    continue
                if rule.optional_old:
                    optional = cel.OptionalValue.of(before) if known else cel.OptionalValue.none()
                    self._context.add_variable("oldSelf", optional)
                else:
                    self._context.add_variable("oldSelf", before)
            self._apply(rule, value, path, causes)

    def _apply(self, rule: Rule, value: Any, path: str, causes: list[Cause]) -> None:
        # A rule about one text that compares with nothing else is a pure function of it; most texts of an object did not change.
        remembers = not rule.transition and isinstance(value, str)
        if remembers and value in rule.passed:
            return
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
        elif remembers and len(rule.passed) < MAX_REMEMBERED:
            rule.passed.add(value)

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
