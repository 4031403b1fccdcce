"""Configurations as JSON: what was written before a field was added reads and hashes as then."""

from dataclasses import dataclass, field

import pytest

from ml.artifacts import fingerprint
from ml.plain import added_field, dataclass_from, jsonable


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3


@dataclass(frozen=True, kw_only=True)
class InnerNow(Inner):
    is_wide: bool = added_field(False)


@dataclass(frozen=True, kw_only=True)
class Before:
    name: str = "a"
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True, kw_only=True)
class Now:
    name: str = "a"
    inner: InnerNow = field(default_factory=InnerNow)
    share: float = added_field(0.0)


def test_an_added_field_at_its_default_changes_no_fingerprint():
    assert jsonable(Now()) == jsonable(Before()) == {"name": "a", "inner": {"width": 3}}
    assert fingerprint({"config": Now()}) == fingerprint({"config": Before()})


def test_an_added_field_with_another_value_is_written_and_told_apart():
    changed = [Now(share=0.5), Now(inner=InnerNow(is_wide=True))]
    assert jsonable(changed[1]) == {"name": "a", "inner": {"width": 3, "is_wide": True}}
    assert len({fingerprint(x) for x in [Now(), *changed]}) == 3
    assert [dataclass_from(Now, jsonable(x)) for x in changed] == changed


def test_what_was_written_before_the_field_reads_as_its_default():
    assert dataclass_from(Now, jsonable(Before(name="b"))) == Now(name="b")
    with pytest.raises(ValueError, match="InnerNow has no field 'height'"):
        dataclass_from(Now, {"inner": {"height": 1}})
