"""The overview's one next step, and the result it shows as best."""

from dashboard.next_step import best_honest, leak_pairs, next_step


def test_with_nothing_there_the_sample_is_offered():
    assert next_step([], []).action == "sample"


def test_with_data_but_no_result_the_demo_is_offered(make_run):
    assert next_step(["/data"], []).action == "demo"
    assert next_step(["/data"], [make_run(state="failed").summary()]).action == "demo"


def test_a_run_at_work_is_to_be_watched(running_run):
    step = next_step(["/data"], [running_run.summary()])
    assert (step.page, step.params) == ("run", {"id": running_run.id})


def test_one_result_asks_for_a_second_and_two_for_a_comparison(finished_run, make_run):
    first = finished_run.summary()
    assert next_step([], [first]).params == {"from": first.id}
    second = make_run(name="other", seed=3).summary()
    step = next_step([], [second, first])
    assert step.page == "compare"
    assert step.params["runs"] == f"{second.id},{first.id}"


def test_the_best_result_never_comes_from_a_leaking_split(make_run):
    leaking = make_run(name="leak", protocol="image", skill=3.0).summary()
    honest = make_run(name="honest", skill=1.0).summary()
    better = make_run(name="better", skill=1.8).summary()
    assert leaking.status.best["value"] > better.status.best["value"]
    assert best_honest([leaking, honest, better]).name == "better"
    assert best_honest([leaking]) is None


def test_leakage_is_shown_only_between_runs_that_differ_in_the_split_alone(make_run):
    clean, leak = make_run(name="clean").summary(), make_run(name="leak", protocol="image").summary()
    other = make_run(name="other", model="tf_efficientnet_b0", protocol="image").summary()
    assert [(a.name, b.name) for a, b in leak_pairs([clean, leak, other])] == [("leak", "clean")]


def test_runs_that_only_wait_lead_to_the_queue(make_run):
    step = next_step(["/data"], [make_run(state="queued").summary()])
    assert (step.page, step.label) == ("runs", "Look at the queue")
    assert "waits" in step.because
