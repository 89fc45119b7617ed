"""Nouns in messages."""

import pytest

from lbyl_onnx.errors import article, counted


@pytest.mark.parametrize(("noun", "expected"), [("int", "an int"), ("list", "a list"), ("Array", "an Array")])
def test_the_article_of_a_noun(noun, expected):
    assert article(noun) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "0 groups"), (1, "1 group"), (2, "2 groups")])
def test_a_noun_is_counted(count, expected):
    assert counted(count, "group") == expected
