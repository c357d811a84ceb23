"""No function of the product takes more than `LIMIT` decisions: beyond that it has two thoughts.

Counted as radon counts: besides branches and loops also boolean operators, comprehensions and their
conditions. A function inside another counts for itself.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "autoscaler",
    "broadcaster",
    "cli",
    "dashboards",
    "devstack",
    "docs",
    "edge",
    "ingress",
    "liveroom",
    "scheduler",
    "viewer",
)
LIMIT = 15
Function = ast.FunctionDef | ast.AsyncFunctionDef


def complexities(source: str) -> dict[str, int]:
    """Return the complexity of each function of a module, by its qualified name and line."""
    return {f"{name}:{function.lineno}": _complexity(function) for name, function in _functions(ast.parse(source), "")}


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef):
            yield from _functions(child, prefix)
            continue
        name = f"{prefix}{child.name}"
        if isinstance(child, Function):
            yield name, child
        yield from _functions(child, f"{name}.")


def _complexity(function: Function) -> int:
    return 1 + sum(map(_decisions_below, function.body))


def _decisions_below(node: ast.AST) -> int:
    if isinstance(node, Function | ast.ClassDef):
        return 0
    return _decisions(node) + sum(map(_decisions_below, ast.iter_child_nodes(node)))


def _decisions(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.IfExp() | ast.Assert():
            return 1
        case ast.For() | ast.AsyncFor() | ast.While():
            return 1 + bool(node.orelse)
        case ast.Try() | ast.TryStar():
            return len(node.handlers) + bool(node.orelse)
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.Match():
            return sum(not _takes_everything(case.pattern) for case in node.cases)
    return 0


def _takes_everything(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def test_no_function_is_too_complex() -> None:
    too_complex = {
        f"{path.relative_to(ROOT)} {name}": complexity
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, complexity in complexities(path.read_text()).items()
        if complexity > LIMIT
    }
    assert not too_complex


KNOWN = """
class Gate:
    async def check(self, items, limit):  # 1
        if not items or limit is None and not self.open:  # 1, and 2 for the operators
            return None
        elif limit:  # 1
            items = [item for item in items if item.ok if item.new]  # 3
        for item in items:  # 1
            while item.waits:  # 1
                break
            else:  # 1
                continue
        async with self.lock:
            try:
                chosen = max(items, key=lambda item: item.size or 0)  # 1
            except ValueError:  # 1
                return None
            except OSError:  # 1
                raise
            else:  # 1
                chosen = chosen if limit else None  # 1
        match chosen:
            case 1 | 2:  # 1
                assert chosen  # 1
            case None:  # 1
                pass
            case _:
                pass

        def inner():  # of its own: 1
            return 1 if limit else 2  # 1

        return inner
"""


def test_each_kind_of_decision_counts() -> None:
    assert complexities(KNOWN) == {"Gate.check:3": 19, "Gate.check.inner:30": 2}


def test_operators_and_comprehensions_count_where_branches_alone_are_few() -> None:
    source = """
def chosen(rooms, limits):
    if not rooms:
        return []
    return [room for room in rooms if room.open and (room.new or room.full) for limit in limits if limit and room.size < limit]
"""
    assert complexities(source) == {"chosen:2": 9}
