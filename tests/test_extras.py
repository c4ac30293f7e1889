"""A library that is not installed is named with its extra, to who imports it from this package alone."""

from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from retrieval.errors import InputError
from retrieval.extras import MissingExtra


def executed(code: str, module: str, name: str | None = None) -> dict[str, Any]:
    """The names that code defines in a module of this full name; `name` is what it is run as."""
    known: dict[str, Any] = {"__name__": name or module, "__spec__": ModuleSpec(module, None)}
    exec(code, known)
    return known


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("retrieval.report.charts", "report"),
        ("retrieval.sweep.overview", "sweep"),
        ("retrieval.export.files", "export"),
        ("retrieval.embedder", "train"),
        ("retrieval.reporting", "train"),
    ],
)
def test_the_extra_is_that_of_the_package_that_imports(module: str, extra: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        executed("import no_such_library.part", module)
    said = f"no_such_library is not installed: pip install 'image-retrieval-poolings[{extra}]'"
    assert str(caught.value) == said and caught.value.name == "no_such_library"


def test_a_module_that_is_run_is_known_by_its_full_name() -> None:
    with pytest.raises(MissingExtra, match=r"poolings\[report\]"):
        executed("import no_such_library", "retrieval.report.__main__", "__main__")


def test_import_module_counts_as_an_import() -> None:
    with pytest.raises(MissingExtra, match=r"poolings\[export\]"):
        executed("from importlib import import_module; import_module('no_such_library')", "retrieval.export.files")


def test_who_asks_whether_a_library_is_there_is_told_that_it_is_not() -> None:
    code = "from importlib.util import find_spec; found = find_spec('no_such_library')"
    assert executed(code, "retrieval.data.images")["found"] is None


def test_other_packages_miss_a_library_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        executed("import no_such_library", "retrievals.report")
    assert not isinstance(caught.value, InputError)


def test_a_module_of_the_package_that_is_not_there_is_no_matter_of_extras() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        executed("import retrieval.no_such_module", "retrieval.report")
    assert not isinstance(caught.value, InputError)
