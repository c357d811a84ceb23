"""What the Python files of this repository define and mention: the names that a docstring or a
document may use.

Owns the reading of syntax trees. Called by `names`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

WORD = re.compile(r"[A-Za-z_$][\w$]*(?:[.-][\w$]+)*")
_PATTERN = re.compile(r"[A-Za-z]\w+[.-]")


@dataclass(slots=True)
class Module:
    """One Python file.

    For all: `top` (what it defines outside of classes and functions), `members` of its classes,
    `types` (the classes in a field's annotation), `texts` (constants), `patterns` (formatted texts,
    with `*` for what is filled in), `passed` (arguments by name), `methods` (public ones of its
    classes) and `called` (methods that it calls). For its own docstrings also
    `own`: every name in its code, and every word of its texts.
    """

    path: str
    docstrings: list[tuple[int, str]] = field(default_factory=list)
    top: set[str] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)
    types: dict[str, set[str]] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    imports: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The dotted name that imports it."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """The package that it lies in, or is."""
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]


def read_module(path: str, source: str) -> Module:
    """Return what a Python file defines, mentions and imports. Raises SyntaxError."""
    module, tree = Module(path), ast.parse(source)
    documented = set()
    for node in ast.walk(tree):
        if (documentation := _docstring(node)) is not None:
            module.docstrings.append((documentation.lineno, str(documentation.value)))
            documented.add(id(documentation))
        if id(node) not in documented:
            _take_name(module, node)
            _take_class(module, node)
            _take_import(module, node)
    module.top.update(name for statement in tree.body for name in _bound(statement))
    module.own |= module.imported | module.top
    return module


def stray_comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment above a constant of a module that shares no word with
    the constant's name or value.
    """
    lines = source.splitlines()
    for statement in ast.parse(source).body:
        first = last = statement.lineno - 1
        while first and lines[first - 1].startswith("# "):
            first -= 1
        if first == last or not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        comment = " ".join(line.lstrip("# ") for line in lines[first:last])
        code = "\n".join(lines[last : statement.end_lineno])
        if not comment.startswith("----") and not _stems(comment) & _stems(code):
            yield first + 1, comment


def _stems(text: str) -> set[str]:
    return {word[:4].lower() for word in re.findall(r"[A-Za-z]{3,}", text.replace("_", " "))}


def _docstring(node: ast.AST) -> ast.Constant | None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            return first.value
    return None


def _take_name(module: Module, node: ast.AST) -> None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            module.own.add(name)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            module.own.add(name)
        case ast.keyword(arg=str(name)):
            module.passed.add(name)
            module.own.add(name)
        case ast.Constant(value=str() | bytes() as value):
            text = value if isinstance(value, str) else value.decode("latin-1")
            module.texts.add(text)
            module.own.update(WORD.findall(text))
        case ast.JoinedStr(values=values):
            pattern = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in values)
            if _PATTERN.match(pattern):
                module.patterns.add(pattern)


def _take_class(module: Module, node: ast.AST) -> None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        module.called.add(node.func.attr)
    if isinstance(node, ast.ClassDef):
        module.members.setdefault(node.name, set()).update(_members(node))
        functions = (each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
        module.methods.update(name for name in functions if not name.startswith("_"))
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                of = {each.id for each in ast.walk(statement.annotation) if isinstance(each, ast.Name)}
                module.types.setdefault(statement.target.id, set()).update(of)


def _take_import(module: Module, node: ast.AST) -> None:
    if isinstance(node, ast.Import):
        module.imports.update(alias.name for alias in node.names)
        module.own.update(part for alias in node.names for part in alias.name.split("."))
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        module.imports |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
        module.imported.update(alias.asname or alias.name for alias in node.names)
        module.own.update(source.split("."))


def _bound(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.If(body=body) | ast.Try(body=body) | ast.With(body=body):
            for inner in body:
                yield from _bound(inner)


def _members(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        yield from _bound(statement)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            yield inner.attr
