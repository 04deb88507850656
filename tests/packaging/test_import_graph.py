"""No module imports itself, not even through others and inside functions."""

from __future__ import annotations

import pytest

grimp = pytest.importorskip("grimp")


def build_imports() -> dict[str, set[str]]:
    """Return what each module imports of the package; type-checking blocks left out, function bodies included."""
    graph = grimp.build_graph("stabletrain", exclude_type_checking_imports=True, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def find_cycle(imports: dict[str, set[str]]) -> list[str] | None:
    """Return the modules of one cycle in their order, by depth-first search; None if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for imported in sorted(imports.get(module, ())):
            if cycle := visit(imported, [*path, module]):
                return cycle
        done.add(module)
        return None

    return next((cycle for module in sorted(imports) if (cycle := visit(module, []))), None)


def test_no_module_imports_itself_through_others():
    imports = build_imports()
    assert len(imports) > 200
    assert find_cycle(imports) is None


def test_a_cycle_is_found_through_imports_inside_functions():
    """The control: `commands.train` imports `sweeps.sweep_child`, which used to import it back."""
    imports = build_imports()
    train, child = "stabletrain.app.commands.train", "stabletrain.app.sweeps.sweep_child"
    assert child in imports[train]
    assert "stabletrain.app.building.prepare" in imports[train]  # inside a function
    imports[child].add(train)
    assert sorted(set(find_cycle(imports) or ())) == [train, child]
