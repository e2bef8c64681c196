"""The rows of each split."""

from __future__ import annotations

import pandas as pd
import pytest

from engine.errors import SplitError
from engine.training.parts import parts_of


def test_a_class_missing_from_validation_is_named(tiny_data):
    table = tiny_data.table[(tiny_data.table["split"] != "val") | (tiny_data.table["label"] == "benign")]
    with pytest.raises(SplitError, match="val part has no image of class malignant"):
        parts_of(tiny_data.with_table(pd.DataFrame(table)))
