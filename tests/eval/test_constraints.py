"""Each constraint accepts what a careful reader would accept, and nothing that only looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from sea_lion.eval.constraints import CONSTRAINTS, met, problem_of

CASES: list[tuple[str, Any, list[str], list[str]]] = [
    ("lines", 2, ["a\nb", "a\n\n b \n"], ["a", "a\nb\nc"]),
    ("bullets", 2, ["- a\n- b", "* a\n* b", "• a\n• b"], ["- a", "a\n- b", "-a\n-b", "Here:\n- a\n- b"]),
    ("numbered", 2, ["1. a\n2. b", "1) a\n2) b"], ["1. a\n3. b", "1. a", "a\nb"]),
    ("sentences", 2, ["One. Two!", "一。二。", "တစ်။ နှစ်။", "မួយ។ ពីរ។", "He paid 2.50. Good."], ["One.", "One. Two", "One, two."]),
    ("words", 3, ["a b c", "Tall, green, wet."], ["a b", "a b c d"]),
    ("min_words", 2, ["a b", "a b c"], ["a"]),
    ("max_words", 2, ["a", "a b"], ["a b c"]),
    ("min_characters", 3, ["abc", "น้ำปลา"], ["ab", "a b", "ที่"]),
    ("max_characters", 3, ["abc", "a b c", "ที่"], ["abcd"]),
    ("contains", ["ikan"], ["Ikan segar.", "ini ikan"], ["memberikan"]),
    ("contains", ["ปลา"], ["น้ำปลา"], ["ไก่"]),
    ("contains", ["a", "b"], ["a b"], ["a"]),
    ("excludes", ["ikan"], ["memberikan", "laut"], ["Ikan segar."]),
    ("begins", "Because", ["because we must", "Because"], ["We, because"]),
    ("ends", "harvest", ["the harvest.", "The Harvest"], ["harvest time"]),
    ("ends", "Thank you", ["... Thank you!"], ["Thank you very much"]),
    ("equals", "yes", ["Yes.", "yes"], ["yes, it is", "yesterday", "no"]),
    ("one_of", ["Tuesday", "Thursday"], ["tuesday", "Thursday."], ["Tuesday or Thursday", "Monday"]),
    ("uppercase", 1, ["GREEN", "HÀ NỘI 2"], ["Green", "12"]),
    ("lowercase", 1, ["green grass"], ["Green", "12"]),
    ("number", 8, ["8", "8.", "၈", "08"], ["8 legs", "eight", "18"]),
    ("repeated", ["rain", 2], ["rain rain", "Rain, rain!"], ["rain", "rain rain rain", "rain rain go", "rainrain"]),
    ("repeated", ["ฝน", 2], ["ฝนฝน", "ฝน ฝน"], ["ฝนตก ฝน", "ฝน"]),
    ("times", ["red", 2], ["a red bird on a red roof"], ["a tired red bird", "red red red"]),
    ("separated", [";", 3], ["a; b;c"], ["a; b", "a; ; b", "a; b; c; d"]),
    ("json_keys", ["a", "b"], ['{"a": 1, "b": 2}', '```json\n{"b": 1, "a": 2}\n```'], ['{"a": 1}', '{"a":1,"b":2,"c":3}']),
    ("script", "Thai", ["กรุงเทพ", "กรุงเทพ 10"], ["Bangkok", "กรุงเทพ (Bangkok)", "10"]),
    ("quoted", 1, ['"Hello!"', "“早上好”", "「你好」"], ['Hello "you"', '"Hello', '""']),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "right", "wrong"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_constraint(name: str, argument: Any, right: list[str], wrong: list[str]) -> None:
    assert not problem_of({name: argument})
    assert [met(f"\n{answer} ", {name: argument})[name] for answer in right] == [True] * len(right)
    assert [met(answer, {name: argument})[name] for answer in [*wrong, "", " \n"]] == [False] * (len(wrong) + 2)


def test_every_constraint_is_tested() -> None:
    assert {case[0] for case in CASES} == set(CONSTRAINTS)
