"""The selection in the URL: pure functions."""

from dashboard import selection


def test_lists_survive_the_url_in_order_without_repeats():
    assert selection.parse_list("b,a,,b, c ") == ["b", "a", "c"]
    assert selection.parse_list(selection.format_list(["x", "y", "x"])) == ["x", "y"]
    assert selection.parse_list(None) == []


def test_unknown_ids_of_a_link_are_told_apart_and_named():
    here, missing = selection.divide(["a", "z", "b", "y"], ["a", "b", "c"])
    assert (here, missing) == (["a", "b"], ["z", "y"])
    assert selection.missing_sentence(missing) == "The link names 2 runs that are not here: z, y."
    assert selection.missing_sentence(["z"], "member") == "The link names a member that is not here: z."
    assert selection.missing_sentence([]) == ""


def test_a_long_unknown_id_does_not_flood_the_page():
    assert len(selection.missing_sentence(["x" * 5000])) < 200


def test_rows_that_are_gone_select_nothing():
    assert selection.rows_to_ids([0, 2, 9, -1], ["a", "b", "c"]) == ["a", "c"]


def test_the_query_string_leaves_out_what_is_empty_and_keeps_commas():
    assert selection.query_string({"runs": "a,b", "q": "", "x": ["1", "2"]}) == "?runs=a,b&x=1&x=2"
    assert selection.query_string({}) == ""
