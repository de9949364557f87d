"""The rows of a search by shared weights in the table: where their weights come from, and what a fine-tuning gains."""

import pandas as pd
import pytest

import nas
from tests.made_up_runs import begin_run, end, skip, start, write


def test_a_fine_tuned_row_has_its_gain_over_the_score_of_its_network(tmp_path):
    run = begin_run(tmp_path)
    score = {"macs_m": 1.0, "val_top1_pct": 50.0}
    write(
        run,
        [
            start(0, {"macs_m": 1.0}, weights="shared"),
            end(0, score, val_loss=1.5, epochs=0),
            skip("duplicate", {"macs_m": 1.0}),
            skip("infeasible", {"macs_m": 9.0}),
            start(1, {"macs_m": 1.0}, weights="fine-tuned", from_trial=0, source="front"),
            end(1, score | {"val_top1_pct": 57.5}, val_loss=1.25),
            start(2, {"macs_m": 1.0}, weights="trained", from_trial=0, source="front"),
        ],
    )
    df = nas.results(run)
    assert df["weights"].dropna().tolist() == ["shared", "fine-tuned", "trained"]
    assert df["from_trial"].tolist() == [pd.NA, pd.NA, pd.NA, 0, 0]
    assert df["gain_pct"].dropna().to_dict() == {3: 7.5}
    assert df["val_loss"].dropna().tolist() == [1.5, 1.25]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"fine_tune": -1}, "fine-tune: -1 is not 0 or more"),
        ({"shared_epochs": 0}, "shared-epochs: 0 is not 1 or more"),
        ({"shared_weights": ""}, "shared-weights: an empty name; give none, train or a run folder"),
        ({"shared_weights": "train", "reuse": ("runs/a",)}, "shared-weights and reuse: results of trainings do not rank with"),
        (
            {"shared_weights": "train", "objectives": ("macs_m",)},
            "shared-weights: networks are scored by their top-1 alone, .*; given: none that needs training",
        ),
    ],
)
def test_a_wrong_field_of_a_search_by_shared_weights_is_one_sentence(tmp_path, fields, sentence):
    with pytest.raises(nas.NasError, match=sentence):
        begin_run(tmp_path, **fields)
