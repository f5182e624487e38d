"""The code in the documentation runs as it is written."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_snippets_of_the_page_on_the_guarantee_run() -> None:
    names: dict[str, object] = {}
    for block in blocks("docs/guarantee.md"):
        exec(block, names)
    assert names["by_patient"].n == 100 and names["by_patient"].unit == "group"
    assert names["narrow"].risk_ucb <= 0.1 and names["narrow"].n == 200
    assert len(names["kept"].parts) == 5
    assert names["drift"].p_value < 0.01
    assert names["new_lower"].shape == (5, 3, 16, 16)


def test_snippet_of_the_readme_runs() -> None:
    target = np.random.default_rng(0).random((60, 1, 4, 4))
    names = {"lower": target - 0.1, "upper": target + 0.1, "truth": target}
    names |= {"new_lower": names["lower"], "new_upper": names["upper"]}
    snippet = [block for block in blocks("README.md") if "conffusion.calibration" in block]
    assert len(snippet) == 1
    exec(snippet[0], names)
    assert names["calibration"].lambda_hat < 1
