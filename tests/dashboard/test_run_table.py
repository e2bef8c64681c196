"""The table of runs: filter, columns, groups, and which action fits which run."""

import pytest

from dashboard import run_table
from engine.errors import ConfigError
from engine.runs.config import DataConfig, ModelConfig, TrainingConfig, options

CONFIGURED = [
    (part, item.name)
    for part, group in (("data", DataConfig), ("model", ModelConfig), ("training", TrainingConfig))
    for _, item in options(group)
]


@pytest.fixture
def summaries(make_run):
    folders = [
        make_run(name="alpha", seed=0),
        make_run(name="beta one", seed=1, model="tf_efficientnet_b0"),
        make_run(name="beta two", seed=2, model="tf_efficientnet_b0", protocol="image"),
        make_run(name="gamma", state="failed"),
    ]
    folders[0].write_label(tags=["paper"], notes="first try")
    return [folder.summary() for folder in folders]


def names(found):
    return [summary.name for summary in found]


def test_every_word_of_a_filter_must_occur(summaries):
    assert names(run_table.filtered(summaries, "beta")) == ["beta one", "beta two"]
    assert names(run_table.filtered(summaries, "BETA two")) == ["beta two"]
    assert names(run_table.filtered(summaries, "leaks")) == ["beta two"]
    assert names(run_table.filtered(summaries, "failed")) == ["gamma"]
    assert names(run_table.filtered(summaries, "first try paper")) == ["alpha"]
    assert run_table.filtered(summaries, "nothing like it") == []
    assert run_table.filtered(summaries, "  ") == summaries


def test_a_filter_between_slashes_is_a_regular_expression(summaries):
    assert names(run_table.filtered(summaries, "/^(alpha|gamma)$/")) == ["alpha", "gamma"]
    with pytest.raises(ConfigError, match="not a regular expression"):
        run_table.filtered(summaries, "/(/")


def test_the_table_has_the_columns_asked_for_and_passes_over_unknown_ones(summaries):
    table = run_table.table(summaries, ["name", "best", "training.seed", "nonsense"])
    assert list(table.columns) == ["name", "best", "training.seed"]
    assert table["training.seed"].tolist() == [0, 1, 2, 0]


def test_the_best_score_comes_with_its_epoch(summaries):
    table = run_table.table(summaries[:1], ["best", "best_epoch"])
    metrics = summaries[0].status.best
    assert table.loc[0, "best"] == metrics["value"]
    assert table.loc[0, "best_epoch"] == metrics["epoch"]


def test_groups_give_the_spread_of_their_scores(summaries):
    table = run_table.group_table(summaries, "model.name").set_index("group")
    assert table.loc["tf_efficientnet_b0", "runs"] == 2
    scores = [summary.status.best["value"] for summary in summaries[1:3]]
    assert table.loc["tf_efficientnet_b0", "mean"] == pytest.approx(sum(scores) / 2)
    assert table.loc["tf_efficientnet_b0", "sd"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)


def test_grouping_keeps_the_order_of_runs_within_a_group(summaries):
    found = run_table.grouped(summaries, "model.name")
    assert names(found) == ["alpha", "gamma", "beta one", "beta two"]


def test_any_configuration_key_groups_and_those_that_tell_runs_apart_come_first(summaries):
    keys = run_table.by_use(summaries)
    assert set(keys) >= {f"{part}.{name}" for part, name in CONFIGURED}
    assert max(map(keys.index, ("model.name", "data.protocol", "training.seed"))) < keys.index(
        "model.image_size"
    )
    assert not run_table.varies(summaries, "model.image_size")
    assert len(run_table.group_table(summaries, "model.image_size")) == 1


def test_split_and_fold_of_an_import_are_not_made_up(summaries):
    from dataclasses import replace

    imported = replace(summaries[0], config=replace(summaries[0].config, kind="import"))
    shown = run_table.table([imported, summaries[0]], ["protocol", "fold"])
    assert shown["protocol"].tolist() == ["", summaries[0].config.data.protocol]
    assert shown["fold"].isna().tolist() == [True, False]


def test_actions_apply_to_the_runs_they_fit(summaries, running_run):
    everything = [*summaries, running_run.summary()]
    assert names(run_table.able(everything, "stop")) == ["still training"]
    assert names(run_table.able(everything, "resume")) == ["gamma"]
    assert "still training" not in names(run_table.able(everything, "delete"))
    assert names(run_table.able(everything, "compare")) == ["alpha", "beta one", "beta two"]


def test_tags_are_put_on_and_taken_off_several_runs_at_once():
    labels = [{"tags": ["both", "mine"]}, {"tags": ["both"]}]
    assert run_table.retagged(labels, ["mine", "new"], ["both"]) == [
        {"tags": ["mine", "new"]},
        {"tags": ["mine", "new"]},
    ]
    assert run_table.retagged(labels, [], []) == labels
