"""Every public docstring has an example, and every example runs."""

import doctest
import importlib

import pytest
import welnorm as wn

MODULES = [
    *("", ".functional", "._channels", "._fused", "._fold", ".layers", "._moments", "._memory"),
    *("._threads", "._backends", "._isa", "._config"),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module("welnorm" + name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize("name", wn.__all__)
def test_public_docstrings(name):
    text = getattr(wn, name).__doc__
    assert text
    assert "Examples\n" in text
    assert ">>> " in text
