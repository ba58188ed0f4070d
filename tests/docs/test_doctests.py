"""The examples in docstrings are executed; those of kinds have `told` and `limited` (tests/support) at hand."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest
from support.told import limited, told

import agents
import models
import persona_stream
import tables

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _modules() -> list[str]:
    names = []
    for package in (agents, models, persona_stream, tables):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names += [module.name for module in found if not module.name.endswith("__main__")]
    return names


@pytest.mark.parametrize("name", _modules())
def test_examples_in_docstrings_hold(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"told": told, "limited": limited}, optionflags=_FLAGS)
    assert failed == 0
