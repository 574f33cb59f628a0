"""The tables that drive tests: what `each_pair` leaves out is never a pair of values."""

from __future__ import annotations

from itertools import combinations, product

from cases import each_pair


def test_each_pair_of_values_occurs_together() -> None:
    tables = {"first": ["a", "b", "c"], "second": {"one": 1, "two": 2}, "third": [True, False], "fourth": [None]}
    mark = each_pair(**tables)
    found = [dict(zip(tables, each.values, strict=True)) for each in mark.args[1]]
    assert len(found) == 3 * 2
    for one, other in combinations(tables, 2):
        values = [list(table.values()) if isinstance(table, dict) else table for table in (tables[one], tables[other])]
        assert {(each[one], each[other]) for each in found} == set(product(*values))
    assert [each.id for each in mark.args[1]][:2] == ["a-one-True-None", "a-two-False-None"]
