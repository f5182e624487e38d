import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from conffusion.calibration import Guarantee
from conffusion.errors import ConfigError, StoreError
from conffusion.report.claims import write_claims
from conffusion.report.html import write_report
from conffusion.report.tables import write_task_table
from tests.report import tree


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, object]:
    folders = [
        tree.write_numbers(tmp_path, tree.Numbers(tree.steady(0.09, 30, 0.01), tree.steady(size, 30), method=method,
                           protocol=protocol, passes=passes, n_variants=20 if passes > 1 else None))
        for method, size, passes in (("adm_uq", 0.2, 1), ("dm_sb", 0.1, 200), ("g_conffusion", 0.3, 1))
        for protocol in tree.PROTOCOLS
    ]  # fmt: skip
    write_claims(folders, tmp_path / "claims.csv", alpha=0.1, n_bootstrap=100, seed=0, replicates=1)
    write_task_table(folders, tmp_path / "super_resolution.csv")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "size_risk.png")
    config = {"run": "<try>", "replicates": 1, "calibration": {"alpha": 0.1, "delta": 0.05},
              "sampling": {"n_variants": 20, "n_steps": 10}}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return {
        "config_path": tmp_path / "config.yaml",
        "tables": {
            "Verdicts": tmp_path / "claims.csv",
            "Super-resolution": tmp_path / "super_resolution.csv",
            "Validity": tree.write_validity(tmp_path / "validity.csv"),
        },
        "figures": {"Size & risk": tmp_path / "size_risk.png"},
        "versions": {"torch": "2.13.0"},
    }


def write(tmp_path: Path, inputs: dict[str, object]) -> str:
    write_report(tmp_path / "report.html", **inputs)  # type: ignore[arg-type]
    return (tmp_path / "report.html").read_text()


class Addresses(HTMLParser):
    """Collects what a browser would load, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset", "data")]
        self.loaded += [value or "" for name, value in attrs if name == "href"]
        assert tag not in ("script", "iframe", "object")
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_self_contained(tmp_path: Path, inputs: dict[str, object]) -> None:
    page = write(tmp_path, inputs)
    addresses = Addresses()
    addresses.feed(page)
    assert not addresses.open
    assert all(address.startswith(("data:", "#")) or address == "view.html" for address in addresses.loaded)
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page
    assert page.count("data:image/png;base64,") == 1


def test_verdicts_come_first(tmp_path: Path, inputs: dict[str, object]) -> None:
    page = write(tmp_path, inputs)
    places = [page.index(f'id="{name}"') for name in ("claims", "tables", "figures", "configuration", "versions")]
    assert places == sorted(places)
    assert page.count('class="badge holds"') > 2 and 'class="badge does-not-hold"' in page
    assert re.search(r"<strong>\d+</strong><span class=\"badge holds\">", page)


def test_report_says_what_is_guaranteed(tmp_path: Path, inputs: dict[str, object]) -> None:
    text = " ".join(re.sub(r"<[^>]+>", "", write(tmp_path, inputs)).split())
    assert str(Guarantee(0.1, 0.05)) in text and "at least 95 % over the draw of the calibration images" in text
    assert "(20 in this run)" in text
    assert "protocol guaranteed: 14 of 14 rows within the limit; largest violation rate 0.046" in text
    assert "protocol paper: 0 of 28 rows within the limit" in text


def test_j_stands_beside_every_dm_sb_in_the_tables(tmp_path: Path, inputs: dict[str, object]) -> None:
    page = write(tmp_path, inputs)
    assert '<td class="name">DM_SB (J = 20)</td>' in page and '<td class="name">DM_SB</td>' not in page


def test_report_leads_to_the_view_of_its_images(tmp_path: Path, inputs: dict[str, object]) -> None:
    page = write(tmp_path, inputs)
    assert "<code>conffusion view results/&lt;try&gt;</code>" in page and 'href="view.html"' in page


def test_text_is_escaped(tmp_path: Path, inputs: dict[str, object]) -> None:
    page = write(tmp_path, inputs)
    assert "&lt;try&gt;" in page and "<try>" not in page and 'alt="Size &amp; risk"' in page
    assert "Error bars: 1.96 standard errors" in page


def test_report_without_claims_and_validity(tmp_path: Path, inputs: dict[str, object]) -> None:
    page = write(tmp_path, {**inputs, "tables": {}, "figures": {}})
    assert 'id="claims"' not in page and "What is guaranteed" in page and "data:image" not in page


def test_missing_inputs_are_named(tmp_path: Path, inputs: dict[str, object]) -> None:
    with pytest.raises(StoreError, match=r"absent\.png.*No such file"):
        write(tmp_path, {**inputs, "figures": {"x": tmp_path / "absent.png"}})
    with pytest.raises(StoreError, match=r"absent\.csv"):
        write(tmp_path, {**inputs, "tables": {"x": tmp_path / "absent.csv"}})
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        write(tmp_path, {**inputs, "config_path": tmp_path / "absent.yaml"})
    assert not (tmp_path / "report.html").exists()
